"""Lens models: distort, undistort by resampling, and downscale in the same step.

Brown model (Brown 1966, as OpenCV and Qualisys write it) on normalised coordinates x, y with r^2 = x^2 + y^2:

    radial = (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6)
    x' = x radial + 2 p1 x y + p2 (r^2 + 2 x^2),    y' = y radial + p1 (r^2 + 2 y^2) + 2 p2 x y

Equidistant fisheye (Kannala and Brandt 2006) with theta = atan(r):

    theta' = theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8),    (x', y') = (x, y) theta' / r
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from ..errors import UserError
from .records import Lens

# A strong barrel lens would need an ever shorter focal length to keep its whole view; below this share of the stated
# one the middle of the picture would keep less than half of its pixels, so the corners are cut instead.
MIN_ZOOM = 0.7
_MAX_ZOOM = 4.0


def distort(lens: Lens, xy: np.ndarray) -> np.ndarray:
    """Returns distorted normalised coordinates [..., 2] of undistorted ones [..., 2] (x / z, y / z).

    Points beyond the radius where the radial polynomial folds back become NaN: the model has no meaning there.
    """
    if lens.straight:
        return np.array(xy, dtype=np.float64)
    x, y = xy[..., 0], xy[..., 1]
    r2 = x * x + y * y
    r = np.sqrt(r2)
    if lens.model == "fisheye":
        theta = np.arctan(r)
        scale = np.where(r > 1e-12, _fisheye_angle(lens, theta) / np.maximum(r, 1e-12), 1.0)
        out = np.stack([x * scale, y * scale], axis=-1)
    else:
        p1, p2 = _coefficients(lens)[2:4]
        radial = _brown_radial(lens, r2)
        xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        yd = y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y
        out = np.stack([xd, yd], axis=-1)
    out[r > _fold_radius(lens)] = np.nan
    return out


def project_distorted(lens: Lens, xy: np.ndarray) -> np.ndarray:
    """Returns pixels [..., 2] in the lens's own (distorted) picture of undistorted normalised coordinates [..., 2]."""
    d = distort(lens, xy)
    return d * [lens.fx, lens.fy] + [lens.cx, lens.cy]


def undistorted_lens(lens: Lens) -> Lens:
    """Returns the pinhole lens a picture is undistorted to: same size, same principal point, focal lengths zoomed.

    The zoom is the smallest, from `MIN_ZOOM` on, that leaves no pixel without a source: a barrel lens keeps most of its
    view, a pincushion lens shows no empty border. Raises `UserError` when no zoom does.
    """
    if lens.straight:
        return dataclasses.replace(lens, model="pinhole", distortion=())
    border = _border(lens)
    low, high = MIN_ZOOM, _MAX_ZOOM
    if not _all_valid(lens, border, high):
        raise UserError(
            f"the distortion {', '.join(f'{c:g}' for c in lens.distortion)} folds the picture onto itself;"
            " restore the calibration"
        )
    if not _all_valid(lens, border, low):
        while high - low > 1e-4:
            middle = 0.5 * (low + high)
            if _all_valid(lens, border, middle):
                high = middle
            else:
                low = middle
        low = high
    return dataclasses.replace(lens, fx=lens.fx * low, fy=lens.fy * low, model="pinhole", distortion=())


def _border(lens: Lens) -> np.ndarray:
    """Returns pixels [B, 2] along the border of the picture, its corners included."""
    u, v = np.linspace(0, lens.width, 129), np.linspace(0, lens.height, 129)
    sides = [np.stack([u, np.full_like(u, edge)], -1) for edge in (0.0, lens.height)]
    sides += [np.stack([np.full_like(v, edge), v], -1) for edge in (0.0, lens.width)]
    return np.concatenate(sides)


def _all_valid(lens: Lens, border: np.ndarray, zoom: float) -> bool:
    """Tells whether every border pixel of the zoomed pinhole picture lies inside the distorted picture."""
    xy = (border - [lens.cx, lens.cy]) / [lens.fx * zoom, lens.fy * zoom]
    uv = project_distorted(lens, xy)
    inside = (uv >= -1e-6) & (uv <= np.array([lens.width, lens.height]) + 1e-6)
    return bool(inside.all())


def _coefficients(lens: Lens) -> tuple[float, ...]:
    return tuple(lens.distortion) + (0.0,) * (8 - len(lens.distortion))


def _brown_radial(lens: Lens, r2: np.ndarray) -> np.ndarray:
    k1, k2, _, _, k3, k4, k5, k6 = _coefficients(lens)[:8]
    top = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    return top / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))


def _fisheye_angle(lens: Lens, theta: np.ndarray) -> np.ndarray:
    k1, k2, k3, k4 = _coefficients(lens)[:4]
    t2 = theta * theta
    return theta * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))


@functools.lru_cache(maxsize=256)
def _fold_radius(lens: Lens) -> float:
    """Returns the undistorted radius up to which the distorted radius grows, inf when it always does."""
    r = np.linspace(0.0, 8.0, 2001)
    if lens.model == "fisheye":
        distorted = _fisheye_angle(lens, np.arctan(r))
    else:
        distorted = r * _brown_radial(lens, r * r)
    falling = np.flatnonzero(np.diff(distorted) <= 0)
    return float(r[falling[0]]) if len(falling) else math.inf
