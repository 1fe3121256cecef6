"""Frames given in Python become a scene's frames: cameras, times, splits and points are checked, nothing is decoded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from ..cameras import Camera
from ..errors import UserError
from ..offsets import moved_camera, offset_for, text_of
from .assemble import Assembled, FramePlan, choose_splits, distinct_times, snapped
from .frames import FrameJob
from .placing import placed_points
from .records import Lens, PointCloud, Split
from .resample import Resampling
from .sources import GivenFrames, GivenPicture, array_of, bytes_of


def assemble_given(
    given: GivenFrames,
    times: np.ndarray,
    split: Sequence[str] | None,
    test_every: int,
    *,
    fps: float | None,
    duration: float | None,
) -> Assembled:
    """Returns the frames of a scene, in the order of their splits. Args: see `Scene.from_frames`.

    Whether there is alpha the first frame will say.
    """
    for name, value in (("fps", fps), ("duration", duration)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise UserError(f"{name} must be positive, got {value:g}")
    instants = distinct_times(times)
    instant_of = snapped(times, instants)
    stated = checked_splits(split, len(times))
    if split is not None and test_every:
        raise UserError("split says which frames are the test; leave test_every out")
    splits, note = choose_splits(stated, instant_of.tolist(), len(instants), test_every)
    cameras = _named(given.cameras, instant_of, times)
    resamplings = {(c.width, c.height): _unchanged(c) for c in cameras}
    plans = [
        FramePlan(
            camera,
            float(instants[instant_of[k]]),
            int(instant_of[k]),
            splits[k],
            FrameJob(GivenPicture(given, k), resamplings[camera.width, camera.height], None, False),
        )
        for k, camera in enumerate(cameras)
    ]
    order = {"train": 0, "test": 1, "val": 2}
    plans.sort(key=lambda plan: order[plan.split])
    if duration is None and fps is not None and len(instants) > 1:
        duration = (len(instants) - 1) / fps
    return Assembled(plans, instants, fps, duration, 1.0, False, note, [])


def _named(cameras: Sequence[Camera], instant_of: np.ndarray, times: np.ndarray) -> list[Camera]:
    """Returns the cameras with one id for each pose and lens: what moves gets its instant's number, as in files."""
    known: dict[str, Camera] = {}
    seen: dict[tuple[str, int], int] = {}
    named = []
    for k, camera in enumerate(cameras):
        first = seen.setdefault((camera.id, int(instant_of[k])), k)
        if first != k:
            same = _same(cameras[first], camera)
            hint = "leave one out" if same else "what stands elsewhere needs an id of its own: Camera(id=...)"
            raise UserError(f"frames {first} and {k} are both of camera {camera.id} at time {times[k]:g}; {hint}")
        if camera.id in known and not _same(known[camera.id], camera):
            camera = dataclasses.replace(camera, id=f"{camera.id}_{int(instant_of[k]):04d}")
            if camera.id in known:
                raise UserError(f"camera {camera.id} is there twice; give every camera an id of its own")
        named.append(known.setdefault(camera.id, camera))
    return named


def _same(a: Camera, b: Camera) -> bool:
    return a is b or (
        (a.width, a.height) == (b.width, b.height) and np.array_equal(a.viewmat, b.viewmat) and np.array_equal(a.K, b.K)
    )


def _unchanged(camera: Camera) -> Resampling:
    """Returns the resampling that changes nothing."""
    fx, fy, cx, cy = (float(camera.K[row, column]) for row, column in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return Resampling(Lens(fx, fy, cx, cy, camera.width, camera.height), 1.0)


def checked_cameras(cameras: Camera | Sequence[Camera], count: int) -> list[Camera]:
    """Returns a camera for each of `count` frames; raises `UserError` for anything else."""
    listed = [cameras] * count if isinstance(cameras, Camera) else list(cameras)
    wrong = next((camera for camera in listed if not isinstance(camera, Camera)), None)
    if wrong is not None:
        raise UserError(f"cameras must be gaussian4d.Camera objects, got {type(wrong).__name__}")
    if len(listed) != count:
        raise UserError(
            f"expected one camera for all, or a camera for each of the {count} times, got {len(listed)} cameras"
        )
    bent = next((camera for camera in listed if camera.model != "pinhole"), None)
    if bent is not None:
        raise UserError(f"camera {bent.id} is {bent.model}; frames need pinhole cameras: undistort the pictures first")
    return listed


def checked_times(times: Sequence[float]) -> np.ndarray:
    """Returns clip times float64 [F]; raises `UserError` unless they are numbers in 0..1."""
    values = array_of(times, "times")
    if values.ndim != 1 or len(values) == 0 or values.dtype.kind not in "fiu":
        raise UserError(f"times must be a sequence of numbers, one per frame, got shape {values.shape}")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise UserError(f"times must be finite, got {values[bad]} for frame {bad}")
    if values.min() < 0 or values.max() > 1:
        raise UserError(
            f"times are clip times in 0..1, got {values.min():g} to {values.max():g}; divide seconds by the clip's"
            " length and give that as duration"
        )
    return values


def checked_splits(split: Sequence[str] | None, count: int) -> list[Split | None]:
    """Returns the split of each of `count` frames, None where none is stated."""
    if split is None:
        return [None] * count
    listed = [str(name) for name in split]
    if len(listed) != count:
        raise UserError(f"expected a split for each of the {count} frames, got {len(listed)}")
    wrong = next((name for name in listed if name not in ("train", "test", "val")), None)
    if wrong is not None:
        raise UserError(f"split must be train, test or val, got {wrong!r}")
    return cast("list[Split | None]", listed)


def checked_points(points: Any) -> PointCloud | None:
    """Returns points given as a cloud, as xyz [P, 3], or as a pair of that and rgb [P, 3], uint8 or floats in 0..1."""
    if points is None:
        return None
    if isinstance(points, PointCloud):
        xyz, rgb, times = points.xyz, points.rgb, points.times
    else:
        xyz, rgb = points if isinstance(points, tuple) and len(points) == 2 else (points, None)
        times = None
    xyz = array_of(xyz, "points")
    if xyz.ndim != 2 or xyz.shape[1] != 3 or xyz.dtype.kind not in "fiu" or not np.isfinite(xyz).all():
        raise UserError(f"points must be finite numbers [P, 3], or a pair of those and colours, got {xyz.shape}")
    if rgb is None:
        rgb = np.full(xyz.shape, 128, dtype=np.uint8)
    rgb = bytes_of(array_of(rgb, "colours of points"), "colours of points")
    if rgb.shape != xyz.shape:
        raise UserError(f"expected a colour for each point, shape {xyz.shape}, got {rgb.shape}")
    if times is not None and np.shape(times) != (len(xyz),):
        raise UserError(f"expected a time for each of the {len(xyz)} points, got shape {np.shape(times)}")
    return PointCloud(xyz, rgb, times)


def moved_to_origin(
    cameras: list[Camera], points: PointCloud | None
) -> tuple[list[Camera], PointCloud | None, np.ndarray]:
    """Returns cameras and points relative to an offset [3], and that: zero unless they stand far from the origin.

    Raises `UserError` for points of 32-bit floats where these are too coarse for the scene.
    """
    unique = list({id(camera): camera for camera in cameras}.values())
    offset = offset_for(np.array([camera.position for camera in unique]))
    if points is None or not np.any(offset):
        cloud = None if points is None else placed_points(points, offset)
    else:
        step = float(np.spacing(np.float32(np.abs(points.xyz).max(initial=0.0))))
        reach = float(np.linalg.norm(np.ptp(np.array([camera.position for camera in unique]), axis=0)))
        if points.xyz.dtype == np.float32 and len(points) and step > 1e-3 * max(reach, 1e-9):
            raise UserError(
                f"points are float32, which has steps of {step:g} where the scene stands ({text_of(offset)}), and its"
                f" cameras are {reach:.3g} apart; give float64, or points and cameras relative to the scene"
            )
        cloud = placed_points(points, offset)
    if not np.any(offset):
        return cameras, cloud, offset
    moved = {id(camera): moved_camera(camera, -offset) for camera in unique}
    return [moved[id(camera)] for camera in cameras], cloud, offset
