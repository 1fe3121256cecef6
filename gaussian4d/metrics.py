"""How far a picture is from the truth: PSNR over all or some pixels, SSIM, each with one definition."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from diff_rasterizer import fused_ssim

SSIM_DEFINITION = (
    "Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, data range 1, zero padding, mean over pixels and RGB channels"
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


def moving_mask(truth: Float[Tensor, "H W 3"], temporal_mean: Float[Tensor, "H W 3"]) -> Bool[Tensor, "H W"]:
    """Returns the pixels whose largest channel difference from the camera's temporal mean exceeds 0.1."""
    return (truth - temporal_mean).abs().amax(dim=-1) > MOVING_THRESHOLD


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """Returns the mean of the values that are not None; None when there are none."""
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None
