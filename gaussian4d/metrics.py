"""How far a picture is from the truth: PSNR over all or some pixels, SSIM, each with one definition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diff_rasterizer import fused_ssim

SSIM_DEFINITION = (
    "Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, data range 1, zero padding, mean over pixels and RGB channels"
)
MASKED_SSIM_DEFINITION = (
    "the same window over covisible pixels only, its weights scaled to sum 1, mean over covisible pixels and channels"
)
MOVING_THRESHOLD = 0.1
_MIN_PIXELS = 32


def psnr(
    image: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"] | None = None
) -> float | None:
    """Returns the PSNR in dB of `image`, clamped to 0..1, for a peak of 1; None when `mask` holds fewer than 32 pixels.

    With a mask the mean squared error is over its pixels only. Equal pictures give 100 dB.
    """
    squared = (image.clamp(0.0, 1.0) - truth).double().square()
    if mask is not None:
        if int(mask.sum()) < _MIN_PIXELS:
            return None
        squared = squared[mask]
    return min(-10.0 * math.log10(max(float(squared.mean()), 1e-30)), 100.0)


def ssim(image: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"]) -> float:
    """Returns the mean SSIM of `image`, clamped to 0..1, as `SSIM_DEFINITION` says (Wang et al. 2004)."""
    return float(fused_ssim(image.clamp(0.0, 1.0).contiguous(), truth.contiguous(), padding="same"))


def masked_ssim(
    image: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"]
) -> float | None:
    """Returns the SSIM of `image`, clamped to 0..1, over the pixels of `mask`; None when they are fewer than 32.

    Windows see only pixels of the mask, their weights scaled to sum 1: a partial convolution, the idea of mSSIM in
    Gao et al. 2022, "Monocular Dynamic View Synthesis: A Reality Check"; not bound to equal theirs to the last digit.
    """
    if int(mask.sum()) < _MIN_PIXELS:
        return None
    offsets = torch.arange(-5, 6, dtype=torch.float64, device=image.device)
    window = torch.exp(-0.5 * (offsets / 1.5) ** 2)
    window = window / window.sum()
    inside = mask.double()

    def blurred(values: Tensor) -> Tensor:
        """Returns [C, H, W] averaged over the windows, zeros outside the picture."""
        rows = torch.nn.functional.conv2d(values[:, None], window.view(1, 1, 1, -1), padding=(0, 5))
        return torch.nn.functional.conv2d(rows, window.view(1, 1, -1, 1), padding=(5, 0))[:, 0]

    total = blurred(inside[None]).clamp(min=1e-12)
    x, y = image.clamp(0.0, 1.0).double().permute(2, 0, 1), truth.double().permute(2, 0, 1)

    def mean(values: Tensor) -> Tensor:
        return blurred(values * inside) / total

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    values = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    values = values / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return float(values[:, mask].mean())


def moving_mask(truth: Float[Tensor, "H W 3"], temporal_mean: Float[Tensor, "H W 3"]) -> Bool[Tensor, "H W"]:
    """Returns the pixels whose largest channel difference from the camera's temporal mean exceeds 0.1."""
    return (truth - temporal_mean).abs().amax(dim=-1) > MOVING_THRESHOLD


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the values that are not None; None when there are none."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
