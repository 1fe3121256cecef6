"""How fast the viewer is and whether it leaks: real sockets speak viser's protocol to a real server, no browser draws.

    python scripts/bench/viewer.py demo_run/run                           frames/s while scrubbing, and to rest
    python scripts/bench/viewer.py demo_run/run --clients 20 --minutes 2  what 20 restless clients leave behind
    python scripts/bench/viewer.py demo_run/scene --fit 200 --repeats 5   what `fit --view` costs when nobody looks

Scrubbing: one client moves the time slider, waits for the next picture of 640x360 (drawn smaller where the machine is
slow, as always while something moves), and moves it again; then it stops and waits for the full picture. What a browser
needs to unpack and show a picture is not in these figures.

Restless clients connect, scrub, turn, send nonsense and leave, some without a goodbye, at random. Printed are resident
memory, threads and open files of this process (the clients' own share included) while they come and go and after all
have left, twice. Exits with 1 when the second time leaves more behind than the first, or nobody is served afterwards.

The cost of `fit --view`: the same fit (seed, steps) is begun over and over, without and with the hook in turns, so that
other load of the machine meets both; the first steps, in which the web server starts and everything warms up, are left
out. Printed are the wall-clock and the processor time of a step.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import io
import logging
import math
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import viser
import viser.transforms
import zstandard
from PIL import Image
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect
from websockets.typing import Subprotocol

if "--fit" not in sys.argv:
    # As `gaussian4d view` does, and before torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from gaussian4d.cli.opened import open_model

if TYPE_CHECKING:
    from viewer.server import ViewerServer

WIDTH, HEIGHT = 640, 360
ALLOWED_MB_PER_MINUTE = 5.0


class Client:
    """A browser's side of the protocol: tells a view, moves controls, receives pictures."""

    def __init__(self, server: ViewerServer) -> None:
        self._socket = connect(
            f"ws://127.0.0.1:{server.port}",
            subprotocols=[Subprotocol(f"viser-v{viser.__version__}")],
            max_size=None,
        )
        self._unpack = zstandard.ZstdDecompressor()
        self.controls: dict[str, str] = {}
        start = server.server.initial_camera
        self.position = np.array(start.position, dtype=float)
        self.view()

    def view(self, **changes: Any) -> None:
        """Tells where the camera is."""
        forward = -self.position / np.linalg.norm(self.position)
        right = np.cross(forward, [0.0, 0.0, 1.0])
        right /= np.linalg.norm(right)
        axes = np.stack([right, np.cross(forward, right), forward], axis=1)
        message = {
            "wxyz": [float(x) for x in viser.transforms.SO3.from_matrix(axes).wxyz],
            "position": self.position.tolist(),
            "fov": 0.8, "near": 0.01, "far": 1000.0, "image_height": HEIGHT, "image_width": WIDTH,
            "look_at": [0.0, 0.0, 0.0], "up_direction": [0.0, 0.0, 1.0],
        }  # fmt: skip
        self.send({"type": "ViewerCameraMessage", **message, **changes})

    def move(self, label: str, value: Any) -> None:
        """Moves the control of a label, once it is known."""
        if label in self.controls:
            self.send({"type": "GuiUpdateMessage", "uuid": self.controls[label], "updates": {"value": value}})

    def send(self, message: dict[str, Any]) -> None:
        """Sends one message."""
        self._socket.send(msgspec.msgpack.encode(message))

    def picture(self, seconds: float) -> tuple[int, int] | None:
        """Returns the size of the next picture, None when none comes in time."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                data = self._socket.recv(timeout=left)
            except TimeoutError:
                return None
            assert isinstance(data, bytes)
            length = int.from_bytes(data[8:16], "little")
            content = msgspec.msgpack.decode(self._unpack.decompress(data[16 : 16 + length]))
            found = None
            for message in content["messages"]:
                label = (message.get("props") or {}).get("label") if isinstance(message.get("props"), dict) else None
                if label and "uuid" in message:
                    self.controls[label] = message["uuid"]
                if message["type"] == "BackgroundImageMessage":
                    found = message["rgb_data"] or found
            if found:
                # The last of several is what a browser ends up showing.
                return Image.open(io.BytesIO(found)).size
        return None

    def close(self, politely: bool = True) -> None:
        """Leaves, with or without a goodbye."""
        if not politely:
            self._socket.socket.close()
        self._socket.close()


def main() -> int:
    """Runs one of the two measurements; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder, such as the demo's; a scene with --fit")
    parser.add_argument("--clients", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="of scrubbing")
    parser.add_argument("--fit", type=int, metavar="STEPS", help="measure the cost of fit --view over so many steps")
    parser.add_argument("--repeats", type=int, default=5, help="of --fit, each without and with")
    options = parser.parse_args()
    # Our clients leave without a goodbye on purpose; their library reports that as an error of its own.
    logging.getLogger("websockets.client").setLevel(logging.CRITICAL)
    # This folder comes first on the path of a script, and this file's name would hide the package it measures.
    here = Path(__file__).parent.resolve()
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    if options.fit:
        return cost_of_fit(options.run, options.fit, options.repeats)
    from viewer.server import ViewerServer
    from viewer.workspace import Workspace

    opened = open_model(options.run)
    workspace = Workspace(options.run, options.run, opened.scene)
    server = ViewerServer(opened.model, opened.cameras, port=8600, background=opened.background, workspace=workspace)
    print(f"{options.run}: {len(opened.model):,} Gaussians, motion {opened.model.motion.name}, {WIDTH}x{HEIGHT}")
    try:
        return crowd(server, options.clients, options.minutes) if options.clients else scrub(server, options.seconds)
    finally:
        server.stop()


def scrub(server: ViewerServer, seconds: float) -> int:
    """Prints frames per second while scrubbing and the time to the first full picture after it."""
    client = Client(server)
    while client.picture(5.0) is not None or "time" not in client.controls:
        pass
    shown, sides, waits = 0, [], []
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        client.move("time", 0.5 - 0.5 * math.cos(passed))
        size = client.picture(5.0)
        if size is not None:
            shown += 1
            sides.append(size[0])
    rate = shown / (time.monotonic() - began)
    for k in range(5):
        for step in range(5):
            client.move("time", (k + step / 5) / 5)
            client.picture(5.0)
        client.move("time", k / 5 + 0.03)
        stopped = time.monotonic()
        while (size := client.picture(10.0)) is not None and size[0] < WIDTH:
            pass
        waits.append(time.monotonic() - stopped)
    print(f"scrubbing            {rate:.1f} frames/s, {shown} pictures, median width {statistics.median(sides):.0f}")
    print(f"full after stopping  {statistics.median(waits):.2f} s median, {max(waits):.2f} s at most, of {len(waits)}")
    client.close()
    return 0


def cost_of_fit(folder: Path, steps: int, repeats: int) -> int:
    """Prints what a step of a fit takes without and with `--view`, and the difference; returns 0."""
    from gaussian4d import fit
    from gaussian4d.scene import load_scene
    from viewer.live import LiveFit

    scene = load_scene(folder)
    taken: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    starts = []
    for number in range(2 * repeats):
        viewed = number % 2 == 1
        # Both clocks after every step; the first one comes after the server has started.
        marks: list[tuple[float, float]] = []

        def clock(trainer: Any, event: str, marks: list[tuple[float, float]] = marks) -> None:
            if event == "after_step":
                marks.append((time.perf_counter(), time.process_time()))
                # A fit that is stopped is not evaluated.
                trainer.stop_requested = trainer.stop_requested or len(marks) > steps + WARM_UP

        with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
            hook = LiveFit(port=8620)
            before = time.perf_counter()
            if viewed:
                open_server = hook._open

                def opened(trainer: Any, open_server: Any = open_server) -> None:
                    began = time.perf_counter()
                    open_server(trainer)
                    starts.append(time.perf_counter() - began)

                hook._open = opened  # type: ignore[method-assign]
            fit(scene, out=Path(out) / "run", max_steps=10**6, callbacks=[hook, clock] if viewed else [clock])
            hook.close()
        wall, cpu = ((marks[-1][kind] - marks[WARM_UP][kind]) / (len(marks) - 1 - WARM_UP) * 1000.0 for kind in (0, 1))
        taken[viewed].append((wall, cpu))
        print(
            f"{'with --view' if viewed else 'without':12}{wall:8.1f} ms a step, {cpu:8.1f} ms of processor "
            f"({time.perf_counter() - before:.0f} s in all)",
            flush=True,
        )
    for kind, name in enumerate(("wall clock", "processor")):
        plain, live = (statistics.median(row[kind] for row in taken[viewed]) for viewed in (False, True))
        print(f"{name:12} {plain:.1f} ms without, {live:.1f} ms with: {100.0 * (live / plain - 1.0):+.1f} %, medians")
    print(f"starting the web server once: {statistics.median(starts):.2f} s")
    return 0


WARM_UP = 20
"""Steps of a fit that are not counted."""


def crowd(server: ViewerServer, count: int, minutes: float) -> int:
    """Prints what the process holds while clients come and go, and after; returns 1 when something stays behind."""
    ended, tally, lock = threading.Event(), {"visits": 0, "pictures": 0}, threading.Lock()

    def visit(dice: random.Random) -> None:
        client = Client(server)
        stays = time.monotonic() + dice.uniform(0.5, 6.0)
        pictures = 0
        while time.monotonic() < stays and not ended.is_set():
            pictures += client.picture(dice.uniform(0.02, 0.3)) is not None
            client.move("time", dice.random())
            client.position = client.position + np.array([dice.gauss(0, 0.1), dice.gauss(0, 0.1), 0.0])
            client.view()
            if dice.random() < 0.1:
                client.view(wxyz=[math.nan] * 4, fov=-1.0)
                client.move("output", "nonsense")
                client.move("longest side", "10000000")
                client.move("output", "rgb")
        client.close(politely=dice.random() < 0.5)
        with lock:
            tally["visits"] += 1
            tally["pictures"] += pictures

    def restless(seed: int) -> None:
        dice = random.Random(seed)
        while not ended.is_set():
            try:
                visit(dice)
            except (OSError, WebSocketException, EOFError) as error:
                print(f"a client was cut off: {error}", file=sys.stderr)

    def round_of(number: int) -> tuple[float, int, int]:
        """Lets the clients come and go for half of the time; returns what is held when all have left."""
        ended.clear()
        threads = [threading.Thread(target=restless, args=(1000 * number + k,), daemon=True) for k in range(count)]
        for thread in threads:
            thread.start()
        began = time.monotonic()
        while (passed := time.monotonic() - began) < 30 * minutes:
            time.sleep(min(15.0, 30 * minutes - passed))
            print(f"{'':12}{row(held())}   {tally['visits']} visits, {tally['pictures']} pictures", flush=True)
        ended.set()
        for thread in threads:
            thread.join()
        settle(server)
        print(
            f"{f'all gone, {number}':12}{row(held())}   {tally['visits']} visits, {tally['pictures']} pictures",
            flush=True,
        )
        return held()

    visit(random.Random(-1))
    settle(server)
    print(f"{'':12}{'memory MB':>10}{'threads':>9}{'files':>7}\n{'at first':12}{row(held())}", flush=True)
    # The first half fills caches and thread pools; what counts is whether the second adds to it.
    first, second = round_of(1), round_of(2)
    growth = (second[0] - first[0]) / (0.5 * minutes)
    last = Client(server)
    served = last.picture(60.0) is not None
    last.close()
    print(f"the second: {growth:+.1f} MB per minute, {second[1] - first[1]:+} threads, {second[2] - first[2]:+} files")
    print(f"a client that comes after all of them is served: {'yes' if served else 'NO'}")
    more_threads = second[1] > max(first[1], POOL + 8)
    return int(not served or growth > ALLOWED_MB_PER_MINUTE or more_threads or second[2] > first[2])


POOL = 32
"""Threads of viser's own pool, which it starts on demand and keeps."""


def settle(server: ViewerServer) -> None:
    """Waits until no browser is left and their threads have ended."""
    end = time.monotonic() + 120
    while time.monotonic() < end and (
        server.sessions or any(thread.name.startswith("viewer-") for thread in threading.enumerate())
    ):
        time.sleep(0.1)
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        # What was freed and only waits in the allocator of the C library is not held by anyone.
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def held() -> tuple[float, int, int]:
    """Returns resident megabytes, threads and open files of this process."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), len(list(Path("/proc/self/fd").iterdir()))


def row(figures: tuple[float, int, int]) -> str:
    """Returns the figures as one line of the table."""
    return f"{figures[0]:10.0f}{figures[1]:9}{figures[2]:7}"


if __name__ == "__main__":
    sys.exit(main())
