"""Motion and fading that no single cubic under a single bell follows, as several of them.

The windows of a long clip fade into each other. Inside a window every Gaussian is a cubic under a temporal bell of its
own (`cubic.as_cubic`), in clip time; the fade of the window comes on top (`motion.windows.faded`). A file with hard
windows gets the ramps in a few pieces, each under the bell that fits it there (`pieces`). A file of nothing but bells
gets several coincident ones for a Gaussian that outlives its window (`as_bells`), whose sum is a plateau with two
ramps. What the fade hardly touches stays as it is.

Other motion than polynomials is cut into overlapping bells in the same way, each with a cubic of its own: where one
bell fades the next comes up. Gaussians that one cubic under one bell follows stay one.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..gaussians import Gaussians, rotation_matrices
from ..model import DynamicGaussians
from ..motion import Spacetime, Windows
from ..motion.base import Params, is_shared
from ..motion.spacetime import SpacetimeConfig
from ..motion.window import is_frozen
from ..motion.windows import faded, window_weights
from .cubic import as_cubic, fitted, instants_of, stays_cubic, window_of
from .difference import GOAL, shown_db
from .near_plane import COLUMN, Emptied

BELLS = (1, 3, 5)
"""Coincident bells that stand for a Gaussian which outlives its window, by how many ends it has inside the clip."""

CUTS = (7, 13, 25, 49)
"""Overlapping bells that other motion than polynomials is cut into: the fewest that follow a Gaussian."""

_RAMP_PIECES = 3
# A cubic follows a Gaussian that is off by less than this share of its size, a tenth of it of opacity and colour: the
# first that makes the whole look like the model. One cubic for the whole clip has no neighbours that hide its errors.
_SLIPS = (0.8, 0.4, 0.2, 0.1)
_SLIP, _SHADE = 0.1, 0.02
_SAMPLES = 64
# Width of overlapping bells over the distance between them, to start with: together they are level.
_OVERLAP = 0.75
# Rows looked at together: bounds the memory.
_ROWS = 65536
# A Gaussian whose opacity the fade changes by less than this stays as it is.
_UNTOUCHED = 0.01
_CUTOFF = 1.0 / 255.0


@dataclasses.dataclass
class ClipWindow:
    """One window: its rows as cubics of clip time, without the fade, and the fade."""

    params: Params
    """Columns of `spacetime`, degree 3."""
    spans: tuple[tuple[float, float], ...]
    index: int

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """Clip times at which the window begins, is there, begins to go and is gone."""
        spans, k = self.spans, self.index
        first, last = max(spans[k][0], 0.0), min(spans[k][1], 1.0)
        begin, there, going, gone = first, first, last, last
        if k > 0:
            begin, there = _overlap(spans[k - 1], spans[k])
        else:
            begin = there = 0.0
        if k + 1 < len(spans):
            going, gone = _overlap(spans[k], spans[k + 1])
        else:
            going = gone = 1.0
        return begin, there, going, gone

    def weight(self, time: float) -> float:
        """Returns the share of its presence that the window has at a clip time, 0 to 1."""
        return dict(window_weights(self.spans, time)).get(self.index, 0.0)


def clip_windows(model: DynamicGaussians) -> list[ClipWindow]:
    """Returns the windows of a model of motion `windows`."""
    motion = model.motion
    assert isinstance(motion, Windows)
    found = []
    for k, (first, last) in enumerate(motion.config.spans):
        local = (instants_of(model) - first) / (last - first)
        local = local[(local >= 0.0) & (local <= 1.0)]
        times = local if len(local) >= 5 else np.linspace(0.0, 1.0, 9)
        inner = DynamicGaussians(motion.rows(model.params, k), motion.inner[k], times=times)
        found.append(ClipWindow(_stretched(as_cubic(inner).params, first, last - first), motion.config.spans, k))
    return found


def _overlap(before: tuple[float, float], here: tuple[float, float]) -> tuple[float, float]:
    """Returns the clip times between which one window fades into the next; equal ones where they do not overlap."""
    if before[1] > here[0]:
        return here[0], before[1]
    switch = 0.5 * (before[1] + here[0])
    return switch, switch


def over_span(params: Params, span: tuple[float, float]) -> Params:
    """Returns cubics whose time runs from 0 to 1 where that of `params` runs over `span`.

    Players know no other ends of a clip, and are to play what was recorded.
    """
    first, last = span
    return params if span == (0.0, 1.0) else _stretched(params, -first / (last - first), 1.0 / (last - first))


def _stretched(params: Params, first: float, length: float) -> Params:
    """Returns columns in clip time of a table in the own time of a window."""
    powers = torch.tensor([length**-k for k in (1, 2, 3)])
    still = is_frozen(params)
    trajectories = params["trajectories"] * powers[:, None]
    return {
        **params,
        "trajectories": torch.where(still[:, None, None], torch.zeros_like(trajectories), trajectories),
        "spins": torch.where(still[:, None], torch.zeros_like(params["spins"]), params["spins"] / length),
        "times": first + length * params["times"],
        "durations": params["durations"] + math.log(length),
    }


def recentred(params: Params, times: Tensor) -> Params:
    """Returns columns of the same motion written about other instants `times` [N]."""
    since = (times - params["times"])[:, None]
    since = torch.where(torch.isfinite(params["durations"])[:, None], since, torch.zeros_like(since))
    one, two, three = params["trajectories"].unbind(dim=1)
    return {
        **params,
        "means": params["means"] + since * (one + since * (two + since * three)),
        "quats": params["quats"] + since * params["spins"],
        "trajectories": torch.stack(
            [one + since * (2 * two + 3 * since * three), two + 3 * since * three, three], dim=1
        ),
        "times": times,
    }


def _presence(params: Params, times: Tensor) -> Tensor:
    """Returns [T, N] the bells of the rows themselves."""
    return torch.exp(-(((times[:, None] - params["times"]) * torch.exp(-params["durations"])) ** 2))


def _profile(window: ClipWindow, params: Params, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns [T, N] opacities without and with the fade, and the factor on sizes."""
    plain = torch.sigmoid(params["opacities"]) * _presence(params, times)
    shown, sizes = torch.zeros_like(plain), torch.ones_like(plain)
    for k, time in enumerate(times.tolist()):
        weight = window.weight(time)
        if weight > 0.0:
            shown[k], sizes[k] = _faded(plain[k], weight)
    return plain, shown, sizes


def _faded(opacities: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Returns opacities [N] at the share `weight` of a window, and the factor on sizes."""
    count, like = len(opacities), opacities
    state = Gaussians(
        means=like.new_zeros(count, 3),
        quats=like.new_zeros(count, 4),
        scales=like.new_ones(count, 3),
        opacities=opacities,
        colors=like.new_zeros(count, 1, 3),
    )
    result = faded(state, weight)
    return result.opacities, result.scales[:, 0]


def untouched(window: ClipWindow) -> Tensor:
    """Returns [N] which rows the fade changes so little that they may stay as they are."""
    times = torch.linspace(0.0, 1.0, 2 * _SAMPLES)
    result = []
    for first in range(0, len(window.params["means"]), _ROWS):
        plain, shown, _ = _profile(window, _select(window.params, slice(first, first + _ROWS)), times)
        result.append((plain - shown).abs().amax(dim=0) < _UNTOUCHED)
    return torch.cat(result) if result else torch.zeros(0, dtype=torch.bool)


@torch.no_grad()
def pieces(model: DynamicGaussians) -> Iterator[tuple[float, float, Params]]:
    """Yields (from, to, rows): cubics under bells that are the model between two clip times."""
    for window in clip_windows(model):
        begin, there, going, gone = window.edges
        calm = untouched(window)
        yield begin, gone, _select(window.params, calm)
        rows = _select(window.params, ~calm)
        yield there, going, rows
        for first, last in ((begin, there), (going, gone)):
            edges = np.linspace(first, last, _RAMP_PIECES + 1)
            for start, end in itertools.pairwise(edges) if last > first else ():
                times = torch.linspace(float(start), float(end), 9, dtype=torch.float64)[1:-1]
                _, shown, sizes = _profile(window, rows, times.float())
                seen = shown.amax(dim=0) >= _CUTOFF
                chosen, shown, sizes = _select(rows, seen), shown[:, seen].double(), sizes[:, seen]
                peak, center, width = window_of(times, shown)
                bent = recentred(chosen, center.float())
                share = shown / shown.sum(dim=0)
                yield (
                    float(start),
                    float(end),
                    {
                        **bent,
                        "opacities": torch.logit(peak.clamp(1e-6, 1.0 - 1e-6)).float(),
                        "scales": chosen["scales"] + (share * sizes.log()).sum(dim=0).float()[:, None],
                        "durations": width.log().float(),
                    },
                )


def _select(params: Params, rows: Tensor | slice) -> Params:
    return {name: value[rows] for name, value in params.items()}


def as_bells(model: DynamicGaussians) -> DynamicGaussians:
    """Returns `model` with the motion `spacetime` of degree 3, more Gaussians where it takes them; see the module."""
    if isinstance(model.motion, Emptied):
        whole, faded = model.motion.apart(model)
        tables = [as_bells(whole).params, *_runs(faded)]
    elif isinstance(model.motion, Windows) and len(model.motion) > 1:
        tables = _windows(model)
    elif stays_cubic(model):
        return as_cubic(model)
    else:
        return _cut(model)
    return _joined(model, tables)


def _joined(model: DynamicGaussians, tables: Sequence[Params]) -> DynamicGaussians:
    params = {name: torch.cat([table[name] for table in tables]) for name in tables[0]}
    return dataclasses.replace(model, params=params, motion=Spacetime(SpacetimeConfig(degree=3)))


def _windows(model: DynamicGaussians) -> list[Params]:
    parts: list[Params] = []
    for window in clip_windows(model):
        with torch.no_grad():
            calm = untouched(window)
        parts.append(_select(window.params, calm))
        rows = _select(window.params, ~calm)
        if len(rows["means"]):
            parts += _split(rows, _Bells.of_window(window).of(rows["opacities"]))
    return parts


def _cut(model: DynamicGaussians) -> DynamicGaussians:
    """Returns the rows that one cubic under one bell follows, and the others cut into overlapping bells."""
    whole = as_cubic(model).params
    with torch.no_grad():
        good = _followed(model, whole, instants_of(model, least=5).tolist(), _SLIP, _SHADE)
    rest = (~good).nonzero()[:, 0]
    parts = [_select(whole, good)]
    found = _joined(model, parts)
    if not len(rest):
        return found
    bells = _Bells.of_clip()
    for slip in _SLIPS:
        found = _joined(model, [*parts, *_overlapping(_rows_of(model, rest), bells, slip)])
        if shown_db(model, found) >= GOAL:
            break
    return found


def _overlapping(model: DynamicGaussians, bells: _Bells, slip: float) -> list[Params]:
    """Returns rows under overlapping bells, for each Gaussian as few as follow it up to `slip`."""
    parts: list[Params] = []
    for cuts in CUTS:
        if not len(model):
            break
        spacing, tables, good = 1.0 / (cuts - 1), [], torch.ones(len(model), dtype=torch.bool)
        for center in np.linspace(0.0, 1.0, cuts).tolist():
            width = _OVERLAP * spacing
            times = np.linspace(max(center - 1.5 * width, 0.0), min(center + 1.5 * width, 1.0), 9)
            tables.append(fitted(model, times, np.exp(-(((times - center) / width) ** 2))))
            if cuts != CUTS[-1]:
                near = np.clip(center + spacing * np.array([-0.6, -0.3, 0.0, 0.3, 0.6]), 0.0, 1.0)
                with torch.no_grad():
                    good &= _followed(model, tables[-1], near.tolist(), slip, 0.1 * slip, opacities=False)
        found = bells.spread(cuts)
        for index, table in enumerate(tables):
            rows = _select(table, good)
            parts += _split(rows, found.of(rows["opacities"])[:, index : index + 1])
        model = _rows_of(model, (~good).nonzero()[:, 0])
    return parts


def _runs(model: DynamicGaussians) -> list[Params]:
    """Returns the rows of Gaussians that must not be seen at some instants: one for each run of the others.

    Its bell is so narrow that nothing is left of it at the next instant at which the Gaussian must not be seen; it is
    fainter than the Gaussian towards the ends of its run.
    """
    motion = model.motion
    assert isinstance(motion, Emptied)
    times, shown = np.asarray(motion.times), model.params[COLUMN].cpu().numpy() > 0.0
    inner = {name: value for name, value in model.params.items() if name != COLUMN}
    plain = dataclasses.replace(model, params=inner, motion=motion.inner)
    runs: dict[tuple[int, int], list[int]] = {}
    for row, there in enumerate(shown):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], there, [False]])))
        for first, after in edges.reshape(-1, 2).tolist():
            runs.setdefault((first, after), []).append(row)
    parts = []
    for (first, after), members in runs.items():
        low = times[first - 1] if first > 0 else None
        high = times[after] if after < len(times) else None
        center = 0.0 if low is None else 1.0 if high is None else 0.5 * (low + high)
        reach = min(abs(center - end) for end in (low, high) if end is not None)
        span = np.linspace(max(center - reach, 0.0), min(center + reach, 1.0), 9)
        rows = fitted(_rows_of(plain, torch.tensor(members)), span)
        # What is left at a distance of `reach` is below the cutoff.
        width = reach / (torch.sigmoid(rows["opacities"]) / _CUTOFF).clamp_min(1.5).log().sqrt()
        bell = [rows["opacities"], torch.full_like(width, center), width.log(), torch.zeros_like(width)]
        parts += _split(rows, torch.stack(bell, dim=-1)[:, None])
    return parts


def _rows_of(model: DynamicGaussians, rows: Tensor) -> DynamicGaussians:
    """Returns the model with some rows of its table only."""
    params = {name: value if is_shared(name) else value[rows] for name, value in model.params.items()}
    return dataclasses.replace(model, params=params)


def _followed(
    model: DynamicGaussians, params: Params, times: Sequence[float], slip: float, shade: float, opacities: bool = True
) -> Tensor:
    """Returns [N] which rows of the table `params` are drawn like those of the model at `times`.

    Up to the share `slip` of their size, and `shade` of colour and opacity; without `opacities` those are left to the
    bells.
    """
    good = torch.ones(len(params["means"]), dtype=torch.bool)
    motion = Spacetime(SpacetimeConfig(degree=3))
    for time in times:
        there, here = model.motion.of_rows(model.params, time), motion.at(params, time)
        shown = there.opacities > _CUTOFF
        size = there.scales.clamp_min(1e-12).log().mean(dim=1).exp()
        near = (there.means - here.means).norm(dim=1) < slip * size
        turned = (_roots(there) - _roots(here)).flatten(1).norm(dim=1) < slip * there.scales.amax(dim=1)
        alike = (there.colors[:, 0] - here.colors[:, 0]).abs().amax(dim=1) < shade
        same = (there.opacities - here.opacities).abs() < shade
        good &= (same | (not opacities)) & (~shown | (near & turned & alike))
    return good


def _roots(state: Gaussians) -> Tensor:
    """Returns [N, 3, 3] the square roots of the covariances, whose differences are lengths."""
    turn = rotation_matrices(state.quats)
    return (turn * state.scales[:, None]) @ turn.transpose(1, 2)


class _Bells:
    """Bells that together are the fade of one window, for Gaussians that are there throughout, by opacity.

    Fitted by gradient descent to what a pixel sees: the alpha of coincident bells at several distances from the centre
    of a Gaussian, against that of the faded one. Sizes are fitted too: coincident Gaussians look wider than one.
    """

    _LEVELS = torch.logit(
        torch.tensor([0.008, 0.02, 0.04, 0.06, 0.1, 0.17, 0.25, 0.4, 0.55, 0.7, 0.8, 0.88, 0.94, 0.97, 0.99, 0.997])
    )
    _STEPS, _RATE = 400, 0.03
    # Distances from the centre, in standard deviations.
    _RADII = torch.linspace(0.15, 3.0, 12)

    def __init__(self, times: Tensor, weights: Sequence[float], centers: Tensor, width: float, *, fixed: bool) -> None:
        """Fits as many bells as there are `centers`, to start with of `width`; with `fixed` they keep both.

        `weights` are the shares of the window at `times` [T].
        """
        opacities = torch.sigmoid(self._LEVELS)
        shown, sizes = torch.zeros(len(times), len(opacities)), torch.ones(len(times), len(opacities))
        for k, weight in enumerate(weights):
            if weight > 0.0:
                shown[k], sizes[k] = _faded(opacities, weight)
        goal = self._seen(shown, sizes)
        levels, bells = len(opacities), len(centers)
        # Of the length of the window, so that one rate fits all.
        unit = float(times[-1] - times[0])
        table = [
            self._LEVELS[:, None].repeat(1, bells) - 0.3,
            torch.zeros(levels, bells),
            (centers / unit).repeat(levels, 1),
            torch.full((levels, bells), math.log(width)),
        ]
        if fixed:
            # Of all bells of a level the same.
            table[3] = torch.full((levels, 1), math.log(width))
        free = [value.requires_grad_() for value in (table[:2] + table[3:] if fixed else table)]
        with torch.enable_grad():
            optimizer = torch.optim.Adam(free, lr=self._RATE)
            for step in range(self._STEPS):
                for group in optimizer.param_groups:
                    group["lr"] = self._RATE * (1.0 - step / self._STEPS) + 1e-4
                peaks, size, middle, sharp = table
                shapes = torch.exp(-(((times[:, None, None] - middle * unit) / sharp.exp()) ** 2))
                alpha = self._seen(torch.sigmoid(peaks) * shapes, size.exp().expand_as(shapes))
                error = (1.0 - (1.0 - alpha).prod(dim=2) - goal).square() * self._RADII
                optimizer.zero_grad()
                error.sum().backward()
                optimizer.step()
        peaks, size, middle, sharp = (value.detach() for value in table)
        self._table = torch.stack([peaks, middle * unit, sharp.expand_as(peaks), size], dim=-1)

    @classmethod
    def of_window(cls, window: ClipWindow) -> _Bells:
        begin, there, going, gone = window.edges
        margin = 0.1 * (gone - begin)
        times = torch.linspace(max(begin - margin, 0.0), min(gone + margin, 1.0), _SAMPLES)
        # What has no ramp at an end of the clip may reach beyond it.
        low = begin if there > begin else begin - 0.25 * (gone - begin)
        high = gone if going < gone else gone + 0.25 * (gone - begin)
        number = BELLS[(window.index > 0) + (window.index + 1 < len(window.spans))]
        spacing = (high - low) / number
        centers = low + spacing * (torch.arange(number) + 0.5)
        weights = [window.weight(time) for time in times.tolist()]
        return cls(times, weights, centers, 0.75 * spacing, fixed=False)

    @classmethod
    def of_clip(cls) -> _Bells:
        """Returns bells, evenly spread over the clip, that are a Gaussian which is there throughout."""
        times = torch.linspace(0.0, 1.0, 2 * _SAMPLES)
        centers = torch.linspace(0.0, 1.0, CUTS[0])
        return cls(times, [1.0] * len(times), centers, _OVERLAP / (CUTS[0] - 1), fixed=True)

    def spread(self, number: int) -> _Bells:
        """Returns `number` bells in place of the `CUTS[0]` of `of_clip`: those inside the clip are alike."""
        ends = CUTS[0] // 2
        table = self._table
        inside = table[:, ends : ends + 1].repeat(1, number - 2 * ends, 1)
        table = torch.cat([table[:, :ends], inside, table[:, -ends:]], dim=1)
        table[..., 1] = torch.linspace(0.0, 1.0, number)
        table[..., 2] += math.log((CUTS[0] - 1) / (number - 1))
        result = object.__new__(_Bells)
        result._table = table
        return result

    def of(self, logits: Tensor) -> Tensor:
        """Returns [N, bells, 4] logit of the peak, centre, logarithm of the width and of the factor on sizes."""
        levels = self._LEVELS
        inside = logits.clamp(levels[0], levels[-1])
        after = torch.searchsorted(levels, inside).clamp(1, len(levels) - 1)
        share = ((inside - levels[after - 1]) / (levels[after] - levels[after - 1]))[:, None, None]
        found = torch.lerp(self._table[after - 1], self._table[after], share)
        # Beyond the levels peaks follow the opacity, everything else is that of the last level.
        found[..., 0] += (logits - inside)[:, None]
        return found

    def _seen(self, opacities: Tensor, sizes: Tensor) -> Tensor:
        """Returns [..., R] the alpha at the distances from the centre."""
        alpha = opacities[..., None] * torch.exp(-0.5 * (self._RADII / sizes[..., None]) ** 2)
        # What is fainter is not drawn, of each bell by itself; softly, so that there is a gradient.
        return alpha * torch.sigmoid((alpha - _CUTOFF) / (0.1 * _CUTOFF))


@torch.no_grad()
def _split(rows: Params, bells: Tensor) -> list[Params]:
    """Returns a table per bell out of `bells` [N, B, 4]: times the bell that each row has itself."""
    found = bells.double()
    own = torch.exp(-2.0 * rows["durations"].double())
    result = []
    for peak, center, width, size in found.permute(1, 2, 0):
        sharp = torch.exp(-2.0 * width)
        middle = (rows["times"].double() * own + center * sharp) / (own + sharp)
        apart = (rows["times"].double() - center).square() * own * sharp / (own + sharp)
        height = torch.sigmoid(peak) * torch.exp(-apart)
        kept = height >= _CUTOFF
        table = recentred(rows, middle.float())
        table |= {
            "opacities": torch.logit(height.clamp(1e-6, 1.0 - 1e-6)).float(),
            "scales": rows["scales"] + size.float()[:, None],
            "durations": (-0.5 * (own + sharp).log()).float(),
        }
        result.append(_select(table, kept))
    return result
