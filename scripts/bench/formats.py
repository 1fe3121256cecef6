"""What each file format keeps of a model, how large it is, and how long the 3DGS .ply of a million Gaussians takes.

    python scripts/bench/formats.py [MODEL] [--out DIR] [--million] [--windows] [--parts N]

MODEL is a run folder or a .g4d with motion. Every format that is written is read again and drawn beside the model:
three moments for formats with motion, the middle of the clip for those without, four cameras around the Gaussians.
Still formats are written as a folder of all recorded instants too, and the page (.html) is unpacked again. Prints the
table of docs/splat_formats.md. --windows prints what .splatv and .4dgs keep of Gaussians that are there for whole
windows of a long clip, --parts how long it takes to find three rigid parts among N Gaussians.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaussian4d.cameras import Camera
from gaussian4d.cli.export import shown_instants
from gaussian4d.cli.opened import Opened, open_model
from gaussian4d.io.cubic import as_cubic
from gaussian4d.io.difference import difference_db
from gaussian4d.io.ply import read_ply, write_ply
from gaussian4d.io.registry import frame_formats, read_model, write_model
from gaussian4d.io.rigid import find_rigid_parts
from gaussian4d.io.sequence import ply_sequence, read_sequence
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import RigidParts, Windows, make_motion
from gaussian4d.motion.rigid_parts import RigidPartsConfig
from gaussian4d.paths import cameras_around
from gaussian4d.plugins import FORMATS

ALSO_READ_BY = {
    "ply": "splat-transform, open3d",
    "compressed-ply": "splat-transform",
    "splat": "splat-transform, open3d",
    "spz": "splat-transform",
    "sog": "splat-transform",
    "4dgs": "fourdgs",
    "usd": "usd-core",
}
"""Programs that read our files, as scripts/check_interchange.sh and scripts/check_interop.sh showed."""


def main() -> None:
    """Prints the table, and with --million the times of the .ply."""
    # The bench of the viewer lies beside this file and has the name of its package.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, default=None, help="folder that keeps the files; default: none is kept")
    parser.add_argument("--million", action="store_true", help="time the .ply of 1,000,000 Gaussians with SH 3")
    parser.add_argument("--windows", action="store_true", help="Gaussians that are there for whole windows")
    parser.add_argument("--parts", type=int, default=0, metavar="N", help="find three rigid parts among N Gaussians")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if args.model is not None:
            _table(args.model, folder)
        if args.million:
            _million(folder)
        if args.windows:
            for spans in (((0.0, 0.6), (0.4, 1.0)), ((0.0, 0.35), (0.3, 0.65), (0.6, 1.0))):
                _windows(folder, spans)
        if args.parts:
            _parts(args.parts)


def _table(source: Path, folder: Path) -> None:
    opened = open_model(source)
    model = opened.model
    instants = shown_instants(model)
    middle = instants[len(instants) // 2]
    state = model.at(middle)
    shown = state.means[state.opacities > 0.1].detach().double().numpy()
    cameras = cameras_around(shown, width=256, height=192, count=4)
    print(f"{source.name}: {len(model):,} Gaussians, motion {model.motion.name}, SH degree {model.sh_degree}")
    print("| file | holds | PSNR, dB | bytes per Gaussian | size, kB | also read by |")
    print("|---|---|---|---|---|---|")
    for format in FORMATS.working().values():
        if format.writer is None:
            continue
        for version in (2, 3, 4) if format.name == "spz" else (None,):
            path = folder / f"{format.name}{version or ''}{format.endings[0]}"
            options: dict[str, Any] = {} if version is None else {"version": version}
            count = write_model(path, model, time=middle, **options)
            back = read_model(path)
            # glTF holds motion where it is rigid.
            moves = format.moves or back.motion.name != "static"
            found = difference_db(model, back, cameras, [(t, t) for t in instants] if moves else [(middle, 0.0)])
            size = path.stat().st_size
            name = f"{format.endings[0]}{f' v{version}' if version else ''}"
            holds = "motion" if moves else "an instant"
            _row(f"`{name}`", holds, found, size / count, size, ALSO_READ_BY.get(format.name, ""))
    times = [0.0] if model.times is None else model.times.tolist()
    for name, format in frame_formats().items():
        files = list(ply_sequence(folder / name, model, times, format=format))
        back = read_sequence(folder / name)
        # A folder holds no times: its instants are spread evenly.
        moments = [(t, times.index(t) / max(len(times) - 1, 1)) for t in instants]
        size = sum(file.stat().st_size for file in files)
        also = ALSO_READ_BY.get(format.name, "")
        title = f"folder of {len(files)} `{format.endings[0]}`"
        _row(title, "motion", difference_db(model, back, cameras, moments), size / len(back), size, also)
    _page(opened, folder, cameras, instants)


def _row(name: str, holds: str, found: float, each: float, size: int, also: str) -> None:
    shown = "equal" if found > 120 else f"{found:.1f}"
    print(f"| {name} | {holds} | {shown} | {each:.1f} | {size / 1000:,.0f} | {also} |", flush=True)


def _page(opened: Opened, folder: Path, cameras: list[Camera], instants: list[float]) -> None:
    """Prints the row of the page: what its packed rows look like, without the browser."""
    from gaussian4d.io.segments import shown_as
    from viewer.player.export import export_html, page_content
    from viewer.player.packing import unpack

    model = opened.model
    segments = unpack(page_content(model, cameras, (0.0, 0.0, 0.0)).packed)
    found = difference_db(model, shown_as(model, segments), cameras, [(t, t) for t in instants])
    path = folder / "page.html"
    with contextlib.redirect_stdout(io.StringIO()):
        export_html(opened, path)
    size = path.stat().st_size
    _row("`.html`", "motion", found, size / len(model), size, "browsers with WebGL2")


def _million(folder: Path) -> None:
    """Prints wall and processor seconds of writing and reading, beside those of the same bytes without a format."""
    rng = np.random.default_rng(0)
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (15, 3)}
    table = {name: rng.standard_normal((1_000_000, *shape), np.float32) for name, shape in shapes.items()}
    path, plain = folder / "million.ply", folder / "million.bin"
    write_ply(path, table)
    data = path.read_bytes()
    for name, work in (
        ("write .ply", lambda: write_ply(path, table)),
        ("read .ply", lambda: read_ply(path)),
        ("write the same bytes", lambda: plain.write_bytes(data)),
        ("read the same bytes", lambda: plain.read_bytes()),
    ):
        best: list[tuple[float, float]] = []
        for _ in range(5):
            wall, cpu = time.perf_counter(), time.process_time()
            work()
            best.append((time.perf_counter() - wall, time.process_time() - cpu))
        print(f"{name}: {min(w for w, _ in best):.2f} s, of the processor {min(c for _, c in best):.2f} s", flush=True)


def _windows(folder: Path, spans: tuple[tuple[float, float], ...]) -> None:
    """Prints the PSNR of 20 Gaussians that fly through windows `spans`, each with Gaussians of its own."""
    motion = make_motion("windows", {"motion": "free-time", "motion_configs": [{}] * len(spans), "spans": spans})
    assert isinstance(motion, Windows)
    start = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    speed, tables = torch.tensor([0.5, -0.25, 0.1]), []
    for first, last in spans:
        table = {
            "means": start + speed * 0.5 * (first + last),
            "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(20, 1),
            "scales": torch.full((20, 3), -2.3),
            "opacities": torch.linspace(-2.0, 5.0, 20),
            "sh0": torch.linspace(-1.0, 1.0, 60).reshape(20, 1, 3),
            "shN": torch.zeros(20, 0, 3),
        }
        own = {**motion.inner[0].init(20), "velocities": (speed * (last - first)).repeat(20, 1)}
        tables.append({**table, **own})
    model = DynamicGaussians(motion.joined(tables), motion, times=np.linspace(0.0, 1.0, 21), fps=10.0)
    cameras = cameras_around(np.array([[-0.5, -0.5, -0.5], [0.5, 0.5, 0.5]]), width=64, height=64, count=2)
    moments = [(time, time) for time in np.linspace(0.0, 1.0, 21).tolist()]
    print(f"windows {spans}: one bell for each {difference_db(model, as_cubic(model), cameras, moments):.1f} dB")
    for ending in (".splatv", ".4dgs"):
        write_model(folder / f"windows{ending}", model)
        back = read_model(folder / f"windows{ending}")
        print(f"  {ending} {difference_db(model, back, cameras, moments):.1f} dB", flush=True)


def _parts(count: int) -> None:
    """Prints how long three bodies and a still rest of `count` Gaussians take to be told apart, at 24 instants."""
    rng, times = torch.Generator().manual_seed(0), torch.linspace(0.0, 1.0, 24)
    index = torch.arange(count) % 4 - 1
    pivots = torch.tensor([[-1.5, 0.0, 0.0], [1.5, 0.0, 0.0], [0.0, 1.5, 0.0]])
    middles = torch.cat([torch.zeros(1, 3), pivots])[index + 1]
    spread = torch.where(index == -1, 1.5, 0.3)[:, None]
    offsets, turns = torch.zeros(3, 24, 3), torch.zeros(3, 24, 4)
    offsets[0, :, 0], offsets[2, :, 1] = 0.8 * times, 0.5 * times
    turns[0, :, 0] = 1.0
    turns[1, :, 0], turns[1, :, 3] = torch.cos(1.25 * times), torch.sin(1.25 * times)
    turns[2, :, 0], turns[2, :, 1] = torch.cos(0.6 * times), torch.sin(0.6 * times)
    params = {
        "means": middles + spread * torch.randn(count, 3, generator=rng),
        "quats": torch.randn(count, 4, generator=rng),
        "scales": 0.3 * torch.randn(count, 3, generator=rng) - 3.5,
        "opacities": torch.randn(count, generator=rng) + 1.5,
        "sh0": torch.randn(count, 1, 3, generator=rng),
        "shN": torch.zeros(count, 0, 3),
        "parts": index.float(),
        "shared.pivots": pivots,
        "shared.offsets": offsets,
        "shared.turns": turns,
    }
    motion = RigidParts(RigidPartsConfig(times=tuple(times.tolist()), parts=3))
    model = DynamicGaussians(params, motion, times=times.double().numpy())
    wall, cpu = time.perf_counter(), time.process_time()
    split = find_rigid_parts(model, times.double().numpy(), 0.5)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    wrong = int(((split.part == -2) & split.visible).sum())
    print(
        f"{count:,} Gaussians: {len(split.rotations)} parts, {wrong} Gaussians in none, {wall:.1f} s,"
        f" of the processor {cpu:.1f} s"
    )


if __name__ == "__main__":
    main()
