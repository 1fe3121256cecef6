"""Dual-domain deformation: every attribute moves along a polynomial plus a Fourier series of time.

Lin, Dai, Zhu and Yao, "Gaussian-Flow: 4D Reconstruction with Dynamic 3D Gaussian Particle", CVPR 2024 (DDDM).
Per Gaussian and scalar channel, with coefficients a_n, b_n, c_n:

    D(tau) = 1/N sum_{n=1}^{N-1} [ a_n tau^n + b_n sin(2 pi n tau) + c_n cos(2 pi n tau) ]
    S(t)   = S_0 + D(tau),        tau = time_factor t + time_offset - time_center

The sum starts at n = 1: the terms of n = 0 are constants that S_0 already holds. Powers are built by multiplication, so
the gradient at tau = 0 is finite. Polynomial and Fourier degrees may differ; N - 1 is the larger of the two.

In the paper a particle is there for the whole clip. With `temporal_opacity` it may appear and vanish: its opacity gets
the window of free-time Gaussians (see `window`), around an instant mu_t that is not the series' `time_center`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..gaussians import Gaussians
from . import window
from .base import MotionModel, Params, colors_of


@dataclasses.dataclass
class DualDomainConfig:
    """Degrees of the series per attribute, the map from clip time to the series' argument, and who may vanish."""

    means_poly: int = 4
    means_fourier: int = 4
    quats_poly: int = 3
    quats_fourier: int = 3
    sh0_poly: int = 1
    sh0_fourier: int = 1
    time_factor: float = 0.8
    """Below 1, so that the Fourier series need not return to its start at the end of the clip."""
    time_offset: float = 0.1
    temporal_opacity: bool = False
    """Whether particles may appear and vanish."""
    static_duration: float = 4.0
    """With `temporal_opacity`: standard deviation, in clips, of the window of a particle that starts out permanent."""


class DualDomain(MotionModel):
    """Position, rotation and base colour follow a polynomial plus a Fourier series; scale is constant."""

    name = "dual-domain"
    config_type = DualDomainConfig
    length_columns = ("means_series",)

    def __init__(self, config: DualDomainConfig | None = None) -> None:
        super().__init__(config or DualDomainConfig())
        c = self.config
        self._degrees = {
            "means_series": (c.means_poly, c.means_fourier, 3),
            "quats_series": (c.quats_poly, c.quats_fourier, 4),
            "sh0_series": (c.sh0_poly, c.sh0_fourier, 3),
        }

    @property
    def windowed(self) -> bool:
        return self.config.temporal_opacity

    def columns(self) -> dict[str, tuple[int, ...]]:
        """Returns the columns; a series [K, channels] holds the polynomial terms, then sines, then cosines."""
        shapes = {name: (p + 2 * f, channels) for name, (p, f, channels) in self._degrees.items() if p + f > 0}
        return {**shapes, "time_centers": (), **(window.COLUMNS if self.windowed else {})}

    def init(self, n: int) -> Params:
        brief = window.whole_clip(n, self.config.static_duration) if self.windowed else {}
        return {**super().init(n), **brief}

    def init_at(self, times: Tensor, duration: float) -> Params:
        brief = window.around_instants(times, duration, self.config.static_duration) if self.windowed else {}
        return {**super().init_at(times, duration), **brief}

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        rates = {
            "means_series": (2e-3, 1e-4),
            "quats_series": (2e-3, 2e-4),
            "sh0_series": (2e-3, 5e-4),
            "time_centers": (1e-4, 1e-5),
            "times": (2e-4, 2e-5),
            "durations": (5e-3, 1e-3),
        }
        return {name: rates[name] for name in self.columns()}

    def terms(self) -> dict[str, Callable[[Any], Tensor]]:
        """Returns `series`: the mean size of the moving coefficients of the positions."""
        return {"series": lambda step: step.params["means_series"].abs().mean()}

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        tau = (self.config.time_factor * time + self.config.time_offset) - params["time_centers"]
        names = [name for name in self._degrees if name in params]
        degrees = tuple(self._degrees[name][:2] for name in names)
        offsets = dict(zip(names, _Series.apply(tau, degrees, *(params[name] for name in names))))

        def moved(column: str, series: str) -> Tensor:
            return (
                params[column] + offsets[series].reshape(params[column].shape) if series in offsets else params[column]
            )

        opacities = torch.sigmoid(params["opacities"])
        if self.windowed:
            opacities = opacities * window.presence(time - params["times"], params["durations"])
        return Gaussians(
            means=moved("means", "means_series"),
            quats=moved("quats", "quats_series"),
            scales=torch.exp(params["scales"]),
            opacities=opacities,
            colors=colors_of(params, sh_degree, moved("sh0", "sh0_series")),
        )

    def peak_opacities(self, params: Params) -> Tensor:
        opacities = torch.sigmoid(params["opacities"])
        return opacities * window.largest_presence(params) if self.windowed else opacities

    def lifetimes(self, params: Params, of: float) -> Tensor:
        return window.share_of_clip(params) if self.windowed else super().lifetimes(params, of)


class _Series(torch.autograd.Function):
    """D(tau) for several attributes at once.

    Written out by hand because the gradient of a batched matrix product is an outer product of tiny vectors, for which
    torch takes three times as long as for the multiplication it is.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, tau: Float[Tensor, " N"], degrees: tuple[tuple[int, int], ...], *coefficients: Float[Tensor, "N K C"]
    ) -> tuple[Float[Tensor, "N C"], ...]:
        basis, slopes = series_basis(tau, max(p for p, _ in degrees), max(f for _, f in degrees))
        ctx.save_for_backward(basis, slopes, *coefficients)
        ctx.degrees = degrees
        return tuple(
            torch.bmm(_terms(basis, degrees, row)[:, None], theta)[:, 0] for row, theta in enumerate(coefficients)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Float[Tensor, "N C"]) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        basis, slopes, *coefficients = ctx.saved_tensors
        grad_tau, grad_coefficients = torch.zeros_like(basis[:, 0]), []
        for row, (grad, theta) in enumerate(zip(grads, coefficients)):
            grad_coefficients.append(_terms(basis, ctx.degrees, row)[:, :, None] * grad[:, None])
            pull = torch.bmm(theta, grad[:, :, None])[:, :, 0]
            grad_tau += (pull * _terms(slopes, ctx.degrees, row)).sum(dim=1)
        return grad_tau, None, *grad_coefficients


def _terms(basis: Float[Tensor, "N B"], degrees: tuple[tuple[int, int], ...], row: int) -> Float[Tensor, "N K"]:
    """Returns the terms that attribute `row` uses, divided by its N."""
    most_poly, most_fourier = max(p for p, _ in degrees), max(f for _, f in degrees)
    poly, fourier = degrees[row]
    cosines = most_poly + most_fourier
    parts = [basis[:, :poly], basis[:, most_poly : most_poly + fourier], basis[:, cosines : cosines + fourier]]
    return torch.cat(parts, dim=1).div_(max(poly, fourier) + 1)


def series_basis(
    tau: Float[Tensor, " N"], poly: int, fourier: int
) -> tuple[Float[Tensor, "N B"], Float[Tensor, "N B"]]:
    """Returns the basis and its slope: tau^n for n = 1..poly, then sin, then cos of 2 pi n tau for n = 1..fourier."""
    powers, power_slopes = [tau], [torch.ones_like(tau)]
    for n in range(2, poly + 1):
        power_slopes.append(n * powers[-1])
        powers.append(powers[-1] * tau)
    frequencies = 2.0 * math.pi * torch.arange(1, fourier + 1, dtype=tau.dtype, device=tau.device)
    angles = tau[:, None] * frequencies
    sines, cosines = angles.sin(), angles.cos()
    basis = torch.cat([torch.stack(powers, dim=1)[:, :poly], sines, cosines], dim=1)
    slopes = torch.cat([torch.stack(power_slopes, dim=1)[:, :poly], frequencies * cosines, -frequencies * sines], dim=1)
    return basis, slopes
