"""Penalties that tie the motion of a Gaussian to its neighbours' and to its own a moment before and after.

A single moving camera sees every Gaussian from one side at a time, and a motion model with many coefficients can move
it along the line of sight, or elsewhere while it is hidden, at no cost. Two penalties say what a surface does:

* rigidity: neighbours move as one rigid body. Luiten et al., "Dynamic 3D Gaussians: Tracking by Persistent Dynamic View
  Synthesis", 2024, equation 4: |(x_j - x_i)(t) - R_i(t) R_i(s)^-1 (x_j - x_i)(s)|, averaged over pairs with weights
  that fall with distance; and equation 6 (isometry): ||x_j - x_i|(t) - |x_j - x_i|(s)|.
* smoothness: the mean length of the acceleration, as a second difference over three instants. Gaussian-Flow's term
  |D(t + e) - sg D(t)| punishes every motion; this one leaves straight ones alone.

Every fourth step looks at a few patches: random Gaussians among those that are there, each with its nearest neighbours
at the time drawn. So neighbours are always the present ones, whatever refinement did, nothing needs to be kept between
steps, and only the rows of the patches pass through the motion model again.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..gaussians import Gaussians, rotation_matrices
from ..motion import MotionModel, Params, is_shared
from .config import FitConfig

_PATCHES = 16
# A step with patches costs about a third more than one without.
_EVERY = 4
# Fainter ones are not drawn: where they are means nothing.
_FAINTEST = 1.0 / 255.0


def coherence(
    config: FitConfig, motion: MotionModel, params: Params, state: Gaussians, time: float, step: int, seed: int
) -> Tensor | float:
    """Returns the weighted penalties on the motion around clip time `time`, at which the Gaussians are `state`.

    Steps that are left out return 0, the others count so much more. The same `seed` chooses the same patches and
    instants.
    """
    weighted = config.rigidity_weight or config.isometry_weight
    if step % _EVERY or motion.name == "static" or not (weighted or config.smoothness_weight):
        return 0.0
    generator = torch.Generator().manual_seed(seed)
    rows = patches(state, config.rigidity_neighbours, generator)
    if rows.numel() == 0:
        return 0.0
    flat = rows.reshape(-1)
    picked = {name: value if is_shared(name) else value.index_select(0, flat) for name, value in params.items()}
    means, quats = state.means.index_select(0, flat), state.quats.index_select(0, flat)
    total: Tensor | float = 0.0
    if weighted:
        away = config.rigidity_span * (2.0 * float(torch.rand((), generator=generator)) - 1.0)
        other = motion.at(picked, min(max(time + away, 0.0), 1.0), 0)
        here, there = means.view(*rows.shape, 3), other.means.view(*rows.shape, 3)
        weights = _pair_weights(here.detach(), (other.opacities.detach() >= _FAINTEST).view(rows.shape))
        if config.rigidity_weight:
            turn = relative_rotation(quats.view(*rows.shape, 4), other.quats.view(*rows.shape, 4))
            total = total + config.rigidity_weight * rigidity(here, there, turn, weights)
        if config.isometry_weight:
            total = total + config.isometry_weight * isometry(here, there, weights)
    if config.smoothness_weight:
        away = config.smoothness_step
        before, after = (motion.at(picked, time + sign * away, 0).means for sign in (-1.0, 1.0))
        bend = (before - 2.0 * means + after) / away**2
        total = total + config.smoothness_weight * _length(bend).mean()
    return _EVERY * total


@torch.no_grad()
def patches(state: Gaussians, size: int, generator: torch.Generator) -> Tensor:
    """Returns rows [P, size] of random Gaussians that are there, each first in its patch of nearest ones.

    Empty [0, size] where fewer than `size` are there.
    """
    there = (state.opacities >= _FAINTEST).nonzero()[:, 0]
    if len(there) < size:
        return there.new_zeros(0, size)
    means = state.means[there]
    seeds = torch.randint(len(there), (_PATCHES,), generator=generator)
    squares = (means[seeds, None] - means[None]).square().sum(dim=-1)
    # The seed has distance zero to itself, but so may a clone: it is put first by hand.
    squares[torch.arange(_PATCHES), seeds] = -1.0
    return there[squares.topk(size, dim=1, largest=False).indices]


def rigidity(
    here: Float[Tensor, "P K 3"],
    there: Float[Tensor, "P K 3"],
    turn: Float[Tensor, "P K 3 3"],
    weights: Float[Tensor, "P K K"],
) -> Tensor:
    """Returns the mean distance between neighbours' offsets `here` and those `there` after each one's own `turn`."""
    turned = torch.einsum("pkab,pkjb->pkja", turn, _offsets(there))
    return _weighted_mean(_length(_offsets(here) - turned), weights)


def isometry(here: Float[Tensor, "P K 3"], there: Float[Tensor, "P K 3"], weights: Float[Tensor, "P K K"]) -> Tensor:
    """Returns the mean change of the distance between neighbours."""
    return _weighted_mean((_length(_offsets(here)) - _length(_offsets(there))).abs(), weights)


def relative_rotation(here: Float[Tensor, "*batch 4"], there: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Returns the rotations from `there` to `here`: R(here) R(there)^-1, of quaternions wxyz of any length."""
    return rotation_matrices(here) @ rotation_matrices(there).transpose(-1, -2)


def _pair_weights(here: Float[Tensor, "P K 3"], alive: Tensor) -> Float[Tensor, "P K K"]:
    """Returns weights that fall to 0.6 at the patch's mean distance from its first; 0 for whom the other time lacks."""
    radius = (here - here[:, :1]).norm(dim=-1).mean(dim=1)
    squares = _offsets(here).square().sum(dim=-1)
    weights = torch.exp(-0.5 * squares / radius.square().clamp_min(1e-12)[:, None, None])
    apart = 1.0 - torch.eye(here.shape[1])
    return weights * apart * alive[:, :, None] * alive[:, None]


def _offsets(means: Float[Tensor, "P K 3"]) -> Float[Tensor, "P K K 3"]:
    """Returns x_j - x_i with i before j."""
    return means[:, None] - means[:, :, None]


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1e-9)


def _length(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Returns lengths whose gradient is zero, not NaN, at zero."""
    return vectors.square().sum(dim=-1).add(1e-16).sqrt() - 1e-8
