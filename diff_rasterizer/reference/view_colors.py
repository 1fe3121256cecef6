"""Colours of the Gaussians as each camera sees them."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..spherical_harmonics import spherical_harmonics


def view_colors(
    degree: int,
    means: Float[Tensor, "B N 3"],
    campos: Float[Tensor, "B C 3"],
    coeffs: Float[Tensor, "B N K 3"] | Float[Tensor, "B C N K 3"],
    radii: Int[Tensor, "B C N 2"] | None,
) -> Float[Tensor, "B C N 3"]:
    """Returns max(SH(normalize(mean - campos)) + 0.5, 0) per camera and Gaussian.

    Rows with a radius of 0, and channels with a non-finite coefficient or result, are 0 and receive no gradient.
    Gradients flow to `means` and `campos` through the direction.

    Args:
        degree: SH degree to evaluate, 0 to 4.
        means: centres, world frame.
        campos: camera centres, world frame.
        coeffs: SH coefficients, shared by the cameras or one set per camera.
        radii: what `project` returned; None evaluates every row.
    """
    dirs = means[:, None] - campos[:, :, None]
    if coeffs.ndim == 4:
        coeffs = coeffs[:, None].expand(-1, campos.shape[1], -1, -1, -1)
    used = coeffs[..., : (degree + 1) ** 2, :]
    rows = torch.isfinite(dirs).all(-1)
    if radii is not None:
        rows = rows & (radii > 0).all(-1)
    channels = torch.isfinite(used).all(-2)
    used = torch.where(channels[..., None, :], used, torch.zeros_like(used))
    colors = spherical_harmonics(degree, dirs, used, masks=rows)
    channels = channels & torch.isfinite(colors) & rows[..., None]
    return torch.where(channels, torch.clamp(colors + 0.5, min=0.0), torch.zeros_like(colors))
