"""`gaussian4d render`: a video along a camera path."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tyro.conf import Positional

from ..errors import UserError
from .fit import Backend, check_backend

if TYPE_CHECKING:
    import numpy as np

    from ..model import DynamicGaussians
    from ..paths import CameraPath
    from .opened import Opened

Buffer = Literal["rgb", "depth", "alpha"]

_COLOURS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


@dataclasses.dataclass
class Render:
    """Render a video along a camera path while the clip plays once; several buffers stand side by side."""

    EXAMPLES: ClassVar[str] = """
        gaussian4d render runs/fox --out orbit.mp4
        gaussian4d render runs/fox --out sides.mp4 --path dataset --buffers rgb depth
        gaussian4d render runs/fox --out mine.mp4 --path path.json --width 1280 --height 720 --fps 30
    """

    source: Positional[Path]
    """Run folder, or a .g4d or .ply file."""
    out: Path
    """File to write: .mp4, .webm, .gif, or a folder for PNG files."""
    path: str = "orbit"
    """orbit or spiral (derived from the scene's cameras), dataset (the recorded test cameras), or FILE.json."""
    buffers: tuple[Buffer, ...] = ("rgb",)
    """What to show."""
    width: int | None = None
    """Pixels; default as recorded."""
    height: int | None = None
    """Pixels; default as recorded."""
    fps: float | None = None
    """Frames per second of the video; default as recorded, else 24."""
    seconds: float | None = None
    """Length of the video; default the clip's own, but 4 to 20 seconds."""
    background: Literal["white", "black"] | None = None
    """What shows through; default what the scene was fitted with."""
    backend: Backend = "auto"
    """Rasterizer."""

    def run(self) -> None:
        """Renders and prints what was written."""
        from ..video_out import check_video_path, write_video
        from .console import size, track
        from .opened import open_model

        self._check()
        check_backend(self.backend)
        check_video_path(self.out)
        opened = open_model(self.source)
        fps = self.fps or (opened.scene.fps if opened.scene else None) or opened.model.fps or 24.0
        path = self._path(opened, fps)
        background = _COLOURS[self.background] if self.background else opened.background
        frames = pictures(opened.model, path, self.buffers, background=background, backend=self.backend)
        count = write_video(self.out, track(frames, "render", total=len(path)), fps)
        camera = path[0][0]
        written = f"{size(self.out.stat().st_size)}" if self.out.is_file() else "PNG files"
        print(
            f"wrote {self.out}: {count} frames {camera.width}x{camera.height} of {' '.join(self.buffers)}, "
            f"{count / fps:.1f} s at {fps:g} frames per second, {written}"
        )

    def _check(self) -> None:
        for name in ("width", "height", "fps", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"--{name} must be positive, got {value}")
        if not self.buffers:
            raise UserError("--buffers needs at least one of rgb, depth, alpha")

    def _path(self, opened: Opened, fps: float) -> CameraPath:
        """Returns the cameras and times of the video."""
        from .. import paths

        count = max(round((self.seconds or opened.seconds) * fps), 1)
        if self.path == "orbit":
            return paths.orbit_path(opened.cameras, count, width=self.width, height=self.height)
        if self.path == "spiral":
            return paths.spiral_path(opened.cameras, count, width=self.width, height=self.height)
        if self.path == "dataset":
            if opened.scene is None:
                raise UserError(f"--path dataset needs the scene of a run, {opened.path} has none; use orbit")
            return paths.dataset_path(
                opened.scene, None if self.seconds is None else count, width=self.width, height=self.height
            )
        if self.path.endswith(".json"):
            return paths.load_path(
                self.path, None if self.seconds is None else count, width=self.width, height=self.height
            )
        raise UserError(f"--path must be {', '.join(paths.PATH_NAMES)} or a .json file, got {self.path!r}")


def pictures(
    model: DynamicGaussians,
    path: CameraPath,
    buffers: tuple[str, ...],
    *,
    background: Sequence[float] | None = None,
    backend: str = "auto",
) -> Iterator[np.ndarray]:
    """Yields the frames uint8 [H, W, 3] of a video; depth keeps one colour scale for all of them."""
    from ..io import pictures as draw
    from ..rendering import render

    span = None
    if "depth" in buffers:
        # The ends of the scale come from a few frames of the path, so that it need not be rendered twice.
        samples = [path[index] for index in sorted({0, len(path) // 2, len(path) - 1})]
        outputs = [render(model, camera, time, ("depth", "alpha"), backend=backend) for camera, time in samples]
        seen = [found for found in map(draw.output_depth_range, outputs) if found is not None]
        span = (min(near for near, _ in seen), max(far for _, far in seen)) if seen else None
    for camera, time in path:
        output = render(model, camera, time, draw.buffers_for(buffers), background=background, backend=backend)
        yield draw.side_by_side([draw.buffer_picture(output, name, span) for name in buffers])
