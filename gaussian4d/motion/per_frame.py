"""A separate still scene for every instant: the baseline that models of motion are measured against.

Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering", 2023, once per instant, as Lin et al.,
"Gaussian-Flow", CVPR 2024, compare with. Nothing connects the Gaussians of one instant with those of the next, so such
a model can be drawn at any time but has no motion: between instants the nearest one is shown.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import torch
from jaxtyping import Int
from torch import Tensor

from ..gaussians import Gaussians
from .base import MotionModel, Params, colors_of

# Half an instant away a window must have let go of most of a Gaussian, and the next one must have taken over: at this
# width, in intervals between instants, two windows cross at half opacity each.
_WIDTH = 0.5 / math.sqrt(math.log(2.0))


@dataclasses.dataclass
class PerFrameConfig:
    """Which instants there are, and how their fits follow each other."""

    times: tuple[float, ...] = ()
    """Clip time of each instant, ascending; filled in by the fit."""
    warm_start: bool = False
    """Start each instant from the Gaussians of the one before, instead of from its own points."""


class PerFrame(MotionModel):
    """Rows belong to one instant each; the rows of the instant nearest in time are there, all others are not."""

    name = "per-frame"
    config_type = PerFrameConfig
    connected = False

    def __init__(self, config: PerFrameConfig | None = None) -> None:
        config = config or PerFrameConfig()
        # Settings that come from a file hold a list.
        super().__init__(dataclasses.replace(config, times=tuple(float(time) for time in config.times)))
        self._times = torch.tensor(self.config.times, dtype=torch.float64)

    @property
    def instants(self) -> tuple[float, ...]:
        return self.config.times

    def cubic(self, params: Params) -> Params:
        """Returns columns without motion: each instant stays separate, under a bell of its own."""
        means, instants = params["means"], self.config.times or (0.5,)
        interval = min((b - a for a, b in itertools.pairwise(instants)), default=2.0)
        return {
            "trajectories": means.new_zeros(len(means), 3, 3),
            "spins": means.new_zeros(len(means), 4),
            "times": torch.tensor(instants, dtype=torch.float32, device=means.device)[params["instants"].long()],
            "durations": means.new_full((len(means),), math.log(interval * _WIDTH)),
        }

    def describe(self, params: Params) -> str:
        return f"{len(self.config.times)} instants of their own Gaussians"

    def columns(self) -> dict[str, tuple[int, ...]]:
        """Returns the column `instants`: the index of each row's instant, a whole number."""
        return {"instants": ()}

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        """Returns rates of zero: an index is not optimised."""
        return {"instants": (0.0, 0.0)}

    def nearest(self, time: float) -> int:
        """Returns the index of the instant nearest to clip time `time`, of two equally near ones the earlier."""
        return int((self._times - time).abs().argmin()) if len(self._times) else 0

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        rows = self.rows(params, self.nearest(time))
        return Gaussians(
            means=rows["means"],
            quats=rows["quats"],
            scales=torch.exp(rows["scales"]),
            opacities=torch.sigmoid(rows["opacities"]),
            colors=colors_of(rows, sh_degree),
        )

    def rows_at(self, params: Params, time: float) -> Tensor:
        return _of_instant(params, self.nearest(time))

    def lifetimes(self, params: Params, of: float) -> Tensor:
        rows = self.rows_at(params, of)
        return torch.full((len(rows),), 1.0 / max(len(self._times), 1), device=rows.device)

    def rows(self, params: Params, instant: int) -> Params:
        """Returns the rows of the instant of index `instant`."""
        # Indices, not a mask: on a GPU every use of a mask would wait for how many rows it has.
        chosen = _of_instant(params, instant)
        return {name: value[chosen] for name, value in params.items()}


def _of_instant(params: Params, instant: int) -> Int[Tensor, " M"]:
    return (params["instants"] == instant).nonzero()[:, 0]
