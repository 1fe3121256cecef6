"""The camera paths that a name asks for: `render --path NAME`.

They are functions in `gaussian4d.plugins.PATHS`, the entry-point group `gaussian4d.paths`: each takes a `PathRequest`
and returns a list of (camera, clip time), one for each frame of the video.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from . import paths, recorded_paths
from .cameras import Camera
from .clip_length import played_span
from .errors import UserError
from .paths import CameraPath
from .plugins import PATHS

if TYPE_CHECKING:
    from .model import DynamicGaussians
    from .scene import Scene

F = TypeVar("F", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class PathRequest:
    """What a path is made from."""

    cameras: Sequence[Camera]
    """Recorded cameras, at most 24 of them, or a ring around the Gaussians where none are known; never empty."""
    count: int
    """Frames of the video."""
    count_given: bool = False
    """Whether somebody asked for so many; a path that has a length of its own keeps that otherwise."""
    width: int | None = None
    """Pixels; None as recorded. One given side keeps the proportions (`recorded_paths.fit_size`)."""
    height: int | None = None
    camera: str | None = None
    """Id of the recorded camera that was asked for; only for paths with `takes_camera`."""
    scene: Scene | None = None
    """Of the run, where it is there."""
    model: DynamicGaussians | None = None
    """What will be drawn."""
    recorded: Sequence[Camera] = ()
    """All recorded cameras that are known, for who asks for one by its id."""
    up: np.ndarray | None = None
    """[3] unit, which way is up; None leaves it to the cameras."""
    center: np.ndarray | None = None
    """[3] what the cameras look at; None leaves it to them."""

    @property
    def span(self) -> tuple[float, float]:
        """The first and the last clip time that was recorded."""
        if self.model is not None:
            return played_span(self.model)
        return (0.0, 1.0) if self.scene is None else (float(self.scene.times[0]), float(self.scene.times[-1]))

    @property
    def size(self) -> dict[str, Any]:
        """Width and height as keywords."""
        return {"width": self.width, "height": self.height}

    def sized(self, camera: Camera) -> Camera:
        """Returns the camera with a picture of the size that was asked for, its own where none was."""
        return recorded_paths.fit_size(camera, self.width, self.height)


class NamedPath(Protocol):
    """A path by name. With the attribute `takes_camera = True` it reads `PathRequest.camera`."""

    def __call__(self, request: PathRequest) -> CameraPath:
        """Returns the camera and the clip time of every frame; raises `UserError` where it cannot.

        Times lie in `PathRequest.span`. A path that leaves it, such as one whose times go from 0 to 1, is played from
        the first recorded instant to the last.
        """
        ...


def takes_camera(function: F) -> F:
    """Returns the path marked as one that reads `PathRequest.camera`."""
    vars(function).update(takes_camera=True)
    return function


def named_path(name: str, request: PathRequest) -> CameraPath:
    """Returns the path `name`; raises `UserError` for an unknown one, or a request that it cannot serve."""
    check_path(name, request.camera)
    path = list(PATHS.get(name)(request))
    if not path:
        raise UserError(f"the path {name} has no frames; ask for a longer video, or choose another path")
    return paths.within(path, request.span)


def check_path(name: str, camera: str | None) -> None:
    """Raises `UserError` for an unknown path, one that does not load, or a `camera` that it has no use for."""
    if camera is not None and not getattr(PATHS.get(name), "takes_camera", False):
        taking = [one for one, path in PATHS.working().items() if getattr(path, "takes_camera", False)]
        raise UserError(f"--camera is for the paths {' and '.join(taking)}, not for {name}")
    PATHS.get(name)


def orbit(request: PathRequest) -> CameraPath:
    """Returns an orbit around what the cameras look at."""
    return paths.orbit_path(request.cameras, request.count, up=request.up, center=request.center, **request.size)


def spiral(request: PathRequest) -> CameraPath:
    """Returns a spiral around the most central camera."""
    return paths.spiral_path(request.cameras, request.count, up=request.up, center=request.center, **request.size)


def interpolated(request: PathRequest) -> CameraPath:
    """Returns a flight from recorded camera to recorded camera."""
    return recorded_paths.interpolated_path(request.cameras, request.count, **request.size)


@takes_camera
def dataset(request: PathRequest) -> CameraPath:
    """Returns the recorded test cameras, or the one that was asked for."""
    if request.scene is None:
        raise UserError(
            "--path dataset needs the scene of a run, and there is none; say where it is with --scene, or use orbit"
        )
    chosen = None if request.camera is None else camera_of(list(request.scene.cameras.values()), request.camera).id
    count = request.count if request.count_given else None
    return recorded_paths.dataset_path(request.scene, count, camera=chosen, **request.size)


@takes_camera
def still(request: PathRequest) -> CameraPath:
    """Returns one recorded camera that stands, the most central one where none was asked for."""
    known = request.cameras if request.camera is None else request.recorded or request.cameras
    return recorded_paths.still_path(camera_of(known, request.camera), request.count, **request.size)


def camera_of(cameras: Sequence[Camera], id: str | None) -> Camera:
    """Returns the camera of the id, or the most central one; raises `UserError` that names the others."""
    if id is None:
        places = np.stack([camera.position for camera in cameras])
        return cameras[int(np.linalg.norm(places[:, None] - places[None], axis=2).sum(axis=1).argmin())]
    for camera in cameras:
        if camera.id == id:
            return camera
    known = ", ".join(camera.id for camera in cameras[:8]) + (", ..." if len(cameras) > 8 else "")
    raise UserError(f"there is no camera {id!r}; the scene has {known}")
