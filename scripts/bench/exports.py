"""Exports a run to every format and draws each file at recorded cameras, as a program does that knows no near plane.

    python scripts/bench/exports.py RUN [--cameras 1 8 18 30] [--near 0.01] [--keep DIR] [--formats ply splatv]

Each file is written by `gaussian4d export`, read again and drawn by our rasterizer with the near plane at --near, at
the first, the middle and the last instant (still formats: at the middle one); the page is unpacked and drawn with the
model's own near plane, which it holds. PSNR is over the full frame against what the model draws, in the last column of
the camera where it is least. Prints the table of docs/splat_formats.md.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import math
import sys
import tempfile
from pathlib import Path

import torch

from gaussian4d.cameras import Camera
from gaussian4d.cli import main as gaussian4d
from gaussian4d.cli.export import shown_instants
from gaussian4d.cli.opened import Opened, open_model
from gaussian4d.clip_length import recorded_span
from gaussian4d.io.registry import frame_formats, read_model
from gaussian4d.io.sequence import read_sequence
from gaussian4d.model import DynamicGaussians
from gaussian4d.plugins import FORMATS
from gaussian4d.rendering import render

STANDING = ("ply", "compressed-ply", "splat", "spz", "sog")
"""Formats that --axes turns."""


def main() -> None:
    """Prints the table."""
    # The bench of the viewer lies beside this file and has the name of its package.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cameras", nargs="+", default=["1", "8", "18", "30"])
    parser.add_argument("--near", type=float, default=0.01)
    parser.add_argument("--keep", type=Path, default=None, help="folder that keeps the files")
    parser.add_argument("--formats", nargs="+", default=None, help="only these")
    parser.add_argument("--keep-near", action="store_true", help="what export --keep-near writes")
    args = parser.parse_args()
    opened = open_model(args.run)
    recorded = opened.recorded if opened.scene is None else opened.scene.cameras.values()
    cameras = [camera for camera in recorded if camera.id in args.cameras or camera.id.lstrip("0") in args.cameras]
    model = opened.model
    print(f"{args.run.name}: {len(model):,} Gaussians, motion {model.motion.name}, near {model.near:.4g}")
    print(f"| file | bytes | bytes per Gaussian | {' | '.join(f'camera {c.id}' for c in cameras)} | least, dB |")
    print("|---|---|---|" + "---|" * (len(cameras) + 1))
    names = [format.name for format in FORMATS.working().values() if format.writer] + [*frame_formats(), "html"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in args.formats or names:
            _row(opened, name, folder, cameras, args)


def _row(opened: Opened, name: str, folder: Path, cameras: list[Camera], args: argparse.Namespace) -> None:
    """Exports to one format and prints its row."""
    model, instants = opened.model, shown_instants(opened.model)
    middle = instants[len(instants) // 2]
    sequence = name.endswith("-sequence")
    ending = "" if sequence else ".html" if name == "html" else FORMATS.get(name).endings[0]
    path = folder / f"{name}{ending}"
    command = ["export", str(args.run), "--to", str(path), "--time", str(middle)]
    command += [] if name == "html" else ["--format", name]
    command += ["--axes", "recorded"] if name.removesuffix("-sequence") in STANDING else []
    command += ["--keep-near"] if args.keep_near else []
    with contextlib.redirect_stdout(io.StringIO()) as told:
        if gaussian4d(command) != 0:
            print(told.getvalue())
            return
    if name == "html":
        back, moments = _page(opened), [(t, t) for t in instants]
    else:
        found = read_sequence(path) if sequence else read_model(path)
        near = found.meta.get("near", args.near)
        back = dataclasses.replace(found, meta={**found.meta, "near": near})
        moves = not found.motion.still
        # Files but our own play from the first recorded instant to the last.
        first, last = (0.0, 1.0) if name == "g4d" else recorded_span(model)
        moments = [(t, (t - first) / (last - first)) for t in instants] if moves else [(middle, 0.0)]
    size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
    figures = [_psnr(model, back, camera, moments) for camera in cameras]
    cells = " | ".join(_shown(value) for value in [*figures, min(figures)])
    print(f"| {f'folder of `{name}`' if sequence else f'`{ending}`'} | {size:,} | {size / len(model):.1f} | {cells} |")


def _page(opened: Opened) -> DynamicGaussians:
    """Returns what the page draws, without the browser."""
    from gaussian4d.io.segments import shown_as
    from viewer.player.export import page_content
    from viewer.player.packing import unpack

    content = page_content(opened.model, opened.cameras, (0.0, 0.0, 0.0))
    return shown_as(opened.model, unpack(content.packed))


@torch.no_grad()
def _psnr(
    model: DynamicGaussians, other: DynamicGaussians, camera: Camera, moments: list[tuple[float, float]]
) -> float:
    """Returns the PSNR in dB over the full frame and all moments, both over the model's background or black."""
    background = (0.0, 0.0, 0.0) if model.background is None else tuple(model.background.tolist())
    errors = []
    for time, other_time in moments:
        pictures = [
            render(each, camera, at, ("rgb",), background=background).rgb
            for each, at in ((model, time), (other, other_time))
        ]
        assert pictures[0] is not None and pictures[1] is not None
        errors.append(float((pictures[0].clamp(0, 1) - pictures[1].clamp(0, 1)).double().square().mean()))
    error = sum(errors) / len(errors)
    return math.inf if error == 0.0 else -10.0 * math.log10(error)


def _shown(value: float) -> str:
    return "equal" if value > 120.0 else f"{value:.1f}"


if __name__ == "__main__":
    main()
