"""What a STAG4D fit minimises besides score distillation: distance to pictures with alpha, and needles."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diff_rasterizer import l1_ssim_loss

from .drawing import Drawing


def picture_loss(
    drawing: Drawing,
    target: Float[Tensor, "C 4 H W"],
    background: Float[Tensor, "3"],
    ssim_weight: float,
    alpha_weight: float,
) -> Tensor:
    """Returns L1 and SSIM of the pictures over `background`, and L1 of alpha; means over pictures.

    A new background each time shows what is missing and what is too much, as black or white does in the paper.
    """
    target = target.permute(0, 2, 3, 1)
    rgb = drawing.rgb + (1.0 - drawing.alpha) * background
    wanted = target[..., :3] + (1.0 - target[..., 3:]) * background
    loss = l1_ssim_loss(rgb, wanted.contiguous(), ssim_weight=ssim_weight)
    return loss + alpha_weight * (drawing.alpha - target[..., 3:]).abs().mean()


def anisotropy(scales: Float[Tensor, "N 3"], limit: float) -> Tensor:
    """Returns mean(max(s_max / s_min, limit)) - limit of linear scales (PhysGaussian, equation 8).

    STAG4D's program divides logarithms here; the paper means the scales themselves.
    """
    ratio = scales.amax(dim=1) / scales.amin(dim=1).clamp_min(1e-8)
    return ratio.clamp_min(limit).mean() - limit


def squared_error(drawing: Drawing, target: Float[Tensor, "C 4 H W"]) -> float:
    """Returns the mean squared error of the colours over black, without a gradient."""
    with torch.no_grad():
        return float((drawing.rgb - target[:, :3].permute(0, 2, 3, 1)).square().mean())
