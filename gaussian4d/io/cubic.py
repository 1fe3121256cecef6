"""Any motion as cubics under a temporal opacity window: what `.splatv` files hold and our `spacetime` model computes.

Where a motion model says what its cubics are (`MotionModel.cubic`), they are taken: `spacetime` up to degree 3,
`free-time` and `static` exactly, and separate instants stay separate, each under a window of its own. Gaussians of
other models are fitted by least squares at the instants they were fitted to: position by a cubic, rotation by a line,
opacity by the window that has its total, its middle and its spread over time. Where one
cubic under one window is not enough, `bells` takes several.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from ..clip_length import clip_length
from ..model import DynamicGaussians
from ..motion import Spacetime
from ..motion.base import Params
from ..motion.spacetime import SpacetimeConfig

_INSTANTS = 24
"""Instants at which a model is sampled that does not say at which it was fitted."""

# Not infinity, which stops a Gaussian for good: these move on.
_ENDLESS = 1000.0


def as_cubic(model: DynamicGaussians) -> DynamicGaussians:
    """Returns `model` with the motion `spacetime` of degree 3; see the module for what is exact."""
    own = model.motion.cubic(model.params)
    if own is None:
        params = fitted(model, instants_of(model, least=5))
    else:
        params = {**{key: model.params[key] for key in ("means", "quats", "scales", "opacities", "sh0", "shN")}, **own}
    return dataclasses.replace(model, params=params, motion=Spacetime(SpacetimeConfig(degree=3)))


def stays_cubic(model: DynamicGaussians) -> bool:
    """Returns whether `as_cubic` needs no fit: the motion itself says what its cubics are."""
    return model.motion.cubic(model.params) is not None


def instants_of(model: DynamicGaussians, least: int = 2) -> np.ndarray:
    """Returns the clip times to sample `model` at: its own, at least `least` of them."""
    times = own_instants(model)
    return times if times is not None and len(times) >= least else np.linspace(0.0, 1.0, max(least, _INSTANTS))


def written_instants(model: DynamicGaussians) -> np.ndarray:
    """Returns the clip times of the frames that `model` is written as: its own, one where nothing moves."""
    return np.zeros(1) if model.motion.still else instants_of(model, least=1)


def own_instants(model: DynamicGaussians) -> np.ndarray | None:
    """Returns the clip times that `model` was fitted to or that its motion is given at, None where it has none."""
    if model.times is not None:
        return np.asarray(model.times, np.float64)
    if model.motion.instants is not None:
        keys = np.asarray(model.motion.instants, np.float64)
        return keys[(keys >= 0.0) & (keys <= 1.0)]
    return None


def duration_of(model: DynamicGaussians) -> float:
    """Returns the seconds from clip time 0 to clip time 1; one for what does not move, which has none."""
    return clip_length(model).seconds or 1.0


@torch.no_grad()
def fitted(model: DynamicGaussians, times: np.ndarray, weights: np.ndarray | None = None) -> Params:
    """Returns the columns of cubics fitted to the states of `model` at the clip times `times`, five or more.

    `weights` [T] say how much each counts, for all but the opacity.
    """
    states = [model.motion.of_rows(model.params, float(time)) for time in times]
    opacities = torch.stack([state.opacities for state in states]).double()
    peak, center, width = window_of(torch.from_numpy(times), opacities)
    since = torch.from_numpy(times)[:, None] - center
    # What cannot be seen need not be followed; a floor keeps the system regular. Where a Gaussian is not there at all
    # (`of_rows`) it only has to stay within reach.
    floor = torch.where(opacities > 0.0, 1e-3, 1e-6)
    weight = torch.maximum(opacities / opacities.amax(dim=0).clamp_min(1e-6), floor)
    if weights is not None:
        weight = weight * torch.from_numpy(weights)[:, None]
    powers = torch.stack([since**k for k in range(4)], dim=-1)
    place = _least_squares(powers, torch.stack([state.means for state in states]).double(), weight)
    turn = _least_squares(powers[..., :2], _continuous([state.quats for state in states]).double(), weight)
    middle = states[len(states) // 2]
    scales = torch.stack([state.scales.clamp_min(1e-12).log() for state in states]).double()
    colors = torch.stack([state.colors.flatten(1) for state in states]).double()
    share = (weight / weight.sum(dim=0))[..., None]
    color = (share * colors).sum(dim=0).reshape(middle.colors.shape).float()
    canonical = {
        "means": place[:, 0].float(),
        "quats": turn[:, 0].float(),
        "scales": (share * scales).sum(dim=0).float(),
        "opacities": torch.logit(peak.clamp(1e-6, 1.0 - 1e-6)).float(),
        "sh0": color[:, :1],
        "shN": color[:, 1:],
    }
    own = {
        "trajectories": place[:, 1:].float(),
        "spins": turn[:, 1].float(),
        "times": center.float(),
        "durations": width.log().float(),
    }
    return {**canonical, **own}


def window_of(times: Tensor, opacities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (peak, centre, width) [N] of peak exp(-((t - centre) / width)^2) close to opacities [T, N].

    The better one of two fits. The first is by least squares of the logarithm, weighted by the opacity squared so that
    what is faint does not count: the logarithm is a parabola in time; where that opens upwards the opacity hardly
    changes, and the window is endless. The second has the middle and the spread of the opacity over time: it ends where
    the opacity is cut off, as at the ends of the windows of a long clip.
    """
    total = opacities.sum(dim=0).clamp_min(1e-12)
    middle = (times[:, None] * opacities).sum(dim=0) / total
    spread = ((times[:, None] - middle).square() * opacities).sum(dim=0) / total
    # Seen at one instant it lasts from half an interval before to half an interval after.
    spread = spread + float(np.median(np.diff(times.numpy()))) ** 2 / 12.0
    fits = [_parabola(times, opacities), (middle, (2.0 * spread).sqrt())]
    found = []
    for center, width in fits:
        shape = torch.exp(-(((times[:, None] - center) / width) ** 2))
        peak = (shape * opacities).sum(dim=0) / shape.square().sum(dim=0).clamp_min(1e-12)
        found.append((peak, center, width, (peak * shape - opacities).square().sum(dim=0)))
    first, second = found
    better = second[3] < first[3]
    return tuple(torch.where(better, b, a) for a, b in zip(first[:3], second[:3]))  # type: ignore[return-value]


def _parabola(times: Tensor, opacities: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (centre, width) [N] by least squares of the logarithm."""
    floor = 1e-4
    logs = opacities.clamp_min(floor).log()
    weight = opacities.square().clamp_min(1e-6)
    powers = torch.stack([torch.ones_like(times), times - 0.5, (times - 0.5) ** 2], dim=-1)
    fit = _least_squares(powers[:, None].expand(-1, opacities.shape[1], -1), logs[..., None], weight)[..., 0]
    curved = fit[:, 2] < -1e-3
    bend = torch.where(curved, fit[:, 2], torch.full_like(fit[:, 2], -1e-3))
    center = torch.where(curved, 0.5 - fit[:, 1] / (2 * bend), torch.full_like(bend, 0.5)).clamp(-2.0, 3.0)
    width = torch.where(curved, (-1.0 / bend).sqrt(), torch.full_like(bend, _ENDLESS))
    return center, width


def _least_squares(basis: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """Returns [N, P, D] coefficients of values [T, N, D] in basis [T, N, P] under weight [T, N]."""
    weighted = basis * weight[..., None]
    normal = torch.einsum("tnp,tnq->npq", weighted, basis)
    right = torch.einsum("tnp,tnd->npd", weighted, values)
    size = normal.diagonal(dim1=-2, dim2=-1)
    # Columns of equal length make the system as regular as it can be; the ridge only decides what the data does not.
    scale = size.clamp_min(1e-12).rsqrt()
    system = normal * scale[:, :, None] * scale[:, None, :]
    system = system + 1e-9 * torch.eye(system.shape[-1], dtype=system.dtype)
    return torch.linalg.solve(system, right * scale[..., None]) * scale[..., None]


def _continuous(quats: list[Tensor]) -> Tensor:
    """Returns unit quaternions [T, N, 4] whose signs do not jump from one instant to the next."""
    series = [torch.nn.functional.normalize(quats[0], dim=-1)]
    for quat in quats[1:]:
        following = torch.nn.functional.normalize(quat, dim=-1)
        same = (following * series[-1]).sum(dim=-1, keepdim=True) >= 0
        series.append(torch.where(same, following, -following))
    return torch.stack(series)
