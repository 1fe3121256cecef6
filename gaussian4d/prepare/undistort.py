"""Pixels of a recorded picture in the undistorted one."""

from __future__ import annotations

import numpy as np

from ..data.lens import project_distorted, undistorted_lens
from ..data.records import Lens

_STEPS = 20
_CLOSE = 0.05


def undistort_pixels(lens: Lens, pixels: np.ndarray) -> np.ndarray:
    """Returns pixels [n, 2] of `undistorted_lens(lens)` for pixels [n, 2] of the lens's own picture.

    Solved by fixed-point iteration on the forward model; pixels for which it does not come within 0.05 pixels are NaN.
    """
    straight = undistorted_lens(lens)
    if lens.straight:
        return np.array(pixels, dtype=np.float64)
    focal, centre = np.array([lens.fx, lens.fy]), np.array([lens.cx, lens.cy])
    xy = (pixels - centre) / focal
    for _ in range(_STEPS):
        xy = xy + (pixels - project_distorted(lens, xy)) / focal
    miss = np.linalg.norm(project_distorted(lens, xy) - pixels, axis=1)
    result = xy * [straight.fx, straight.fy] + [straight.cx, straight.cy]
    result[~(miss < _CLOSE)] = np.nan
    return result
