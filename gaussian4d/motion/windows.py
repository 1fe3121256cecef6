"""A clip cut into overlapping windows of time, each with a motion model and Gaussians of its own.

A window's own time runs from 0 to 1 over its span of the clip. Where two windows overlap, one fades into the other:
with the weight w of a window, which goes from 1 to 0 while that of the next goes from 0 to 1, opacities become

    a = 1 - (1 - o)^w

so that of two coincident Gaussians, one of each window, as much light passes in the middle as of one: (1 - o)^w
(1 - o)^(1-w) = 1 - o. Around the middle two would look wider than one; scales shrink by a factor with which the two
together cover as much of a picture as one, s^2 = o / (a + b - a b / 2) with b = 1 - (1 - o)^(1-w).

Cutting long clips into windows of separate models is what Li et al., "Spacetime Gaussian Feature Splatting", CVPR 2024,
do (50 frames each, without overlap); the fade is ours.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UserError
from ..gaussians import Gaussians
from ..plugins import MOTIONS
from .base import SHARED, MotionModel, Params, is_shared
from .per_frame import PerFrame

COLUMN = "windows"
"""The column that holds the index of each row's window, a whole number."""

_MOST = 1000
# Of fainter Gaussians two look like one whatever their scales, and the factor would be 0 / 0.
_FAINT = 1e-5


@dataclasses.dataclass
class WindowsConfig:
    """Which windows there are, and what moves inside them."""

    motion: str = "free-time"
    """The motion model of every window."""
    motion_configs: tuple[dict[str, Any], ...] = ({},)
    """Its settings in each window."""
    spans: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    """Clip times at which each window's own time is 0 and 1; ascending, at most two at a time."""

    def __post_init__(self) -> None:
        # From JSON they come as lists, and from a stranger's file as anything.
        try:
            self.spans = tuple((float(first), float(last)) for first, last in self.spans)
            self.motion_configs = tuple(dict(settings) for settings in self.motion_configs)
        except (TypeError, ValueError):
            raise UserError("windows: expected spans as pairs of clip times and settings as tables") from None
        if not 1 <= len(self.spans) <= _MOST or len(self.motion_configs) != len(self.spans):
            raise UserError(
                f"windows: expected 1 to {_MOST} spans and as many settings, got {len(self.spans)} and"
                f" {len(self.motion_configs)}"
            )
        if not all(math.isfinite(first) and math.isfinite(last) and first < last for first, last in self.spans):
            raise UserError(f"windows: every span must begin before it ends, got {self.spans}")
        for k in range(1, len(self.spans)):
            before, here = self.spans[k - 1], self.spans[k]
            if not (before[0] < here[0] and before[1] < here[1]) or (k > 1 and self.spans[k - 2][1] > here[0]):
                raise UserError(f"windows: spans must ascend and at most two overlap at a time, got {self.spans}")


class Windows(MotionModel):
    """Rows belong to one window each; those of the one or two windows at a time are there, all others are not.

    A fit of a single window trains this model too, with one span: then its rows are all there at any time, and its
    columns and shared tensors bear the names of the model inside.
    """

    name = "windows"
    config_type = WindowsConfig
    fitted = False

    def __init__(self, config: WindowsConfig | None = None) -> None:
        from . import make_motion

        super().__init__(config)
        kind = self.config.motion
        if kind not in MOTIONS or not (MOTIONS.get(kind).fitted and MOTIONS.get(kind).connected):
            allowed = ", ".join(name for name in MOTIONS.choices() if name != PerFrame.name)
            raise UserError(f"windows: expected a motion model out of {allowed} inside, got {kind!r}")
        self.inner = [make_motion(kind, settings) for settings in self.config.motion_configs]
        if any(model.columns() != self.inner[0].columns() for model in self.inner):
            raise UserError("windows: the settings of the windows ask for different columns; fit them alike")
        self.length_columns = self._named(self.inner[0].length_columns)
        self.position_columns = self._named(self.inner[0].position_columns)
        self.can_freeze = self.inner[0].can_freeze
        self.can_start_moving = self.inner[0].can_start_moving

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def windowed(self) -> bool:
        return self.inner[0].windowed

    @property
    def replaces_gaussians(self) -> bool:
        return self.windowed or len(self) > 1

    @classmethod
    def made_of(cls, config: Mapping[str, Any]) -> tuple[str, ...]:
        return (str(config.get("motion", WindowsConfig.motion)),)

    def columns(self) -> dict[str, tuple[int, ...]]:
        """Returns the columns of the model inside and `windows`."""
        return {**self.inner[0].columns(), COLUMN: ()}

    def init(self, n: int) -> Params:
        return {**self.inner[0].init(n), COLUMN: torch.zeros(n)}

    def init_at(self, times: Tensor, duration: float) -> Params:
        first, last = self.config.spans[0]
        own = self.inner[0].init_at((times - first) / (last - first), duration / (last - first))
        return {**own, COLUMN: torch.zeros(len(times), device=times.device)}

    def set_moving(self, columns: Params, velocities: Tensor) -> Params:
        first, last = self.config.spans[0]
        return self.inner[0].set_moving(columns, velocities * (last - first))

    def outlasting(self, params: Params, clips: float) -> Tensor:
        """Returns [N] as the model inside does; `clips` are counted in windows."""
        return self.inner[0].outlasting(params, clips)

    def frozen(self, rows: Params) -> Params:
        """Returns the columns of `rows` stopped where they are in the middle of their window."""
        return self.inner[0].frozen(rows)

    def shared_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes; of several windows those of number k are named `shared.k.` and then as inside."""
        return {
            self._shared_name(name, k): shape
            for k, model in enumerate(self.inner)
            for name, shape in model.shared_shapes().items()
        }

    def init_shared(self, means: Tensor, generator: torch.Generator) -> Params:
        return {
            self._shared_name(name, k): value
            for k, model in enumerate(self.inner)
            for name, value in model.init_shared(means, generator).items()
        }

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        """Returns the rates of the model inside; an index is not optimised."""
        inside = self.inner[0].learning_rates()
        rates = {name: rate for name, rate in inside.items() if not is_shared(name)}
        for k, model in enumerate(self.inner):
            rates |= {self._shared_name(name, k): inside[name] for name in model.shared_shapes()}
        return {**rates, COLUMN: (0.0, 0.0)}

    def terms(self) -> dict[str, Callable[[Any], Tensor]]:
        """Returns the terms of the model inside, for the fit of a single window."""
        return self.inner[0].terms()

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        active = self.active(time)
        parts = [
            faded(self.inner[k].at(self.rows(params, k), self.local(k, time), sh_degree), weight)
            for k, weight in active
        ]
        return parts[0] if len(parts) == 1 else _together(parts)

    def of_rows(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        """Returns the Gaussians of all windows; those of other windows stand where their window begins or ends."""
        if len(self) == 1:
            return self.at(params, time, sh_degree)
        weights = dict(self.active(time))
        parts, places = [], []
        for k, model in enumerate(self.inner):
            state = model.at(self.rows(params, k), min(max(self.local(k, time), 0.0), 1.0), sh_degree)
            if k in weights:
                state = faded(state, weights[k])
            else:
                state = dataclasses.replace(state, opacities=torch.zeros_like(state.opacities))
            parts.append(state)
            places.append((params[COLUMN] == k).nonzero()[:, 0])
        return _together(parts).select(torch.argsort(torch.cat(places)))

    def follow(self, params: Params, of: float, time: float) -> Tensor:
        parts = [self.inner[k].at(self.rows(params, k), self.local(k, time)).means for k, _ in self.active(of)]
        return torch.cat(parts)

    def peak_opacities(self, params: Params) -> Tensor:
        if len(self) == 1:
            return self.inner[0].peak_opacities(params)
        peaks = torch.zeros(len(params["means"]), device=params["means"].device)
        for k, model in enumerate(self.inner):
            peaks[self._places(params, k)] = model.peak_opacities(self.rows(params, k))
        return peaks

    def rows_at(self, params: Params, time: float) -> Tensor:
        if len(self) == 1:
            return super().rows_at(params, time)
        return torch.cat([(params[COLUMN] == k).nonzero()[:, 0] for k, _ in self.active(time)])

    def lifetimes(self, params: Params, of: float) -> Tensor:
        parts = []
        for k, _ in self.active(of):
            first, last = self.config.spans[k]
            share = min(last, 1.0) - max(first, 0.0)
            parts.append(self.inner[k].lifetimes(self.rows(params, k), self.local(k, of)) * min(max(share, 0.0), 1.0))
        return torch.cat(parts)

    def local(self, window: int, time: float) -> float:
        """Returns the clip time `time` in the own time of a window."""
        first, last = self.config.spans[window]
        return (time - first) / (last - first)

    def active(self, time: float) -> list[tuple[int, float]]:
        """Returns the windows that are there at clip time `time` and their weights, which add up to 1."""
        return window_weights(self.config.spans, time)

    def rows(self, params: Params, window: int) -> Params:
        """Returns the table of one window, under the names of the model inside."""
        if len(self) == 1:
            return params
        chosen = self._places(params, window)
        table = {name: value[chosen] for name, value in params.items() if not is_shared(name)}
        for name in self.inner[window].shared_shapes():
            table[name] = params[self._shared_name(name, window)]
        return table

    def joined(self, tables: Sequence[Params]) -> Params:
        """Returns one table of the tables of all windows, each under the names of the model inside."""
        assert len(tables) == len(self)
        columns = [name for name in tables[0] if not is_shared(name) and name != COLUMN]
        params = {name: torch.cat([table[name] for table in tables]) for name in columns}
        params[COLUMN] = torch.cat([torch.full_like(table["means"][:, 0], k) for k, table in enumerate(tables)])
        for k, table in enumerate(tables):
            params |= {self._shared_name(name, k): value for name, value in table.items() if is_shared(name)}
        return params

    def _places(self, params: Params, window: int) -> Tensor | slice:
        """Returns which rows belong to one window."""
        inside = params[COLUMN] == window
        if not len(inside):
            return slice(0, 0)
        # One read for all three: on a GPU each would wait.
        ends = torch.stack([inside.sum(), inside.int().argmax(), inside.int().flip(0).argmax()])
        count, first, behind = ends.tolist()
        last = len(inside) - behind
        # Rows as they are joined lie side by side: views of them cost nothing.
        return slice(first, last) if last - first == count else inside.nonzero()[:, 0]

    def _named(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Returns the names of the model inside as they are in the table."""
        shared = [self._shared_name(name, k) for name in names if is_shared(name) for k in range(len(self))]
        return tuple([name for name in names if not is_shared(name)] + shared)

    def _shared_name(self, name: str, window: int) -> str:
        return name if len(self) == 1 else f"{SHARED}{window}.{name.removeprefix(SHARED)}"


def window_weights(spans: Sequence[tuple[float, float]], time: float) -> list[tuple[int, float]]:
    """Returns the windows with a weight above 0 at clip time `time`, and their weights, which add up to 1."""
    last = 0
    while last + 1 < len(spans) and _risen(spans, last + 1, time) > 0.0:
        last += 1
    risen = _risen(spans, last, time)
    return [(last, 1.0)] if risen == 1.0 else [(last - 1, 1.0 - risen), (last, risen)]


def _risen(spans: Sequence[tuple[float, float]], window: int, time: float) -> float:
    """Returns how far a window has come up at `time`: from 0 to 1 while it overlaps the one before, level at both."""
    if window == 0:
        return 1.0
    begin, end = spans[window][0], spans[window - 1][1]
    if end <= begin:
        return float(time >= 0.5 * (begin + end))
    u = min(max((time - begin) / (end - begin), 0.0), 1.0)
    return u * u * (3.0 - 2.0 * u)


def faded(state: Gaussians, weight: float) -> Gaussians:
    """Returns the Gaussians with the share `weight` (above 0, at most 1) of their presence; see the module."""
    if weight == 1.0:
        return state
    transparency = torch.log1p(-state.opacities)
    ours, others = -torch.expm1(weight * transparency), -torch.expm1((1.0 - weight) * transparency)
    covered = ours + others - 0.5 * ours * others
    ratio = torch.where(state.opacities > _FAINT, state.opacities / covered.clamp_min(_FAINT), 1.0)
    return dataclasses.replace(state, opacities=ours, scales=state.scales * ratio.sqrt()[:, None])


def _together(parts: Sequence[Gaussians]) -> Gaussians:
    fields = [field.name for field in dataclasses.fields(Gaussians)]
    cat: dict[str, Float[Tensor, "..."]] = {name: torch.cat([getattr(part, name) for part in parts]) for name in fields}
    return Gaussians(**cat)
