"""The visual hull: the points that fall inside the subject's outline in every view of an instant.

Laurentini, "The Visual Hull Concept for Silhouette-Based Image Understanding", 1994, on a voxel grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from .views import View, project, sample, visible_colors

# Cells along the longest side: of the first cube, of the box around the subject, and how finely its cells are divided.
_CUBE = 40
_BOX = 36
_DIVIDE = 3


def carve(
    views: Sequence[View], radius: float, agreement: float, min_views: int
) -> tuple[Float[np.ndarray, "N 3"], Float[np.ndarray, "N 3"], float]:
    """Returns the hull's surface points, their colours and the distance between grid points.

    A point belongs to the hull when at least `min_views` views see it and a fraction `agreement` of those have it
    inside their mask. A grid over the cube of half side `radius` finds where the subject is; finer ones its shape.
    Empty arrays when no point belongs.
    """
    views = [view for view in views if view.mask is not None]
    empty = np.zeros((0, 3)), np.zeros((0, 3)), 2.0 * radius / _CUBE
    if len(views) < min_views:
        return empty
    lo, hi = np.full(3, -radius), np.full(3, radius)
    # A coarse test must not lose what is thinner than its cells: masks are widened by a cell.
    for size in (_CUBE, _BOX):
        grid, step = _grid(lo, hi, size)
        occupied = _inside(views, grid.reshape(-1, 3), agreement, min_views, step).reshape(grid.shape[:3])
        if not occupied.any():
            return empty
        found = grid[occupied]
        lo, hi = (lo, hi) if size == _BOX else (found.min(0) - step, found.max(0) + step)
    step /= _DIVIDE
    fine = np.kron(occupied, np.ones((_DIVIDE,) * 3, dtype=bool))
    cells = np.argwhere(fine)
    xyz = (lo + (cells + 0.5) * step).astype(np.float32)
    fine[tuple(cells.T)] = _inside(views, xyz, agreement, min_views, 0.6 * step)
    if not fine.any():
        return empty
    surface = fine & np.logical_not(ndimage.binary_erosion(fine, border_value=0))
    xyz = (lo + (np.argwhere(surface) + 0.5) * step).astype(np.float32)
    rgb, fronts = visible_colors(views, xyz, 2.0 * step)
    # What other points hide from nearly all cameras no picture could ever correct.
    shown = fronts >= min(min_views, 2)
    return xyz[shown], rgb[shown], step


def _grid(lo: np.ndarray, hi: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """Returns the centres [X, Y, Z, 3] of equal cells over the box, `size` along its longest side."""
    step = float((hi - lo).max()) / size
    axes = [(a + (np.arange(np.ceil((b - a) / step)) + 0.5) * step).astype(np.float32) for a, b in zip(lo, hi)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1), step


def _inside(
    views: Sequence[View], xyz: Float[np.ndarray, "N 3"], agreement: float, min_views: int, margin: float
) -> Bool[np.ndarray, " N"]:
    seen, inside = np.zeros(len(xyz), np.int32), np.zeros(len(xyz), np.int32)
    for view in views:
        assert view.mask is not None
        distance = max(float(np.linalg.norm(view.camera.position)), 1e-6)
        pixels = round(margin * float(view.camera.K[0, 0]) / distance)
        mask = ndimage.maximum_filter(view.mask, size=2 * pixels + 1) if pixels > 0 else view.mask
        uv, _, in_view = project(view.camera, xyz)
        seen += in_view
        inside += in_view & (sample(mask, uv) > 0.5)
    return (seen >= min_views) & (inside >= agreement * seen)
