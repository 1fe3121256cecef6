"""A gain and an offset per training camera and channel, so that different exposures do not become floaters."""

from __future__ import annotations

import torch
from torch import Tensor

from diff_rasterizer import FusedAdam

from .schedule import exponential

_RATES = (2e-3, 2e-4)


class Exposure:
    """Colour corrections applied to renderings before they are compared; their mean stays neutral."""

    def __init__(self, cameras: int, device: torch.device | str = "cpu") -> None:
        self.table = torch.nn.Parameter(torch.zeros(cameras, 6, device=device))
        """[cameras, 6] gain minus 1 and offset per channel."""
        self.optimizer = FusedAdam([{"params": [self.table], "lr": _RATES[0], "name": "exposure"}])

    def apply(self, rgb: Tensor, camera_index: int) -> Tensor:
        """Returns the rendering [H, W, 3] as camera `camera_index` would record it."""
        row = self.table[camera_index]
        return rgb * (1.0 + row[:3]) + row[3:]

    def step(self, progress: float) -> None:
        """Takes one optimiser step, then takes out the mean over the cameras."""
        self.optimizer.param_groups[0]["lr"] = exponential(_RATES, progress)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.table -= self.table.mean(dim=0)
