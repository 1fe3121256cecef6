"""How a model wants to be looked at: which way is up, from where, how long the clip lasts, what lies behind.

A fit knows its cameras; the file that is shared should know them too. The block is plain JSON in `model.meta["view"]`,
documented in docs/g4d.md, and is read and written only here. A file comes from anybody: what it says is checked before
anything is placed, allocated or drawn by it.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from .cameras import Camera
from .errors import UserError
from .paths import orbit_path, rig_from_cameras

if TYPE_CHECKING:
    from .model import DynamicGaussians
    from .scene import Scene

KEY = "view"
VERSION = 1
MAX_CAMERAS = 24

# Beyond these nothing that was recorded lies; within them no product of a few overflows.
_MAX_LENGTH = 1e12
_MAX_SIDE = 1 << 15
_MAX_PIXELS = 1 << 26
_MAX_FOCAL = 1e8
_MAX_ID = 200
_MAX_SECONDS = 1e7
_MAX_FPS = 1e5


@dataclasses.dataclass(frozen=True, eq=False)
class ViewBlock:
    """How a model wants to be looked at, in its own coordinates and units. None is what is not known."""

    up: np.ndarray | None = None
    """[3] unit."""
    center: np.ndarray | None = None
    """[3] what the cameras look at, and what a viewer turns around."""
    first: Camera | None = None
    """The view to begin with."""
    cameras: tuple[Camera, ...] = ()
    """At most 24 of the recorded cameras, spread as widely as they stand, in the order of the scene."""
    near: float | None = None
    """Distance below which nothing is drawn."""
    seconds: float | None = None
    """From clip time 0 to clip time 1."""
    fps: float | None = None
    """Recorded frames per second."""
    background: tuple[float, float, float] | None = None
    """Colour behind the Gaussians, in 0..1."""

    @classmethod
    def of(cls, model: DynamicGaussians) -> ViewBlock | None:
        """Returns what the model says, None when it says nothing; raises `UserError` when that cannot be true."""
        values = model.meta.get(KEY) if isinstance(model.meta, dict) else None
        return None if values is None else cls.from_dict(values)

    @classmethod
    def of_scene(
        cls, scene: Scene, *, near: float | None = None, background: Sequence[float] | None = None
    ) -> ViewBlock:
        """Returns how to look at what was fitted to `scene`.

        Args:
            scene: The scene.
            near: Of the model; None leaves it open.
            background: Of the model; None takes white where the scene's pictures have alpha, else black.
        """
        every = list(scene.cameras.values())
        rig, cameras = rig_from_cameras(every), well_spread([camera for camera in every if _is_kept(camera)])
        first = orbit_path(cameras or every, 1, up=rig.up, center=rig.center)[0][0]
        behind = background if background is not None else [1.0 if scene.has_alpha else 0.0] * 3
        return cls(
            up=rig.up,
            center=rig.center,
            first=dataclasses.replace(first, id="first"),
            cameras=tuple(cameras),
            near=near,
            seconds=scene.duration or None,
            fps=scene.fps or None,
            background=(float(behind[0]), float(behind[1]), float(behind[2])),
        )

    def written_to(self, model: DynamicGaussians) -> DynamicGaussians:
        """Returns the model with this block in its `meta`."""
        return dataclasses.replace(model, meta={**model.meta, KEY: self.to_dict()})

    def to_dict(self) -> dict[str, Any]:
        """Returns the block as JSON values; `from_dict` gives the same back, to the bit."""
        values: dict[str, Any] = {
            "up": None if self.up is None else [float(v) for v in self.up],
            "center": None if self.center is None else [float(v) for v in self.center],
            "first": None if self.first is None else _camera_values(self.first),
            "cameras": [_camera_values(camera) for camera in self.cameras] or None,
            "near": self.near,
            "seconds": self.seconds,
            "fps": self.fps,
            "background": None if self.background is None else list(self.background),
        }
        return {"version": VERSION, **{name: value for name, value in values.items() if value is not None}}

    @classmethod
    def from_dict(cls, values: Any) -> ViewBlock | None:
        """Returns the block of JSON values, None for one of a later version, which is said.

        Raises:
            UserError: naming the key, when a value is missing a part, not finite, or impossible.
        """
        if not isinstance(values, dict):
            raise _wrong("the block", "an object", values)
        version = values.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise _wrong("version", "a whole number from 1 on", version)
        if version > VERSION:
            warnings.warn(
                f"the view block of this model has version {version}, this gaussian4d reads {VERSION}: cameras,"
                " up axis and length of the clip are ignored; update gaussian4d",
                stacklevel=2,
            )
            return None
        up = _vector(values, "up", 3)
        if up is not None:
            length = float(np.linalg.norm(up))
            if not length > 1e-6:
                raise _wrong("up", "a direction", values["up"])
            # What is a unit vector stays as it is, so that writing what was read changes nothing.
            up = up if abs(length - 1.0) < 1e-9 else up / length
        listed = values.get("cameras")
        if listed is None:
            listed = []
        if not isinstance(listed, list) or len(listed) > MAX_CAMERAS:
            raise _wrong("cameras", f"a list of at most {MAX_CAMERAS}", listed)
        first, background = values.get("first"), _vector(values, "background", 3)
        if background is not None and not ((background >= 0.0) & (background <= 1.0)).all():
            raise _wrong("background", "three numbers in 0..1", values["background"])
        return cls(
            up=up,
            center=_vector(values, "center", 3),
            first=None if first is None else _camera(first, "first"),
            cameras=tuple(_camera(camera, f"cameras[{index}]") for index, camera in enumerate(listed)),
            near=_positive(values, "near", _MAX_LENGTH),
            seconds=_positive(values, "seconds", _MAX_SECONDS),
            fps=_positive(values, "fps", _MAX_FPS),
            background=None if background is None else (background[0], background[1], background[2]),
        )


def with_view(model: DynamicGaussians, scene: Scene) -> DynamicGaussians:
    """Returns the model with what its `scene` says about how to look at it."""
    behind = None if model.background is None else model.background.tolist()
    return ViewBlock.of_scene(scene, near=model.near, background=behind).written_to(model)


def well_spread(cameras: Sequence[Camera], count: int = MAX_CAMERAS) -> list[Camera]:
    """Returns at most `count` of the cameras, in their order, as far apart in place and direction as they come.

    Farthest-point sampling from the first one on: every camera left out is near one that is kept.
    """
    if len(cameras) <= count:
        return list(cameras)
    places = np.stack([camera.position for camera in cameras])
    reach = float(np.linalg.norm(places - places.mean(axis=0), axis=1).max()) or 1.0
    points = np.concatenate([places / reach, np.stack([camera.forward for camera in cameras])], axis=1)
    chosen, gaps = [0], np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < count:
        chosen.append(int(np.argmax(gaps)))
        gaps = np.minimum(gaps, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return [cameras[index] for index in sorted(set(chosen))]


def _camera_values(camera: Camera) -> dict[str, Any]:
    return {
        # A name may come from a file name that is no text.
        "id": "".join(letter if letter.isprintable() else "?" for letter in camera.id[:_MAX_ID]),
        "model": camera.model,
        "width": int(camera.width),
        "height": int(camera.height),
        "viewmat": [*camera.viewmat[:3].tolist(), [0.0, 0.0, 0.0, 1.0]],
        "K": [*camera.K[:2].tolist(), [0.0, 0.0, 1.0]],
    }


def _is_kept(camera: Camera) -> bool:
    """Returns whether a block has room for the camera: not for a picture of impossible size, or a place beyond all."""
    try:
        _camera(_camera_values(camera), "camera")
    except UserError:
        return False
    return True


def _camera(values: Any, where: str) -> Camera:
    """Returns a camera of the block; raises `UserError` that names `where` it stands."""
    if not isinstance(values, dict):
        raise _wrong(where, "an object", values)
    id, model = values.get("id"), values.get("model", "pinhole")
    if not isinstance(id, str) or len(id) > _MAX_ID or not id.isprintable():
        raise _wrong(f"{where}.id", f"a printable name of at most {_MAX_ID} letters", id)
    if model not in ("pinhole", "ortho", "fisheye"):
        raise _wrong(f"{where}.model", "pinhole, ortho or fisheye", model)
    width, height = (values.get(name) for name in ("width", "height"))
    for name, side in (("width", width), ("height", height)):
        if not isinstance(side, int) or isinstance(side, bool) or not 0 < side <= _MAX_SIDE:
            raise _wrong(f"{where}.{name}", f"a whole number in 1..{_MAX_SIDE}", side)
    assert isinstance(width, int) and isinstance(height, int)
    if width * height > _MAX_PIXELS:
        raise _wrong(f"{where}", f"a picture of at most {_MAX_PIXELS} pixels", f"{width}x{height}")
    viewmat, K = (_matrix(values.get(name), n, f"{where}.{name}") for name, n in (("viewmat", 4), ("K", 3)))
    if not np.array_equal(viewmat[3], [0.0, 0.0, 0.0, 1.0]):
        raise _wrong(f"{where}.viewmat", "the last row 0 0 0 1", viewmat[3].tolist())
    if not np.array_equal(K[2], [0.0, 0.0, 1.0]) or np.abs(K).max() > _MAX_FOCAL or min(K[0, 0], K[1, 1]) < 1e-6:
        raise _wrong(f"{where}.K", "intrinsics in pixels with the last row 0 0 1", K.tolist())
    try:
        return Camera(id, viewmat, K, width, height, cast(Literal["pinhole"], model))
    except UserError as error:
        raise UserError(f"the view block of the model: {where}: {error}") from None


def _matrix(values: Any, size: int, where: str) -> np.ndarray:
    rows = values if isinstance(values, list) and len(values) == size else []
    if not rows or not all(isinstance(row, list) and len(row) == size for row in rows):
        raise _wrong(where, f"{size} rows of {size} numbers", values)
    return np.array([_numbers(row, size, where) for row in rows])


def _vector(values: dict[str, Any], name: str, size: int) -> np.ndarray | None:
    return None if values.get(name) is None else _numbers(values[name], size, name)


def _numbers(values: Any, size: int, where: str) -> np.ndarray:
    if not isinstance(values, list) or len(values) != size or not all(_is_number(value) for value in values):
        raise _wrong(where, f"{size} finite numbers of at most {_MAX_LENGTH:g}", values)
    return np.array(values, dtype=np.float64)


def _positive(values: dict[str, Any], name: str, most: float) -> float | None:
    value = values.get(name)
    if value is None:
        return None
    if not _is_number(value) or not 0.0 < value <= most:
        raise _wrong(name, f"a number above 0, at most {most:g}", value)
    return float(value)


def _is_number(value: Any) -> bool:
    # The comparison comes first: a whole number of a thousand digits is no float.
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -_MAX_LENGTH <= value <= _MAX_LENGTH
        and math.isfinite(value)
    )


def _wrong(where: str, expected: str, got: Any) -> UserError:
    return UserError(
        f"the view block of the model (how to look at it): {where}: expected {expected}, got {_short(got)}; write the"
        " model again, or leave the key view out of its meta"
    )


def _short(value: Any) -> str:
    # A stranger's whole number may have more digits than Python agrees to print.
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 1 << 64:
        return "a number of very many digits"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}"
    return ascii(value)[:80]


__all__ = ["KEY", "MAX_CAMERAS", "VERSION", "ViewBlock", "well_spread", "with_view"]
