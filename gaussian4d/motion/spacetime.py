"""Spacetime Gaussians: each lives around its own instant, moves along a cubic and turns at a constant rate.

Li, Chen, Li and Xu, "Spacetime Gaussian Feature Splatting for Real-Time Dynamic View Synthesis", CVPR 2024 (STG),
section 4.1. With D = t - mu_t:

    mu(t) = mu + sum_{k=1}^{3} m_k D^k,    q(t) = q + omega D,    opacity(t) = opacity exp(-(D / s)^2)

The window has no factor 1/2: s is sqrt(2) standard deviations. As in the authors' program the motion sends no gradient
to mu_t, which is learnt from the opacity alone. Colour is spherical harmonics; the paper's full model has features
and a network.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import UserError
from ..gaussians import Gaussians
from . import window
from .base import MotionModel, Params, colors_of

_SHARPNESS = 1.0


@dataclasses.dataclass
class SpacetimeConfig:
    """Degree of the motion, and where durations start."""

    degree: int = 3
    """Highest power of time in the position."""
    static_duration: float = 4.0 * math.sqrt(2.0)
    """s, in clips, of a Gaussian that starts out static."""

    def __post_init__(self) -> None:
        if self.degree < 1:
            raise UserError(f"spacetime: degree must be at least 1, got {self.degree}; for no motion use static")


class Spacetime(MotionModel):
    """Polynomial motion, linear rotation and a temporal opacity window per Gaussian."""

    name = "spacetime"
    config_type = SpacetimeConfig
    can_freeze = True
    can_start_moving = True
    length_columns = ("trajectories",)

    @property
    def windowed(self) -> bool:
        return True

    @property
    def is_cubic(self) -> bool:
        return self.config.degree <= 3

    def cubic(self, params: Params) -> Params | None:
        if not self.is_cubic:
            return None
        missing = 3 - params["trajectories"].shape[1]
        cubic = torch.nn.functional.pad(params["trajectories"], (0, 0, 0, missing))
        return {"trajectories": cubic, **{name: params[name] for name in ("spins", "times", "durations")}}

    def columns(self) -> dict[str, tuple[int, ...]]:
        """Returns the columns; a trajectory [degree, 3] holds m_1, m_2, ..."""
        return {"trajectories": (self.config.degree, 3), "spins": (4,), **window.COLUMNS}

    def init(self, n: int) -> Params:
        return {**super().init(n), **window.whole_clip(n, self.config.static_duration)}

    def init_at(self, times: Tensor, duration: float) -> Params:
        brief = math.sqrt(2.0) * duration
        return {**super().init_at(times, duration), **window.around_instants(times, brief, self.config.static_duration)}

    def set_moving(self, columns: Params, velocities: Tensor) -> Params:
        higher = columns["trajectories"][:, 1:]
        return {"trajectories": torch.cat([velocities[:, None], higher], dim=1)}

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        return {
            "trajectories": (2e-3, 1e-4),
            "spins": (1e-3, 1e-4),
            "times": (2e-4, 2e-5),
            "durations": (5e-3, 1e-3),
        }

    def fit_settings(self, scene: Any) -> dict[str, Any]:
        """Returns first velocities from neighbouring instants."""
        return {"init.velocities": True}

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        since = time - params["times"]
        moved = torch.where(window.is_frozen(params), 0.0, since.detach())
        return Gaussians(
            means=_Polynomial.apply(params["means"], params["trajectories"], moved),
            quats=torch.addcmul(params["quats"], params["spins"], moved[:, None]),
            scales=torch.exp(params["scales"]),
            opacities=torch.sigmoid(params["opacities"]) * window.presence(since, params["durations"], _SHARPNESS),
            colors=colors_of(params, sh_degree),
        )

    def peak_opacities(self, params: Params) -> Tensor:
        return torch.sigmoid(params["opacities"]) * window.largest_presence(params, _SHARPNESS)

    def lifetimes(self, params: Params, of: float) -> Tensor:
        return window.share_of_clip(params, _SHARPNESS)

    def outlasting(self, params: Params, clips: float) -> Tensor:
        return window.outlasting(params, clips, _SHARPNESS)

    def frozen(self, rows: Params) -> Params:
        state = self.at(rows, 0.5)
        rest = {name: torch.zeros_like(rows[name]) for name in ("trajectories", "spins")}
        return {"means": state.means, "quats": state.quats, **rest, **window.always(rows)}


class _Polynomial(torch.autograd.Function):
    """means + sum_k trajectories[:, k-1] moved^k, by Horner's rule; `moved` gets no gradient.

    Written out by hand because autograd would keep every partial sum of Horner's rule.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, means: Float[Tensor, "N 3"], trajectories: Float[Tensor, "N K 3"], moved: Float[Tensor, " N"]
    ) -> Float[Tensor, "N 3"]:
        ctx.save_for_backward(moved)
        ctx.degree = trajectories.shape[1]
        steps = moved[:, None]
        total = torch.zeros_like(means)
        for k in range(ctx.degree - 1, -1, -1):
            total.add_(trajectories[:, k]).mul_(steps)
        return total.add_(means)

    @staticmethod
    @once_differentiable
    def backward(  # type: ignore[override]
        ctx: Any, grad: Float[Tensor, "N 3"]
    ) -> tuple[Tensor, Tensor, None]:
        (moved,) = ctx.saved_tensors
        grad_trajectories = grad.new_empty(len(grad), ctx.degree, 3)
        power = moved[:, None]
        for k in range(ctx.degree):
            torch.mul(grad, power, out=grad_trajectories[:, k])
            power = power * moved[:, None]
        return grad, grad_trajectories, None
