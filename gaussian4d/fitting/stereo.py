"""Depth of the static surroundings by plane sweep between the cameras' median pictures.

Collins, "A Space-Sweep Approach to True Multi-Image Matching", 1996. Each small picture is compared with its neighbours
at a range of depths; costs are averaged over windows of several sizes, so that textured places lend their depth to
plain ones. A point counts when neighbours find the same depth there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from .views import View, project, sample

_WIDTH = 88
_DEPTHS = 80
_NEIGHBOURS = 6
_BEST = 3
_BLURS = (0.0, 1.5, 4.0)


def sweep_points(
    views: Sequence[View], depths: tuple[float, float], tolerance: float = 0.08
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"], np.ndarray]:
    """Returns points on what the views see, their colours, and how many neighbours find the same depth (0 and up).

    `depths` is the range searched, in the fit's units. A neighbour agrees when its depth differs by less than the
    fraction `tolerance`. Without neighbours a view adds nothing.
    """
    features = [_features(view) for view in views]
    neighbours = [_neighbours(views, k) for k in range(len(views))]
    rays, maps = [], []
    for k in range(len(views)):
        directions = _rays(views[k])
        rays.append(directions)
        maps.append(_depth_map(views, features, k, neighbours[k], directions, depths) if neighbours[k] else None)
    points, colors, votes = [np.zeros((0, 3))], [np.zeros((0, 3))], [np.zeros(0, np.int64)]
    for k, view in enumerate(views):
        depth = maps[k]
        if depth is None:
            continue
        xyz = _lift(view, rays[k], depth)
        agree = np.zeros(len(xyz), np.int64)
        for j in neighbours[k]:
            other = maps[j]
            if other is None:
                continue
            uv, distance, inside = project(views[j].camera, xyz)
            found = sample(other, uv * (other.shape[1] / views[j].camera.width))
            agree += inside & (np.abs(found - distance) < tolerance * distance)
        points.append(xyz)
        colors.append(sample(view.rgb, project(view.camera, xyz)[0]))
        votes.append(agree)
    return np.concatenate(points), np.concatenate(colors), np.concatenate(votes)


def _features(view: View) -> Float[np.ndarray, "H W 9"]:
    """Returns colour and two bands of detail per pixel: none of them changes when a camera turns about its axis."""
    scale = view.camera.width / _WIDTH
    fine, middle, coarse = (ndimage.gaussian_filter(view.rgb, (s * scale, s * scale, 0)) for s in (0.5, 1.5, 4.0))
    bands = [0.5 * fine, 2.0 * (fine - middle), 2.0 * (middle - coarse)]
    return np.concatenate(bands, axis=-1).astype(np.float32)


def _neighbours(views: Sequence[View], k: int) -> list[int]:
    """Returns the views nearest in direction to view `k`, not at its own place and not across from it."""
    here = views[k].camera
    angles = [float(np.arccos(np.clip(here.forward @ view.camera.forward, -1.0, 1.0))) for view in views]
    gaps = [float(np.linalg.norm(here.position - view.camera.position)) for view in views]
    usable = [j for j in range(len(views)) if j != k and gaps[j] > 0.02 and angles[j] < 1.2]
    return sorted(usable, key=lambda j: angles[j] + gaps[j])[:_NEIGHBOURS]


def _rays(view: View) -> Float[np.ndarray, "h w 3"]:
    """Returns directions in the fit's frame, with unit depth, through the pixels of a small picture."""
    camera = view.camera
    width = min(_WIDTH, camera.width)
    height = max(round(width * camera.height / camera.width), 1)
    u, v = np.meshgrid(
        (np.arange(width) + 0.5) * camera.width / width, (np.arange(height) + 0.5) * camera.height / height
    )
    local = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.K).T
    return (local @ camera.viewmat[:3, :3]).astype(np.float32)


def _lift(view: View, rays: np.ndarray, depth: np.ndarray) -> Float[np.ndarray, "N 3"]:
    return (view.camera.position.astype(np.float32) + rays * depth[..., None]).reshape(-1, 3)


def _depth_map(
    views: Sequence[View],
    features: Sequence[np.ndarray],
    k: int,
    neighbours: Sequence[int],
    rays: Float[np.ndarray, "h w 3"],
    depths: tuple[float, float],
) -> Float[np.ndarray, "h w"]:
    """Returns the depth of each ray of view `k` at which its neighbours look most alike."""
    height, width, _ = rays.shape
    own = sample(features[k], project(views[k].camera, _lift(views[k], rays, np.ones((height, width), np.float32)))[0])
    inverse = np.linspace(1.0 / depths[1], 1.0 / depths[0], _DEPTHS)
    costs = np.empty((_DEPTHS, height, width), np.float32)
    for row, value in zip(costs, inverse):
        xyz = _lift(views[k], rays, np.full((height, width), 1.0 / value, np.float32))
        differences = np.full((len(neighbours), len(xyz)), np.nan, np.float32)
        for out, j in zip(differences, neighbours):
            uv, _, inside = project(views[j].camera, xyz)
            out[inside] = np.abs(sample(features[j], uv[inside]) - own[inside]).sum(axis=1)
        # The most similar neighbours only: in the others the point may be hidden. Unseen points cost as much as bad
        # ones.
        ranked = np.sort(differences, axis=0)[:_BEST]
        row[:] = np.nan_to_num(ranked, nan=0.6).mean(axis=0).reshape(height, width)
    total = sum(costs if blur == 0 else ndimage.gaussian_filter(costs, (0, blur, blur)) for blur in _BLURS)
    assert isinstance(total, np.ndarray)
    best = total.argmin(axis=0)
    return (1.0 / _refined(total, best, inverse)).astype(np.float32)


def _refined(costs: np.ndarray, best: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns the value at the bottom of the parabola through the best cost and its two neighbours."""
    middle = best.clip(1, len(values) - 2)
    low, centre, high = (np.take_along_axis(costs, (middle + d)[None], axis=0)[0] for d in (-1, 0, 1))
    bend = low - 2.0 * centre + high
    shift = np.where(bend > 1e-9, 0.5 * (low - high) / np.maximum(bend, 1e-9), 0.0).clip(-0.5, 0.5)
    shift = np.where(middle == best, shift, best - middle)
    return values[0] + (middle + shift) * (values[1] - values[0])
