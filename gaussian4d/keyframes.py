"""Keyframes of a camera path: made in the viewer or by hand, kept as JSON, drawn by `gaussian4d render`.

The file: `{"width", "height", "frames" (default length), "fps", "smoothness", "loop", "keyframes": [{...}, ...]}`. A
keyframe gives the pose as `"T_world_camera"` (4x4, OpenCV axes) or as `"position"`, `"look_at"` and optionally `"up"`
(default +Z); the vertical field of view `"fov"` in degrees (default 50); and the clip time `"time"` in [0, 1] (default:
spread evenly over what was recorded). Poses are of the recorded world, or relative to `"offset"` (three numbers), which
the viewer writes for a scene that stands far from the origin.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from .cameras import Camera
from .conventions import invert_rigid
from .errors import UserError
from .files import read_json, write_json
from .offsets import KEY, between, stated_in

_FRAMES_BETWEEN = 30


@dataclasses.dataclass(frozen=True, eq=False)
class Keyframe:
    """Where a path's camera is, what it sees and when."""

    T_world_camera: np.ndarray
    """[4, 4] camera-to-world, OpenCV axes."""
    fov: float = 50.0
    """Vertical field of view, degrees."""
    time: float = 0.0
    """Clip time in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class KeyframePath:
    """Keyframes and how to go from one to the next."""

    keyframes: tuple[Keyframe, ...]
    """At least one."""
    width: int = 640
    height: int = 360
    frames: int | None = None
    """Pictures of the whole path; None takes 30 from each keyframe to the next."""
    fps: float | None = None
    """Frames per second of a video; None leaves it to the program."""
    smoothness: float = 1.0
    """0 goes straight from keyframe to keyframe, 1 in curves without kinks; between, in between."""
    loop: bool = False
    """Go on from the last keyframe to the first, so that the end of a video meets its start."""
    offset: tuple[float, float, float] | None = None
    """Place of the recorded world that poses are relative to (`gaussian4d.offsets`); None: they are of the recorded
    world itself."""
    timed: bool = True
    """Whether the keyframes say when they are; else their times are spread evenly over the clip."""
    end: float = 1.0
    """Clip time at which the clip ends, to which a loop goes on."""

    @property
    def count(self) -> int:
        """Pictures of the whole path."""
        return self.frames or max(self.legs * _FRAMES_BETWEEN, 1)

    @property
    def legs(self) -> int:
        """Ways from one keyframe to the next; a single keyframe has none."""
        return len(self.keyframes) if self.loop and len(self.keyframes) > 1 else len(self.keyframes) - 1

    def cameras(
        self, count: int | None = None, *, width: int | None = None, height: int | None = None
    ) -> list[tuple[Camera, float]]:
        """Returns `count` cameras and clip times along the path.

        Positions follow a curve that does not overshoot, rotations the shortest arc; fields of view and times go in
        straight lines, so no time leaves what lies between its two keyframes. On the way back of a loop the time goes
        straight to that of the first keyframe, too, unless the clip runs forward: then on to the end of the clip.
        """
        count = count or self.count
        places = self._places(count)
        width, height = width or self.width, height or self.height
        positions, rotations = self._poses(places)
        fovs, times = self._along([key.fov for key in self.keyframes], places), self._times(places)
        path = []
        for index in range(count):
            viewmat = np.eye(4)
            viewmat[:3, :3] = rotations[index].T
            viewmat[:3, 3] = -rotations[index].T @ positions[index]
            focal = 0.5 * height / math.tan(math.radians(float(fovs[index])) / 2)
            K = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
            time = float(min(max(times[index], 0.0), 1.0))
            path.append((Camera(f"path_{index:04d}", viewmat, K, width, height), time))
        return path

    def relative_to(self, offset: np.ndarray) -> KeyframePath:
        """Returns the path relative to an offset [3], that of the model that is drawn.

        Raises `UserError` when it states none and can only be meant relative already.
        """
        places = np.stack([key.T_world_camera[:3, 3] for key in self.keyframes])
        by = between(None if self.offset is None else np.array(self.offset), offset, places, "the path")
        keys = []
        for key in self.keyframes:
            T = key.T_world_camera.copy()
            T[:3, 3] += by
            keys.append(dataclasses.replace(key, T_world_camera=T))
        return dataclasses.replace(self, keyframes=tuple(keys), offset=(offset[0], offset[1], offset[2]))

    def over(self, span: tuple[float, float]) -> KeyframePath:
        """Returns the path for a clip that was recorded from `span[0]` to `span[1]`; stated times stay as they are."""
        first, last = span
        keys = self.keyframes
        if not self.timed:
            keys = tuple(dataclasses.replace(key, time=first + (last - first) * key.time) for key in keys)
        return dataclasses.replace(self, keyframes=keys, timed=True, end=last)

    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes the JSON file that `load` reads."""
        write_json(file, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of the file."""
        settings = {name: getattr(self, name) for name in ("width", "height", "frames", "fps", "smoothness", "loop")}
        keys = [
            {"T_world_camera": key.T_world_camera.tolist(), "fov": key.fov, "time": key.time} for key in self.keyframes
        ]
        stated = {KEY: [float(x) for x in self.offset]} if self.offset and any(self.offset) else {}
        return {name: value for name, value in settings.items() if value is not None} | stated | {"keyframes": keys}

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> KeyframePath:
        """Returns the path of a JSON file; raises `UserError` that names the file and the keyframe."""
        return cls.from_dict(read_json(file), str(file))

    @classmethod
    def from_dict(cls, data: Any, name: str) -> KeyframePath:
        """Returns the path of the content of a file; `name` is what errors call it."""
        keys = data.get("keyframes") if isinstance(data, dict) else None
        if not isinstance(keys, list) or not keys:
            raise UserError(f'{name} must be {{"keyframes": [...]}} with at least one keyframe')
        loop = data.get("loop", False)
        if not isinstance(loop, bool):
            raise UserError(f"{name}: loop must be true or false, got {loop!r}")
        last = max(len(keys) if loop else len(keys) - 1, 1)
        found = []
        for index, key in enumerate(keys):
            where = f"{name}: keyframe {index}"
            if not isinstance(key, dict):
                raise UserError(f"{where} must be an object, got {type(key).__name__}")
            fov = _number(key, "fov", 50.0, 1.0, 179.0, where)
            found.append(Keyframe(_key_pose(key, where), fov, _number(key, "time", index / last, 0.0, 1.0, where)))
        return cls(
            tuple(found),
            _whole(data, "width", 640, name),
            _whole(data, "height", 360, name),
            _whole(data, "frames", 1, name) if "frames" in data else None,
            _number(data, "fps", 24.0, 1.0, 1000.0, name) if "fps" in data else None,
            _number(data, "smoothness", 1.0, 0.0, 1.0, name),
            loop,
            None if (stated := stated_in(data, name)) is None else (stated[0], stated[1], stated[2]),
            any("time" in key for key in keys),
        )

    def _places(self, count: int) -> np.ndarray:
        """Returns where the pictures [count] lie, in keyframes; a loop leaves out the end, which is its start."""
        if self.legs == 0:
            return np.zeros(count)
        return np.linspace(0.0, self.legs, count, endpoint=not self.loop) if count > 1 else np.zeros(count)

    def _poses(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns positions [count, 3] and camera-to-world rotations [count, 3, 3]."""
        from scipy.interpolate import PchipInterpolator
        from scipy.spatial.transform import Rotation, Slerp

        if self.legs == 0:
            T = np.repeat(self.keyframes[0].T_world_camera[None], len(places), axis=0)
            return T[:, :3, 3], T[:, :3, :3]
        # Around a loop the keyframes go on at both ends, so that the curve has no kink where it closes.
        around = 2 if self.loop else 0
        knots = np.arange(-around, self.legs + 1 + around)
        T = np.stack([self.keyframes[int(k) % len(self.keyframes)].T_world_camera for k in knots])
        straight = np.stack([np.interp(places, knots, T[:, axis, 3]) for axis in range(3)], axis=1)
        curved = PchipInterpolator(knots, T[:, :3, 3])(places)
        turns = Rotation.from_matrix(T[:, :3, :3])
        arcs = Slerp(knots, turns)(places)
        quats = turns.as_quat()
        # A quaternion and its negative are one rotation; next to each other they must not cancel.
        for k in range(1, len(quats)):
            quats[k] *= 1.0 if quats[k] @ quats[k - 1] >= 0 else -1.0
        smooth = PchipInterpolator(knots, quats)(places)
        short = np.linalg.norm(smooth, axis=1, keepdims=True)
        # Nearly opposite rotations: components that pass zero together would point anywhere.
        smooth = np.where(short > 0.2, smooth / np.maximum(short, 1e-9), arcs.as_quat())
        between = arcs * Rotation.from_rotvec(self.smoothness * (arcs.inv() * Rotation.from_quat(smooth)).as_rotvec())
        return straight + self.smoothness * (curved - straight), between.as_matrix()

    def _along(self, values: Sequence[float], places: np.ndarray, closing: float | None = None) -> np.ndarray:
        """Returns `values` of the keyframes at places, in straight lines; a loop ends at `closing`, else the first."""
        ends = [*values, values[0] if closing is None else closing] if self.loop else list(values)
        return np.interp(places, np.arange(len(ends)), ends)

    def _times(self, places: np.ndarray) -> np.ndarray:
        times = [key.time for key in self.keyframes]
        # A clip that has run forward does not run backwards on the way home.
        return self._along(times, places, closing=max(self.end, times[-1]) if times[-1] > times[0] else None)


def _key_pose(key: dict[str, Any], where: str) -> np.ndarray:
    """Returns the camera-to-world matrix [4, 4] of a keyframe."""
    if "T_world_camera" in key:
        T = _array(key["T_world_camera"], (4, 4), f"{where}: T_world_camera")
        # A camera checks that its pose is a rotation and a place; the pose itself stays as the file says, to the bit.
        Camera(f"of {where}", invert_rigid(T), np.eye(3), 1, 1)
        T[3] = (0.0, 0.0, 0.0, 1.0)
        return T
    if "position" not in key or "look_at" not in key:
        raise UserError(f"{where} needs T_world_camera, or position and look_at")
    position = _array(key["position"], (3,), f"{where}: position")
    target = _array(key["look_at"], (3,), f"{where}: look_at")
    up = _array(key.get("up", [0.0, 0.0, 1.0]), (3,), f"{where}: up")
    if np.linalg.norm(target - position) < 1e-9 or np.linalg.norm(up) < 1e-9:
        raise UserError(f"{where}: position and look_at must differ, and up must not be zero")
    return Camera.look_at(position, target, up, width=1, height=1, focal=1.0).T_world_camera


def _array(value: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.full(0, np.nan)
    if array.size == math.prod(shape) and array.ndim <= 2:
        array = array.reshape(shape)
    if array.shape != shape or not np.isfinite(array).all():
        raise UserError(f"{where} must be {math.prod(shape)} finite numbers, got {str(value)[:80]}")
    return array


def _number(key: dict[str, Any], name: str, default: float, low: float, high: float, where: str) -> float:
    value = key.get(name, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(f"{where}: {name} must be a number between {low:g} and {high:g}, got {value!r}")
    return float(value)


def _whole(data: dict[str, Any], name: str, default: int, file: str) -> int:
    value = data.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 100_000:
        raise UserError(f"{file}: {name} must be a whole number above 0, got {value!r}")
    return value
