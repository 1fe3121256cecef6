"""Pictures with a gradient: what a step draws, and what densification needs to know of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from diff_rasterizer import rasterization

from ..gaussians import Gaussians


@dataclasses.dataclass
class Drawing:
    """Pictures of the same Gaussians by C cameras of one size."""

    rgb: Float[Tensor, "C H W 3"]
    """Over the background that was given; else over black, premultiplied."""
    alpha: Float[Tensor, "C H W 1"]
    means2d: Float[Tensor, "C N 2"]
    """Projected centres in pixels; their gradient is kept."""
    drawn: Bool[Tensor, "C N"]
    """Which Gaussians each camera sees."""
    meta: dict[str, Any]
    """What the rasterizer says besides (gsplat's keys)."""
    width: int
    height: int
    scale: float = 1.0
    """Pictures that share the loss: a picture's part in it falls with their number, its pull on Gaussians must not."""
    depth: Float[Tensor, "C H W 1"] | None = None
    """Expected depth, where it was asked for."""

    def drop_gradients(self, dropped: Tensor) -> None:
        """Sets the gradients of the projected centres to zero where the scalar `dropped` is true, without a look at
        it."""
        for name in ("grad", "absgrad"):
            found = getattr(self.means2d, name, None)
            if found is not None:
                found.masked_fill_(dropped, 0.0)

    @property
    def rgba(self) -> Float[Tensor, "C 4 H W"]:
        """Colour and alpha with channels first."""
        import torch

        return torch.cat([self.rgb, self.alpha], dim=-1).permute(0, 3, 1, 2)


def draw(
    state: Gaussians,
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    width: int,
    height: int,
    *,
    near: float,
    backend: str = "auto",
    background: Float[Tensor, "3"] | None = None,
    depth: bool = False,
    absgrad: bool = False,
    scale: float = 1.0,
) -> Drawing:
    """Returns what the cameras see of `state`; `near` in the units of the fit."""
    renders, alphas, meta = rasterization(
        **state.to_rasterizer(),
        viewmats=viewmats,
        Ks=Ks,
        width=width,
        height=height,
        near_plane=near,
        packed=False,
        backgrounds=_repeated(background, len(viewmats)),
        render_mode="RGB+ED" if depth else "RGB",
        absgrad=absgrad,
        backend=backend,
    )
    means2d: Tensor = meta["means2d"]
    if means2d.requires_grad:
        means2d.retain_grad()
    drawn = (meta["radii"] > 0).all(dim=-1)
    parts = (renders[..., :3], renders[..., 3:]) if depth else (renders, None)
    return Drawing(parts[0], alphas, means2d, drawn, meta, width, height, scale, parts[1])


def _repeated(background: Tensor | None, cameras: int) -> Tensor | None:
    if background is None or cameras == 1:
        return None if background is None else background[None]
    return background[None].expand(cameras, 3)
