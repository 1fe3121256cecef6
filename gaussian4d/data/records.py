"""What every reader returns: lenses, pictures and poses as the files state them, before any resampling."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from .video import Video

Split = Literal["train", "test", "val"]


@dataclasses.dataclass(frozen=True)
class Lens:
    """Intrinsics and distortion of one camera at the resolution of its files.

    Pixel centres are at +0.5, as everywhere in gaussian4d; readers of formats with centres at whole numbers (OpenCV,
    Qualisys) add the half pixel.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    model: Literal["pinhole", "brown", "fisheye"] = "pinhole"
    """`brown`: radial and tangential, OpenCV's k1 k2 p1 p2 k3 [k4 k5 k6]; `fisheye`: equidistant, k1..k4."""
    distortion: tuple[float, ...] = ()

    @property
    def K(self) -> np.ndarray:
        """[3, 3] intrinsics in pixels."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def straight(self) -> bool:
        """True when the lens is a plain pinhole and nothing needs to be undistorted."""
        return self.model == "pinhole" or (self.model == "brown" and not any(self.distortion))


@dataclasses.dataclass(frozen=True)
class ImagePicture:
    """A picture in an image file of its own."""

    path: Path
    upright: bool = False
    """Whether it is turned as its EXIF orientation says; its camera is that of the turned picture then."""

    @property
    def source(self) -> str:
        return str(self.path)


@dataclasses.dataclass(frozen=True)
class VideoPicture:
    """Frame `index`, in display order, of a video."""

    video: Video
    index: int

    @property
    def source(self) -> str:
        return f"{self.video.path}#{self.index}"


Picture = ImagePicture | VideoPicture


@dataclasses.dataclass(frozen=True)
class FrameRecord:
    """One picture with its camera, as a reader found it."""

    camera_id: str
    viewmat: np.ndarray
    """[4, 4] world-to-camera, OpenCV axes, data units."""
    lens: Lens
    picture: Picture
    time: float
    """Clip time in [0, 1]."""
    split: Split | None = None
    """None: the data states no split."""
    mask: Path | None = None
    """Foreground mask image, not zero inside."""
    covisible: Path | None = None
    """Image that is not zero where training frames saw what this test frame shows (DyCheck)."""
    stated_in: str = ""
    """The file that states this frame's camera, for error messages."""


FARTHEST = 1e15
"""Coordinates of points beyond this are damaged, whatever the unit: squares of them must be numbers."""


@dataclasses.dataclass(frozen=True)
class PointCloud:
    """Points that came with a scene, in data units."""

    xyz: np.ndarray
    """[P, 3] float32; readers give float64 where files have it, until the scene is moved to the origin."""
    rgb: np.ndarray
    """[P, 3] uint8."""
    times: np.ndarray | None = None
    """[P] clip time of each point, or None when they hold for the whole clip."""

    def __len__(self) -> int:
        return len(self.xyz)


@dataclasses.dataclass
class SceneRecord:
    """A whole scene as its files state it."""

    format: str
    frames: list[FrameRecord]
    fps: float | None = None
    duration: float | None = None
    """Seconds between clip time 0 and 1, or None when the data does not know."""
    points: PointCloud | None = None
    downscale: float | None = None
    """Factor that the published figures for this data use, taken unless the user names one; None where none is
    customary."""
    notes: list[str] = dataclasses.field(default_factory=list)
    """Choices the reader made, one sentence each, for `gaussian4d info`."""
