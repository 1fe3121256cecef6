"""A static set of Gaussians: what a motion model yields at one instant and what the rasterizer draws."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass(repr=False)
class Gaussians:
    """Gaussians at one instant, activated: linear scales, opacities in 0..1, quaternions of any length."""

    means: Float[Tensor, "N 3"]
    """Centres, world units."""
    quats: Float[Tensor, "N 4"]
    """Rotations wxyz; the rasterizer normalises them."""
    scales: Float[Tensor, "N 3"]
    """Standard deviations along the local axes, world units."""
    opacities: Float[Tensor, " N"]
    colors: Float[Tensor, "N K 3"]
    """Spherical-harmonics coefficients; colour = max(SH(direction) + 0.5, 0)."""

    def __len__(self) -> int:
        return self.means.shape[0]

    def __repr__(self) -> str:
        return f"Gaussians({len(self):,}, SH degree {self.sh_degree}, on {self.means.device})"

    @property
    def sh_degree(self) -> int:
        """Degree of the coefficients held: K = (degree + 1)^2."""
        return math.isqrt(self.colors.shape[1]) - 1

    def to_rasterizer(self) -> dict[str, Any]:
        """Returns the per-Gaussian keyword arguments of `diff_rasterizer.rasterization`."""
        return {
            "means": self.means,
            "quats": self.quats,
            "scales": self.scales,
            "opacities": self.opacities,
            "colors": self.colors,
            "sh_degree": self.sh_degree,
        }

    def to(self, device: str | torch.device) -> Gaussians:
        """Returns the Gaussians with their tensors on `device`."""
        return Gaussians(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))

    def select(self, rows: Tensor) -> Gaussians:
        """Returns the Gaussians at `rows`, a mask [N] or indices [M]."""
        if rows.dtype == torch.bool:
            # On a GPU every use of a mask would wait for how many rows it has.
            rows = rows.nonzero()[:, 0]
        return Gaussians(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


def rotation_matrices(quats: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Returns the rotations of quaternions wxyz of any length; the identity for a zero quaternion."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    entries = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))
