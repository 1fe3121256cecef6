"""The model without motion: the baseline, and the form of imported still splats."""

from __future__ import annotations

import dataclasses

import torch

from ..gaussians import Gaussians
from .base import MotionModel, Params, colors_of


@dataclasses.dataclass
class StaticConfig:
    """A static model has no settings."""


class Static(MotionModel):
    """The same Gaussians at every time."""

    name = "static"

    def __init__(self, config: StaticConfig | None = None) -> None:
        super().__init__(config or StaticConfig())

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        return Gaussians(
            means=params["means"],
            quats=params["quats"],
            scales=torch.exp(params["scales"]),
            opacities=torch.sigmoid(params["opacities"]),
            colors=colors_of(params, sh_degree),
        )
