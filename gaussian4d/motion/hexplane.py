"""HexPlane deformation: six planes of features over pairs of x, y, z, t, and a small network that reads them.

Wu et al., "4D Gaussian Splatting for Real-Time Dynamic Scene Rendering", CVPR 2024 (4DGaussians), section 4; the planes
are those of Cao and Johnson, "HexPlane: A Fast Representation for Dynamic Scenes", CVPR 2023. With a Gaussian's rest
position x, looked up with bilinear interpolation:

    f(x, t) = concat over resolutions of  P_xy * P_xz * P_yz * P_xt * P_yt * P_zt
    h = W f + b,      delta_A = V_A relu(U_A relu(h) + u_A) + v_A      for A in means, scales (logarithms), quats, ...

The Gaussians at t are those at rest plus the deltas. The last layers start at zero, so that nothing moves at first.
Planes and weights are shared tensors: they belong to no Gaussian.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UserError
from ..gaussians import Gaussians
from .base import SHARED, MotionModel, Params, colors_of

BOUNDS = f"{SHARED}bounds"
_MARGIN = 0.1
_OPACITY_SAMPLES = 9
_SPACE_PAIRS = ((0, 0, 1), (1, 2, 2))


@dataclasses.dataclass
class HexPlaneConfig:
    """Sizes of the planes and of the network, and what is deformed.

    The published sizes are 16 to 32 features, width 64 to 128, time resolutions of half the number of frames; features
    and width are smaller here, for a CPU.
    """

    space_resolution: int = 64
    time_resolution: int = 16
    """Grid points over the clip, the same at every level; fits set half the number of instants."""
    levels: tuple[int, ...] = (1, 2)
    """Factors on `space_resolution`, one set of planes each."""
    features: int = 8
    """Channels per plane."""
    width: int = 32
    """Hidden units."""
    deform_scales: bool = True
    deform_quats: bool = True
    deform_opacities: bool = False
    """Whether opacities change too; off as published."""

    def __post_init__(self) -> None:
        # From JSON it comes as a list.
        self.levels = tuple(self.levels)
        least = {"space_resolution": 2, "time_resolution": 3, "features": 1, "width": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"hexplane: {name} must be at least {value}, got {getattr(self, name)}")
        if not self.levels or min(self.levels) < 1:
            raise UserError(f"hexplane: levels must be one or more factors of at least 1, got {self.levels}")


class HexPlane(MotionModel):
    """Gaussians at rest, moved by a field of space and time."""

    name = "hexplane"
    config_type = HexPlaneConfig
    length_columns = (f"{SHARED}means.out.weight", f"{SHARED}means.out.bias")
    position_columns = (BOUNDS,)

    def __init__(self, config: HexPlaneConfig | None = None) -> None:
        super().__init__(config or HexPlaneConfig())
        c = self.config
        self._heads = {"means": 3}
        self._heads |= {"scales": 3} if c.deform_scales else {}
        self._heads |= {"quats": 4} if c.deform_quats else {}
        self._heads |= {"opacities": 1} if c.deform_opacities else {}

    def shared_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes: planes [3, F, rows, columns] over (xy, xz, yz) and (xt, yt, zt), t along the rows."""
        c = self.config
        shapes: dict[str, tuple[int, ...]] = {BOUNDS: (2, 3)}
        for k, factor in enumerate(c.levels):
            size = factor * c.space_resolution
            shapes[f"{SHARED}space.{k}"] = (3, c.features, size, size)
            shapes[f"{SHARED}time.{k}"] = (3, c.features, c.time_resolution, size)
        shapes |= _layer_shapes("trunk", c.width, c.features * len(c.levels))
        for name, channels in self._heads.items():
            shapes |= _layer_shapes(f"{name}.hidden", c.width, c.width)
            shapes |= _layer_shapes(f"{name}.out", channels, c.width)
        return shapes

    def init_shared(self, means: Tensor, generator: torch.Generator) -> Params:
        """Returns planes over the box of `means` and a network whose deltas are zero.

        Space planes start uniform in 0.1..0.5, time planes at one, as published.
        """
        low, high = means.amin(dim=0), means.amax(dim=0)
        margin = _MARGIN * (high - low).clamp_min(1e-3)
        shared: Params = {BOUNDS: torch.stack([low - margin, high + margin])}
        for name, shape in self.shared_shapes().items():
            kind = name.removeprefix(SHARED)
            if kind.startswith("space."):
                shared[name] = 0.1 + 0.4 * torch.rand(shape, generator=generator)
            elif kind.startswith("time."):
                shared[name] = torch.ones(shape)
            elif kind.endswith((".out.weight", ".bias")):
                shared[name] = torch.zeros(shape)
            elif kind.endswith(".weight"):
                # He et al. 2015: keeps the size of the activations through relu.
                shared[name] = torch.randn(shape, generator=generator) * math.sqrt(2.0 / shape[1])
        return {name: value.to(means.device) for name, value in shared.items()}

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        rates = {}
        for name in self.shared_shapes():
            if name == BOUNDS:
                rates[name] = (0.0, 0.0)
            elif name.startswith((f"{SHARED}space.", f"{SHARED}time.")):
                rates[name] = (2e-2, 2e-3)
            else:
                rates[name] = (2e-3, 2e-4)
        return rates

    def fit_settings(self, scene: Any) -> dict[str, Any]:
        """Returns what 4DGaussians sets for multi-view scenes.

        Half as many grid points in time as frames, a first stage at rest (3000 of 17,000 steps), weights 2e-4, 1e-3 and
        1e-4 of the planes' penalties, opacities that change. A subject cut out has no surroundings to settle first:
        there the stage at rest was found to cost quality, and is left out.
        """
        return {
            "motion_config": {
                "time_resolution": max(len(scene.times) // 2, 3),
                "deform_opacities": not scene.has_alpha,
            },
            "optim.coarse": 0.0 if scene.has_alpha else 0.17,
            "loss.plane-variation": 2e-4,
            "loss.time-roughness": 1e-3,
            "loss.time-activity": 1e-4,
        }

    def terms(self) -> dict[str, Callable[[Any], Tensor]]:
        """Returns `plane-variation`, `time-roughness` and `time-activity`: see the functions below."""
        return {
            "plane-variation": lambda step: plane_variation(step.params),
            "time-roughness": lambda step: time_roughness(step.params),
            "time-activity": lambda step: time_activity(step.params),
        }

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        deltas = self._deltas(params, time)
        logits = params["opacities"]
        if "opacities" in deltas:
            logits = logits + deltas["opacities"][:, 0]
        return Gaussians(
            means=params["means"] + deltas["means"],
            quats=params["quats"] + deltas["quats"] if "quats" in deltas else params["quats"],
            scales=torch.exp(params["scales"] + deltas["scales"] if "scales" in deltas else params["scales"]),
            opacities=torch.sigmoid(logits),
            colors=colors_of(params, sh_degree),
        )

    def peak_opacities(self, params: Params) -> Tensor:
        if not self.config.deform_opacities:
            return super().peak_opacities(params)
        with torch.no_grad():
            deltas = [
                self._deltas(params, k / (_OPACITY_SAMPLES - 1))["opacities"][:, 0] for k in range(_OPACITY_SAMPLES)
            ]
        return torch.sigmoid(params["opacities"] + torch.stack(deltas).amax(dim=0))

    def _deltas(self, params: Params, time: float) -> dict[str, Float[Tensor, "N C"]]:
        features = plane_features(params, len(self.config.levels), time)
        trunk = torch.relu(_linear(params, "trunk", features))
        return {
            name: _linear(params, f"{name}.out", torch.relu(_linear(params, f"{name}.hidden", trunk)))
            for name in self._heads
        }


def plane_features(params: Params, levels: int, time: float) -> Float[Tensor, "N F"]:
    """Returns the product of the six planes at the Gaussians' rest positions and `time`, levels side by side.

    Outside the box, and before and after the clip, the planes continue with their border values.
    """
    low, high = params[BOUNDS].detach()
    unit = (params["means"] - low) / (high - low) * 2.0 - 1.0
    first, second = _space_pairs(unit.device)
    space = torch.stack([unit[:, first].T, unit[:, second].T], dim=-1)[:, None]
    over_time = torch.stack([unit.T, torch.full_like(unit.T, 2.0 * time - 1.0)], dim=-1)[:, None]
    parts = []
    for k in range(levels):
        in_space = _sampled(params[f"{SHARED}space.{k}"], space)
        in_time = _sampled(params[f"{SHARED}time.{k}"], over_time)
        both = in_space * in_time
        parts.append(both[0] * both[1] * both[2])
    return torch.cat(parts).T


@functools.cache
def _space_pairs(device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns `_SPACE_PAIRS` as indices on a device: lists would be copied to it at every call."""
    first, second = (torch.tensor(pair, device=device) for pair in _SPACE_PAIRS)
    return first, second


def _sampled(planes: Float[Tensor, "3 F rows columns"], places: Float[Tensor, "3 1 N 2"]) -> Float[Tensor, "3 F N"]:
    sampled = torch.nn.functional.grid_sample(
        planes, places, mode="bilinear", padding_mode="border", align_corners=True
    )
    return sampled[:, :, 0]


def _linear(params: Params, name: str, values: Float[Tensor, "N C"]) -> Float[Tensor, "N D"]:
    return torch.nn.functional.linear(values, params[f"{SHARED}{name}.weight"], params[f"{SHARED}{name}.bias"])


def _layer_shapes(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{SHARED}{name}.weight": (out, into), f"{SHARED}{name}.bias": (out,)}


def plane_variation(params: Params) -> Tensor:
    """Returns the total variation of the space planes: mean squared difference of neighbours, summed over levels.

    Fridovich-Keil et al., "K-Planes: Explicit Radiance Fields in Space, Time, and Appearance", CVPR 2023.
    """
    return _sum(
        planes.diff(dim=2).square().mean() + planes.diff(dim=3).square().mean() for planes in _planes(params, "space")
    )


def time_roughness(params: Params) -> Tensor:
    """Returns the mean squared second difference of the time planes along time, summed over levels (as in K-Planes)."""
    return _sum(planes.diff(n=2, dim=2).square().mean() for planes in _planes(params, "time"))


def time_activity(params: Params) -> Tensor:
    """Returns the mean distance of the time planes from one, where nothing changes with time (as in K-Planes)."""
    return _sum((planes - 1.0).abs().mean() for planes in _planes(params, "time"))


def _planes(params: Params, kind: str) -> list[Tensor]:
    return [value for name, value in params.items() if name.startswith(f"{SHARED}{kind}.")]


def _sum(terms) -> Tensor:
    return torch.stack(list(terms)).sum()
