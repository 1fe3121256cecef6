"""Parts that move as solid bodies: what animated nodes of a glTF file hold (`io.gltf_motion`), and generated assets.

How the parts move is given, never fitted; the Gaussians they carry can be.

A part has a pivot c, and at every instant a rotation R and an offset d:

    mu(t) = R(t) (mu - c) + c + d(t),    q(t) = R(t) q,    harmonics turned by R(t)

Between instants offsets follow a straight line and rotations the shortest arc at a constant rate, as in glTF.
"""

from __future__ import annotations

import bisect
import dataclasses
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import UserError
from ..gaussians import Gaussians, rotation_matrices
from ..harmonics import rotated_harmonics
from .base import SHARED, MotionModel, Params, colors_of

COLUMN = "parts"
"""The column that holds the index of each row's part, a whole number; below 0: it stands still."""
PIVOTS, OFFSETS, TURNS = (SHARED + name for name in ("pivots", "offsets", "turns"))
MOST_POSES = 1 << 20
"""Parts times instants."""


@dataclasses.dataclass
class RigidPartsConfig:
    """Which instants there are, and how many parts."""

    times: tuple[float, ...] = (0.0, 1.0)
    """Clip times at which the places of the parts are known, ascending."""
    parts: int = 1

    def __post_init__(self) -> None:
        # From JSON they come as lists, and from a stranger's file as anything.
        try:
            self.times, self.parts = tuple(float(time) for time in self.times), int(self.parts)
        except (TypeError, ValueError):
            raise UserError("rigid-parts: expected times as clip times and a number of parts") from None
        if not self.times or not all(a < b for a, b in zip(self.times, self.times[1:])) or self.parts < 0:
            raise UserError("rigid-parts: expected at least one clip time, ascending, and no negative number of parts")
        if not all(math.isfinite(time) for time in self.times) or self.parts * len(self.times) > MOST_POSES:
            raise UserError(f"rigid-parts: expected finite times and at most {MOST_POSES:,} places of parts")


class RigidParts(MotionModel):
    """Rows belong to one part each, or to none and stand still."""

    name = "rigid-parts"
    config_type = RigidPartsConfig
    fitted = False
    length_columns = (OFFSETS,)
    position_columns = (PIVOTS,)

    @property
    def instants(self) -> tuple[float, ...]:
        return self.config.times

    def describe(self, params: Params) -> str:
        return f"{self.config.parts} parts, {int((params[COLUMN] >= 0).sum()):,} Gaussians"

    def columns(self) -> dict[str, tuple[int, ...]]:
        """Returns the column `parts`."""
        return {COLUMN: ()}

    def shared_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of pivots, offsets and turns (quaternions wxyz)."""
        parts, instants = self.config.parts, len(self.config.times)
        return {PIVOTS: (parts, 3), OFFSETS: (parts, instants, 3), TURNS: (parts, instants, 4)}

    def init_shared(self, means: Tensor, generator: torch.Generator) -> Params:
        shared = {name: torch.zeros(shape, device=means.device) for name, shape in self.shared_shapes().items()}
        shared[TURNS][..., 0] = 1.0
        return shared

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        """Returns rates of zero: nothing here is optimised."""
        return dict.fromkeys((COLUMN, PIVOTS, OFFSETS, TURNS), (0.0, 0.0))

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        index, offsets, turns = self._rows(params), *self.poses(params, time)
        # The last entry is for what stands still.
        rest = turns.new_zeros(1, 4)
        rest[:, :1].fill_(1.0)
        zero = torch.zeros_like(offsets[:1]) if len(offsets) else params["means"].new_zeros(1, 3)
        pivots, offsets = torch.cat([params[PIVOTS].detach(), zero.detach()]), torch.cat([offsets, zero])
        turns = torch.cat([turns, rest])
        local = params["means"] - pivots[index]
        moved = torch.einsum("nij,nj->ni", rotation_matrices(turns)[index], local) + pivots[index] + offsets[index]
        return Gaussians(
            means=torch.where((index >= 0)[:, None], moved, params["means"]),
            quats=quaternion_product(turns[index], params["quats"]),
            scales=torch.exp(params["scales"]),
            opacities=torch.sigmoid(params["opacities"]),
            colors=_turned(colors_of(params, sh_degree), index, turns),
        )

    @torch.no_grad()
    def poses(self, params: Params, time: float) -> tuple[Float[Tensor, "P 3"], Float[Tensor, "P 4"]]:
        """Returns the offsets and the unit quaternions of all parts at clip time `time`."""
        times = self.config.times
        after = min(max(bisect.bisect_right(times, time), 1), len(times) - 1) if len(times) > 1 else 0
        before = max(after - 1, 0)
        span = times[after] - times[before]
        share = min(max((time - times[before]) / span, 0.0), 1.0) if span > 0.0 else 0.0
        offsets = torch.lerp(params[OFFSETS][:, before], params[OFFSETS][:, after], share)
        return offsets, slerp(params[TURNS][:, before], params[TURNS][:, after], share)

    def _rows(self, params: Params) -> Int[Tensor, " N"]:
        """Returns the part of each row, -1 for what stands still."""
        index = params[COLUMN]
        inside = (index >= 0) & (index < self.config.parts)
        return torch.where(inside, index, -1.0).long()


def slerp(a: Float[Tensor, "P 4"], b: Float[Tensor, "P 4"], share: float) -> Float[Tensor, "P 4"]:
    """Returns the unit quaternions at `share` of the shortest arc from `a` to `b`."""
    a, b = (torch.nn.functional.normalize(quats, dim=-1) for quats in (a, b))
    cosine = (a * b).sum(dim=-1, keepdim=True)
    b, cosine = torch.where(cosine < 0.0, -b, b), cosine.abs().clamp_max(1.0)
    angle = torch.arccos(cosine)
    # Close to each other the straight line is the arc, and the quotient of sines would be 0 / 0.
    near = angle < 1e-3
    sine = torch.where(near, torch.ones_like(angle), torch.sin(angle))
    first = torch.where(near, torch.full_like(angle, 1.0 - share), torch.sin((1.0 - share) * angle) / sine)
    second = torch.where(near, torch.full_like(angle, share), torch.sin(share * angle) / sine)
    return torch.nn.functional.normalize(first * a + second * b, dim=-1)


def quaternion_product(a: Float[Tensor, "*batch 4"], b: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 4"]:
    """Returns the quaternions wxyz of first turning by `b`, then by `a`."""
    real = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(dim=-1, keepdim=True)
    cross = torch.linalg.cross(a[..., 1:], b[..., 1:])
    return torch.cat([real, a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + cross], dim=-1)


def _turned(
    colors: Float[Tensor, "N K 3"], index: Int[Tensor, " N"], turns: Float[Tensor, "P 4"]
) -> Float[Tensor, "N K 3"]:
    if colors.shape[1] == 1:
        return colors
    # -1 is the last entry, which does not turn.
    rest = colors[:, 1:].clone()
    for part in (turns[:-1, 1:].abs().amax(dim=1) > 1e-6).nonzero()[:, 0].tolist():
        rows = index == part
        rest[rows] = rotated_harmonics(rest[rows], rotation_matrices(turns[part].double()))
    return torch.cat([colors[:, :1], rest], dim=1)
