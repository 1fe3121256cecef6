"""Spherical harmonics as a public function."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .checks import check_floats, check_ndim, check_tensor, is_integer, shown
from .reference.harmonics import sh_basis

MAX_SH_DEGREE = 4


def spherical_harmonics(
    degrees_to_use: int,
    dirs: Float[Tensor, "*batch 3"],
    coeffs: Float[Tensor, "*batch K 3"],
    masks: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, "*batch 3"]:
    """Returns colours [..., 3] = sum over k of coeffs[k] * Y_k(dirs), without the 0.5 offset and the clamp.

    Differentiable with respect to `coeffs` and `dirs`.

    Args:
        degrees_to_use: 0 to 4; may be lower than what `coeffs` holds, the rest is then not read.
        dirs: viewing directions from the camera to the Gaussian; normalised here, a zero vector stays zero.
        coeffs: K >= (degrees_to_use + 1)^2 coefficients per colour channel.
        masks: rows that are False give 0 and receive no gradient.

    Raises:
        ValueError: for a degree or a shape that does not fit.
    """
    if not is_integer(degrees_to_use) or not 0 <= degrees_to_use <= MAX_SH_DEGREE:
        raise ValueError(f"degrees_to_use must be 0 to {MAX_SH_DEGREE}, got {shown(degrees_to_use)}")
    degrees_to_use = int(degrees_to_use)
    check_floats(dirs=dirs, coeffs=coeffs)
    check_ndim("dirs", dirs, 1, "(..., 3)", last=3)
    count = (degrees_to_use + 1) ** 2
    batch = tuple(dirs.shape[:-1])
    if coeffs.ndim < 2 or tuple(coeffs.shape[:-2]) != batch or coeffs.shape[-1] != 3:
        shape = "".join(f"{size}, " for size in batch)
        raise ValueError(f"coeffs must have shape ({shape}K, 3) to match dirs, got {tuple(coeffs.shape)}")
    if coeffs.shape[-2] < count:
        raise ValueError(
            f"coeffs must hold at least {count} coefficients for degree {degrees_to_use}, got {coeffs.shape[-2]}; "
            "lower degrees_to_use or pad with zeros"
        )
    if masks is not None:
        check_tensor("masks", masks, (torch.bool,), ("dirs", dirs))
        if tuple(masks.shape) != batch:
            raise ValueError(f"masks must have shape {batch} to match dirs, got {tuple(masks.shape)}")
        # Masked rows may hold anything; values instead of a product keep NaN out of the gradients.
        dirs = torch.where(masks[..., None], dirs, torch.zeros_like(dirs))
        coeffs = torch.where(masks[..., None, None], coeffs, torch.zeros_like(coeffs))
    basis = sh_basis(degrees_to_use, _unit(dirs))
    colors = (basis[..., None] * coeffs[..., :count, :]).sum(-2)
    return colors if masks is None else torch.where(masks[..., None], colors, torch.zeros_like(colors))


def _unit(dirs: Tensor) -> Tensor:
    """Returns directions of length 1; zero vectors stay zero and pass no gradient."""
    squared = (dirs * dirs).sum(-1, keepdim=True)
    nonzero = squared > 0
    length = torch.sqrt(torch.where(nonzero, squared, torch.ones_like(squared)))
    return torch.where(nonzero, dirs / length, torch.zeros_like(dirs))
