"""Static surroundings without masks: points in the shared volume and in a shell beyond the cameras.

A point on a surface has the same colour in the cameras that see it; a point in the air mostly does not. Of many sampled
points those are kept whose colours agree best, so that the start already has a rough shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from .views import View, project, sample

_OVERSAMPLE = 8
_CLEAR = 0.3


def mean_views(by_camera: Sequence[Sequence[View]]) -> list[View]:
    """Returns one view per camera whose picture is the median over that camera's views."""
    means = []
    for views in by_camera:
        first = views[0]
        rgb = np.median(np.stack([view.rgb for view in views]), axis=0)
        means.append(View(first.camera, rgb, None, 0.5, first.camera_id))
    return means


def surrounding_points(
    views: Sequence[View], count: int, min_views: int, shell: tuple[float, float], rng: np.random.Generator
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"]]:
    """Returns at most `count` points that `min_views` views see, half inside, half in the shell, and their colours."""
    parts = []
    for candidates, kept in (
        (_in_ball(rng, _OVERSAMPLE * count, shell[0]), count // 2),
        (_in_shell(rng, _OVERSAMPLE * count, shell), count - count // 2),
    ):
        rgb, spread, seen = agreement(views, candidates)
        # Right before a lens a point hides everything from one camera and means nothing to the others.
        away = np.min([np.linalg.norm(candidates - view.camera.position, axis=1) for view in views], axis=0) > _CLEAR
        spread = np.where((seen >= min_views) & away, spread, np.inf)
        best = np.argsort(spread, kind="stable")[:kept]
        best = best[np.isfinite(spread[best])]
        parts.append((candidates[best], rgb[best]))
    return np.concatenate([xyz for xyz, _ in parts]), np.concatenate([rgb for _, rgb in parts])


def agreement(
    views: Sequence[View], xyz: Float[np.ndarray, "N 3"]
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, " N"], np.ndarray]:
    """Returns the median colour of each point, how far the views that see it are from that, and how many see it.

    The distance is the median over views, so that a few views in which the point is hidden do not count.
    """
    colors = np.full((len(views), len(xyz), 3), np.nan, dtype=np.float32)
    for row, view in zip(colors, views):
        uv, _, inside = project(view.camera, xyz)
        row[inside] = sample(view.rgb, uv[inside])
    seen = np.isfinite(colors[..., 0]).sum(0)
    some = seen > 0
    rgb, spread = np.zeros((len(xyz), 3), np.float32), np.full(len(xyz), np.inf, np.float32)
    rgb[some] = np.nanmedian(colors[:, some], axis=0)
    spread[some] = np.nanmedian(np.abs(colors[:, some] - rgb[some]).max(axis=-1), axis=0)
    return rgb, spread, seen


def _directions(rng: np.random.Generator, n: int) -> np.ndarray:
    vectors = rng.normal(size=(n, 3))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _in_ball(rng: np.random.Generator, n: int, radius: float) -> np.ndarray:
    """Returns points [n, 3] uniform in the ball."""
    return (_directions(rng, n) * (radius * rng.random((n, 1)) ** (1 / 3))).astype(np.float32)


def _in_shell(rng: np.random.Generator, n: int, radii: tuple[float, float]) -> np.ndarray:
    """Returns points [n, 3] between two radii, uniform in inverse distance: pictures resolve near things better."""
    inverse = rng.uniform(1.0 / radii[1], 1.0 / radii[0], size=(n, 1))
    return (_directions(rng, n) / inverse).astype(np.float32)
