"""Many Gaussians that move as sums of a few shared functions of time: what a page stores of motion that is no cubic.

Paths, turns, sizes and base colours of a model that deforms with time (dual-domain, hexplane) lie close to a space of
few functions of time, the same for all its Gaussians. For each of these attributes the functions span the first left
singular vectors of what the Gaussians do at T sampled times; a Gaussian is its mean and a few whole numbers, the
coefficients in units of a step. Each Gaussian also has a tree that says how the clip is cut for it: from functions and
coefficients the reader makes the rows of `segments`, which are linear in the coefficients.

    attribute(t) = mean + step sum_k coefficients_k functions_k(t)

Within a window of time the path becomes a cubic, the turn a straight line from its first to its last quaternion, size
and colour their mean. As in `bake`, a Gaussian is taken as it is over a window where that is within the tolerances,
else each half is looked at by itself. Only a Gaussian whose opacity is constant or one fading over the whole clip can
be written so, and whose harmonics of degree 1 stay; `series_of` says which do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from ..cameras import Camera
from ..model import DynamicGaussians
from .bake import (
    INTERVALS,
    ROWS,
    Samples,
    Tolerances,
    clip_levels,
    constant,
    end_weights,
    fading,
    largest,
    pixel_sizes,
    sample,
    turned_pixels,
)
from .segments import ALWAYS, VISIBLE_OPACITY, Segments, join

WIDTHS = {"means": 3, "quats": 4, "scales": 3, "sh0": 3}
"""The attributes with functions of time, and how many numbers each has."""

_STEPS = {"means": 0.06, "quats": 0.005, "scales": 0.008, "sh0": 0.008}
"""Steps of the coefficients; the functions' squares add up to their number at most. Of `means` in pixels."""
_MEAN_STEPS = {"means": 0.03, "quats": 0.003, "scales": 0.005, "sh0": 0.005}
_LEFT_OUT = {"means": 0.006, "quats": 0.0006, "scales": 0.001, "sh0": 0.001}
"""So much, root mean square, the functions that are left out may make up together."""
_MOST_FUNCTIONS = 24
_DESIGN_ROUNDS = 300
_MOST_OCTAVES = 15


@dataclasses.dataclass
class Series:
    """N Gaussians, their functions of time and how they are cut."""

    levels: int
    """How often the clip may be halved."""
    times: np.ndarray
    """[T] clip times of the samples."""
    functions: dict[str, np.ndarray]
    """[T, K] for each attribute of `WIDTHS`."""
    means: dict[str, np.ndarray]
    """[N, C] whole numbers for each attribute, in units of `mean_steps`."""
    coefficients: dict[str, np.ndarray]
    """[N, K, C] whole numbers for each attribute, in units of `steps`."""
    steps: dict[str, float]
    mean_steps: dict[str, float]
    octaves: np.ndarray
    """[N] by how many powers of two the steps of a Gaussian's path are larger: what is far away can be coarser."""
    opacities: np.ndarray
    """[N] the largest over time."""
    centers: np.ndarray
    """[N] clip time of the fading."""
    sharpness: np.ndarray
    """[N] 0 for Gaussians that do not fade."""
    sh1: np.ndarray
    """[N, 3, 3]"""
    trees: list[np.ndarray]
    """Per Gaussian the cuts, from the whole clip down, each window before its halves: 1 where it is halved, 0 where it
    is a row; windows of the last level, and those in which the Gaussian is not seen, are never halved."""

    def __len__(self) -> int:
        return len(self.opacities)

    def values(self, name: str, rows: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray]:
        """Returns (means [M, C], coefficients [M, K, C]) of some Gaussians as numbers."""
        scale = np.ldexp(1.0, self.octaves[rows]) if name == "means" else np.ones(len(self.octaves[rows]))
        mean = self.means[name][rows] * (self.mean_steps[name] * scale)[:, None]
        return mean, self.coefficients[name][rows] * (self.steps[name] * scale)[:, None, None]

    def window(self, level: int, index: int) -> slice:
        """Returns which samples a window has, both ends included."""
        span = 2 ** (self.levels - level) * INTERVALS
        return slice(index * span, (index + 1) * span + 1)

    def tables(self, level: int, index: int) -> dict[str, np.ndarray]:
        """Returns what makes rows of coefficients in a window: [K, 4] powers of the path about the middle of the
        window, [K, 2] first and last of the turn, [K, 1] means of size and colour."""
        times = self.times[self.window(level, index)]
        part = {name: values[self.window(level, index)] for name, values in self.functions.items()}
        return {
            "means": (cubic_fit(times) @ part["means"]).T,
            "quats": part["quats"][[0, -1]].T,
            "scales": part["scales"].mean(axis=0)[:, None],
            "sh0": part["sh0"].mean(axis=0)[:, None],
        }

    def leaves(self) -> dict[tuple[int, int], np.ndarray]:
        """Returns which Gaussians are a row in which window (level, index)."""
        found: dict[tuple[int, int], list[int]] = {}
        for row, tree in enumerate(self.trees):
            for window in _leaves(tree, self.levels):
                found.setdefault(window, []).append(row)
        return {window: np.array(rows) for window, rows in sorted(found.items(), key=lambda item: _place(*item[0]))}

    def expanded(self) -> Segments:
        """Returns the rows, in the order of `leaves`."""
        parts = [(*window_span(*window), self._rows(window, rows)) for window, rows in self.leaves().items()]
        return join(parts)

    def _rows(self, window: tuple[int, int], rows: np.ndarray) -> dict[str, np.ndarray]:
        tables, times = self.tables(*window), self.times[self.window(*window)]
        middle, width = 0.5 * (times[0] + times[-1]), times[-1] - times[0]
        fit = {}
        for name in WIDTHS:
            mean, coefficients = self.values(name, rows)
            fit[name] = np.einsum("nkc,kp->pnc", coefficients, tables[name])
            fit[name][0 if name == "means" else slice(None)] += mean
        fades = self.sharpness[rows] > 0
        centers = np.where(fades, self.centers[rows], middle)
        since = (centers - middle)[:, None]
        p0, p1, p2, p3 = fit["means"]
        first, last = fit["quats"]
        spins = (last - first) / width
        return {
            "means": p0 + since * (p1 + since * (p2 + since * p3)),
            "motion": np.stack([p1 + since * (2 * p2 + 3 * since * p3), p2 + 3 * since * p3, p3], axis=1),
            "quats": 0.5 * (first + last) + since * spins,
            "spins": spins,
            "scales": fit["scales"][0],
            "opacities": self.opacities[rows],
            "centers": centers,
            "sharpness": self.sharpness[rows],
            "sh0": fit["sh0"][0],
            "sh1": self.sh1[rows],
            "sources": rows,
        }


def series_of(
    model: DynamicGaussians, cameras: Sequence[Camera], *, tolerances: Tolerances | None = None, finer: float = 1.0
) -> tuple[Series, np.ndarray]:
    """Returns (the series, which rows of the model it holds).

    Args:
        model: Of connected motion.
        cameras: From where it will be looked at, as for `bake`.
        tolerances: For cutting.
        finer: All steps are divided by it.
    """
    tolerances = tolerances or Tolerances()
    levels = clip_levels(model)
    times = np.linspace(0.0, 1.0, 2**levels * INTERVALS + 1)
    # Twice over the model, because all samples of a large one at once would not fit into the memory.
    found = [_Sampled.of(samples, first, cameras, tolerances) for first, samples in _samples(model, times)]
    rows, pixel = np.concatenate([part.rows for part in found]), np.concatenate([part.pixel for part in found])
    fades = np.concatenate([part.fades for part in found])
    finest = float(np.percentile(pixel, 1.0)) if len(pixel) else 1.0
    lengths = {name: finest if name == "means" else 1.0 for name in WIDTHS}
    count = len(rows)
    series = Series(
        levels=levels,
        times=times,
        functions={
            name: _functions(np.sum([part.squares[name] for part in found], axis=0), count, _LEFT_OUT[name] / finer)
            for name in WIDTHS
        },
        means={name: np.zeros((count, width), np.int64) for name, width in WIDTHS.items()},
        coefficients={},
        steps={name: step / finer * lengths[name] for name, step in _STEPS.items()},
        mean_steps={name: step / finer * lengths[name] for name, step in _MEAN_STEPS.items()},
        octaves=np.clip(np.floor(np.log2(np.maximum(pixel / finest, 1.0))), 0, _MOST_OCTAVES).astype(np.int64),
        opacities=fades[:, 0],
        centers=fades[:, 1],
        sharpness=fades[:, 2],
        sh1=np.concatenate([part.sh1 for part in found]),
        trees=[],
    )
    for name, width in WIDTHS.items():
        series.coefficients[name] = np.zeros((count, series.functions[name].shape[1], width), np.int64)
    place = 0
    for part, (_, samples) in zip(found, _samples(model, times)):
        here = slice(place, place + len(part.rows))
        place = here.stop
        values = samples.part(slice(None), part.rows - part.first)
        tables = {name: getattr(values, name).astype(np.float64) for name in WIDTHS}
        for name, table in tables.items():
            scale = np.ldexp(1.0, series.octaves[here]) if name == "means" else np.ones(len(part.rows))
            mean = table.mean(axis=0)
            projected = np.einsum("kt,tnc->nkc", np.linalg.pinv(series.functions[name]), table - mean)
            series.means[name][here] = np.rint(mean / (series.mean_steps[name] * scale)[:, None])
            series.coefficients[name][here] = np.rint(projected / (series.steps[name] * scale)[:, None, None])
        series.trees += _cut(series, tables, here.start, pixel, tolerances)
    return series, rows


@dataclasses.dataclass
class _Sampled:
    """What the first look at some Gaussians finds."""

    first: int
    rows: np.ndarray
    """[M] those that can be a series, rows of the model."""
    pixel: np.ndarray
    fades: np.ndarray
    """[M, 3] opacities, centers, sharpness."""
    sh1: np.ndarray
    squares: dict[str, np.ndarray]
    """[T, T] of each attribute, summed over the Gaussians: products of what it is at two times."""

    @classmethod
    def of(cls, samples: Samples, first: int, cameras: Sequence[Camera], tolerances: Tolerances) -> _Sampled:
        rows, fades, sh1 = _suited(samples, tolerances)
        part = samples.part(slice(None), rows)
        pixel = pixel_sizes(part.means[len(part.times) // 2], cameras)
        squares = {}
        for name in WIDTHS:
            table = getattr(part, name).astype(np.float64)
            table = (table - table.mean(axis=0)) / (pixel if name == "means" else np.ones(len(rows)))[:, None]
            flat = table.reshape(len(table), -1)
            squares[name] = flat @ flat.T
        return cls(first, first + rows, pixel, fades, sh1, squares)


def _samples(model: DynamicGaussians, times: np.ndarray) -> Iterator[tuple[int, Samples]]:
    for first in range(0, len(model), ROWS):
        yield first, sample(model, slice(first, min(first + ROWS, len(model))), times)


def window_span(level: int, index: int) -> tuple[float, float]:
    """Returns the clip times between which a window is drawn; the first and the last go on for ever."""
    start = ALWAYS[0] if index == 0 else index / 2**level
    end = ALWAYS[1] if index == 2**level - 1 else (index + 1) / 2**level
    return start, end


def cubic_fit(times: np.ndarray) -> np.ndarray:
    """Returns [4, T] what makes powers about the middle of `times` [T] of values there; the ends weigh most."""
    middle, half = 0.5 * (times[0] + times[-1]), 0.5 * (times[-1] - times[0])
    powers = np.vander((times - middle) / half, 4, increasing=True)
    weights = end_weights(len(times))
    fit = np.linalg.solve((powers.T * weights) @ powers, powers.T * weights)
    return fit / half ** np.arange(4)[:, None]


def _suited(samples: Samples, tolerances: Tolerances) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (rows that can be a series, their opacities, centers and sharpness [M, 3], their sh1)."""
    usable = (np.linalg.norm(samples.quats, axis=-1) > 0).all(axis=0)
    for name in ("means", "quats", "scales", "opacities", "sh0", "sh1"):
        values = getattr(samples, name)
        usable &= np.isfinite(values.reshape(*values.shape[:2], -1)).all(axis=(0, 2))
    usable &= (samples.opacities >= VISIBLE_OPACITY).any(axis=0)
    rows = np.flatnonzero(usable)
    part = samples.part(slice(None), rows)
    seen = part.opacities >= VISIBLE_OPACITY
    opacities, centers, sharpness, error = fading(part, seen, tolerances.opacity)
    sh1, sh1_error = constant(part.sh1, seen)
    good = (error <= tolerances.opacity) & (0.49 * sh1_error <= tolerances.color)
    return rows[good], np.stack([opacities, centers, sharpness], axis=1)[good], sh1[good]


def _functions(squares: np.ndarray, count: int, left_out: float) -> np.ndarray:
    """Returns [T, K] the functions of which deviations with the products `squares` [T, T] are made.

    What they leave out is at most `left_out`, root mean square over times and `count` Gaussians. They span the first
    singular vectors, whose squares add up to several times as much at the ends of the clip as in its middle, and so
    would the rounding of coefficients. Their basis is instead one whose squares add up to K at most, at any time
    (Kiefer and Wolfowitz: the weights of a D-optimal design), and whose coefficients are uncorrelated.
    """
    values, vectors = np.linalg.eigh(squares)
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    after = values.sum() - np.append(0.0, np.cumsum(values))
    number = min(int((after > left_out**2 * len(values) * max(count, 1)).sum()), _MOST_FUNCTIONS)
    span = vectors[:, :number]
    if number == 0:
        return span
    weights = np.full(len(span), 1.0 / len(span))
    for _ in range(_DESIGN_ROUNDS):
        moments = (span.T * weights) @ span
        weights *= (span @ np.linalg.inv(moments) * span).sum(axis=1) / number
        weights /= weights.sum()
    basis = np.linalg.solve(np.linalg.cholesky((span.T * weights) @ span), span.T).T
    projection = np.linalg.pinv(basis)
    _, turn = np.linalg.eigh(projection @ squares @ projection.T)
    return basis @ turn[:, ::-1]


def _cut(
    series: Series, values: dict[str, np.ndarray], start: int, pixel: np.ndarray, tolerances: Tolerances
) -> list[np.ndarray]:
    """Returns the trees of the Gaussians from `start` on, whose sampled `values` [T, M, C] are given."""
    count = values["means"].shape[1]
    trees: list[list[int]] = [[] for _ in range(count)]

    def visit(level: int, index: int, rows: np.ndarray) -> None:
        halved = np.zeros(len(rows), bool)
        if level < series.levels:
            part = {name: table[series.window(level, index)][:, rows] for name, table in values.items()}
            halved = ~_close(series, part, pixel[start + rows], tolerances, (level, index), start + rows)
        for row, bit in zip(rows.tolist(), halved.tolist()):
            trees[row].append(int(bit))
        for half in (0, 1) if halved.any() else ():
            visit(level + 1, 2 * index + half, rows[halved])

    visit(0, 0, np.arange(count))
    return [np.array(tree, np.uint8) for tree in trees]


def _close(
    series: Series,
    there: dict[str, np.ndarray],
    pixel: np.ndarray,
    tolerances: Tolerances,
    window: tuple[int, int],
    rows: np.ndarray,
) -> np.ndarray:
    """Returns [M] whether one row each stands for `rows` in a window, whose samples are `there` [T, M, C]."""
    times = series.times[series.window(*window)]
    made = series._rows(window, rows)
    since = times[:, None] - made["centers"]
    seen = series.opacities[rows] * np.exp(-((series.sharpness[rows] * since) ** 2)) >= VISIBLE_OPACITY
    motion, s = made["motion"], since[..., None]
    means = made["means"] + s * (motion[:, 0] + s * (motion[:, 1] + s * motion[:, 2]))
    quats = made["quats"] + s * made["spins"]
    quats /= np.maximum(np.linalg.norm(quats, axis=-1, keepdims=True), 1e-20)
    turned = np.maximum(tolerances.turn, turned_pixels(there["scales"], seen, pixel, tolerances.pixels))
    return (
        (largest(np.linalg.norm(means - there["means"], axis=-1), seen) <= tolerances.pixels * pixel)
        & (largest(np.linalg.norm(quats - there["quats"], axis=-1), seen) <= turned)
        & (largest(np.abs(made["scales"] - there["scales"]).max(axis=-1), seen) <= tolerances.log_scale)
        & (largest(0.28 * np.abs(made["sh0"] - there["sh0"]).max(axis=-1), seen) <= tolerances.color)
    )


def _leaves(tree: np.ndarray, levels: int) -> Iterator[tuple[int, int]]:
    """Yields (level, index) of the windows that are rows."""
    pending, place = [(0, 0)], 0
    while pending:
        level, index = pending.pop()
        bit = tree[place] if place < len(tree) else 0
        place += 1
        if bit:
            pending += [(level + 1, 2 * index + 1), (level + 1, 2 * index)]
        else:
            yield level, index


def _place(level: int, index: int) -> tuple[float, int]:
    return index / 2**level, level
