"""Any motion as the segments of a page: each Gaussian's path is cut until a cubic with a fading follows every piece.

The clip is halved again and again. A Gaussian is taken as it is over a window when, at every sampled time at which it
is visible there, the fit is within the tolerances below; otherwise each half gets a fit of its own. Rows of one window
form one group, drawn in that window only, so one piece hands over to the next without a dip or a double. Pieces meet
because the fits weigh the ends of their windows most.

A model of separate instants (per-frame) has nothing to fit: each instant is a group of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from ..cameras import Camera
from ..framing import framing_of
from ..gaussians import Gaussians
from ..model import DynamicGaussians
from ..motion import Params, is_shared
from .cubic import instants_of
from .difference import GOAL, shown_db
from .segments import ALWAYS, COLUMNS, VISIBLE_OPACITY, Segments, colour_columns, finite_rows, join, shown_as

MAX_LEVELS = 6
"""At most 64 windows."""

INTERVALS = 4  # samples per shortest window
ROWS = 4096  # Gaussians sampled at once, which bounds the memory
_END_WEIGHT = 1000.0
_TRIES = ((2.0, 0), (1.0, 1), (1.0, 2), (0.5, 2))  # factor of the tolerances, more halvings
_UNSEEN_WEIGHT = 1e-6
_FARTHEST = 1.5  # from the middle of a window to that of a fading, in widths


@dataclasses.dataclass(frozen=True)
class Tolerances:
    """The largest deviation of a fit at any sampled time."""

    pixels: float = 0.25
    """Position, in pixels of the nearest camera."""
    turn: float = 0.03
    """Unit quaternion."""
    log_scale: float = 0.05
    color: float = 0.04
    opacity: float = 0.03

    def times(self, factor: float) -> Tolerances:
        """Returns all of them `factor` times as large."""
        return Tolerances(*(factor * value for value in dataclasses.astuple(self)))


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a row can do."""

    degree: int = 3
    """Of the path, 1 to 3."""
    turns: bool = True


@dataclasses.dataclass
class Samples:
    """Some Gaussians at T times. Arrays [T, N, ...]."""

    times: np.ndarray
    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    sh0: np.ndarray
    sh1: np.ndarray

    def part(self, times: slice, rows: np.ndarray) -> Samples:
        values = {f.name: getattr(self, f.name)[times][:, rows] for f in dataclasses.fields(self) if f.name != "times"}
        return Samples(times=self.times[times], **values)


def bake(
    model: DynamicGaussians,
    cameras: Sequence[Camera],
    *,
    tolerances: Tolerances | None = None,
    shape: Shape = Shape(),
    finer: int = 0,
    progress: Callable[[float], None] = lambda done: None,
) -> Segments:
    """Returns `model` as segments.

    Args:
        model: Of any motion.
        cameras: From where it will be looked at; what a pixel is in world units is told by the nearest one.
        tolerances: How closely to follow the motion.
        shape: What a row can do.
        finer: How much more often than down to one recorded frame the clip may be halved.
        progress: Called with the part done, 0..1.
    """
    if not model.motion.connected:
        return _instants(model)
    tolerances = tolerances or Tolerances()
    levels = clip_levels(model) + finer
    times = np.linspace(0.0, 1.0, 2**levels * INTERVALS + 1)
    parts: dict[tuple[float, float], list[dict[str, np.ndarray]]] = {}
    for first in range(0, len(model), ROWS):
        rows = slice(first, min(first + ROWS, len(model)))
        samples = sample(model, rows, times)
        pixel = pixel_sizes(samples.means[len(times) // 2], cameras)
        for window, columns in _cut(samples, pixel, levels, tolerances, shape):
            columns["sources"] += first
            parts.setdefault(window, []).append(columns)
        progress(rows.stop / len(model))
    if not parts:
        return join([(*ALWAYS, _no_rows())])
    merged = {w: {name: np.concatenate([c[name] for c in found]) for name in COLUMNS} for w, found in parts.items()}
    return join([(*window, merged[window]) for window in sorted(merged)])


def approximated(model: DynamicGaussians, shape: Shape) -> Segments:
    """Returns `model` as segments that look like it from its cameras: by `GOAL` dB, or as close as cutting comes."""
    framing, degree = framing_of(model), min(1, model.sh_degree)
    cameras = framing.view.cameras or framing.around
    for factor, finer in _TRIES:
        segments = bake(model, cameras, tolerances=Tolerances().times(factor), shape=shape, finer=finer)
        if shown_db(model, shown_as(model, segments), degree) >= GOAL:
            return segments
    return segments


def clip_levels(model: DynamicGaussians) -> int:
    """Returns how often the clip may be halved: down to windows of one recorded frame, within `MAX_LEVELS`."""
    frames = 31 if model.times is None else len(model.times)
    return min(MAX_LEVELS, max(0, math.ceil(math.log2(max(1, frames - 1)))))


@torch.no_grad()
def sample(model: DynamicGaussians, rows: slice, times: np.ndarray) -> Samples:
    params: Params = {n: v if is_shared(n) else v[rows] for n, v in model.params.items()}
    states = [model.motion.of_rows(params, float(time), 1) for time in times]

    def stacked(name: str) -> np.ndarray:
        return np.stack([getattr(state, name).detach().cpu().numpy() for state in states]).astype(np.float32)

    quats = stacked("quats")
    quats /= np.maximum(np.linalg.norm(quats, axis=-1, keepdims=True), 1e-20)
    # q and -q are the same rotation; along the time they must not jump from one to the other.
    turned = np.sign((quats[1:] * quats[:-1]).sum(axis=-1, keepdims=True))
    quats[1:] *= np.cumprod(np.where(turned == 0, 1.0, turned), axis=0)
    colors = [colour_columns(state.colors.detach().cpu().numpy()) for state in states]
    return Samples(
        times=times,
        means=stacked("means"),
        quats=quats,
        scales=np.log(np.maximum(stacked("scales"), 1e-20)),
        opacities=stacked("opacities"),
        sh0=np.stack([sh0 for sh0, _ in colors]).astype(np.float32),
        sh1=np.stack([sh1 for _, sh1 in colors]).astype(np.float32),
    )


def pixel_sizes(means: np.ndarray, cameras: Sequence[Camera]) -> np.ndarray:
    """Returns [N] the size of a pixel at `means` [N, 3], world units, for the camera to which it is smallest."""
    best = np.full(len(means), np.inf)
    for camera in cameras:
        depth = means @ camera.viewmat[2, :3] + camera.viewmat[2, 3]
        best = np.where(depth > 0, np.minimum(best, depth / camera.K[0, 0]), best)
    # Behind all cameras: as exact as the rest.
    known = np.isfinite(best)
    return np.where(known, best, np.median(best[known]) if known.any() else 1e-3)


def _cut(
    samples: Samples, pixel: np.ndarray, levels: int, tolerances: Tolerances, shape: Shape
) -> Iterator[tuple[tuple[float, float], dict[str, np.ndarray]]]:
    """Yields ((start, end), columns) for every window in which some Gaussian is taken."""
    pending: list[tuple[int, int, np.ndarray]] = [(0, 0, np.arange(len(pixel)))]
    while pending:
        level, index, rows = pending.pop()
        span = 2 ** (levels - level) * INTERVALS
        part = samples.part(slice(index * span, (index + 1) * span + 1), rows)
        seen = (part.opacities >= VISIBLE_OPACITY).any(axis=0)
        rows, part = rows[seen], part.part(slice(None), np.flatnonzero(seen))
        if not len(rows):
            continue
        columns, close = _fit(part, pixel[rows], tolerances, shape)
        columns["sources"] = rows
        take = (close if level < levels else np.ones(len(rows), bool)) & finite_rows(columns)
        if take.any():
            start = ALWAYS[0] if index == 0 else index / 2**level
            end = ALWAYS[1] if index == 2**level - 1 else (index + 1) / 2**level
            yield (start, end), {name: value[take] for name, value in columns.items()}
        rest = rows[~take]
        if level < levels and len(rest):
            pending += [(level + 1, 2 * index + half, rest) for half in (0, 1)]


def _fit(
    part: Samples, pixel: np.ndarray, tolerances: Tolerances, shape: Shape
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns the columns of a segment over all of `part`, and [N] whether each is within the tolerances."""
    seen = part.opacities >= VISIBLE_OPACITY
    opacities, centers, sharpness, opacity_error = fading(part, seen, tolerances.opacity)
    curve, motion_error = _path(part, seen, shape.degree)
    since = centers - 0.5 * (part.times[0] + part.times[-1])
    means, motion = _around(curve, since)
    first, last = part.quats[0], part.quats[-1]
    if not shape.turns:
        first = last = 0.5 * (first + last)
    width = part.times[-1] - part.times[0]
    u = ((part.times - part.times[0]) / width)[:, None, None]
    between = first + u * (last - first)
    between /= np.maximum(np.linalg.norm(between, axis=-1, keepdims=True), 1e-20)
    turn_error = largest(np.linalg.norm(between - part.quats, axis=-1), seen)
    spins = (last - first) / width
    scales, scale_error = constant(part.scales, seen)
    sh0, sh0_error = constant(part.sh0, seen)
    sh1, sh1_error = constant(part.sh1, seen)
    columns = {
        "means": means,
        "motion": motion,
        "quats": 0.5 * (first + last) + since[:, None] * spins,
        "spins": spins,
        "scales": scales,
        "opacities": opacities,
        "centers": centers,
        "sharpness": sharpness,
        "sh0": sh0,
        "sh1": sh1,
    }
    close = (
        (motion_error <= tolerances.pixels * pixel)
        & (turn_error <= np.maximum(tolerances.turn, turned_pixels(part.scales, seen, pixel, tolerances.pixels)))
        & (scale_error <= tolerances.log_scale)
        # 0.28 and 0.49 are the largest values of the functions of degree 0 and 1.
        & (0.28 * sh0_error + 0.49 * sh1_error <= tolerances.color)
        & (opacity_error <= tolerances.opacity)
    )
    return {name: np.asarray(value, np.float64) for name, value in columns.items()}, close


def turned_pixels(scales: np.ndarray, seen: np.ndarray, pixel: np.ndarray, tolerance: float) -> np.ndarray:
    """Returns [N] by how much unit quaternions may differ: a Gaussian that is small or round may be turned further.

    A turn by 2 |dq| moves what is one deviation away along the longest axis by as much times what that axis is longer
    than the shortest.
    """
    lengths = np.exp(scales)
    longer = largest(lengths.max(axis=-1) - lengths.min(axis=-1), seen)
    return np.minimum(tolerance * pixel / np.maximum(2.0 * longer, 1e-20), 1.0)


def end_weights(count: int) -> np.ndarray:
    """Returns [count] the weights of the samples of a window: pieces meet because the ends weigh most."""
    weights = np.ones(count)
    weights[[0, -1]] = _END_WEIGHT
    return weights


def largest(errors: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Returns the largest of `errors` [T, N] over the times at which the Gaussians are `seen`."""
    return np.where(seen, errors, 0.0).max(axis=0)


def constant(values: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (value [N, ...], error [N]): the middle of what `values` [T, N, ...] take while seen."""
    mask = seen.reshape(*seen.shape, *[1] * (values.ndim - 2))
    low = np.where(mask, values, np.inf).min(axis=0)
    high = np.where(mask, values, -np.inf).max(axis=0)
    half = 0.5 * (high - low)
    return 0.5 * (low + high), half.reshape(len(half), -1).max(axis=1)


def _path(part: Samples, seen: np.ndarray, degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (coefficients [4, N, 3] in powers of the time from the middle of the window, largest error [N])."""
    middle, half = 0.5 * (part.times[0] + part.times[-1]), 0.5 * (part.times[-1] - part.times[0])
    x = (part.times - middle) / half
    basis = np.polynomial.legendre.legvander(x, degree)
    weights = np.where(seen, 1.0, _UNSEEN_WEIGHT) * end_weights(len(x))[:, None]
    anchor = part.means[len(x) // 2].astype(np.float64)
    offsets = part.means - anchor
    number = degree + 1
    normal = (weights.T @ (basis[:, :, None] * basis[:, None]).reshape(len(x), -1)).reshape(-1, number, number)
    right = np.stack([np.einsum("tn,tnc->nc", weights * basis[:, k : k + 1], offsets) for k in range(number)], axis=1)
    legendre = np.linalg.solve(normal, right)
    fitted = np.einsum("tk,nkc->tnc", basis, legendre)
    error = largest(np.linalg.norm(fitted - offsets, axis=-1), seen)
    to_powers = np.array([[1, 0, -0.5, 0], [0, 1, 0, -1.5], [0, 0, 1.5, 0], [0, 0, 0, 2.5]])
    powers = np.einsum("pk,nkc->pnc", to_powers[:, :number], legendre) / half ** np.arange(4)[:, None, None]
    powers[0] += anchor
    return powers, error


def _around(powers: np.ndarray, since: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (means [N, 3], motion [N, 3, 3]) of the cubics `powers` [4, N, 3] about times `since` [N] later."""
    s = since[:, None]
    p0, p1, p2, p3 = powers
    means = p0 + s * (p1 + s * (p2 + s * p3))
    return means, np.stack([p1 + s * (2 * p2 + 3 * s * p3), p2 + 3 * s * p3, p3], axis=1)


def fading(part: Samples, seen: np.ndarray, tolerance: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (opacities, centers, sharpness, error), each [N]: constant where that is close enough, else a window.

    The logarithm of a window is a parabola, which is fitted with the opacity as the weight of its error.
    """
    middle, width = 0.5 * (part.times[0] + part.times[-1]), part.times[-1] - part.times[0]
    opacities, error = constant(part.opacities, seen)
    centers, sharpness = np.full(len(error), middle), np.zeros(len(error))
    varies = np.flatnonzero(error > tolerance)
    if len(varies):
        observed, visible = part.opacities[:, varies].astype(np.float64), seen[:, varies]
        x = (part.times - middle) / width
        basis = np.stack([np.ones_like(x), x, x * x], axis=1)
        weights = np.where(visible, observed**2, 1e-9 * observed**2 + 1e-30)
        logs = np.log(np.maximum(observed, 1e-12))
        normal = (weights.T @ (basis[:, :, None] * basis[:, None]).reshape(len(x), 9)).reshape(-1, 3, 3)
        # A window shorter than the samples' distance leaves the parabola open.
        normal += 1e-12 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
        right = np.stack([(weights * basis[:, k : k + 1] * logs).sum(axis=0) for k in range(3)], axis=1)
        _, b, c = np.linalg.solve(normal, right[:, :, None])[:, :, 0].T
        near = (c < -1e-9) & (np.abs(b) <= -2 * _FARTHEST * c)
        # Far from its middle the cubic would be a small difference of large numbers, so the middle stays near: what
        # rises or falls all through the window is the flank of a parabola with a given middle.
        top = np.where(near, -b / np.where(near, 2 * c, -1.0), np.where(b > 0, _FARTHEST, -_FARTHEST))
        squares = (x[:, None] - top) ** 2
        total = weights.sum(axis=0)
        middle_square, middle_log = (weights * squares).sum(axis=0) / total, (weights * logs).sum(axis=0) / total
        spread = (weights * (squares - middle_square) ** 2).sum(axis=0)
        c = (weights * (squares - middle_square) * (logs - middle_log)).sum(axis=0) / np.maximum(spread, 1e-30)
        bent = c < -1e-9
        c = np.where(bent, c, -1.0)
        peak = np.exp(np.minimum(middle_log - c * middle_square, 0.0))
        window_error = largest(np.abs(peak * np.exp(c * squares) - observed), visible)
        better = bent & (window_error < error[varies])
        rows = varies[better]
        opacities[rows], error[rows] = peak[better], window_error[better]
        centers[rows] = middle + width * top[better]
        sharpness[rows] = np.sqrt(-c[better]) / width
    return opacities, centers, sharpness, error


def _instants(model: DynamicGaussians) -> Segments:
    """Returns a model of separate instants: each is shown from half-way to the one before to half-way to the next."""
    motion = model.motion
    times = instants_of(model).tolist() if motion.instants is None else motion.instants
    parts = []
    for instant, time in enumerate(times):
        start = ALWAYS[0] if instant == 0 else 0.5 * (times[instant - 1] + time)
        end = ALWAYS[1] if instant == len(times) - 1 else 0.5 * (time + times[instant + 1])
        parts.append((start, end, _still(motion.at(model.params, time, 1), time, motion.rows_at(model.params, time))))
    return join(parts or [(*ALWAYS, _no_rows())])


def _still(state: Gaussians, center: float, sources: torch.Tensor) -> dict[str, np.ndarray]:
    """Returns the visible Gaussians of `state` as columns without motion."""
    count = len(state)
    sh0, sh1 = colour_columns(state.colors.detach().cpu().double().numpy())
    columns = {
        "means": state.means.detach().cpu().double().numpy(),
        "motion": np.zeros((count, 3, 3)),
        "quats": state.quats.detach().cpu().double().numpy(),
        "spins": np.zeros((count, 4)),
        "scales": np.log(np.maximum(state.scales.detach().cpu().double().numpy(), 1e-20)),
        "opacities": state.opacities.detach().cpu().double().numpy(),
        "centers": np.full(count, center),
        "sharpness": np.zeros(count),
        "sh0": sh0,
        "sh1": sh1,
        "sources": sources.cpu().numpy(),
    }
    keep = (columns["opacities"] >= VISIBLE_OPACITY) & finite_rows(columns)
    return {name: value[keep] for name, value in columns.items()}


def _no_rows() -> dict[str, np.ndarray]:
    empty = torch.zeros(0, 3)
    state = Gaussians(empty, torch.zeros(0, 4), empty, torch.zeros(0), torch.zeros(0, 1, 3))
    return _still(state, 0.5, torch.zeros(0, dtype=torch.long))
