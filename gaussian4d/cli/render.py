"""`gaussian4d render`: a video along a camera path."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from ..errors import UserError
from ..plugins import PATHS
from .choices import Unset, Up, listed
from .fit import Backend
from .placing import placed

if TYPE_CHECKING:
    import numpy as np

    from ..desk import Shot
    from ..model import DynamicGaussians
    from ..paths import CameraPath
    from .opened import Opened

PathName = Annotated[str, arg(metavar=listed(PATHS, "FILE.json"))]
Buffer = Literal["rgb", "depth", "normal", "alpha", "flow", "velocity", "lifetime"]

_MOST_FRAMES = 1_000_000
"""Frames of one video: nine hours at 30 per second."""

COLOURS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0)}


@dataclasses.dataclass
class Render:
    """Render a video along a camera path: a moving or fixed camera, while the clip plays once or is frozen."""

    WRITES: ClassVar[dict[str, bool | None]] = {"out": None}
    EXAMPLES: ClassVar[str] = """
        gaussian4d render runs/fox --out orbit.mp4
        gaussian4d render runs/fox --out sides.mp4 --path dataset --truth --buffers rgb depth
        gaussian4d render runs/fox --out mine.mp4 --path path.json --width 1280 --height 720 --fps 30
        gaussian4d render runs/fox --out bullet.mp4 --time 0.5                   (time frozen, the camera moves)
        gaussian4d render runs/fox --out lapse.mp4 --path still --camera cam03   (the camera fixed, time runs)
        gaussian4d render runs/fox --out all.mp4 --buffers rgb depth normal alpha flow velocity lifetime --layout grid
        gaussian4d render runs/fox --out cut.webm --transparent
        gaussian4d render runs/fox --out floats --images exr --buffers rgb depth
    """

    source: Positional[Path]
    """Run folder, folder of frames, or Gaussian file."""
    out: Path
    """File to write: .mp4, .webm, .mov or .gif, or a folder for single frames."""
    path: PathName = "orbit"
    """Camera path; dataset: the recorded test cameras, still: one recorded camera, FILE.json: keyframes (viewer)."""
    camera: Unset[str] = None
    """For --path still or dataset: the recorded camera to use. Default: the most central one (still), all (dataset)."""
    time: Unset[str] = None
    """Clip time in [0, 1]: T freezes time, START:STOP plays that part. Default: as recorded, or as in the keyframes."""
    buffers: tuple[Buffer, ...] = ("rgb",)
    """What to show."""
    layout: Literal["row", "grid", "files"] = "row"
    """For several buffers: side by side, in a grid, or each in its own file (NAME_depth.mp4)."""
    truth: bool = False
    """Show the recorded image beside the rendering; for --path dataset and still."""
    width: Unset[int] = None
    """Pixels; default as recorded."""
    height: Unset[int] = None
    """Pixels; default as recorded."""
    fps: Unset[float] = None
    """Frames per second of the video. Default: as recorded, 24 if unknown."""
    seconds: Unset[float] = None
    """Length of the video. Default: that of the clip, or 4 seconds for a static scene."""
    up: Unset[Up] = None
    """Up axis of the scene. Default: the one stored in the run or file."""
    scene: Unset[Path] = None
    """Scene folder of the run. Only needed if it was moved and is not beside the run folder."""
    background: Unset[Literal["white", "black"]] = None
    """Background colour. Default: the one the scene was fitted with."""
    transparent: bool = False
    """Write alpha instead of a background; for .webm, .mov, .gif and folders."""
    images: Literal["png", "exr"] = "png"
    """Image format in a folder: PNG, or EXR with 32-bit floats holding all channels of the buffers."""
    crop: Unset[Path] = None
    """Keep only the Gaussians inside the crop box of this file (RUN/crop.json, saved in the viewer)."""
    resume: bool = False
    """Continue an interrupted render from the frames it left behind."""
    device: str = "auto"
    """Device to render on: auto takes a GPU if a backend works on it, else cpu; or cuda, cuda:1, ..."""
    backend: Backend = "auto"
    """Rasterizer."""

    def run(self) -> int:
        """Renders and prints what was written; returns 130 when it was interrupted."""
        from ..desk import Desk, check_target, frames_folder, render_to
        from ..truth import Truth
        from ..video_out import check_fps
        from .console import Progress, size
        from .opened import open_model

        self._check()
        # Before the folder of frames is made.
        place = placed(self.device, self.backend)
        shot = self._shot(place.backend)
        check_target(self.out, shot)
        opened = open_model(self.source, scene=self.scene, up=self.up)
        fps = self.fps or self._file_fps() or self._recorded_fps(opened)
        if self.out.suffix:
            check_fps(fps)
        path = self._path(opened, fps)
        for note in self._notes(opened):
            print(f"note      {note}")
        shot = dataclasses.replace(shot, background=shot.background or opened.background)
        truth = Truth(opened.scene) if self.truth and opened.scene is not None else None
        desk = Desk(self._model(opened).to(place.device), path, shot, truth)
        try:
            with Progress("render", len(path)) as progress:
                written = render_to(
                    self.out, desk, fps, resume=self.resume, progress=lambda done, total: progress.update(done)
                )
        except KeyboardInterrupt:
            print(f"interrupted: the finished frames are in {frames_folder(self.out)}; --resume continues")
            return 130
        camera = path[0][0]
        for stream, file in zip(shot.streams, written):
            kind = size(file.stat().st_size) if file.is_file() else f"{self.images.upper()} files"
            shown = stream or " ".join(self.buffers)
            print(
                f"wrote {file}: {len(path)} frames {camera.width}x{camera.height} of {shown}, "
                f"{len(path) / fps:.1f} s at {fps:g} frames per second, {kind}"
            )
        return 0

    def _check(self) -> None:
        from ..named_paths import check_path

        for name in ("width", "height", "fps", "seconds"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"--{name} must be positive{' and finite' if value > 0 else ''}, got {value}")
        if not self.buffers:
            raise UserError("--buffers needs at least one of rgb, depth, normal, alpha, flow, velocity, lifetime")
        if self.transparent and self.background:
            raise UserError("--transparent and --background contradict each other; omit one of them")
        if self.images == "exr" and (self.truth or self.layout != "row"):
            raise UserError("an EXR image holds the channels of all buffers; omit --truth and --layout")
        if not self.path.endswith(".json"):
            if self.path not in PATHS:
                raise UserError(f"--path must be {', '.join(PATHS)} or a .json file, got {self.path!r}")
            check_path(self.path, self.camera)
        elif self.camera is not None:
            raise UserError("--camera is for paths through recorded cameras; a keyframe file has its own cameras")
        self._times()

    def _times(self) -> tuple[float, float] | None:
        if self.time is None:
            return None
        try:
            ends = [float(part) for part in self.time.split(":")]
        except ValueError:
            ends = []
        if len(ends) not in (1, 2) or not all(0.0 <= end <= 1.0 for end in ends):
            raise UserError(f"--time is T or START:STOP, clip times in [0, 1], got {self.time!r}")
        return ends[0], ends[-1]

    def _shot(self, backend: str) -> Shot:
        from ..desk import Shot

        return Shot(
            tuple(self.buffers),
            self.layout,
            COLOURS[self.background] if self.background else None,
            self.transparent,
            self.truth,
            self.images == "exr",
            backend,
        )

    def _model(self, opened: Opened) -> DynamicGaussians:
        if self.crop is None:
            return opened.model
        from ..crop import CropBox, crop_model

        return crop_model(opened.model, CropBox.load(self.crop))

    @staticmethod
    def _recorded_fps(opened: Opened) -> float:
        """Returns the frames per second of the recording; of one that does not say, those of a film."""
        from ..clip_length import ASSUMED_FPS

        return ASSUMED_FPS if opened.length.assumed else opened.length.fps

    def _notes(self, opened: Opened) -> list[str]:
        """Returns what was guessed and decides how this video looks."""
        # Without recorded cameras every path goes by the ring that is placed around the Gaussians.
        derived = self.path in ("orbit", "spiral") or (not opened.recorded and not self.path.endswith(".json"))
        notes = [opened.framing.note if derived else None, None if self.seconds else opened.length.note]
        return [note for note in notes if note is not None]

    def _file_fps(self) -> float | None:
        """Returns the frames per second that a path file states."""
        if not self.path.endswith(".json"):
            return None
        from ..keyframes import KeyframePath

        return KeyframePath.load(self.path).fps

    def _path(self, opened: Opened, fps: float) -> CameraPath:
        """Returns the cameras and times of the video."""
        from ..clip_length import outside
        from ..paths import retimed

        path = self._cameras(opened, fps)
        times = self._times()
        path = path if times is None else retimed(path, *times)
        if (note := outside(opened.model, [time for _, time in path])) is not None:
            print(f"note: {note}")
        return path

    def _cameras(self, opened: Opened, fps: float) -> CameraPath:
        from ..clip_length import played_span
        from ..named_paths import PathRequest, named_path
        from ..offsets import offset_of
        from ..paths import load_path

        seconds = self.seconds or opened.seconds
        if seconds * fps > _MOST_FRAMES:
            raise UserError(
                f"{seconds:g} s at {fps:g} frames per second are more than {_MOST_FRAMES:,} frames; give a shorter"
                " --seconds or fewer --fps"
            )
        count = max(round(seconds * fps), 1)
        if self.path.endswith(".json"):
            return load_path(
                self.path,
                count if self.seconds else None,
                width=self.width,
                height=self.height,
                offset=offset_of(opened.model),
                span=played_span(opened.model),
            )
        request = PathRequest(
            cameras=opened.framing.around,
            recorded=opened.recorded,
            up=opened.framing.up,
            center=opened.framing.center,
            count=count,
            count_given=self.seconds is not None,
            width=self.width,
            height=self.height,
            camera=self.camera,
            scene=opened.scene,
            model=opened.model,
        )
        return named_path(self.path, request)


def pictures(
    model: DynamicGaussians,
    path: CameraPath,
    buffers: tuple[str, ...],
    *,
    background: Sequence[float] | None = None,
    backend: str = "auto",
) -> Iterator[np.ndarray]:
    """Yields the frames uint8 [H, W, 3] of a video, buffers side by side; each keeps one colour scale."""
    from ..desk import Desk, Shot

    behind = None if background is None else (background[0], background[1], background[2])
    desk = Desk(model, path, Shot(buffers, background=behind, backend=backend))
    for index in range(len(path)):
        yield desk.frame(index)[""]
