"""Points carried along by a moving model: tracks in 3D, from the motion of the Gaussians around each point."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from .errors import UserError
from .gaussians import Gaussians, rotation_matrices
from .model import DynamicGaussians, check_connected

# Gaussians fainter than this at either end of a step say nothing about what moves.
_FAINT = 0.01
# Share of the scene's size, see `track_points`.
_REACH = 0.03
# Points whose neighbours are looked at together: bounds the memory.
_CHUNK = 8192


@torch.no_grad()
def track_points(
    model: DynamicGaussians,
    points: Float[Tensor, "P 3"] | np.ndarray,
    start: float = 0.0,
    times: Sequence[float] | np.ndarray | None = None,
    *,
    neighbours: int = 128,
    reach: float | None = None,
) -> Float[Tensor, "T P 3"]:
    """Returns where the material at `points` is at each of `times`: the scene flow of the model, integrated.

    Where Gaussians come and go (`model.motion.replaces_gaussians`), the scene flow is integrated:
    from one instant to the next a point moves by the blended displacement of the Gaussians around it, and those that
    fade hand it on to those that follow them. Errors add up, outwards from `start`. Where Gaussians are there for the
    whole clip, a point rides on those around it at `start`: its place in the frame of each is kept, and the places are
    blended. Each of the two was found to be the better one for its models (docs/reconstruction.md).

    The weight of a Gaussian is the square of its opacity, the smaller one of both ends of a step, times exp(-d^2 / 2)
    of its distance d in units of `reach`. Many are asked because fitted Gaussians slide along surfaces that look the
    same all over, each its own way; the average slides less.

    Args:
        model: Any model whose Gaussians are the same ones at all times, so not of motion per-frame.
        points: World positions at clip time `start`, on or near surfaces.
        start: Clip time of the points.
        times: Clip times, in any order, at which positions are wanted; None for the model's own instants.
        neighbours: How many Gaussians around a point are asked, at most.
        reach: Distance in world units over which motion is averaged; None for 0.03 times the diagonal of the box of
            the Gaussians at `start`, fainter ones and the outermost 1 % of each side left out.

    Returns:
        Float64 on the CPU.

    Raises:
        UserError: for points of another shape, a per-frame model, or an instant without any visible Gaussian.
    """
    check_connected(model, "tracks")
    position = torch.as_tensor(points).detach().cpu().double()
    if position.ndim != 2 or position.shape[1] != 3 or not torch.isfinite(position).all():
        raise UserError(f"points must be finite and have shape (P, 3), got {tuple(position.shape)}")
    if times is None:
        times = [0.0] if model.times is None else model.times
    wanted = np.asarray(times, dtype=np.float64)
    if wanted.ndim != 1 or not np.isfinite([start, *wanted]).all():
        raise UserError(f"times must be a list of finite clip times, got shape {wanted.shape}; start is {start}")
    if neighbours < 1 or (reach is not None and not reach > 0.0):
        raise UserError(f"neighbours and reach must be positive, got {neighbours} and {reach}")
    if reach is None:
        reach = _REACH * _size(model.at(start))
    if not model.motion.replaces_gaussians:
        return _carried(model, position, float(start), wanted, neighbours, reach)
    found = torch.empty(len(wanted), len(position), 3, dtype=torch.float64)
    for ahead in (True, False):
        rows = [k for k in np.argsort(wanted, kind="stable") if (wanted[k] >= start) == ahead]
        here, now, state = position, float(start), model.motion.of_rows(model.params, float(start))
        for row in rows if ahead else reversed(rows):
            for then in _steps(now, float(wanted[row]), model.frame_interval):
                following = model.motion.of_rows(model.params, then)
                here = here + _displacement(here, state, following, neighbours, reach, then)
                now, state = then, following
            found[row] = here
    return found


def _steps(start: float, end: float, interval: float) -> list[float]:
    """Returns the clip times of equal steps from `start` (excluded) to `end`, none longer than a frame."""
    # A little more than a frame is still one step: times are rounded.
    count = int(np.ceil(abs(end - start) / interval - 1e-3))
    return [start + (end - start) * k / count for k in range(1, count + 1)]


def _carried(
    model: DynamicGaussians, points: Tensor, start: float, times: np.ndarray, neighbours: int, reach: float
) -> Float[Tensor, "T P 3"]:
    """Returns the points at `times`, kept where they are in the frames of the Gaussians around them at `start`."""
    before = model.at(start)
    found = torch.empty(len(times), len(points), 3, dtype=torch.float64)
    states = [model.at(float(time)) for time in times]
    for first in range(0, len(points), _CHUNK):
        some = points[first : first + _CHUNK]
        rows, weights = _around(some, before.means, before.opacities, neighbours, reach, start)
        back = rotation_matrices(before.quats.cpu().double())[rows].transpose(-1, -2)
        local = torch.einsum("pkij,pkj->pki", back, some[:, None] - before.means.cpu().double()[rows])
        for k, state in enumerate(states):
            offset = torch.einsum("pkij,pkj->pki", rotation_matrices(state.quats.cpu().double())[rows], local)
            placed = state.means.cpu().double()[rows] + offset
            found[k, first : first + _CHUNK] = torch.einsum("pk,pkd->pd", weights, placed)
    return found


def _displacement(
    points: Float[Tensor, "P 3"], before: Gaussians, after: Gaussians, neighbours: int, reach: float, time: float
) -> Float[Tensor, "P 3"]:
    """Returns how the Gaussians around `points` move from `before` to `after`, blended."""
    opacities = torch.minimum(before.opacities, after.opacities)
    motion = (after.means - before.means).cpu().double()
    parts = []
    for some in points.split(_CHUNK):
        rows, weights = _around(some, before.means, opacities, neighbours, reach, time)
        parts.append(torch.einsum("pk,pkd->pd", weights, motion[rows]))
    return torch.cat(parts)


def _around(
    points: Float[Tensor, "P 3"],
    means: Float[Tensor, "N 3"],
    opacities: Float[Tensor, " N"],
    neighbours: int,
    reach: float,
    time: float,
) -> tuple[Int[Tensor, "P K"], Float[Tensor, "P K"]]:
    """Returns the rows of the visible Gaussians nearest to each point, and their weights, which sum to 1."""
    there = torch.nonzero(opacities.cpu() > _FAINT)[:, 0]
    if len(there) == 0:
        raise UserError(f"no Gaussian is visible around clip time {time:g}, so nothing can be followed there")
    tree = KDTree(means.cpu()[there].double().numpy())
    distance, index = tree.query(points.numpy(), k=min(neighbours, len(there)))
    rows = there[torch.from_numpy(index).reshape(len(points), -1)]
    scaled = torch.from_numpy(distance).reshape(len(points), -1) / reach
    # As logarithms, so that far from all Gaussians the nearest ones still decide.
    logits = 2.0 * opacities.cpu().double().log()[rows] - 0.5 * scaled.square()
    return rows, torch.softmax(logits, dim=1)


def _size(state: Gaussians) -> float:
    """Returns the diagonal of the box of the Gaussians that are visible, outliers left out, world units."""
    means = state.means[state.opacities > _FAINT].cpu().double()
    if len(means) == 0:
        raise UserError("no Gaussian is visible at the start, so nothing can be followed")
    low, high = np.quantile(means.numpy(), [0.01, 0.99], axis=0)
    return max(float(np.linalg.norm(high - low)), 1e-9)
