"""Rigid pieces: which anchors move together, and how their piece turns and travels.

Trajectories that a network draws are noisy and each its own; what an object does is that of a few rigid bodies. A body
is found by least squares over all of its anchors (Kabsch, 1976), anchors go to the body that explains them best, and a
further body is begun where the worst explained anchors lie, as long as that explains a good deal more.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROUNDS = 8
_LEAST = 5
"""Anchors that make a piece."""
_GOOD = 0.03
"""Mean distance, in the object's radii, below which nothing is left to explain."""
_GAIN = 0.87
"""A further piece has to bring the mean distance below this share."""
_NEARNESS = 0.15
"""What lies apart by a radius has to move together better by this, to be one piece."""


@dataclasses.dataclass
class Moves:
    """How the pieces of an object that one picture shows move."""

    owner: Int[Tensor, "H W"]
    """The piece of every pixel."""
    transforms: Float[Tensor, "V P 3 4"]
    """From where the picture shows a piece to where it is in each of V frames, world frame."""
    points: Float[Tensor, "H W 3"] | None = None
    """Where the surface is that every pixel shows, world frame; NaN where it shows none. What no pixel shows, such as
    the far side, moves as the nearest of these."""

    @property
    def still(self) -> bool:
        """Whether nothing moves at all."""
        return bool((self.transforms - torch.eye(4)[:3]).abs().max() < 1e-4)

    def pieces_at(self, places: Float[Tensor, "N 3"]) -> Int[Tensor, " N"]:
        """Returns the pieces of other places of the object, at the instant of the picture."""
        assert self.points is not None, "these moves do not say where the picture's surface is"
        points = self.points.flatten(0, 1)
        there = points.isfinite().all(dim=1)
        if not there.any():
            return torch.zeros(len(places), dtype=torch.long)
        return self.owner.flatten()[there][torch.cdist(places, points[there]).argmin(dim=1)]


def rigid_fit(points: Float[Tensor, "M 3"], moved: Float[Tensor, "S M 3"]) -> Float[Tensor, "S 3 4"]:
    """Returns the rigid transforms that bring `points` closest to `moved`, for each of S instants (Kabsch)."""
    centre, there = points.mean(0), moved.mean(1)
    cross = torch.einsum("mi,smj->sij", points - centre, moved - there[:, None])
    # A line or a single point leaves turns open: a little of the identity decides for the smallest.
    spread = (points - centre).square().sum() / 3
    R = _nearest_rotation((cross + (0.02 * spread + 1e-8) * torch.eye(3)).mT)
    return torch.cat([R, (there - torch.einsum("sij,j->si", R, centre))[..., None]], dim=-1)


def apply(transforms: Float[Tensor, "*S 3 4"], points: Float[Tensor, "M 3"]) -> Float[Tensor, "*S M 3"]:
    """Returns the points after each transform."""
    return torch.einsum("...ij,mj->...mi", transforms[..., :3], points) + transforms[..., None, :, 3]


def pieces_of(
    points: Float[Tensor, "M 3"], moved: Float[Tensor, "S M 3"], most: int = 5
) -> tuple[Int[Tensor, " M"], Float[Tensor, "P S 3 4"]]:
    """Returns the piece of every point, and the pieces' transforms at S instants.

    Args:
        most: Pieces at most.
    """
    M = len(points)
    near = torch.cdist(points, points)
    owner = torch.zeros(M, dtype=torch.long)
    transforms = rigid_fit(points, moved)[None]
    error = _errors(points, moved, transforms)[0]
    while len(transforms) < most and error.mean() > _GOOD and 2 * _LEAST <= M:
        # The worst neighbourhood begins a piece: one bad anchor alone does not.
        close = near.topk(min(_LEAST, M), largest=False).indices
        seed = int(error[close].mean(dim=1).argmax())
        trial = torch.cat([transforms, rigid_fit(points[close[seed]], moved[:, close[seed]])[None]])
        middles = torch.cat([_middles(points, owner, len(transforms)), points[seed][None]])
        for _ in range(_ROUNDS):
            cost = _errors(points, moved, trial) + _NEARNESS * torch.cdist(middles, points)
            chosen = cost.argmin(dim=0)
            if int(torch.bincount(chosen, minlength=len(trial)).min()) < _LEAST:
                break
            trial = torch.stack([rigid_fit(points[chosen == p], moved[:, chosen == p]) for p in range(len(trial))])
            middles = _middles(points, chosen, len(trial))
        else:
            found = _errors(points, moved, trial).gather(0, chosen[None])[0]
            if found.mean() < _GAIN * error.mean():
                owner, transforms, error = chosen, trial, found
                continue
        break
    return owner, transforms


def _middles(points: Tensor, owner: Tensor, count: int) -> Float[Tensor, "P 3"]:
    return torch.stack([points[owner == p].mean(0) for p in range(count)])


def _errors(points: Tensor, moved: Tensor, transforms: Float[Tensor, "P S 3 4"]) -> Float[Tensor, "P M"]:
    """Returns how far each piece's motion misses each point, on average over the instants."""
    return (apply(transforms, points) - moved).norm(dim=-1).mean(dim=1)


def at_times(
    transforms: Float[Tensor, "P K 3 4"], middles: Float[Tensor, "P 3"], times: Float[Tensor, " T"]
) -> Float[Tensor, "T P 3 4"]:
    """Returns transforms at clip times from those at K even times: smooth curves through them (Catmull and Rom, 1974).

    A piece's middle travels along one; its rotation matrix along another, brought back to the nearest rotation.
    """
    K = transforms.shape[1]
    R = transforms[..., :3]
    there = torch.einsum("pkij,pj->pki", R, middles) + transforms[..., 3]
    knots = torch.cat([R.flatten(2), there], dim=-1)
    # Beyond the ends the curve goes straight on.
    knots = torch.cat([2 * knots[:, :1] - knots[:, 1:2], knots, 2 * knots[:, -1:] - knots[:, -2:-1]], dim=1)
    place = times.clamp(0, 1) * (K - 1)
    left = place.floor().clamp(max=K - 2).long()
    u = (place - left)[:, None]
    a, b, c, d = (knots[:, left + k] for k in range(4))
    curve = b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
    R = _nearest_rotation(curve[..., :9].unflatten(-1, (3, 3)))
    t = curve[..., 9:] - torch.einsum("ptij,pj->pti", R, middles)
    return torch.cat([R, t[..., None]], dim=-1).transpose(0, 1)


def _nearest_rotation(matrices: Float[Tensor, "*B 3 3"]) -> Float[Tensor, "*B 3 3"]:
    U, _, Vh = torch.linalg.svd(matrices)
    sign = torch.linalg.det(U @ Vh)
    fix = torch.diag_embed(torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1))
    return U @ fix @ Vh
