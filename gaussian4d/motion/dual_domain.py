"""Dual-domain deformation: every attribute moves along a polynomial plus a Fourier series of time.

Lin, Dai, Zhu and Yao, "Gaussian-Flow: 4D Reconstruction with Dynamic 3D Gaussian Particle", CVPR 2024 (DDDM).
Per Gaussian and scalar channel, with coefficients a_n, b_n, c_n:

    D(tau) = 1/N sum_{n=1}^{N-1} [ a_n tau^n + b_n sin(2 pi n tau) + c_n cos(2 pi n tau) ]
    S(t)   = S_0 + D(tau),        tau = time_factor t + time_offset - time_center

The sum starts at n = 1: the terms of n = 0 are constants that S_0 already holds. Powers are built by multiplication, so
the gradient at tau = 0 is finite. Polynomial and Fourier degrees may differ; N - 1 is the larger of the two.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..gaussians import Gaussians
from .base import MotionModel, Params, colors_of


@dataclasses.dataclass
class DualDomainConfig:
    """Degrees of the series per attribute, and the map from clip time to the series' argument."""

    means_poly: int = 4
    means_fourier: int = 4
    quats_poly: int = 3
    quats_fourier: int = 3
    sh0_poly: int = 1
    sh0_fourier: int = 1
    time_factor: float = 0.8
    """Below 1, so that the Fourier series need not return to its start at the end of the clip."""
    time_offset: float = 0.1


class DualDomain(MotionModel):
    """Position, rotation and base colour follow a polynomial plus a Fourier series; scale and opacity are constant."""

    name = "dual-domain"
    length_columns = ("means_series",)

    def __init__(self, config: DualDomainConfig | None = None) -> None:
        super().__init__(config or DualDomainConfig())
        c = self.config
        self._degrees = {
            "means_series": (c.means_poly, c.means_fourier, 3),
            "quats_series": (c.quats_poly, c.quats_fourier, 4),
            "sh0_series": (c.sh0_poly, c.sh0_fourier, 3),
        }
        self._poly = max(p for p, _, _ in self._degrees.values())
        self._fourier = max(f for _, f, _ in self._degrees.values())

    def columns(self) -> dict[str, tuple[int, ...]]:
        """Returns the columns; a series [K, channels] holds the polynomial terms, then sines, then cosines."""
        shapes = {name: (p + 2 * f, channels) for name, (p, f, channels) in self._degrees.items() if p + f > 0}
        return {**shapes, "time_centers": ()}

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        return {
            "means_series": (2e-3, 1e-4),
            "quats_series": (2e-3, 2e-4),
            "sh0_series": (2e-3, 5e-4),
            "time_centers": (1e-4, 1e-5),
        }

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        tau = (self.config.time_factor * time + self.config.time_offset) - params["time_centers"]
        powers, sines, cosines = series_basis(tau, self._poly, self._fourier)

        def offset(name: str) -> Tensor | float:
            if name not in params:
                return 0.0
            poly, fourier, _ = self._degrees[name]
            basis = torch.cat([powers[:, :poly], sines[:, :fourier], cosines[:, :fourier]], dim=1)
            return torch.bmm((basis / (max(poly, fourier) + 1))[:, None], params[name])[:, 0]

        sh0_offset = offset("sh0_series")
        sh0 = params["sh0"] + (sh0_offset[:, None] if isinstance(sh0_offset, Tensor) else sh0_offset)
        return Gaussians(
            means=params["means"] + offset("means_series"),
            quats=params["quats"] + offset("quats_series"),
            scales=torch.exp(params["scales"]),
            opacities=torch.sigmoid(params["opacities"]),
            colors=colors_of(params, sh_degree, sh0),
        )


def series_basis(
    tau: Float[Tensor, " N"], poly: int, fourier: int
) -> tuple[Float[Tensor, "N P"], Float[Tensor, "N F"], Float[Tensor, "N F"]]:
    """Returns tau^n for n = 1..poly, and sin and cos of 2 pi n tau for n = 1..fourier."""
    powers = [tau]
    for _ in range(poly - 1):
        powers.append(powers[-1] * tau)
    frequencies = 2.0 * math.pi * torch.arange(1, fourier + 1, dtype=tau.dtype, device=tau.device)
    angles = tau[:, None] * frequencies
    return torch.stack(powers[:poly], dim=1) if poly else tau.new_zeros(len(tau), 0), angles.sin(), angles.cos()
