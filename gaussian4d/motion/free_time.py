"""Free-time Gaussians: each lives around its own instant and moves in a straight line.

Wang et al., "FreeTimeGS: Free Gaussian Primitives at Anytime and Anywhere for Dynamic Scene Reconstruction", 2025:

    mu(t) = mu + v (t - mu_t),        opacity(t) = opacity exp(-1/2 ((t - mu_t) / s)^2)

Times and durations s are in clip time; durations are stored as logarithms. A long duration makes a static Gaussian.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..gaussians import Gaussians
from . import window
from .base import MotionModel, Params, colors_of


@dataclasses.dataclass
class FreeTimeConfig:
    """Where durations start."""

    static_duration: float = 4.0
    """Standard deviation, in clips, of a Gaussian that starts out static."""


class FreeTime(MotionModel):
    """Linear motion and a temporal opacity window per Gaussian."""

    name = "free-time"
    config_type = FreeTimeConfig
    can_freeze = True
    can_start_moving = True
    length_columns = ("velocities",)

    @property
    def windowed(self) -> bool:
        return True

    @property
    def is_cubic(self) -> bool:
        return True

    def cubic(self, params: Params) -> Params:
        count = len(params["means"])
        curved = params["velocities"].new_zeros(count, 2, 3)
        return {
            "trajectories": torch.cat([params["velocities"][:, None], curved], dim=1),
            "spins": params["velocities"].new_zeros(count, 4),
            "times": params["times"],
            # exp(-1/2 (t/s)^2) is exp(-(t/w)^2) with w = sqrt(2) s.
            "durations": params["durations"] + 0.5 * math.log(2.0),
        }

    def columns(self) -> dict[str, tuple[int, ...]]:
        return {"velocities": (3,), **window.COLUMNS}

    def init(self, n: int) -> Params:
        return {**super().init(n), **window.whole_clip(n, self.config.static_duration)}

    def init_at(self, times: Tensor, duration: float) -> Params:
        return {
            **super().init_at(times, duration),
            **window.around_instants(times, duration, self.config.static_duration),
        }

    def set_moving(self, columns: Params, velocities: Tensor) -> Params:
        return {"velocities": velocities}

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        return {"velocities": (2e-3, 1e-4), "times": (2e-4, 2e-5), "durations": (5e-3, 1e-3)}

    def fit_settings(self, scene: Any) -> dict[str, Any]:
        """Returns first velocities from neighbouring instants (as in FreeTimeGS) and three times the motion's rates.

        FreeTimeGS's relocation instead of densification (every 100 steps, opacity 0.005) was measured and is not used:
        docs/motion.md, "What was tried". The rates make it sharper, in short fits and in longer ones.
        """
        return {"init.velocities": True, "optim.motion_factor": 3.0}

    def terms(self) -> dict[str, Callable[[Any], Tensor]]:
        """Returns `velocity`: the mean speed, in units per clip."""
        return {"velocity": lambda step: step.params["velocities"].abs().mean()}

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        since = time - params["times"]
        moved = torch.where(window.is_frozen(params), 0.0, since)
        return Gaussians(
            means=torch.addcmul(params["means"], params["velocities"], moved[:, None]),
            quats=params["quats"],
            scales=torch.exp(params["scales"]),
            opacities=torch.sigmoid(params["opacities"]) * window.presence(since, params["durations"]),
            colors=colors_of(params, sh_degree),
        )

    def peak_opacities(self, params: Params) -> Tensor:
        return torch.sigmoid(params["opacities"]) * window.largest_presence(params)

    def lifetimes(self, params: Params, of: float) -> Tensor:
        return window.share_of_clip(params)

    def outlasting(self, params: Params, clips: float) -> Tensor:
        return window.outlasting(params, clips)

    def frozen(self, rows: Params) -> Params:
        means = self.at(rows, 0.5).means
        return {"means": means, "velocities": torch.zeros_like(rows["velocities"]), **window.always(rows)}
