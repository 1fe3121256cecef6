"""Finding the parts of a moving model that move as solid bodies: for formats that move nodes, not Gaussians.

A Gaussian belongs to a part when one rotation and one translation per instant, the same for the whole part, take it
from where it is at the reference instant to within a tolerance of where the model has it, its ellipsoid included, at
every instant. Its opacity, size and colour must stay the same too. Parts are found largest first: transforms are fitted
to small groups of Gaussians with similar paths (Kabsch, "A solution for the best rotation to relate two sets of
vectors", 1976), grown over all Gaussians that follow them, and the one that most follow is taken (random sample
consensus: Fischler and Bolles 1981). The groups are drawn with a fixed seed, so a model is always split the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from scipy.spatial import KDTree
from torch import Tensor

from ..gaussians import Gaussians, rotation_matrices
from ..harmonics import rotated_harmonics
from ..model import DynamicGaussians
from ..motion import RigidParts
from ..motion.rigid_parts import COLUMN, PIVOTS
from .sequence import VISIBLE_OPACITY
from .splats import SH_C0

TOLERANCE = 1e-3
"""How far a Gaussian may be from where its part takes it, in diagonals of the scene: half a pixel of 500."""

LOOSE, STILL = -2, -1
"""Instead of the index of a part: moves in another way; does not move."""

# An ellipsoid may also be off by this share of its longest half axis.
_SHAPE_SHARE = 0.1
# How far opacity, colour and the logarithm of the size may be from the middle of their range over the clip.
_OPACITY, _COLOR, _SIZE = 0.02, 0.02, 0.05
# A part holds at least so many Gaussians, and this share of those that move.
_FEWEST, _LEAST_SHARE, _MOST_PARTS = 16, 0.005, 64
# Parts are searched at so many instants; the transforms are fitted, and what follows them checked, at all of them.
_INSTANTS = 24
_SEEDS, _NEIGHBOURS, _POOL, _TRIED, _GROWN = 48, (8, 32), 16384, 4096, 8
# Tolerances while a transform grows from a few neighbours over its part, as multiples.
_GROWTH = (4.0, 3.0, 2.0, 1.5, 1.0, 1.0)
_FAILURES = 3


@dataclasses.dataclass
class RigidSplit:
    """The split of a model's rows, and the motion of the parts: x(t) = R(t) x(reference) + offset(t)."""

    part: np.ndarray
    """[N] index of the part, `STILL` or `LOOSE`."""
    times: np.ndarray
    """[T] clip times."""
    rotations: np.ndarray
    """[P, T, 3, 3]; exactly the identity for parts that only shift."""
    offsets: np.ndarray
    """[P, T, 3]"""
    state: Gaussians
    """All rows at the reference instant. For those not loose, opacity, size and colour are means over the clip, of
    harmonics in the axes of the part."""
    pivots: np.ndarray | None = None
    """[P, 3] the points, at the reference instant, that move straight from one instant to the next while the part
    turns about them; None where that is not known."""

    @property
    def visible(self) -> np.ndarray:
        """[N] which rows are drawn at the reference instant."""
        return self.state.opacities.cpu().numpy() >= VISIBLE_OPACITY

    @property
    def share(self) -> float:
        """How much of what moves and is visible at the reference instant moves with a part: 0 to 1, by opacity."""
        weight = self.state.opacities.cpu().double().numpy() * self.visible
        moving = weight[self.part != STILL].sum()
        return float(weight[self.part >= 0].sum() / moving) if moving > 0.0 else 0.0


@torch.no_grad()
def find_rigid_parts(
    model: DynamicGaussians, times: Sequence[float] | np.ndarray, reference: float, *, tolerance: float = TOLERANCE
) -> RigidSplit:
    """Returns the parts of `model` that move as solid bodies over the clip times `times`.

    Args:
        model: Of a motion that keeps its Gaussians over time, so not `per-frame`.
        times: Clip times at which the transforms of the parts are wanted, ascending.
        reference: Clip time whose places the transforms start from.
        tolerance: See `TOLERANCE`.
    """
    model = model.to("cpu")
    times = np.asarray(times, np.float64)
    base = model.motion.of_rows(model.params, float(reference))
    reach = tolerance * _diagonal(base)
    picks = np.unique(np.linspace(0, len(times) - 1, min(len(times), _INSTANTS)).round().astype(int))
    states = [model.motion.of_rows(model.params, float(time), 0) for time in times[picks]]
    steady = _Steady(base)
    for state in states:
        steady.see(state)
    rows = np.flatnonzero(steady.rows() & (base.opacities.numpy() >= VISIBLE_OPACITY))
    home = base.means.double().numpy()[rows].T
    means = np.stack([state.means.double().numpy()[rows].T for state in states])
    identity = np.broadcast_to(np.eye(3), (len(picks), 3, 3))
    part = np.full(len(base), LOOSE)
    resting = _distance(identity, np.zeros((len(picks), 3)), home, means) <= reach
    # Near the axis of a part that turns, Gaussians stay in place and turn.
    resting &= ~_turning(base, states, rows, reach)
    part[rows[resting]] = STILL
    rows, home, means = rows[~resting], home[:, ~resting], means[:, :, ~resting]
    found = _search(home, means, reach)
    nearest = np.full(len(rows), reach)
    for index, (rotations, offsets) in enumerate(found):
        distance = _distance(rotations, offsets, home, means)
        part[rows[distance <= nearest]] = index
        nearest = np.minimum(nearest, distance)
    turns = [not np.array_equal(rotations, identity) for rotations, _ in found]
    return _followed(model, times, base, part, turns, reach)


@torch.no_grad()
def own_parts(model: DynamicGaussians, reference: float) -> RigidSplit:
    """Returns the parts of a model with the motion `rigid-parts`, at its own instants and the ends of the clip.

    They need not be found: however small or many they are, nothing of their motion is lost.

    Args:
        model: Of the motion `rigid-parts`.
        reference: As in `find_rigid_parts`.
    """
    model, motion = model.to("cpu"), model.motion
    assert isinstance(motion, RigidParts)
    keys = np.asarray(motion.config.times)
    times = np.unique(np.concatenate([[0.0], keys[(keys > 0.0) & (keys < 1.0)], [1.0]]))
    poses = [motion.poses(model.params, float(time)) for time in [*times, reference]]
    places = torch.stack([offsets for offsets, _ in poses], dim=1).double() + model.params[PIVOTS].double()[:, None]
    turns = rotation_matrices(torch.stack([quats for _, quats in poses], dim=1).double())
    rotations = (turns[:, :-1] @ turns[:, -1:].transpose(-1, -2)).numpy()
    still = np.abs(rotations - np.eye(3)).max(axis=(1, 2, 3), initial=0.0) < 1e-6
    rotations[still] = np.eye(3)
    pivots, places = places[:, -1].numpy(), places[:, :-1].numpy()
    part = model.params[COLUMN].long().numpy()
    part = np.where((part >= 0) & (part < len(rotations)), part, STILL)
    offsets = places - (rotations @ pivots[:, None, :, None])[..., 0]
    return RigidSplit(part, times, rotations, offsets, model.at(reference), pivots)


class _Steady:
    """Which rows keep their opacity, colour and size over all states seen."""

    def __init__(self, state: Gaussians) -> None:
        self._low = self._high = self._values(state)

    def see(self, state: Gaussians) -> None:
        values = self._values(state)
        self._low, self._high = torch.minimum(self._low, values), torch.maximum(self._high, values)

    def rows(self) -> np.ndarray:
        """Returns [N]."""
        return (self._high - self._low <= 2.0).all(dim=1).numpy()

    @staticmethod
    def _values(state: Gaussians) -> Tensor:
        """Returns [N, 7] opacity, colour and size in units of what they may differ by."""
        sizes = state.scales.clamp_min(1e-12).log() / _SIZE
        return torch.cat([state.opacities[:, None] / _OPACITY, state.colors[:, 0] * (SH_C0 / _COLOR), sizes], dim=1)


def _search(home: np.ndarray, means: np.ndarray, reach: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns rotations [T, 3, 3] and offsets [T, 3] of each part, from places [3, n] and paths [T, 3, n]."""
    rng = np.random.default_rng(0)
    left = np.arange(home.shape[1])
    fewest = max(_FEWEST, int(_LEAST_SHARE * len(left)))
    found: list[tuple[np.ndarray, np.ndarray]] = []
    failures = 0
    while len(left) >= fewest and len(found) < _MOST_PARTS and failures < _FAILURES:
        pool = left if len(left) <= _POOL else np.sort(rng.choice(left, _POOL, replace=False))
        candidate = _consensus(home[:, pool], means[:, :, pool], reach, rng)
        candidate = _grown(candidate, home[:, left], means[:, :, left], reach, (1.0, 1.0))
        inside = _distance(*candidate, home[:, left], means[:, :, left]) <= reach
        if inside.sum() < fewest:
            failures += 1
            continue
        failures = 0
        found.append(_simplest(candidate, home[:, left[inside]], means[:, :, left[inside]], reach))
        left = left[~inside]
    return found


def _consensus(
    home: np.ndarray, means: np.ndarray, reach: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the transforms that most of the Gaussians follow, out of those of small groups with similar paths."""
    count = home.shape[1]
    paths = np.concatenate([home, *means[[0, len(means) // 2, -1]]]).T
    tree = KDTree(paths)
    seeds = rng.choice(count, min(count, _SEEDS), replace=False)
    tried = np.sort(rng.choice(count, min(count, _TRIED), replace=False))
    candidates: list[tuple[int, tuple[np.ndarray, np.ndarray]]] = []
    for neighbours in _NEIGHBOURS:
        groups = tree.query(paths[seeds], k=min(neighbours, count))[1].reshape(len(seeds), -1)
        rotations, offsets = _fit(
            home[:, groups].transpose(1, 0, 2)[:, None], means[:, :, groups].transpose(2, 0, 1, 3)
        )
        for fitted in zip(rotations, offsets):
            followers = _distance(*fitted, home[:, tried], means[:, :, tried]) <= 2.0 * reach
            candidates.append((int(followers.sum()), fitted))
    candidates.sort(key=lambda candidate: -candidate[0])
    grown = [_grown(fitted, home, means, reach, _GROWTH) for _, fitted in candidates[:_GROWN]]
    return max(grown, key=lambda fitted: int((_distance(*fitted, home, means) <= reach).sum()))


def _grown(
    fitted: tuple[np.ndarray, np.ndarray], home: np.ndarray, means: np.ndarray, reach: float, steps: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the transforms fitted again to all that follow them, once for each factor on the tolerance."""
    for factor in steps:
        inside = _distance(*fitted, home, means) <= factor * reach
        if inside.sum() < 4:
            break
        fitted = _fit(home[:, inside], means[:, :, inside])
    return fitted


def _simplest(
    fitted: tuple[np.ndarray, np.ndarray], home: np.ndarray, means: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns transforms without rotations where nearly all Gaussians follow those too."""
    offsets = (means - home).mean(axis=2)
    shifts = np.broadcast_to(np.eye(3), (len(means), 3, 3)), offsets
    return shifts if (_distance(*shifts, home, means) <= reach).mean() >= 0.98 else fitted


def _fit(home: np.ndarray, there: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rotations [..., 3, 3] and offsets [..., 3] that take places [..., 3, n] best to others: Kabsch."""
    middle, goal = home.mean(axis=-1, keepdims=True), there.mean(axis=-1, keepdims=True)
    left, _, right = np.linalg.svd((there - goal) @ np.swapaxes(home - middle, -1, -2))
    # The least certain axis is mirrored where the best orthogonal matrix is no rotation.
    left[..., :, 2] *= np.linalg.det(left @ right)[..., None]
    rotations = left @ right
    return rotations, (goal - rotations @ middle)[..., 0]


def _distance(rotations: np.ndarray, offsets: np.ndarray, home: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Returns [n] the largest distance over the instants between where Gaussians are and where they are taken."""
    gap = rotations @ home + offsets[:, :, None] - means
    return np.sqrt(np.square(gap).sum(axis=1).max(axis=0))


def _followed(
    model: DynamicGaussians, times: np.ndarray, base: Gaussians, part: np.ndarray, turns: list[bool], reach: float
) -> RigidSplit:
    """Returns the split with transforms at all `times`; what does not follow at each of them becomes loose."""
    members = [np.flatnonzero(part == index) for index in range(len(turns))]
    home, roots = base.means.double(), _roots(base)
    allowed = _allowed(base, reach)
    rotations = np.broadcast_to(np.eye(3), (len(turns), len(times), 3, 3)).copy()
    offsets = np.zeros((len(turns), len(times), 3))
    steady, off = _Steady(base), torch.zeros(len(base), dtype=torch.bool)
    sums = {name: torch.zeros_like(getattr(base, name)) for name in ("opacities", "scales", "colors")}
    for k, time in enumerate(times):
        state = model.motion.of_rows(model.params, float(time))
        steady.see(state)
        there, colors, seen = state.means.double(), state.colors.clone(), _roots(state)
        for index, rows in enumerate(members):
            if len(rows) == 0:
                continue
            if turns[index]:
                rotations[index, k], offsets[index, k] = _fit(home[rows].numpy().T, there[rows].numpy().T)
            else:
                offsets[index, k] = (there[rows] - home[rows]).numpy().mean(axis=0)
            turn = torch.from_numpy(rotations[index, k])
            gap = home[rows] @ turn.T + torch.from_numpy(offsets[index, k]) - there[rows]
            # Tolerance is once more as wide where only some instants were searched.
            off[rows] |= gap.norm(dim=1) > 1.5 * reach
            turned = turn.float() @ roots[rows] @ turn.float().T
            off[rows] |= (turned - seen[rows]).flatten(1).norm(dim=1) > allowed[rows]
            if turns[index]:
                colors[rows, 1:] = rotated_harmonics(colors[rows, 1:], turn.T)
        resting = torch.from_numpy(np.flatnonzero(part == STILL))
        off[resting] |= (there[resting] - home[resting]).norm(dim=1) > 1.5 * reach
        off[resting] |= (roots[resting] - seen[resting]).flatten(1).norm(dim=1) > allowed[resting]
        sums["opacities"] += state.opacities
        sums["scales"] += state.scales.clamp_min(1e-12).log()
        sums["colors"] += colors
    part = np.where(off.numpy() | ~steady.rows(), LOOSE, part)
    kept = [index for index in range(len(turns)) if (part == index).sum() >= _FEWEST]
    names = np.full(len(turns) + 1, LOOSE)
    names[kept] = np.arange(len(kept))
    part = np.where(part >= 0, names[np.maximum(part, 0)], part)
    average = {name: value / len(times) for name, value in sums.items()}
    average["scales"] = average["scales"].exp()
    fixed = torch.from_numpy(part != LOOSE)
    for name, value in average.items():
        average[name] = torch.where(fixed.reshape(-1, *[1] * (value.ndim - 1)), value, getattr(base, name))
    state = dataclasses.replace(base, **average)
    return RigidSplit(part, times, rotations[kept], offsets[kept], state)


def _turning(base: Gaussians, states: Sequence[Gaussians], rows: np.ndarray, reach: float) -> np.ndarray:
    """Returns [n] whether the ellipsoids of `rows` change more than they may."""
    result = np.zeros(len(rows), bool)
    for state in states:
        cosine = torch.nn.functional.cosine_similarity(base.quats[rows], state.quats[rows], dim=1).abs()
        # Those that turn at all, or not in a way that shows already.
        some = np.flatnonzero((cosine < 1.0 - 1e-6).numpy() & ~result)
        before, after = base.select(torch.from_numpy(rows[some])), state.select(torch.from_numpy(rows[some]))
        gap = (_roots(before) - _roots(after)).flatten(1).norm(dim=1)
        result[some] = (gap > _allowed(before, reach)).numpy()
    return result


def _allowed(state: Gaussians, reach: float) -> Tensor:
    """Returns [N] how far ellipsoids may be off, as differences of `_roots`."""
    return torch.maximum(_SHAPE_SHARE * state.scales.amax(dim=1), torch.tensor(reach))


def _roots(state: Gaussians) -> Tensor:
    """Returns [N, 3, 3] the square roots of the covariances, whose differences are lengths."""
    turn = rotation_matrices(state.quats)
    return (turn * state.scales[:, None]) @ turn.transpose(1, 2)


def _diagonal(state: Gaussians) -> float:
    """Returns the diagonal of the box of the visible Gaussians, the outermost 1 % of each side left out."""
    means = state.means[state.opacities >= VISIBLE_OPACITY].double().numpy()
    if len(means) == 0:
        return 0.0
    low, high = np.quantile(means, [0.01, 0.99], axis=0)
    return float(np.linalg.norm(high - low))
