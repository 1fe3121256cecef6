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

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from ..gaussians import Gaussians, rotation_matrices
from ..motion import Params, is_shared
from .step import Step

_PATCHES = 16
# A step with patches costs about a third more than one without.
_EVERY = 4
# Fainter ones are not drawn: where they are means nothing.
_FAINTEST = 1.0 / 255.0


@dataclasses.dataclass
class _Neighbourhoods:
    """A few patches of a step, at the time drawn and at another one."""

    rows: Tensor
    """[P, K] rows of the table."""
    picked: Params
    """The rows of the patches, flat."""
    means: Float[Tensor, "P*K 3"]
    quats: Float[Tensor, "P*K 4"]
    generator: torch.Generator
    """For the other time."""


def rigidity_term(step: Step) -> Tensor | None:
    """Returns how far neighbours are from moving as one rigid body, between two times (see the module)."""
    found = step.once("neighbourhoods", lambda: _neighbourhoods(step))
    if found is None:
        return None
    here, there, other, weights = step.once("neighbourhoods at another time", lambda: _at_another_time(step, found))
    shape = (*found.rows.shape, 4)
    turn = relative_rotation(found.quats.view(shape), other.quats.view(shape))
    return rigidity(here, there, turn, weights)


def isometry_term(step: Step) -> Tensor | None:
    """Returns the mean change of the distance between neighbours, between two times."""
    found = step.once("neighbourhoods", lambda: _neighbourhoods(step))
    if found is None:
        return None
    here, there, _, weights = step.once("neighbourhoods at another time", lambda: _at_another_time(step, found))
    return isometry(here, there, weights)


def smoothness_term(step: Step) -> Tensor | None:
    """Returns the mean acceleration, in units per squared clip."""
    found = step.once("neighbourhoods", lambda: _neighbourhoods(step))
    if found is None:
        return None
    away, time = step.config.loss.smoothness_step, step.target.time
    before, after = (step.motion.at(found.picked, time + sign * away, 0).means for sign in (-1.0, 1.0))
    bend = (before - 2.0 * found.means + after) / away**2
    return _length(bend).mean()


for _term in (rigidity_term, isometry_term, smoothness_term):
    _term.every = _EVERY  # type: ignore[attr-defined]


def _neighbourhoods(step: Step) -> _Neighbourhoods | None:
    """Returns the patches of a step; None where nothing moves, or too few Gaussians are there."""
    if step.motion.name == "static":
        return None
    generator = torch.Generator().manual_seed(step.seed)
    rows = patches(step.state, step.config.loss.rigidity_neighbours, generator)
    if rows.numel() == 0:
        return None
    flat = rows.reshape(-1)
    picked = {name: value if is_shared(name) else value.index_select(0, flat) for name, value in step.params.items()}
    means, quats = step.state.means.index_select(0, flat), step.state.quats.index_select(0, flat)
    return _Neighbourhoods(rows, picked, means, quats, generator)


def _at_another_time(step: Step, found: _Neighbourhoods) -> tuple[Tensor, Tensor, Gaussians, Tensor]:
    """Returns the places [P, K, 3] of the patches at the time drawn and at another, the Gaussians then, and the
    weights of the pairs."""
    away = step.config.loss.rigidity_span * (2.0 * float(torch.rand((), generator=found.generator)) - 1.0)
    other = step.motion.at(found.picked, min(max(step.target.time + away, 0.0), 1.0), 0)
    here, there = found.means.view(*found.rows.shape, 3), other.means.view(*found.rows.shape, 3)
    alive = (other.opacities.detach() >= _FAINTEST).view(found.rows.shape)
    return here, there, other, _pair_weights(here.detach(), alive)


@torch.no_grad()
def patches(state: Gaussians, size: int, generator: torch.Generator) -> Tensor:
    """Returns rows [P, size] of random Gaussians that are there, each first in its patch of nearest ones.

    Empty [0, size] where fewer than `size` are there.
    """
    # On an accelerator the host waits here, for how many are there: the random choice is of one of them.
    there = (state.opacities >= _FAINTEST).nonzero()[:, 0]
    if len(there) < size:
        return there.new_zeros(0, size)
    means = state.means[there]
    seeds = torch.randint(len(there), (_PATCHES,), generator=generator).to(there.device, non_blocking=True)
    squares = (means[seeds, None] - means[None]).square().sum(dim=-1)
    # The seed has distance zero to itself, but so may a clone: it is put first by hand.
    squares[torch.arange(_PATCHES, device=seeds.device), seeds] = -1.0
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
    apart = 1.0 - torch.eye(here.shape[1], device=here.device)
    return weights * apart * alive[:, :, None] * alive[:, None]


def _offsets(means: Float[Tensor, "P K 3"]) -> Float[Tensor, "P K K 3"]:
    """Returns x_j - x_i with i before j."""
    return means[:, None] - means[:, :, None]


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp_min(1e-9)


def _length(vectors: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Returns lengths whose gradient is zero, not NaN, at zero."""
    return vectors.square().sum(dim=-1).add(1e-16).sqrt() - 1e-8
