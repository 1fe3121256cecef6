"""The model without motion: the baseline, and the form of imported still splats."""

from __future__ import annotations

import dataclasses
import math

from ..gaussians import Gaussians
from .base import MotionModel, Params, canonical_gaussians


@dataclasses.dataclass
class StaticConfig:
    """A static model has no settings."""


class Static(MotionModel):
    """The same Gaussians at every time."""

    name = "static"
    config_type = StaticConfig
    still = True

    @property
    def is_cubic(self) -> bool:
        return True

    def cubic(self, params: Params) -> Params:
        means = params["means"]
        count = len(means)
        return {
            "trajectories": means.new_zeros(count, 3, 3),
            "spins": means.new_zeros(count, 4),
            "times": means.new_full((count,), 0.5),
            "durations": means.new_full((count,), math.inf),
        }

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        return canonical_gaussians(params, sh_degree)
