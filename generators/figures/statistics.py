"""Figures about pictures against the truth, and how sure a difference is.

Pictures are premultiplied RGBA in 0..1, [.., 4, H, W]; colours are compared over white, inside the truth's alpha.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def over_white(pictures: Float[Tensor, "*N 4 H W"]) -> Float[Tensor, "*N 3 H W"]:
    """Returns the pictures over a white background."""
    return pictures[..., :3, :, :] + 1.0 - pictures[..., 3:, :, :]


def foreground_psnr(pictures: Float[Tensor, "V 4 H W"], truth: Float[Tensor, "V 4 H W"]) -> float:
    """Returns the PSNR in dB over all pixels where the truth's alpha is above a half."""
    inside = truth[:, 3:] > 0.5
    squared = (over_white(pictures).clamp(0, 1) - over_white(truth)).square() * inside
    error = float(squared.sum() / (3 * inside.sum()).clamp_min(1))
    return -10.0 * float(np.log10(max(error, 1e-10)))


def sharpness(pictures: Float[Tensor, "V 4 H W"], truth: Float[Tensor, "V 4 H W"]) -> float:
    """Returns the mean gradient inside the truth's alpha as a share of the truth's own: 1 is as sharp, 0 is flat."""
    inside = truth[:, 3] > 0.5
    strengths = [_gradient(over_white(x))[inside[:, 1:, 1:]].mean() for x in (pictures.clamp(0, 1), truth)]
    return float(strengths[0] / strengths[1].clamp_min(1e-6))


def _gradient(rgb: Float[Tensor, "V 3 H W"]) -> Float[Tensor, "V H1 W1"]:
    across = rgb[:, :, 1:, 1:] - rgb[:, :, 1:, :-1]
    down = rgb[:, :, 1:, 1:] - rgb[:, :, :-1, 1:]
    return torch.sqrt(across.square() + down.square() + 1e-12).mean(dim=1)


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def paired_bootstrap(ours: list[float], theirs: list[float], draws: int = 10_000, seed: int = 0) -> Interval:
    """Returns the mean of ours - theirs over the same objects; objects are drawn with replacement (Efron, 1979)."""
    difference = np.array(ours) - np.array(theirs)
    rng = np.random.default_rng(seed)
    means = difference[rng.integers(len(difference), size=(draws, len(difference)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))
