"""Point tracks of a model as `.npz`: points on what is seen at one instant, and where they are at all others.

Arrays: `xyz` float32 [T, P, 3] world positions, to which `offset` float64 [3] is to be added where the scene stands
far from the origin (else it is zero), `times` float64 [T] clip times, `start` the clip time at which the points were
chosen, `rgb` uint8 [P, 3] their colours then, and `fps`, frames per second or NaN where it is not known.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch

from ..data.records import PointCloud
from ..errors import UserError
from ..files import atomic_write
from ..model import DynamicGaussians
from ..offsets import offset_of
from ..tracks import track_points
from .cubic import written_instants
from .splats import SH_C0

# Share of the largest opacity: tracks are of what is seen, not of the haze around it.
_SOLID = 0.5


def write_tracks(
    path: str | os.PathLike[str],
    model: DynamicGaussians,
    *,
    count: int = 2000,
    start: float = 0.0,
    times: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """Returns the tracks [T, P, 3] written to `path`, atomically.

    Args:
        path: The file, `.npz`.
        model: Any but of motion per-frame.
        count: Points, at most; as many as there are Gaussians where those are fewer.
        start: Clip time at which the points are centres of Gaussians with at least half the largest opacity.
        times: Clip times of the rows; None for the model's own instants.
    """
    if count < 1:
        raise UserError(f"the number of points must be at least 1, got {count}")
    highest = float(model.at(start).opacities.detach().amax()) if len(model) else 0.0
    points = points_of(model, start, least=max(_SOLID * highest, 0.01), most=count)
    if times is None:
        times = written_instants(model)
    xyz = track_points(model, points.xyz, start, times).numpy().astype(np.float32)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            xyz=xyz,
            times=np.asarray(times, np.float64),
            start=np.float64(start),
            rgb=points.rgb,
            fps=np.float64(model.fps or np.nan),
            offset=offset_of(model),
        )
    return xyz


@torch.no_grad()
def points_of(model: DynamicGaussians, time: float, *, least: float = 0.1, most: int = 200_000) -> PointCloud:
    """Returns centres and colours of at most `most` Gaussians that are more opaque than `least` at clip time `time`.

    A random choice where there are more, always the same one. Raises `UserError` when there is none.
    """
    state = model.at(time)
    rows = np.flatnonzero((state.opacities > least).cpu().numpy())
    if len(rows) == 0:
        raise UserError(f"no Gaussian is more opaque than {least:g} at clip time {time:g}; choose another --time")
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(0).choice(rows, most, replace=False))
    chosen = state.select(torch.from_numpy(rows).to(state.means.device))
    color = (chosen.colors[:, 0] * SH_C0 + 0.5).clamp(0.0, 1.0)
    return PointCloud(
        chosen.means.cpu().numpy().astype(np.float32), (color * 255.0).round().cpu().numpy().astype(np.uint8)
    )
