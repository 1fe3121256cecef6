"""First velocities, from the clouds of points found at successive instants.

FreeTimeGS starts each Gaussian with the velocity to its nearest neighbour in the cloud of the next keyframe. Points are
not the same ones from instant to instant, so that one such step is as wrong as the points lie apart; here the steps to
the instants before and after are averaged over a few neighbours, and those that are too long to be the same place are
left out (FreeTimeGS++ limits them to three times the distance between points).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

_FURTHEST = 3.0
_AVERAGED = 8


def neighbour_velocities(xyz: Float[np.ndarray, "N 3"], times: Float[np.ndarray, " N"]) -> Float[np.ndarray, "N 3"]:
    """Returns velocities per clip of points `xyz` found at clip times `times`.

    Zero where `times` is NaN (a point of the static scene), at an instant with fewer than two points, and where all
    steps of the neighbourhood are too long.
    """
    velocities = np.zeros((len(xyz), 3))
    instants = np.unique(times[np.isfinite(times)])
    rows = [np.nonzero(times == instant)[0] for instant in instants]
    trees = [KDTree(xyz[chosen]) for chosen in rows]
    for k, chosen in enumerate(rows):
        if len(chosen) < 2:
            continue
        total, count = np.zeros((len(chosen), 3)), np.zeros(len(chosen))
        for other in (k - 1, k + 1):
            if not 0 <= other < len(rows) or len(rows[other]) < 2:
                continue
            distance, nearest = trees[other].query(xyz[chosen])
            near = distance <= _FURTHEST * _spacing(trees[other])
            step = (xyz[rows[other][nearest]] - xyz[chosen]) / (instants[other] - instants[k])
            total += np.where(near[:, None], step, 0.0)
            count += near
        _, around = trees[k].query(xyz[chosen], k=min(_AVERAGED, len(chosen)))
        velocities[chosen] = total[around].sum(axis=1) / count[around].sum(axis=1).clip(1.0)[:, None]
    return velocities


def _spacing(tree: KDTree) -> float:
    """Returns the median distance of a point to the nearest other one."""
    return float(np.median(tree.query(tree.data, k=2)[0][:, 1]))
