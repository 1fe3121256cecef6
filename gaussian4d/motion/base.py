"""What every motion model offers: named per-Gaussian columns and the Gaussians at a time.

The parameter table is a dict of tensors. Columns have N rows: the canonical ones are the same for every model (`means`,
`quats`, `scales` as logarithms, `opacities` as logits, `sh0` [N, 1, 3], `shN` [N, K-1, 3]); a model adds its own.
Tensors that belong to no Gaussian, such as the weights of a network, are shared: their names begin with `shared.`, and
what adds, copies or removes Gaussians leaves them alone.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..gaussians import Gaussians

Params = dict[str, Tensor]

SHARED = "shared."


def is_shared(name: str) -> bool:
    """Returns whether the tensor `name` of a parameter table has no row per Gaussian."""
    return name.startswith(SHARED)


@dataclasses.dataclass
class NoConfig:
    """A model without settings."""


class MotionModel(abc.ABC):
    """Maps the parameter table and a clip time to a static set of Gaussians: the base of every motion model.

    A model of your own needs a `name` and the method `at`. With that alone it can be drawn, looked at, and exported to
    every format: what a format holds is sampled from it. Beyond that, implement what it has:

    - settings: a dataclass, named as `config_type`; an instance is `self.config`. It is kept with files and runs as
      JSON, so its values are plain ones. Without it the model has no settings.
    - parameters of its own, to be fitted: `columns` (one row per Gaussian) or `shared_shapes` (none), how they start
      (`init`, `init_shared`; at rest, by default zeros) and at which rates they are learnt (`learning_rates`). What is
      a length or a position in them is named in `length_columns` and `position_columns`.
    - Gaussians that appear and vanish: `windowed`, `init_at`, `peak_opacities`, `lifetimes`.
    - `at` that gives other rows than the table's, or in another order: `of_rows`, `rows_at`, `follow`, `lifetimes`.
    - `still`, `connected`, `instants`, `cubic`: what kind of motion it is, so that formats and tools treat it as well
      as our own. The defaults fit a model whose Gaussians are all there at all times and move in any way.

    Register it with `gaussian4d.plugins.MOTIONS.register(NAME)`, or from an installed package by an entry point of the
    group `gaussian4d.motions`.
    """

    name: ClassVar[str]
    """The name of the model in commands and files."""
    config_type: ClassVar[type] = NoConfig
    """The dataclass of its settings."""
    fitted: ClassVar[bool] = True
    """Whether a fit can be asked for it by name; not where it only comes from files or is made by others."""
    still: ClassVar[bool] = False
    """Whether nothing ever moves: the Gaussians are the same at all times."""
    connected: ClassVar[bool] = True
    """Whether the Gaussians of two times are the same ones, so that they have velocities and paths."""
    length_columns: tuple[str, ...] = ()
    """Own tensors whose unit is a length, or a length per clip: they scale with the scene."""
    position_columns: tuple[str, ...] = ()
    """Own tensors [..., 3] that are positions: they move and scale with the scene."""

    can_freeze: bool = False
    """Whether single Gaussians can be stopped for good (`frozen`)."""

    can_start_moving: bool = False
    """Whether a first velocity can be given to single Gaussians (`set_moving`)."""

    def __init__(self, config: Any = None) -> None:
        self.config = self.config_type() if config is None else config

    @property
    def windowed(self) -> bool:
        """Whether a Gaussian may appear and vanish: columns `times` and `durations` (see `window`)."""
        return False

    @property
    def replaces_gaussians(self) -> bool:
        """Whether what is seen may be handed from one Gaussian to another during the clip."""
        return self.windowed

    @property
    def instants(self) -> tuple[float, ...] | None:
        """The clip times at which the motion is given, None where it is given at all times alike."""
        return None

    @property
    def is_cubic(self) -> bool:
        """Whether `cubic` changes nothing that is drawn."""
        return False

    def cubic(self, params: Params) -> Params | None:
        """Returns the motion as the own columns of `spacetime` of degree 3, for the canonical columns as they are.

        None where they do not hold it even nearly; formats of such motion then fit it at sampled times.
        """
        return None

    def describe(self, params: Params) -> str:
        """Returns in a few words what there is to say of the motion besides its name, "" for nothing."""
        return ""

    @classmethod
    def made_of(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        """Returns the names of the other motion models that one with the settings `config` contains."""
        return ()

    def columns(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of one row of each own column."""
        return {}

    def init(self, n: int) -> Params:
        """Returns own columns [n, ...], on the CPU, that leave the Gaussians at rest and always visible."""
        return {name: torch.zeros(n, *shape) for name, shape in self.columns().items()}

    def init_at(self, times: Tensor, duration: float) -> Params:
        """Returns own columns of Gaussians found at the instants `times` [N], NaN where not at any one.

        A windowed model lets those found at an instant last about `duration` clips; others start as in `init`. The
        columns are on the device of `times`.
        """
        return {name: value.to(times.device) for name, value in self.init(len(times)).items()}

    def set_moving(self, columns: Params, velocities: Tensor) -> Params:
        """Returns the own columns with which Gaussians move at `velocities` [N, 3] per clip at their own instants.

        Only for models that `can_start_moving`.
        """
        raise NotImplementedError(f"Gaussians of {self.name} have no first velocity")

    def outlasting(self, params: Params, clips: float) -> Tensor:
        """Returns [N] which Gaussians are not frozen yet though their window is longer than `clips` (its deviation)."""
        return torch.zeros(len(params["means"]), dtype=torch.bool, device=params["means"].device)

    def frozen(self, rows: Params) -> Params:
        """Returns the columns of `rows` stopped where they are at half the clip, and always there.

        Frozen Gaussians stay so under the optimiser: their motion has no gradient. Only for models that `can_freeze`.
        """
        raise NotImplementedError(f"Gaussians of {self.name} cannot be frozen")

    def shared_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each shared tensor; their names begin with `shared.`."""
        return {}

    def init_shared(self, means: Tensor, generator: torch.Generator) -> Params:
        """Returns the shared tensors of a fit that starts from Gaussians at `means` [N, 3], on their device.

        What is random is drawn on the CPU, where `generator` is, so that it is the same on every device.
        """
        return {}

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        """Returns the first and last learning rate of each own tensor, for a scene of unit size and clip."""
        return {}

    def fit_settings(self, scene: Any) -> dict[str, Any]:
        """Returns what presets set otherwise for this model, by path of the setting; what a user gives comes after."""
        return {}

    def terms(self) -> dict[str, Callable[[Any], Tensor]]:
        """Returns the terms that a fit of this model offers besides the general ones, by name.

        A term takes a step (`gaussian4d.fitting.step.Step`) and returns a scalar; its weight is the setting
        `loss.NAME`, 0 unless set.
        """
        return {}

    @abc.abstractmethod
    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        """Returns the Gaussians at clip time `time`; `sh_degree` limits the coefficients, None keeps all."""

    def of_rows(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        """Returns the Gaussians of all rows of the table, in its order; those not there at `time` have opacity 0.

        The same as `at` for models that keep all rows at all times.
        """
        return self.at(params, time, sh_degree)

    def follow(self, params: Params, of: float, time: float) -> Tensor:
        """Returns [N, 3] where the Gaussians of `at(of)` have their centres at clip time `time`, in the same order."""
        return self.at(params, time).means

    def peak_opacities(self, params: Params) -> Tensor:
        """Returns [N] the largest opacity each Gaussian has at any time of the clip, 0..1."""
        return torch.sigmoid(params["opacities"])

    def rows_at(self, params: Params, time: float) -> Tensor:
        """Returns [M] which rows of the table the Gaussians of `at(time)` are, in their order."""
        return torch.arange(len(params["means"]), device=params["means"].device)

    def lifetimes(self, params: Params, of: float) -> Tensor:
        """Returns [N] how much of the clip each Gaussian of `at(of)` is there, 0..1, in the same order."""
        return torch.ones(len(params["means"]), device=params["means"].device)

    def config_dict(self) -> dict[str, Any]:
        """Returns the settings as plain JSON values."""
        return dataclasses.asdict(self.config)


def canonical_gaussians(params: Params, sh_degree: int | None = None) -> Gaussians:
    """Returns the Gaussians of a parameter table at rest, in its order: what a motion model moves.

    Scales and opacities are activated, colours are the coefficients up to `sh_degree`; None keeps all. Tensors that
    need no activation are those of the table, not copies.
    """
    return Gaussians(
        means=params["means"],
        quats=params["quats"],
        scales=torch.exp(params["scales"]),
        opacities=torch.sigmoid(params["opacities"]),
        colors=colors_of(params, sh_degree),
    )


def colors_of(params: Params, sh_degree: int | None, sh0: Tensor | None = None) -> Tensor:
    """Returns coefficients [N, K, 3] up to `sh_degree`, with `sh0` [N, 1, 3] in the first place when it is given."""
    first = params["sh0"] if sh0 is None else sh0
    rest = params["shN"]
    if sh_degree is not None:
        rest = rest[:, : (sh_degree + 1) ** 2 - 1]
    return first if rest.shape[1] == 0 else torch.cat([first, rest], dim=1)
