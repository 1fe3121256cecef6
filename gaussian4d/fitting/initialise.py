"""Where a fit starts: points with colours, sizes and times, from whatever the scene offers.

In this order: the scene's own points; with alpha, the visual hull at several instants; else the static surroundings
plus the hull of what moves or is marked as foreground.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import KDTree

from ..conventions import sh0_from_rgb
from ..errors import UserError
from ..motion import MotionModel, Params
from ..scene import Frame, Scene
from .config import FitConfig
from .hull import carve
from .normalise import Normalisation
from .stereo import sweep_points
from .surroundings import mean_views, surrounding_points
from .velocities import neighbour_velocities
from .views import View, view_of

_MOVING_SHARE = 0.4
_MOTION_THRESHOLD = 0.1
_MONO_WINDOW = 10
# Shares of the outlines that agree on a further shell, see `initial_points`.
_SWEPT = (0.6, 0.45)
_SWEEP_DEPTHS = (0.3, 6.0)
_SHELL = (0.9, 4.0)
# Below this share of the wanted points the sweep is not to be relied on alone.
_FEW = 0.25


@dataclasses.dataclass
class InitialPoints:
    """Points in the fit's frame."""

    xyz: np.ndarray
    """[N, 3]"""
    rgb: np.ndarray
    """[N, 3] in 0..1"""
    times: np.ndarray
    """[N] the instant at which a point was found; NaN for a point of the static scene."""
    spacing: float
    """Clip time between the instants looked at."""

    def __len__(self) -> int:
        return len(self.xyz)


def initial_points(
    scene: Scene,
    frames: Sequence[Frame],
    normalisation: Normalisation,
    config: FitConfig,
    seed: int,
    say: Callable[[str], None],
) -> InitialPoints:
    """Returns the points a fit of `frames` starts from; raises `UserError` when none can be found."""
    rng = np.random.default_rng(seed)
    if scene.points is not None and len(scene.points.xyz):
        points = _given(scene, normalisation, config, rng)
        say(f"start: {len(points):,} of the scene's own points")
        return points
    groups, agreement = instant_groups(frames, _instants(config))
    times = np.array([np.mean([frame.time for frame in group]) for group in groups])
    spacing = float(np.diff(times).mean()) if len(times) > 1 else 1.0
    min_views = min(3, len({frame.camera_id for frame in frames}))
    parts: list[tuple[np.ndarray, np.ndarray, float]] = []
    views = [[view_of(frame, normalisation) for frame in group] for group in groups]
    masked = all(view.mask is not None for group in views for view in group)
    static_count = 0 if scene.has_alpha else round(config.init.points * (1.0 - _MOVING_SHARE))
    if not scene.has_alpha:
        by_camera = _by_camera(frames, normalisation)
        means = mean_views(by_camera)
        xyz, rgb = _static_points(means, static_count, min_views, config.init.sampled, rng)
        parts.append((xyz, rgb, math.nan))
        if not masked:
            _mask_motion(views, means)
    # Moving outlines have holes where the subject rests for a moment or looks like what is behind it.
    agreement = agreement if masked else min(agreement, 0.75)
    per_instant = max((config.init.points - static_count) // max(len(views), 1), 1)
    # Outlines of the whole clip agree on the trunk alone; where limbs pass, many of them disagree. Points start there
    # too, in shells of less and less agreement, for limbs to be found at all.
    swept = scene.has_alpha and len(views) == 1 and len({frame.time for frame in groups[0]}) > 1
    for level in (agreement, *(_SWEPT if swept else ())):
        for time, group in zip(times, views):
            xyz, rgb, _ = carve(group, 1.0, level, max(min(min_views, len(group)), math.ceil(0.5 * len(group))))
            chosen = rng.permutation(len(xyz))[:per_instant]
            parts.append((xyz[chosen], rgb[chosen], float(time) if len(times) > 1 else math.nan))
    points = _joined(parts, spacing)
    moving = int(np.isfinite(points.times).sum())
    if len(points) < 10:
        raise UserError(
            f"found only {len(points)} points that {min_views} cameras of {scene.path} agree on; check the cameras with"
            " `gaussian4d info`, or give the scene a point cloud"
        )
    source = "alpha" if scene.has_alpha else ("masks" if masked else "motion")
    say(f"start: {len(points):,} points, {moving:,} of them at {len(views)} instants from {source}")
    return points


def _static_points(
    means: list[View], count: int, min_views: int, sampled: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns about `count` points of what stands still and their colours: swept ones first, the rest sampled."""
    xyz, rgb, votes = sweep_points(means, _SWEEP_DEPTHS)
    agreed = np.nonzero(votes >= min(min_views, max(votes.max(initial=0), 1)))[0]
    if len(agreed) < _FEW * count:
        sampled = max(sampled, 0.5)
    chosen = rng.permutation(agreed)[: round(count * (1.0 - sampled))]
    more = surrounding_points(means, round(count * sampled), min_views, _SHELL, rng)
    return np.concatenate([xyz[chosen], more[0]]), np.concatenate([rgb[chosen], more[1]])


def initial_params(points: InitialPoints, motion: MotionModel, config: FitConfig) -> Params:
    """Returns the parameter table of Gaussians at `points`, in the fit's frame."""
    n = len(points)
    scales = np.zeros(n)
    for time in {float(t) for t in points.times if np.isfinite(t)} | {math.nan}:
        rows = np.nonzero(points.times == time if np.isfinite(time) else np.isnan(points.times))[0]
        scales[rows] = neighbour_distance(points.xyz[rows])
    params: Params = {
        "means": torch.tensor(points.xyz, dtype=torch.float32),
        "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1),
        "scales": torch.tensor(np.log(config.init.scale * scales), dtype=torch.float32)[:, None].repeat(1, 3),
        "opacities": torch.full((n,), math.log(config.init.opacity / (1.0 - config.init.opacity))),
        "sh0": torch.tensor(sh0_from_rgb(points.rgb), dtype=torch.float32)[:, None],
        "shN": torch.zeros(n, (config.sh_degree + 1) ** 2 - 1, 3),
        **motion.init_at(torch.tensor(points.times, dtype=torch.float32), config.init.duration * points.spacing),
    }
    if config.init.velocities:
        velocities = neighbour_velocities(points.xyz, points.times)
        params |= motion.set_moving(params, torch.tensor(velocities, dtype=torch.float32))
    return {**params, **motion.init_shared(params["means"], torch.Generator().manual_seed(config.seed))}


def instant_groups(frames: Sequence[Frame], instants: int) -> tuple[list[list[Frame]], float]:
    """Returns groups of frames that show the subject in one pose from several sides, and how far their outlines agree.

    With several cameras at most instants, a group is one instant and outlines must agree. With one moving camera a
    group is a few successive frames and some disagreement is let pass, because the subject moves meanwhile.
    """
    by_time: dict[float, list[Frame]] = {}
    for frame in frames:
        by_time.setdefault(float(frame.time), []).append(frame)
    times = sorted(by_time)
    if np.median([len(by_time[time]) for time in times]) >= 2:
        chosen = np.unique(np.linspace(0, len(times) - 1, min(instants, len(times))).round().astype(int))
        if instants == 1:
            chosen = np.array([len(times) // 2])
        return [by_time[times[index]] for index in chosen], 0.95
    ordered = [frame for time in times for frame in by_time[time]]
    window = min(_MONO_WINDOW, len(ordered))
    if instants == 1:
        return [ordered], 0.8
    starts = np.unique(np.linspace(0, len(ordered) - window, instants).round().astype(int))
    return [ordered[start : start + window] for start in starts], 0.9


def neighbour_distance(xyz: np.ndarray) -> np.ndarray:
    """Returns [N] the mean distance to the three nearest other points."""
    if len(xyz) < 2:
        return np.full(len(xyz), 0.01)
    k = min(4, len(xyz))
    distances = KDTree(xyz).query(xyz, k=k)[0][:, 1:]
    return np.sqrt((distances**2).mean(1)).clip(1e-4, 0.5)


def _instants(config: FitConfig) -> int:
    """Returns at how many instants points are looked for: one where every Gaussian lives for the whole clip."""
    return config.init.instants if config.make_motion().windowed else 1


def _given(scene: Scene, normalisation: Normalisation, config: FitConfig, rng: np.random.Generator) -> InitialPoints:
    cloud = scene.points
    assert cloud is not None
    chosen = np.sort(rng.permutation(len(cloud.xyz))[: config.init.points])
    times = np.full(len(chosen), math.nan) if cloud.times is None else np.asarray(cloud.times, dtype=float)[chosen]
    distinct = np.unique(times[np.isfinite(times)])
    spacing = float(np.diff(distinct).mean()) if len(distinct) > 1 else 1.0
    return InitialPoints(normalisation.points(cloud.xyz[chosen]), cloud.rgb[chosen] / 255.0, times, spacing)


def _by_camera(frames: Sequence[Frame], normalisation: Normalisation, most: int = 9) -> list[list[View]]:
    """Returns some views of each camera, spread over the clip; cameras that move count once per pose."""
    grouped: dict[tuple[str, bytes], list[Frame]] = {}
    for frame in frames:
        grouped.setdefault((frame.camera_id, frame.camera.viewmat.tobytes()), []).append(frame)
    picked = []
    for group in grouped.values():
        rows = np.unique(np.linspace(0, len(group) - 1, min(most, len(group))).round().astype(int))
        picked.append([view_of(group[row], normalisation) for row in rows])
    return picked


def _mask_motion(views: list[list[View]], means: list[View]) -> None:
    """Gives every view the mask of what differs from its camera's median picture, closed over small gaps."""
    mean_of = {view.camera_id: view.rgb for view in means}
    for group in views:
        for view in group:
            moving = np.abs(view.rgb - mean_of[view.camera_id]).max(axis=-1) > _MOTION_THRESHOLD
            moving = ndimage.binary_opening(moving, iterations=1)
            view.mask = ndimage.binary_closing(moving, iterations=3).astype(np.float32)


def _joined(parts: list[tuple[np.ndarray, np.ndarray, float]], spacing: float) -> InitialPoints:
    xyz = np.concatenate([part[0] for part in parts]).astype(np.float64)
    rgb = np.concatenate([part[1] for part in parts]).astype(np.float64)
    times = np.concatenate([np.full(len(part[0]), part[2]) for part in parts])
    return InitialPoints(xyz, rgb, times, spacing)
