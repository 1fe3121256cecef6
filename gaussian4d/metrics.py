"""How far a picture is from the truth: PSNR over all or some pixels, SSIM, each with one definition.

Metrics are in `gaussian4d.plugins.METRICS`, the entry-point group `gaussian4d.metrics`; `Metric` says what one is, and
`metric` describes one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diff_rasterizer import fused_ssim

from .errors import UserError
from .plugins import METRICS

Region = Literal["all", "foreground", "moving", "covisible"]
REGIONS: tuple[Region, ...] = ("all", "foreground", "moving", "covisible")
F = TypeVar("F", bound=Callable[..., Any])


class Metric(Protocol):
    """A figure of one picture: a function, or an object that is called like one. See `metric` for its attributes."""

    def __call__(
        self, prediction: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"] | None
    ) -> float | None:
        """Returns the figure over the pixels of `mask`, None for all of them; None where it has no value.

        Both pictures are in 0..1, on the CPU.
        """
        ...


def metric(
    *, unit: str = "", higher_is_better: bool | None = None, region: Region = "all", default: bool = False
) -> Callable[[F], F]:
    """Returns a decorator that describes a metric by attributes of these names.

    Args:
        unit: As it is printed; figures with a unit get two decimals, those without four.
        higher_is_better: None where neither is.
        region: The mask it is given: None for `all`, the foreground, what moves, or what training views saw; of
            pictures without such a mask it has no value.
        default: Whether every evaluation takes it, or only those that name it.
    """

    def described(function: F) -> F:
        vars(function).update(unit=unit, higher_is_better=higher_is_better, region=region, default=default)
        return function

    return described


SSIM_DEFINITION = (
    "Gaussian window 11x11, sigma 1.5, K1 0.01, K2 0.03, data range 1, zero padding, mean over pixels and RGB channels"
)
MASKED_SSIM_DEFINITION = (
    "the same window over covisible pixels only, its weights scaled to sum 1, mean over covisible pixels and channels"
)
MOVING_THRESHOLD = 0.1
_MIN_PIXELS = 32


@metric(unit="dB", higher_is_better=True)
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


@metric(higher_is_better=True)
def ssim(
    image: Float[Tensor, "H W 3"], truth: Float[Tensor, "H W 3"], mask: Bool[Tensor, "H W"] | None = None
) -> float | None:
    """Returns the mean SSIM of `image`, clamped to 0..1, as `SSIM_DEFINITION` says (Wang et al. 2004).

    With a mask it is `masked_ssim`.
    """
    if mask is not None:
        return masked_ssim(image, truth, mask)
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


class ChosenMetrics:
    """The metrics of one evaluation besides our own figures, and what is said of them."""

    def __init__(self, metrics: Sequence[str | Metric] | None) -> None:
        """Takes names and functions; None is every installed one that wants to be taken by default."""
        self._asked = metrics is not None
        if metrics is None:
            self._metrics = {name: one for name, one in METRICS.working().items() if getattr(one, "default", False)}
        else:
            self._metrics = dict(_named(one) for one in metrics)
        self._failed: set[str] = set()
        for name, one in self._metrics.items():
            if (region := getattr(one, "region", "all")) not in REGIONS:
                raise UserError(f"the metric {name!r} wants the region {region!r}; expected {', '.join(REGIONS)}")

    def __bool__(self) -> bool:
        return bool(self._metrics)

    def of(self, prediction: Tensor, truth: Tensor, masks: dict[str, Tensor | None]) -> dict[str, float | None]:
        """Returns each metric of a prediction [H, W, 3]; `masks` are [H, W] by region, None where there is none."""
        prediction = prediction.clamp(0.0, 1.0)
        figures: dict[str, float | None] = {}
        for name, one in self._metrics.items():
            mask = masks.get(getattr(one, "region", "all"))
            known = mask is not None or getattr(one, "region", "all") == "all"
            figures[name] = self._value(name, one, prediction, truth, mask) if known else None
        return figures

    def means(self, views: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
        """Returns the mean of each metric over the views that have it."""
        return {name: mean_or_none([view[name] for view in views]) for name in self._metrics}

    def info(self) -> dict[str, dict[str, Any]]:
        """Returns what metrics.json says of each: what it is and where it comes from."""
        found: dict[str, dict[str, Any]] = {}
        for name, one in self._metrics.items():
            origin = METRICS.origin(name) if name in METRICS and METRICS.get(name) is one else {}
            about = {key: getattr(one, key, None) for key in ("unit", "higher_is_better", "region")}
            found[name] = about | {key: origin[key] for key in ("package", "version") if key in origin}
        return found

    def _value(self, name: str, one: Metric, image: Tensor, truth: Tensor, mask: Tensor | None) -> float | None:
        if name in self._failed:
            return None
        try:
            value = one(image, truth, mask)
        except Exception as error:
            if self._asked:
                raise
            # Nobody asked for it by name: it takes no evaluation down.
            self._failed.add(name)
            warnings.warn(f"the metric {name!r} is left out: {type(error).__name__}: {error}", stacklevel=2)
            return None
        return float(value) if value is not None and math.isfinite(value) else None


def _named(one: str | Metric) -> tuple[str, Metric]:
    if isinstance(one, str):
        return one, METRICS.get(one)
    if not callable(one):
        raise UserError(f"expected a metric as a name or a function, got {one!r}")
    return getattr(one, "name", None) or getattr(one, "__name__", type(one).__name__), one
