"""Pictures of Gaussians from several cameras at once, with what densification needs to know."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diff_rasterizer import rasterization
from gaussian4d.cameras import Camera
from gaussian4d.gaussians import Gaussians

NEAR = 0.2
"""Nothing nearer to a camera is drawn; `generators.cameras` stand at least 1.1 from the origin."""


@dataclasses.dataclass
class Cameras:
    """Cameras of one picture size as the rasterizer takes them."""

    viewmats: Float[Tensor, "C 4 4"]
    Ks: Float[Tensor, "C 3 3"]
    width: int
    height: int

    @classmethod
    def of(cls, cameras: Sequence[Camera], device: torch.device | str = "cpu") -> Cameras:
        """Returns `cameras`, which must agree in size."""
        assert len({(camera.width, camera.height) for camera in cameras}) == 1
        viewmats, Ks = (
            torch.stack([torch.tensor(getattr(camera, name), dtype=torch.float32) for camera in cameras]).to(device)
            for name in ("viewmat", "K")
        )
        return cls(viewmats, Ks, cameras[0].width, cameras[0].height)

    def rows(self, indices: Tensor) -> Cameras:
        """Returns the cameras at `indices`."""
        return Cameras(self.viewmats[indices], self.Ks[indices], self.width, self.height)


@dataclasses.dataclass
class Drawing:
    """Pictures with a gradient."""

    rgb: Float[Tensor, "C H W 3"]
    """Premultiplied: over black."""
    alpha: Float[Tensor, "C H W 1"]
    means2d: Float[Tensor, "C N 2"]
    """Projected centres in pixels; their gradient is kept."""
    drawn: Tensor
    """[C, N] which Gaussians each camera sees."""

    @property
    def rgba(self) -> Float[Tensor, "C 4 H W"]:
        """Premultiplied pictures in the layout of `generators.priors`."""
        return torch.cat([self.rgb, self.alpha], dim=-1).permute(0, 3, 1, 2)


def draw(state: Gaussians, cameras: Cameras, backend: str = "auto") -> Drawing:
    """Returns what `cameras` see of `state`."""
    rgb, alpha, meta = rasterization(
        **state.to_rasterizer(),
        viewmats=cameras.viewmats,
        Ks=cameras.Ks,
        width=cameras.width,
        height=cameras.height,
        near_plane=NEAR,
        packed=False,
        backend=backend,
    )
    means2d: Tensor = meta["means2d"]
    if means2d.requires_grad:
        means2d.retain_grad()
    return Drawing(rgb, alpha, means2d, (meta["radii"] > 0).all(dim=-1))
