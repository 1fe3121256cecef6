"""The Gaussians the benchmarks draw, the same on every machine."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor


@dataclasses.dataclass
class BenchScene:
    """Gaussians in front of one camera that stands at the origin and looks along +Z."""

    means: Float[Tensor, "N 3"]
    quats: Float[Tensor, "N 4"]
    scales: Float[Tensor, "N 3"]
    opacities: Float[Tensor, " N"]
    colors: Float[Tensor, "N 3"]
    width: int
    height: int
    focal: float

    @property
    def viewmat(self) -> Float[Tensor, "1 1 4 4"]:
        return torch.eye(4)[None, None]

    @property
    def K(self) -> Float[Tensor, "1 1 3 3"]:
        f, cx, cy = self.focal, self.width / 2, self.height / 2
        return torch.tensor([[f, 0.0, cx], [0.0, f, cy], [0.0, 0.0, 1.0]])[None, None]

    def leaves(self) -> list[Tensor]:
        """Returns means, quats, scales, opacities, colors as they are, asking for gradients."""
        return [x.requires_grad_() for x in (self.means, self.quats, self.scales, self.opacities, self.colors)]


def cube_scene(count: int = 112_000, width: int = 648, height: int = 420) -> BenchScene:
    """Returns many small Gaussians: a cube of side 3 centred at (0, 0, 3.5), scales 1e-4 to 0.022, any opacity."""
    g = torch.Generator().manual_seed(0)
    return BenchScene(
        means=(torch.rand(count, 3, generator=g) - 0.5) * 3.0 + torch.tensor([0.0, 0.0, 3.5]),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        scales=1e-4 + torch.rand(count, 3, generator=g) * (0.022 - 1e-4),
        opacities=torch.rand(count, generator=g),
        colors=torch.rand(count, 3, generator=g),
        width=width,
        height=height,
        focal=600.0,
    )


def dense_scene(count: int = 200, size: int = 512) -> BenchScene:
    """Returns faint Gaussians so large that each covers the whole picture: scale 40 at depth 5 to 6, opacity 0.02."""
    g = torch.Generator().manual_seed(0)
    across, depth = (torch.rand(count, 2, generator=g) - 0.5) * 2.0, 5.0 + torch.rand(count, 1, generator=g)
    return BenchScene(
        means=torch.cat([across, depth], dim=1),
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=g), dim=-1),
        scales=torch.full((count, 3), 40.0),
        opacities=torch.full((count,), 0.02),
        colors=torch.rand(count, 3, generator=g),
        width=size,
        height=size,
        focal=400.0,
    )
