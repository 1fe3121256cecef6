"""Free-time Gaussians: each lives around its own instant and moves in a straight line.

Wang et al., "FreeTimeGS: Free Gaussian Primitives at Anytime and Anywhere for Dynamic Scene Reconstruction", 2025:

    mu(t) = mu + v (t - mu_t),        opacity(t) = opacity exp(-1/2 ((t - mu_t) / s)^2)

Times and durations s are in clip time; durations are stored as logarithms. A long duration makes a static Gaussian.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..gaussians import Gaussians
from .base import MotionModel, Params, colors_of


@dataclasses.dataclass
class FreeTimeConfig:
    """Where durations start."""

    static_duration: float = 4.0
    """Standard deviation, in clips, of a Gaussian that starts out static."""


class FreeTime(MotionModel):
    """Linear motion and a temporal opacity window per Gaussian."""

    name = "free-time"
    length_columns = ("velocities",)

    def __init__(self, config: FreeTimeConfig | None = None) -> None:
        super().__init__(config or FreeTimeConfig())

    def columns(self) -> dict[str, tuple[int, ...]]:
        return {"velocities": (3,), "times": (), "durations": ()}

    def init(self, n: int) -> Params:
        return {
            "velocities": torch.zeros(n, 3),
            "times": torch.full((n,), 0.5),
            "durations": torch.full((n,), math.log(self.config.static_duration)),
        }

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        return {"velocities": (2e-3, 1e-4), "times": (2e-4, 2e-5), "durations": (5e-3, 1e-3)}

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        since = time - params["times"]
        return Gaussians(
            means=torch.addcmul(params["means"], params["velocities"], since[:, None]),
            quats=params["quats"],
            scales=torch.exp(params["scales"]),
            opacities=torch.sigmoid(params["opacities"]) * presence(since, params["durations"]),
            colors=colors_of(params, sh_degree),
        )

    def peak_opacities(self, params: Params) -> Tensor:
        since = params["times"].clamp(0.0, 1.0) - params["times"]
        return torch.sigmoid(params["opacities"]) * presence(since, params["durations"])


def presence(since: Tensor, log_durations: Tensor) -> Tensor:
    """Returns [N] the temporal opacity factor in 0..1 at `since` [N] clips from each Gaussian's own instant."""
    return torch.exp(-0.5 * (since * torch.exp(-log_durations)).square())
