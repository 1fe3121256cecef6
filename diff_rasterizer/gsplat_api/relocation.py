"""`compute_relocation` of 3D Gaussian Splatting as Markov Chain Monte Carlo (Kheradmand et al. 2024), eq. 9."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import FLOATS, INTEGERS, check_floats, check_ndim, check_shape, check_tensor


@torch.no_grad()
def compute_relocation(
    opacities: Float[Tensor, " N"], scales: Float[Tensor, "N 3"], ratios: Tensor, binoms: Float[Tensor, "n_max n_max"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N 3"]]:
    """Returns opacities and scales such that `ratios` equal Gaussians in one place look like the old single one.

    With n copies the new opacity is o' = 1 - (1 - o)^(1/n), and the scales are multiplied by

        o / sum_{i=1..n} sum_{k=0..i-1} binom(i-1, k) (-1)^k / sqrt(k+1) o'^(k+1).

    The sum alternates with terms of up to 1e14, so it is taken in float64. Unlike gsplat's, this function does not
    write to `ratios`. No gradients.

    Args:
        opacities: in 0..1.
        scales: standard deviations, positive.
        ratios: how many Gaussians share each place, the old one included; clamped to 1..n_max.
        binoms: binom(n, k) in row n, column k.

    Raises:
        ValueError: for tensors that do not fit.
    """
    check_floats(opacities=opacities, scales=scales)
    check_ndim("opacities", opacities, 1, "(N,)")
    check_shape("opacities", opacities, ("N", opacities.numel()))
    check_shape("scales", scales, ("N", len(opacities)), 3)
    check_tensor("ratios", ratios, (*INTEGERS, *FLOATS))
    check_shape("ratios", ratios, ("N", len(opacities)))
    check_tensor("binoms", binoms, FLOATS, None)
    check_ndim("binoms", binoms, 2, "(n_max, n_max) with n_max of at least 1")
    n_max = binoms.shape[0]
    if n_max == 0 or tuple(binoms.shape) != (n_max, n_max):
        raise ValueError(f"binoms must have shape (n_max, n_max) with n_max of at least 1, got {tuple(binoms.shape)}")

    n = torch.nan_to_num(ratios.to(torch.float64), nan=1.0).clamp(min=1, max=n_max).to(torch.int64)
    # An opacity of exactly 1 stays 1 however many share it, and then the series does not converge in any float type.
    old = opacities.to(torch.float64).clamp(max=1.0 - 2.0**-24)
    new = -torch.expm1(torch.log1p(-old) / n)
    k = torch.arange(n_max, device=opacities.device, dtype=torch.float64)
    # Row n - 1: the coefficients of o'^(k+1) after the sum over i.
    series = torch.cumsum(binoms.to(torch.float64).tril(), 0) * (1.0 - 2.0 * (k % 2)) / torch.sqrt(k + 1)
    denominator = (series[n - 1] * new[:, None] ** (k + 1)).sum(-1)
    # Both vanish together at opacity 0, where one Gaussian more or less makes no difference.
    factor = torch.where(denominator > 0, old / denominator, torch.ones_like(old))
    return new.to(opacities.dtype), (factor[:, None] * scales).to(scales.dtype)
