"""Camera paths through the recorded cameras of a scene: theirs, one standing still, a flight from one to the next."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np

from .cameras import Camera
from .errors import UserError
from .keyframes import Keyframe, KeyframePath
from .paths import CameraPath, clip_times, rig_from_cameras

if TYPE_CHECKING:
    from .scene import Scene

_MAX_KEYS = 24
_MIN_STEP = 0.05


def dataset_path(
    scene: Scene,
    count: int | None = None,
    *,
    split: Literal["test", "train", "all"] = "test",
    camera: str | None = None,
    width: int | None = None,
    height: int | None = None,
) -> CameraPath:
    """Returns the scene's own cameras, in the order of their numbers, each playing the clip once.

    Cameras that stand still share the `count` frames equally. A single moving camera gives its own recorded poses
    and times, in order of time. A split without frames falls back to "train".

    Args:
        scene: the scene.
        count: length of the path; default one frame per recorded instant and camera.
        split: "test", "train" or "all".
        camera: only this one, of any split.
        width: of the pictures, default the recorded one.
        height: of the pictures, default the recorded one.
    """
    if camera is not None:
        frames = [frame for frame in scene.frames("all") if frame.camera.id == camera]
    else:
        frames = list(scene.frames(split)) or list(scene.frames("train"))
    if not frames:
        raise UserError(f"{scene.path} has no frames; a dataset path needs some")
    poses: dict[bytes, Camera] = {}
    for frame in frames:
        poses.setdefault(frame.camera.viewmat.tobytes(), frame.camera)
    if len(poses) > 1 and len(poses) == len(frames):
        frames.sort(key=lambda frame: frame.time)
        chosen = range(len(frames)) if count is None else np.linspace(0, len(frames) - 1, count).round().astype(int)
        return [(fit_size(frames[i].camera, width, height), _clip(frames[i].time)) for i in chosen]
    still = list(poses.values())
    total = count if count is not None else len(still) * max(len(scene.times), 1)
    path: CameraPath = []
    for index, one in enumerate(still):
        share = (index + 1) * total // len(still) - index * total // len(still)
        path += [(fit_size(one, width, height), float(time)) for time in clip_times(share)]
    return path


def still_path(camera: Camera, count: int, *, width: int | None = None, height: int | None = None) -> CameraPath:
    """Returns one camera `count` times while the clip plays once: a time lapse."""
    sized = fit_size(camera, width, height)
    return [(sized, float(time)) for time in clip_times(count)]


def interpolated_path(
    cameras: Iterable[Camera], count: int, *, width: int | None = None, height: int | None = None
) -> CameraPath:
    """Returns a smooth flight of `count` cameras from recorded camera to recorded camera while the clip plays once.

    The cameras are taken in their order around the scene, and round and round where they stand all the way round; of
    many, an even choice.
    """
    recorded = list(cameras)
    rig = rig_from_cameras(recorded)
    order = np.argsort((rig.azimuths - rig.start + 180.0 * (rig.arc < 360.0)) % 360.0, kind="stable")
    chosen: list[Camera] = []
    for k in order:
        # Cameras at one place, as of one that was recorded often, would be stops on the way.
        if not chosen or np.linalg.norm(recorded[k].position - chosen[-1].position) > _MIN_STEP * rig.distance:
            chosen.append(recorded[k])
    picks = np.unique(np.linspace(0, len(chosen) - 1, min(len(chosen), _MAX_KEYS)).round().astype(int))
    first = fit_size(recorded[0], width, height)
    keys = tuple(
        Keyframe(chosen[k].T_world_camera, math.degrees(2.0 * math.atan(0.5 * chosen[k].height / chosen[k].K[1, 1])))
        for k in picks
    )
    path = KeyframePath(keys, first.width, first.height, loop=rig.arc >= 360.0 and len(keys) > 2)
    return [(camera, float(time)) for (camera, _), time in zip(path.cameras(count), clip_times(count))]


def fit_size(camera: Camera, width: int | None, height: int | None) -> Camera:
    """Returns the camera for pictures of the asked size; one given side keeps the proportions."""
    if width is None and height is None:
        return camera
    if width is None:
        assert height is not None
        width = max(round(height * camera.width / camera.height), 1)
    if height is None:
        height = max(round(width * camera.height / camera.width), 1)
    return camera.resized(width, height)


def _clip(time: float) -> float:
    return float(min(max(time, 0.0), 1.0))
