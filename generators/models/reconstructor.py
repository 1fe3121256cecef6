"""Gaussians from a few posed views in one pass: a view transformer whose tokens become Gaussians on the views' rays.

After Tang et al., "LGM: Large Multi-View Gaussian Model", 2024, and Zhang et al., "GS-LRM", 2024: every 2x2 pixels of
every view give one Gaussian, placed by a depth along their ray. Colour and opacity start from the pixels themselves,
size from the pixels' footprint, so that the network has to find out little but the depth.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaussian4d.gaussians import Gaussians

from .view_transformer import Frames, ViewTransformer, ViewTransformerConfig, unpatched

BLOCK = 2
"""Edge in pixels of what one Gaussian stands for."""
_REACH = 1.05
_SH0 = 0.28209479177387814
# depth, opacity, scales, quat, colour, place within the block
_CHANNELS = (1, 1, 3, 4, 3, 2)


class Reconstructor(nn.Module):
    """Returns Gaussians [B, G, ...] for views [B, V, 4, H, W] (premultiplied RGBA in 0..1) of posed cameras."""

    def __init__(self, config: ViewTransformerConfig | None = None) -> None:
        super().__init__()
        self.trunk = ViewTransformer(config)
        c = self.trunk.config
        self.out = nn.Linear(c.width, sum(_CHANNELS) * (c.patch // BLOCK) ** 2)
        nn.init.normal_(self.out.weight, std=0.01)
        nn.init.zeros_(self.out.bias)
        self.trunk.keep_features_only()

    def forward(
        self,
        views: Float[Tensor, "B V 4 H W"],
        rays: Float[Tensor, "B V 6 H W"],
        viewmats: Float[Tensor, "B V 4 4"],
        Ks: Float[Tensor, "B V 3 3"],
    ) -> dict[str, Tensor]:
        """Returns means, quats, scales, opacities, rgb one per 2x2 pixels, and `depth` [B, V, h, w]."""
        B, V = views.shape[:2]
        c = self.trunk.config
        known = torch.ones(B, V, dtype=torch.bool, device=views.device)
        zeros = torch.zeros(B, V, device=views.device)
        tokens = self.trunk.features(views * 2 - 1, zeros, Frames(rays, zeros, known))
        maps = unpatched(self.out(tokens), c.patch // BLOCK, c.size // BLOCK).float()
        # Where the rest may be multiplied in bfloat16, places may not.
        with torch.autocast(views.device.type, enabled=False):
            return self._placed(maps, views, viewmats, Ks)

    def _placed(self, maps: Tensor, views: Tensor, viewmats: Tensor, Ks: Tensor) -> dict[str, Tensor]:
        """Returns the Gaussians that the network's maps [B, V, C, h, w] stand for."""
        B, V = views.shape[:2]
        size = self.trunk.config.size // BLOCK
        depth, opacity, scale, quat, color, place = maps.split(_CHANNELS, dim=2)

        seen = nn.functional.avg_pool2d(views.flatten(0, 1), BLOCK).unflatten(0, (B, V))
        alpha = seen[:, :, 3:]
        straight = seen[:, :, :3] / alpha.clamp_min(0.05)
        distance = viewmats[..., :3, 3].norm(dim=-1)[..., None, None, None]
        # Planar z: the object lies within the unit sphere around the origin, which all cameras look at.
        z = distance + _REACH * torch.tanh(depth)
        focal = Ks[..., 0, 0][..., None, None, None]
        footprint = BLOCK * z / focal
        grid = torch.arange(size, device=views.device) * BLOCK + 0.5 * BLOCK
        u = grid[None, :].expand(size, size) + BLOCK * torch.tanh(place[:, :, 0])
        v = grid[:, None].expand(size, size) + BLOCK * torch.tanh(place[:, :, 1])
        x = (u - Ks[..., 0, 2, None, None]) / Ks[..., 0, 0, None, None]
        y = (v - Ks[..., 1, 2, None, None]) / Ks[..., 1, 1, None, None]
        local = torch.stack([x * z[:, :, 0], y * z[:, :, 0], z[:, :, 0]], dim=-1)
        R, t = viewmats[..., :3, :3], viewmats[..., :3, 3]
        means = torch.einsum("bvji,bvhwj->bvhwi", R, local - t[:, :, None, None])
        rotation = torch.cat([quat[:, :, :1] + 1.0, quat[:, :, 1:]], dim=2)
        return {
            "means": means.flatten(1, 3),
            "quats": rotation.permute(0, 1, 3, 4, 2).flatten(1, 3),
            "scales": (0.5 * footprint * torch.exp(2.0 * torch.tanh(0.5 * scale))).permute(0, 1, 3, 4, 2).flatten(1, 3),
            "opacities": torch.sigmoid(opacity + 8.0 * alpha - 4.0).mul(alpha > 0.02).flatten(1),
            "rgb": (straight + 0.5 * torch.tanh(color)).permute(0, 1, 3, 4, 2).flatten(1, 3),
            "depth": z[:, :, 0],
        }


def gaussians_of(rows: dict[str, Tensor], index: int = 0, least: float = 0.02) -> Gaussians:
    """Returns one object's rows as Gaussians with spherical harmonics of degree 0, without those nobody sees."""
    keep = rows["opacities"][index] > least
    return Gaussians(
        means=rows["means"][index][keep],
        quats=rows["quats"][index][keep],
        scales=rows["scales"][index][keep],
        opacities=rows["opacities"][index][keep],
        colors=((rows["rgb"][index][keep] - 0.5) / _SH0)[:, None],
    )


def psnr(error: float) -> float:
    """Returns the PSNR in dB of a mean squared error on the scale 0..1."""
    return -10.0 * math.log10(max(error, 1e-10))
