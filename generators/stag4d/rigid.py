"""Where the motion is known before the fit: Gaussians of the clip's start, carried along by the pieces they belong to.

A prior that draws motion as geometry says how every piece of the picture moves. What is left to the fit is one object
at rest, seen from many sides: by the input's camera and the anchors at the start, and by the input's camera again at
all later times, when it has turned its other sides there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from gaussian4d.errors import UserError
from gaussian4d.motion import Params, RigidParts, RigidPartsConfig
from gaussian4d.motion.rigid_parts import COLUMN, OFFSETS, PIVOTS, TURNS

from ..models.pieces import Moves


def rigid_motion(moves: Moves, times: Sequence[float]) -> RigidParts:
    """Returns the motion model of `moves`, which say where the pieces are at each of the clip times `times`.

    Raises:
        UserError: moves of other times, or such as do not say where the picture's surface is.
    """
    if len(moves.transforms) != len(times) or moves.points is None:
        raise UserError(
            f"expected moves of {len(times)} instants with the places of the surface, got"
            f" {len(moves.transforms)} {'without' if moves.points is None else 'with'} places"
        )
    return RigidParts(RigidPartsConfig(tuple(float(time) for time in times), moves.transforms.shape[1]))


def moved_params(rest: Params, moves: Moves) -> Params:
    """Returns the parameter table of Gaussians at rest (`rest`, at the clip's start) that move as `moves` say."""
    parts = moves.pieces_at(rest["means"])
    R, t = moves.transforms[..., :3], moves.transforms[..., 3]
    pivots = _pivots(rest["means"], parts, moves.transforms.shape[1])
    offsets = torch.einsum("tpij,pj->tpi", R, pivots) - pivots + t
    turns = Rotation.from_matrix(R.flatten(0, 1).double().numpy()).as_quat()[:, [3, 0, 1, 2]]
    return {
        **rest,
        COLUMN: parts.float(),
        PIVOTS: pivots,
        OFFSETS: offsets.transpose(0, 1).contiguous(),
        TURNS: torch.from_numpy(turns).to(R).unflatten(0, R.shape[:2]).transpose(0, 1).contiguous(),
    }


def _pivots(means: Float[Tensor, "N 3"], parts: Tensor, count: int) -> Float[Tensor, "P 3"]:
    return torch.stack([means[parts == p].mean(0) if (parts == p).any() else means.new_zeros(3) for p in range(count)])
