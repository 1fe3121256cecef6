"""What a page plays: Gaussians that move along a cubic, turn at a constant rate, and fade around an instant.

With D = t - center, as in `motion.spacetime`:

    mean(t) = means + c_1 D + c_2 D^2 + c_3 D^3,    q(t) = quats + spins D
    opacity(t) = opacities exp(-(sharpness D)^2)

Rows lie in groups, each drawn in a span of clip time only. A motion that is such a cubic itself, as free-time and
spacetime, is one group for the whole clip; any other is cut into groups (see `bake`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from ..gaussians import Gaussians
from ..model import DynamicGaussians
from ..motion import MotionModel, Params, is_shared

VISIBLE_OPACITY = 1.0 / 255.0
"""The rasterizer draws nothing fainter."""

MAX_SH = 3
"""Coefficients of degree 1; a page holds no higher degree."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows `first` to `first + count`, drawn at clip times `start` < t <= `end`."""

    start: float
    end: float
    first: int
    count: int


# Before and after every clip time: such a group is always drawn.
ALWAYS = (-1.0, 2.0)


@dataclasses.dataclass
class Segments:
    """The rows and their groups. All arrays float64."""

    means: np.ndarray
    """[N, 3] at `centers`."""
    motion: np.ndarray
    """[N, 3, 3]: c_1, c_2, c_3, world units per clip, clip^2, clip^3."""
    quats: np.ndarray
    """[N, 4] wxyz, of any length."""
    spins: np.ndarray
    """[N, 4] per clip, in the units of `quats`."""
    scales: np.ndarray
    """[N, 3] logarithms."""
    opacities: np.ndarray
    """[N] in 0..1, the largest over time."""
    centers: np.ndarray
    """[N] clip time."""
    sharpness: np.ndarray
    """[N] per clip, 0 for rows that do not fade."""
    sh0: np.ndarray
    """[N, 3]."""
    sh1: np.ndarray
    """[N, 3, 3] coefficients of degree 1; zero where the model has none."""
    sources: np.ndarray
    """[N] the row of the model that each stands for, whole numbers."""
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        return len(self.means)

    def rows(self, index: np.ndarray | slice) -> dict[str, np.ndarray]:
        """Returns the columns of some rows by name."""
        return {name: getattr(self, name)[index] for name in COLUMNS}

    def at(self, time: float) -> Gaussians:
        """Returns what the page draws at clip time `time`, except that all rows of the groups are kept."""
        chosen = [np.arange(g.first, g.first + g.count) for g in self.groups if g.start < time <= g.end]
        rows = self.rows(np.concatenate(chosen) if chosen else np.arange(0))
        since = time - rows["centers"]
        powers = np.stack([since, since**2, since**3], axis=1)

        def tensor(value: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))

        return Gaussians(
            means=tensor(rows["means"] + np.einsum("nk,nkc->nc", powers, rows["motion"])),
            quats=tensor(rows["quats"] + rows["spins"] * since[:, None]),
            scales=tensor(np.exp(rows["scales"])),
            opacities=tensor(rows["opacities"] * np.exp(-((rows["sharpness"] * since) ** 2))),
            colors=tensor(np.concatenate([rows["sh0"][:, None], rows["sh1"]], axis=1)),
        )


COLUMNS = tuple(field.name for field in dataclasses.fields(Segments) if field.name != "groups")


def direct_segments(model: DynamicGaussians) -> Segments:
    """Returns a model that a cubic under a window is (`is_cubic`) as one group, without what is never seen."""
    assert model.motion.is_cubic
    params = {name: value.detach().cpu().double() for name, value in model.params.items()}
    cubic = model.motion.cubic(params)
    assert cubic is not None
    motion, spins = cubic["trajectories"].numpy().copy(), cubic["spins"].numpy().copy()
    # What lasts for ever does not move.
    sharpness = np.exp(-cubic["durations"].numpy())
    frozen = ~(sharpness > 0)
    motion[frozen], spins[frozen] = 0.0, 0.0
    return _seen(
        Segments(
            **_canonical(params),
            motion=motion,
            spins=spins,
            centers=cubic["times"].numpy(),
            sharpness=sharpness,
            sources=np.arange(len(model)),
            groups=(Group(*ALWAYS, 0, len(model)),),
        )
    )


def join(parts: Sequence[tuple[float, float, dict[str, np.ndarray]]]) -> Segments:
    """Returns (start, end, columns) groups as one; groups without rows are left out."""
    groups: list[Group] = []
    first = 0
    for start, end, columns in parts:
        rows = len(columns["means"])
        if rows:
            groups.append(Group(start, end, first, rows))
        first += rows
    merged = {name: np.concatenate([columns[name] for _, _, columns in parts]) for name in COLUMNS}
    return Segments(**merged, groups=tuple(groups))


def after(first: Segments, second: Segments) -> Segments:
    """Returns the rows and groups of both."""
    moved = tuple(dataclasses.replace(group, first=group.first + len(first)) for group in second.groups)
    rows = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in COLUMNS}
    return Segments(**rows, groups=(*first.groups, *moved))


def part_of(model: DynamicGaussians, rows: np.ndarray) -> DynamicGaussians:
    """Returns the model with some rows of its table only."""
    index = torch.from_numpy(np.asarray(rows, np.int64))
    params = {name: value if is_shared(name) else value[index] for name, value in model.params.items()}
    return dataclasses.replace(model, params=params)


def shown_as(model: DynamicGaussians, segments: Segments) -> DynamicGaussians:
    """Returns a model that is drawn as `segments` of `model` are."""
    return dataclasses.replace(model, motion=_SegmentMotion(segments))


class _SegmentMotion(MotionModel):
    """Draws segments instead of a parameter table."""

    name = "segments"
    fitted = False

    def __init__(self, segments: Segments) -> None:
        super().__init__(None)
        self.segments = segments

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        state = self.segments.at(time)
        # As many harmonics as the table has at most, so that a model cut to fewer is drawn with fewer.
        return dataclasses.replace(state, colors=state.colors[:, : 1 + params["shN"].shape[1]])


def colour_columns(colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (sh0 [N, 3], sh1 [N, 3, 3]) of coefficients [N, K, 3]; higher degrees are left out.

    The functions are orthonormal on the sphere, so leaving out is the best approximation over all directions.
    """
    sh1 = np.zeros((len(colors), MAX_SH, 3))
    if colors.shape[1] > MAX_SH:
        sh1[:] = colors[:, 1 : 1 + MAX_SH]
    return colors[:, 0].copy(), sh1


def _canonical(params: Params) -> dict[str, np.ndarray]:
    sh0, sh1 = colour_columns(torch.cat([params["sh0"], params["shN"]], dim=1).numpy())
    return {
        "means": params["means"].numpy(),
        "quats": params["quats"].numpy(),
        "scales": params["scales"].numpy(),
        "opacities": torch.sigmoid(params["opacities"]).numpy(),
        "sh0": sh0,
        "sh1": sh1,
    }


def _seen(segments: Segments) -> Segments:
    """Returns the one group of `segments` without rows that no time of the clip shows, or that are not numbers."""
    nearest = np.clip(segments.centers, 0.0, 1.0) - segments.centers
    peak = segments.opacities * np.exp(-((segments.sharpness * nearest) ** 2))
    keep = (peak >= VISIBLE_OPACITY) & finite_rows(segments.rows(slice(None)))
    return join([(*ALWAYS, segments.rows(keep))])


def finite_rows(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Returns [N] which rows hold numbers only and a quaternion that is a rotation."""
    keep = np.linalg.norm(columns["quats"], axis=1) > 0
    for value in columns.values():
        keep &= np.isfinite(value).all(axis=tuple(range(1, value.ndim)))
    return keep
