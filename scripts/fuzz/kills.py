"""SIGKILL at random moments of fit, prepare, generate and export; each is resumed, and what comes out is compared.

The same settings and seed give the same result, so a run that was killed, once or several times, and resumed must end
with the arrays, pictures or bytes of the run that nobody disturbed. Also checked: after every kill, what is there can
be read; a fit loses no more than the steps since its last checkpoint; nothing is left behind that blocks the next run.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT_EVERY, LOG_EVERY, STEPS = 20, 5, 240
SHARES = {"fit": 0.45, "export": 0.25, "prepare": 0.2, "generate": 0.1}
"""Of the kills. What takes longer to begin with gets fewer."""
FORMATS = ("a.ply", "a.html", "a.g4d", "a.sog", "a.splatv", "a.usda", "frames")


class Lost(Exception):
    """Something was lost, cannot be resumed, or is not what the undisturbed run gives."""


def command_line(*words: str | Path) -> list[str]:
    """Returns the words that run `gaussian4d` in this environment."""
    return [sys.executable, "-m", "gaussian4d", *map(str, words)]


def run(command: Sequence[str], cwd: Path, kill_after: float | None = None) -> tuple[int, str, float]:
    """Returns (exit code, output, seconds); -9 when it was killed, with all processes it started."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            command, cwd=cwd, stdout=said, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            code = process.wait(kill_after if kill_after is not None else 600)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            code = process.wait()
            if kill_after is None:
                raise Lost("hangs for more than 600 s") from None
        seconds = time.monotonic() - began
        said.seek(0)
        return code, said.read(), seconds


def arrays_of(model: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a `.g4d` file."""
    from gaussian4d.io.g4d import load_g4d

    return {name: np.array(value) for name, value in load_g4d(model)[0].items()}


def tree(folder: Path, leave_out: str = "") -> dict[str, str]:
    """Returns a checksum of every file, without those whose path matches."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (leave_out and re.search(leave_out, str(path.relative_to(folder))))
    }


class Fit:
    """A short fit of a toy, with checkpoints."""

    name = "fit"

    def __init__(self, folder: Path, toy: Path, motion: str = "free-time", more: Sequence[str] = ()) -> None:
        self.folder, self.toy = folder, toy
        settings = [f"keep.checkpoint_every={CHECKPOINT_EVERY}", f"keep.log_every={LOG_EVERY}"]
        words = ["fit", toy, "--motion", motion, "--max-steps", STEPS, "--device", "cpu", "--out"]
        self.words = [str(word) for word in words]
        self.more = [*(word for setting in settings for word in ("--set", setting)), *more]
        self.reference: dict[str, np.ndarray] = {}

    def start(self, out: Path) -> list[str]:
        """Returns the command that begins, or goes on with, `out`."""
        resume = ["--resume"] if (out / "config.json").exists() else []
        return command_line(*self.words, out, *self.more, *resume)

    def after_kill(self, out: Path) -> None:
        """Raises `Lost` when a step before the last checkpoint but one interval is gone."""
        lines = (out / "metrics.jsonl").read_text().splitlines() if (out / "metrics.jsonl").exists() else []
        steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
        # Of windows, the lines go on counting where the checkpoints of each begin anew.
        kept = 0
        for folder in [out, *out.glob("windows/*")]:
            kept += max((int(path.stem[5:]) for path in folder.glob("checkpoints/step_*.safetensors")), default=0)
        if steps and max(steps) - kept > CHECKPOINT_EVERY + LOG_EVERY:
            raise Lost(f"step {max(steps)} was reached, the newest checkpoint is {kept}")

    def finished(self, out: Path) -> None:
        """Raises `Lost` unless the result is that of the undisturbed run."""
        found = arrays_of(out / "model.g4d")
        if not self.reference:
            self.reference = found
        if found.keys() != self.reference.keys():
            raise Lost("other arrays than those of the undisturbed fit")
        for name, value in found.items():
            if value.shape != self.reference[name].shape or not np.array_equal(value, self.reference[name]):
                raise Lost(f"{name} differs from that of the undisturbed fit")
        if not (out / "eval" / "metrics.json").exists() or not (out / "report.html").exists():
            raise Lost("no evaluation or report")
        leftovers(out)


class Prepare:
    """Three videos and a calibration."""

    name = "prepare"

    def __init__(self, folder: Path) -> None:
        sys.path.append(str(ROOT / "tests" / "gaussian4d" / "data"))
        from test_formats import write_qualisys

        self.folder = folder
        if not (folder / "recording").exists():
            write_qualisys(folder / "recording")
        self.reference: dict[str, str] = {}

    def start(self, out: Path) -> list[str]:
        """Returns the command; it goes on by itself where it was interrupted."""
        recording = self.folder / "recording"
        words = ["--calibration", recording / "calibration", "--sync", "none", "--no-points"]
        return command_line("prepare", recording / "videos", *words, "--out", out)

    def after_kill(self, out: Path) -> None:
        """Nothing has to be there yet."""

    def finished(self, out: Path) -> None:
        """Raises `Lost` unless the scene is that of the undisturbed run."""
        found = tree(out, leave_out=r"report|log|\.prepare")
        # Paths inside differ by the folder's name.
        found.pop("transforms.json", None)
        self.reference = self.reference or found
        if found != self.reference:
            raise Lost(
                f"differs from the undisturbed scene: {sorted(set(found.items()) ^ set(self.reference.items()))[:3]}"
            )
        from gaussian4d.scene import inspect

        scene, problems = inspect(out)
        if scene is None or any(problem.severity == "error" for problem in problems):
            raise Lost(f"the scene is broken: {[str(problem) for problem in problems][:2]}")
        leftovers(out)


class Generate:
    """A moving asset of a drawn ball, in the shortest fit there is."""

    name = "generate"

    def __init__(self, folder: Path) -> None:
        from PIL import Image, ImageDraw

        self.picture = folder / "ball.png"
        if not self.picture.exists():
            image = Image.new("RGBA", (64, 64))
            ImageDraw.Draw(image).ellipse([14, 14, 50, 50], fill=(200, 40, 30, 255))
            image.save(self.picture)

    def start(self, out: Path) -> list[str]:
        """Returns the command that begins, or goes on."""
        words = ["--frames", "3", "--max-minutes", "0.05", "--device", "cpu", "--out", str(out)]
        if (out / "generate.json").exists():
            return command_line("generate", *words, "--resume")
        return command_line("generate", "--image", self.picture, *words)

    def after_kill(self, out: Path) -> None:
        """Nothing has to be there yet."""

    def finished(self, out: Path) -> None:
        """Raises `Lost` unless there is an asset of numbers, and its video."""
        for name, value in arrays_of(out / "model.g4d").items():
            if not np.isfinite(value).all():
                raise Lost(f"{name} is not finite")
        if not (out / "renders" / "orbit.mp4").exists():
            raise Lost("no orbit.mp4")
        leftovers(out)


class Export:
    """A run written as a file of one format after the other."""

    name = "export"

    def __init__(self, source: Path) -> None:
        self.source = source
        self.references: dict[str, dict[str, str]] = {}
        self.lock = threading.Lock()

    def start(self, out: Path) -> list[str]:
        """Returns the command; it is simply given again after a kill."""
        out.mkdir(exist_ok=True)
        target = out / self._format(out)
        return command_line("export", self.source, "--to", target, "--device", "cpu")

    def _format(self, out: Path) -> str:
        return FORMATS[int(hashlib.sha256(out.name.encode()).hexdigest(), 16) % len(FORMATS)]

    def after_kill(self, out: Path) -> None:
        """Raises `Lost` when a file of the target's name is there that is not whole."""
        target = out / self._format(out)
        if target.is_file() and target.suffix != ".html":
            from gaussian4d.model import load_model

            load_model(target)

    def finished(self, out: Path) -> None:
        """Raises `Lost` unless the files are those of the undisturbed run, and there are no others."""
        found = tree(out)
        with self.lock:
            expected = self.references.setdefault(self._format(out), found)
        if found != expected:
            raise Lost(
                f"differs from the undisturbed export: {sorted(set(found) ^ set(expected))[:3] or 'other bytes'}"
            )


def leftovers(out: Path) -> None:
    """Raises `Lost` when temporary files were left in a finished folder."""
    strays = [
        path
        for path in [*out.parent.glob(f".{out.name}*"), *out.rglob("*")]
        if re.search(r"\.tmp|\.part|~$", path.name)
    ]
    if strays:
        raise Lost(f"left behind: {[path.name for path in strays[:3]]}")


def toy_scene(folder: Path) -> Path:
    """Returns a small scene, written once."""
    if not folder.exists():
        from gaussian4d.toys import write_scene

        write_scene(folder, 0, 3, 2, 9, width=48, height=32, samples=1, threads=1)
    return folder


def tiny_run(folder: Path) -> Path:
    """Returns a finished run of a small scene, fitted once."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "run" / "report.html").exists():
        words = ["fit", toy_scene(folder / "toy"), "--motion", "free-time", "--max-steps", 120, "--out", folder / "run"]
        code, text, _ = run(command_line(*map(str, words)), folder)
        if code:
            raise SystemExit(f"the run to look at cannot be made:\n{text[-2000:]}")
    return folder / "run"


def kills(count: int, seed: int, jobs: int, keep: Path, only: str = "") -> int:
    """Kills and resumes commands whose name contains `only`; prints a row for each, returns the number of failures."""
    folder = keep / "kills"
    folder.mkdir(parents=True, exist_ok=True)
    toy = toy_scene(folder / "toy")
    makers: dict[str, Callable[[], list]] = {
        "fit": lambda: [
            Fit(folder, toy),
            Fit(folder, toy, "dual-domain", ["--preset", "quick"]),
            Fit(folder, toy, "free-time", ["--window", "6", "--overlap", "2"]),
        ],
        "export": lambda: [Export(tiny_run(folder / "source"))],
        "prepare": lambda: [Prepare(folder)],
        "generate": lambda: [Generate(folder)],
    }
    print(f"\n{'command':12}{'kills':>7}{'resumed to the end':>20}{'failed':>8}{'seconds undisturbed':>21}")
    failures = 0
    for name, share in SHARES.items():
        if only not in name:
            continue
        kinds = makers[name]()
        wanted = max(round(count * share), len(kinds))
        done, ends, said, took = 0, 0, [], []
        for index, kind in enumerate(kinds):
            part = wanted // len(kinds) + (index < wanted % len(kinds))
            killed, ended, problems, seconds = campaign(
                kind, part, seed + 100 * index, jobs, folder / f"{name}_{index}"
            )
            done, ends, said, took = done + killed, ends + ended, said + problems, [*took, seconds]
        print(f"{name:12}{done:7}{ends:20}{len(said):8}{max(took):21.1f}", flush=True)
        for problem in said[:10]:
            print(f"    {problem}")
        failures += len(said)
    return failures


def campaign(kind: Fit | Prepare | Generate | Export, count: int, seed: int, jobs: int, folder: Path) -> tuple:
    """Returns (kills, runs that came to their end, failures, seconds undisturbed)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    outs = [f"whole_{k}" for k in range(40)] if isinstance(kind, Export) else ["whole"]
    seconds, seen = 0.0, set()
    for name in outs:
        out = folder / name
        if isinstance(kind, Export):
            if kind._format(out) in seen:
                continue
            seen.add(kind._format(out))
        code, text, taken = run(kind.start(out), folder)
        if code:
            return 0, 0, [f"undisturbed: exit code {code}: {text[-600:]}"], taken
        kind.finished(out)
        seconds = max(seconds, taken)
    left, lock, problems, ended = [count], threading.Lock(), [], [0]

    def chain(job: int) -> None:
        dice, number = random.Random(f"{seed} {job}"), 0
        while True:
            with lock:
                if left[0] <= 0:
                    return
            out = folder / f"out_{job}_{number}"
            number += 1
            killed = 0
            moments: list[float] = []
            try:
                while True:
                    with lock:
                        kill = left[0] > 0 and not (killed and dice.random() < 0.3)
                        left[0] -= kill
                    moment = dice.uniform(0.05, 1.0) * seconds if kill else None
                    code, text, taken = run(kind.start(out), folder, moment)
                    if code == -9:
                        killed += 1
                        moments.append(round(taken, 2))
                        kind.after_kill(out)
                        continue
                    if kill:
                        # It was done before the moment came.
                        with lock:
                            left[0] += 1
                    if code:
                        raise Lost(f"exit code {code}: {text.strip()[-500:]}")
                    break
                if killed:
                    kind.finished(out)
                    ended[0] += 1
                shutil.rmtree(out, ignore_errors=True)
            except Exception as error:  # Whatever it is, the campaign goes on and says so.
                problems.append(f"{out.name}, killed after {moments} s: {type(error).__name__}: {error}")

    with ThreadPoolExecutor(jobs) as pool:
        for job in [pool.submit(chain, job) for job in range(jobs)]:
            job.result()
    return count - max(left[0], 0), ended[0], problems, seconds
