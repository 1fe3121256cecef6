"""What every motion model offers: named per-Gaussian columns and the Gaussians at a time.

The parameter table is a dict of tensors that all have N rows. The canonical columns are the same for every model
(`means`, `quats`, `scales` as logarithms, `opacities` as logits, `sh0` [N, 1, 3], `shN` [N, K-1, 3]); a model adds its
own.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..gaussians import Gaussians

Params = dict[str, Tensor]


class MotionModel(abc.ABC):
    """Maps the parameter table and a clip time to a static set of Gaussians."""

    name: ClassVar[str]
    """The name of the model in commands and files."""
    length_columns: ClassVar[tuple[str, ...]] = ()
    """Own columns whose unit is a length, or a length per clip: they scale with the scene."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def columns(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of one row of each own column."""
        return {}

    def init(self, n: int) -> Params:
        """Returns own columns [n, ...] that leave the Gaussians at rest and always visible."""
        return {name: torch.zeros(n, *shape) for name, shape in self.columns().items()}

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        """Returns the first and last learning rate of each own column, for a scene of unit size and clip."""
        return {}

    @abc.abstractmethod
    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        """Returns the Gaussians at clip time `time`; `sh_degree` limits the coefficients, None keeps all."""

    def peak_opacities(self, params: Params) -> Tensor:
        """Returns [N] the largest opacity each Gaussian has at any time of the clip, 0..1."""
        return torch.sigmoid(params["opacities"])

    def config_dict(self) -> dict[str, Any]:
        """Returns the settings as plain JSON values."""
        return dataclasses.asdict(self.config)


def colors_of(params: Params, sh_degree: int | None, sh0: Tensor | None = None) -> Tensor:
    """Returns coefficients [N, K, 3] up to `sh_degree`, with `sh0` [N, 1, 3] in the first place when it is given."""
    first = params["sh0"] if sh0 is None else sh0
    rest = params["shN"]
    if sh_degree is not None:
        rest = rest[:, : (sh_degree + 1) ** 2 - 1]
    return first if rest.shape[1] == 0 else torch.cat([first, rest], dim=1)
