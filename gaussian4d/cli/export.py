"""`gaussian4d export`: a fitted scene for other programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tyro.conf import Positional

from ..errors import UserError

if TYPE_CHECKING:
    from ..model import DynamicGaussians


@dataclasses.dataclass
class Export:
    """Write a fitted scene for others: one .html that plays it, a .ply per instant, one .ply, or a .g4d."""

    EXAMPLES: ClassVar[str] = """
        gaussian4d export runs/fox --to runs/fox/exports/frames       (frame_0000.ply, frame_0001.ply, ...)
        gaussian4d export runs/fox --to fox.ply --time 0.5
        gaussian4d export runs/fox --to fox.g4d
        gaussian4d export runs/fox --to fox.html                      (opens in any browser, no program needed)
    """

    source: Positional[Path]
    """Run folder, or a .g4d or .ply file."""
    to: Path
    """File to write, or folder for a sequence."""
    format: Literal["ply", "ply-sequence", "g4d"] | None = None
    """Default: by the ending of --to; no ending means ply-sequence."""
    time: float = 0.0
    """Clip time in [0, 1] of a single .ply."""
    count: int | None = None
    """Files of a sequence, spread over the clip. Default: one per recorded instant."""

    def run(self) -> None:
        """Exports, and prints what was written."""
        from .exporters import find_exporter
        from .opened import open_model

        exporter = find_exporter(self.to) if self.format is None else None
        format = self.format or ("" if exporter else _format_of(self.to))
        if not 0.0 <= self.time <= 1.0:
            raise UserError(f"--time is clip time in [0, 1], got {self.time}")
        if self.count is not None and self.count < 1:
            raise UserError(f"--count must be at least 1, got {self.count}")
        opened = open_model(self.source)
        if exporter is not None:
            exporter(opened, self.to)
        elif format == "ply-sequence":
            self._sequence(opened.model, opened.vertical_axis)
        else:
            save_model(opened.model, self.to, format=format, time=self.time, vertical_axis=opened.vertical_axis)

    def _sequence(self, model: DynamicGaussians, vertical_axis: str | None) -> None:
        from ..io.sequence import ply_sequence
        from ..paths import clip_times
        from .console import size, track

        recorded = 1 if model.times is None else len(model.times)
        times = clip_times(self.count or recorded) if self.count or model.times is None else model.times
        written = list(
            track(ply_sequence(self.to, model, times, vertical_axis=vertical_axis), "export", total=len(times))
        )
        total = sum(path.stat().st_size for path in written)
        print(f"wrote {len(written)} files {written[0]} ... {written[-1].name}, {size(total)}")


def save_model(
    model: DynamicGaussians,
    path: Path,
    *,
    format: str | None = None,
    time: float = 0.0,
    vertical_axis: str | None = None,
) -> None:
    """Writes one `.g4d` or `.ply` and prints what it is; a moving model's `.ply` holds the instant `time` only."""
    from ..io.ply import write_ply
    from ..io.sequence import ply_columns
    from .console import size

    format = format or _format_of(path)
    if format == "g4d":
        if path.suffix != ".g4d":
            raise UserError(f"a .g4d file must be named so, got {path.name}; expected a name ending in .g4d")
        model.save(path)
        print(f"wrote {path}: {len(model):,} Gaussians, motion {model.motion.name}, {size(path.stat().st_size)}")
    elif format == "ply":
        columns = ply_columns(model.at(time), keep_invisible=model.motion.name == "static")
        write_ply(path, columns, vertical_axis=vertical_axis)
        if model.motion.name != "static":
            print(f"a .ply holds no motion: this is the instant {time:g} of the clip", flush=True)
        print(f"wrote {path}: {len(columns['means']):,} Gaussians, {size(path.stat().st_size)}")
    else:
        raise UserError(f"{path}: expected a file name ending in .g4d or .ply")


def _format_of(path: Path) -> str:
    from .exporters import registered_endings

    formats = {".ply": "ply", ".g4d": "g4d", "": "ply-sequence"}
    if path.suffix not in formats:
        known = ", ".join([".ply", ".g4d", *registered_endings()])
        raise UserError(f"{path}: the ending {path.suffix!r} is not known; use {known}, or a folder for a sequence")
    return formats[path.suffix]
