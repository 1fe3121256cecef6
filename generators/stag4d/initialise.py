"""Where a STAG4D fit starts: a reconstructor's Gaussians, the hull of the anchors' outlines, or a ball of points."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera
from gaussian4d.fitting.config import FitConfig
from gaussian4d.fitting.hull import carve
from gaussian4d.fitting.initialise import InitialPoints, initial_params
from gaussian4d.fitting.views import View
from gaussian4d.gaussians import Gaussians
from gaussian4d.motion import MotionModel, Params
from gaussian4d.motion.hexplane import BOUNDS

from ..cameras import FRAMED_RADIUS
from ..priors.base import GaussianReconstructor
from .anchors import Anchors
from .config import StagConfig

_AGREEMENT = 0.85
"""Share of the views in whose outline a point must lie: a prior's views do not agree to the pixel."""
_LEAST_POINTS = 100


def start_params(
    config: StagConfig,
    settings: FitConfig,
    motion: MotionModel,
    frames: Float[Tensor, "T 4 H W"],
    times: Sequence[float],
    camera: Camera,
    anchors: Anchors | None,
    reconstructor: GaussianReconstructor | None,
    canonical: int,
    say: Callable[[str], None],
) -> Params:
    """Returns the parameter table a fit starts from; `canonical` is the instant that is fitted at rest."""
    rng = np.random.default_rng(config.seed)
    if anchors is not None and reconstructor is not None:
        params = _reconstructed(config, motion, times, anchors, reconstructor, canonical)
        say(f"start: {len(params['means']):,} Gaussians of {reconstructor.info.name}")
    else:
        points = None if anchors is None else _carved(config, motion, frames, times, camera, anchors, canonical, rng)
        if points is None:
            points = _ball(config.init_points, config.init_radius, rng)
            say(f"start: {len(points):,} random points in a ball of radius {config.init_radius:g}")
        else:
            say(f"start: {len(points):,} points of the hull of the views' outlines")
        params = initial_params(points, motion, settings)
    # The field must reach wherever the object goes, not only where it is at the start.
    shared = motion.init_shared(params["means"], torch.Generator().manual_seed(config.seed))
    if BOUNDS in shared:
        shared[BOUNDS] = torch.tensor([[-FRAMED_RADIUS] * 3, [FRAMED_RADIUS] * 3])
    return {**params, **shared}


def _carved(
    config: StagConfig,
    motion: MotionModel,
    frames: Tensor,
    times: Sequence[float],
    camera: Camera,
    anchors: Anchors,
    canonical: int,
    rng: np.random.Generator,
) -> InitialPoints | None:
    """Returns points on the visual hull, at one instant or, for Gaussians that come and go, at several."""
    count = min(config.init_instants, len(times)) if motion.windowed else 1
    instants = np.linspace(0, len(times) - 1, count).round().astype(int) if count > 1 else [canonical]
    xyz, rgb, found = [], [], []
    for t in instants:
        views = [_view(frames[t], camera, float(times[t]))]
        views += [_view(view, other, float(times[t])) for view, other in zip(anchors.views[t], anchors.cameras)]
        points, colors, _ = carve(views, FRAMED_RADIUS, _AGREEMENT, min(3, len(views)))
        chosen = rng.permutation(len(points))[: max(config.init_points // count, 1)]
        xyz.append(points[chosen])
        rgb.append(colors[chosen])
        found.append(np.full(len(chosen), times[t] if count > 1 else math.nan))
    if sum(map(len, xyz)) < _LEAST_POINTS:
        return None
    spacing = float(np.diff(np.asarray(times)[instants]).mean()) if count > 1 else 1.0
    return InitialPoints(
        np.concatenate(xyz).astype(np.float64),
        np.concatenate(rgb).astype(np.float64),
        np.concatenate(found).astype(np.float64),
        spacing,
    )


def _view(picture: Float[Tensor, "4 H W"], camera: Camera, time: float) -> View:
    rgba = picture.permute(1, 2, 0).cpu().numpy()
    alpha = rgba[..., 3]
    rgb = np.clip(rgba[..., :3] / np.maximum(alpha, 1e-3)[..., None], 0.0, 1.0)
    return View(camera, rgb, alpha, time, camera.id)


def _ball(count: int, radius: float, rng: np.random.Generator) -> InitialPoints:
    """Returns grey points even in a ball, as published."""
    directions = rng.standard_normal((count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    xyz = directions * (radius * rng.random(count) ** (1 / 3))[:, None]
    return InitialPoints(xyz, np.full((count, 3), 0.5), np.full(count, math.nan), 1.0)


def _reconstructed(
    config: StagConfig,
    motion: MotionModel,
    times: Sequence[float],
    anchors: Anchors,
    reconstructor: GaussianReconstructor,
    canonical: int,
) -> Params:
    """Returns what the reconstructor makes of the anchors of one instant; of several for Gaussians that come and go."""
    if not motion.windowed:
        gaussians = reconstructor.reconstruct(anchors.views[canonical], anchors.cameras)
        return _columns(gaussians, config.init_points, motion.init)
    count = min(config.init_instants, len(times))
    instants = np.linspace(0, len(times) - 1, count).round().astype(int).tolist()
    apart = float(np.diff(np.asarray(times)[instants]).mean()) if count > 1 else 1.0
    parts = []
    for t in instants:
        gaussians = reconstructor.reconstruct(anchors.views[t], anchors.cameras)
        moment = float(times[t])
        parts.append(
            _columns(
                gaussians,
                # Room for as many again as an instant has.
                config.max_gaussians // (count + 1),
                lambda n, moment=moment: motion.init_at(torch.full((n,), moment), apart),
            )
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _columns(gaussians: Gaussians, most: int, moving: Callable[[int], Params]) -> Params:
    """Returns the columns of the `most` most visible of `gaussians`; `moving(n)` gives those of the motion model."""
    visible = gaussians.opacities * gaussians.scales.sort(dim=1).values[:, 1:].prod(dim=1)
    chosen = torch.argsort(visible, descending=True, stable=True)[:most]
    kept = gaussians.select(chosen[gaussians.opacities[chosen] > 0.02])
    n = len(kept)
    return {
        "means": kept.means.detach().float(),
        "quats": torch.nn.functional.normalize(kept.quats.detach().float(), dim=-1),
        "scales": kept.scales.detach().float().clamp_min(1e-4).log(),
        "opacities": torch.logit(kept.opacities.detach().float().clamp(0.01, 0.95)),
        "sh0": kept.colors.detach().float()[:, :1],
        "shN": torch.zeros(n, 0, 3),
        **moving(n),
    }
