"""The window of time in which a Gaussian is there: columns `times` and `durations`, and the opacity factor they give.

    sigma(t) = exp(-sharpness ((t - mu_t) / s)^2)

Times mu_t and durations s are in clip time; durations are stored as logarithms. A long duration makes a Gaussian that
is always there, and infinity one that is frozen: its factor is 1 and its gradients are exactly zero.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from .base import Params

COLUMNS: dict[str, tuple[int, ...]] = {"times": (), "durations": ()}


def whole_clip(n: int, duration: float, device: torch.device | str = "cpu") -> Params:
    """Returns the columns of `n` Gaussians around the middle of the clip that last `duration` clips."""
    return {
        "times": torch.full((n,), 0.5, device=device),
        "durations": torch.full((n,), math.log(duration), device=device),
    }


def around_instants(times: Float[Tensor, " N"], brief: float, whole: float) -> Params:
    """Returns the columns of Gaussians found at `times`, `brief` clips long; where NaN, in the middle, `whole` long."""
    params = whole_clip(len(times), whole, times.device)
    found = torch.isfinite(times)
    return {
        "times": torch.where(found, times, params["times"]),
        "durations": torch.where(found, torch.full_like(times, math.log(brief)), params["durations"]),
    }


def presence(
    since: Float[Tensor, " N"], log_durations: Float[Tensor, " N"], sharpness: float = 0.5
) -> Float[Tensor, " N"]:
    """Returns the opacity factor in 0..1 at `since` clips from each Gaussian's own instant."""
    return torch.exp(-sharpness * (since * torch.exp(-log_durations)).square())


def largest_presence(params: Params, sharpness: float = 0.5) -> Float[Tensor, " N"]:
    """Returns the largest opacity factor at any time of the clip."""
    times = params["times"]
    return presence(times.clamp(0.0, 1.0) - times, params["durations"], sharpness)


def share_of_clip(params: Params, sharpness: float = 0.5) -> Float[Tensor, " N"]:
    """Returns how long each Gaussian is there, as a share of the clip: the mean factor over its largest in the clip."""
    times = params["times"].double()
    # Below this steepness the factor is 1 throughout, and the quotient of two vanishing numbers would lose its digits.
    steep = (math.sqrt(sharpness) * torch.exp(-params["durations"].double())).clamp_min(1e-6)
    mean = 0.5 * math.sqrt(math.pi) / steep * (torch.erf(steep * (1.0 - times)) + torch.erf(steep * times))
    largest = torch.exp(-(steep * (times.clamp(0.0, 1.0) - times)).square())
    return (mean / largest.clamp_min(1e-30)).clamp(0.0, 1.0).to(params["times"].dtype)


def always(params: Params) -> Params:
    """Returns the columns of Gaussians that are there at all times, for good."""
    return {
        "times": torch.full_like(params["times"], 0.5),
        "durations": torch.full_like(params["durations"], math.inf),
    }


def is_frozen(params: Params) -> Tensor:
    """Returns [N] which Gaussians do not move and are always there."""
    return torch.isposinf(params["durations"])


def outlasting(params: Params, clips: float, sharpness: float = 0.5) -> Tensor:
    """Returns [N] which Gaussians are not frozen yet though their window's standard deviation is more than `clips`."""
    durations = params["durations"].detach()
    return (durations > math.log(clips * math.sqrt(2.0 * sharpness))) & ~is_frozen(params)
