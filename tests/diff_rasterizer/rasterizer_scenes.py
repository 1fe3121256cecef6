"""Seeded random scenes for the rasterizer tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diff_rasterizer.reference.projection import rotation_matrices


@dataclass(frozen=True)
class Scene:
    """The tensor arguments of `rasterization`, by their names, and the image size."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int

    def arguments(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.__dict__.items() if isinstance(value, Tensor)}

    def cast(self, dtype: torch.dtype) -> Scene:
        return replace(self, **{name: value.to(dtype) for name, value in self.tensors().items()})

    def on(self, device: torch.device) -> Scene:
        return replace(self, **{name: value.to(device) for name, value in self.tensors().items()})

    def with_gradients(self) -> Scene:
        return replace(self, **{name: value.clone().requires_grad_() for name, value in self.tensors().items()})


def make_scene(
    n: int = 40,
    cameras: int = 1,
    batch: tuple[int, ...] = (),
    width: int = 45,
    height: int = 35,
    sh_degree: int | None = None,
    channels: int = 3,
    scale: float = 0.25,
    focal: float = 40.0,
    camera_model: str = "pinhole",
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Scene:
    """Returns Gaussians in a cube in front of cameras that look at it from slightly different places."""
    g = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*batch, *shape, generator=g, dtype=torch.float64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, generator=g, dtype=torch.float64)

    viewmats = torch.eye(4, dtype=torch.float64).repeat(*batch, cameras, 1, 1)
    turn = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64) + 0.08 * normal(cameras, 4)
    viewmats[..., :3, :3] = rotation_matrices(turn)
    viewmats[..., :3, 3] = 0.1 * normal(cameras, 3) + torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64)
    Ks = torch.eye(3, dtype=torch.float64).repeat(*batch, cameras, 1, 1)
    # In an orthographic camera the focal length is pixels per unit of length, not per unit of tangent.
    Ks[..., 0, 0] = focal / 3.0 if camera_model == "ortho" else focal
    Ks[..., 1, 1] = 1.1 * Ks[..., 0, 0]
    Ks[..., 0, 2] = width / 2 + 1.3
    Ks[..., 1, 2] = height / 2 - 0.7
    colors = uniform(n, channels) if sh_degree is None else 0.6 * normal(n, (sh_degree + 1) ** 2, 3)
    return Scene(
        means=2.0 * uniform(n, 3) - 1.0,
        quats=normal(n, 4),
        scales=scale * (0.2 + uniform(n, 3)),
        opacities=0.1 + 0.85 * uniform(n),
        colors=colors,
        viewmats=viewmats,
        Ks=Ks,
        width=width,
        height=height,
    ).cast(dtype)


PROJECT_SETTINGS: dict[str, Any] = {
    "eps2d": 0.3,
    "near_plane": 0.01,
    "far_plane": 1e10,
    "radius_clip": 0.0,
    "camera_model": "pinhole",
    "compensate": False,
}


def weighted_sum(outputs: list[Tensor], seed: int = 7) -> Tensor:
    """Returns a scalar that depends on every element of the outputs with its own random weight."""
    g = torch.Generator().manual_seed(seed)
    total = outputs[0].new_zeros(())
    for output in outputs:
        weights = torch.randn(output.shape, generator=g, dtype=torch.float64)
        total = total + (output * weights.to(output)).sum()
    return total
