"""Where the fit of a window starts: from the Gaussians of the window before, so that what stands still keeps its place.

Of a model whose Gaussians come and go, those that last stay; what moves starts from points found in the new window.
Where every Gaussian lasts, all of them stay, as they are in the middle of the overlap.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..motion import MotionModel, Params
from ..motion.window import is_frozen
from .config import FitConfig
from .initialise import InitialPoints, initial_params

# Deviation of a Gaussian's temporal opacity, in windows, from which on it is held to outlast its window.
_LASTING = 0.5


@dataclasses.dataclass
class Predecessor:
    """The end of the fit of the window before, in the fit's frame."""

    params: Params
    motion: MotionModel
    time: float
    """Clip time in the middle of the overlap."""
    background: Tensor
    exposure: Tensor | None
    camera_ids: Sequence[str]
    """Of the rows of `exposure`."""


def lasting(before: Predecessor, motion: MotionModel, least_opacity: float) -> Params:
    """Returns the Gaussians that stay, under the motion model of the next window: at rest, there all the time."""
    params = before.params
    state = before.motion.at(params, before.time)
    chosen = state.opacities > least_opacity
    frozen = torch.zeros(len(state), dtype=torch.bool)
    if before.motion.windowed:
        frozen = is_frozen(params)
        chosen &= frozen | before.motion.outlasting(params, _LASTING)
    state, frozen = state.select(chosen), frozen[chosen]
    rows: Params = {
        "means": state.means,
        "quats": torch.nn.functional.normalize(state.quats, dim=-1),
        "scales": state.scales.log(),
        "opacities": torch.logit(state.opacities.clamp(1e-4, 1.0 - 1e-4)),
        "sh0": state.colors[:, :1],
        "shN": state.colors[:, 1:],
        **motion.init(len(state)),
    }
    if frozen.any():
        stopped = motion.frozen({name: value[frozen] for name, value in rows.items()})
        for name, value in stopped.items():
            rows[name] = rows[name].clone()
            rows[name][frozen] = value
    return {name: value.detach().clone() for name, value in rows.items()}


def start_params(before: Predecessor, config: FitConfig, points: InitialPoints | None) -> Params:
    """Returns the table a window starts from: what lasts, then the moving ones of `points`, no more than may be."""
    motion = config.make_motion()
    rows = lasting(before, motion, config.densify.prune_opacity)
    moving = None
    if points is not None:
        moving = _moving(points)
    room = max(config.densify.max_gaussians - (len(moving) if moving is not None else 0), 0)
    if len(rows["means"]) > room:
        kept = torch.argsort(rows["opacities"], descending=True, stable=True)[:room].sort().values
        rows = {name: value[kept] for name, value in rows.items()}
    if moving is not None and len(moving):
        more = initial_params(moving, motion, config)
        rows = {name: torch.cat([value, more[name]]) for name, value in rows.items()}
    return {**rows, **motion.init_shared(rows["means"], torch.Generator().manual_seed(config.seed))}


def _moving(points: InitialPoints) -> InitialPoints:
    chosen = np.isfinite(points.times)
    return dataclasses.replace(points, xyz=points.xyz[chosen], rgb=points.rgb[chosen], times=points.times[chosen])
