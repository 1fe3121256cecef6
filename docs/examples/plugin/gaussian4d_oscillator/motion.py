"""A motion model: every Gaussian swings along a line of its own."""

from __future__ import annotations

import dataclasses
import math

import torch

import gaussian4d as g4


@dataclasses.dataclass
class OscillatorConfig:
    """Plain values: they are kept as JSON with every run and file."""

    swings: float = 1.0
    """Swings per clip with which a fit starts."""


class Oscillator(g4.MotionModel):
    """means(t) = means + amplitude sin(2 pi frequency t + phase)."""

    name = "oscillator"
    config_type = OscillatorConfig
    # A length scales with the scene, so that a model fitted to the normalised scene is right in the world.
    length_columns = ("amplitudes",)

    def columns(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of one row of each column that this model adds to the table."""
        return {"amplitudes": (3,), "frequencies": (), "phases": ()}

    def init(self, n: int) -> g4.Params:
        """Returns the columns of `n` Gaussians at rest."""
        return {
            "amplitudes": torch.zeros(n, 3),
            "frequencies": torch.full((n,), self.config.swings),
            # At rest, at the turning point or on the way makes no difference; but a phase of 0 in all of them would let
            # none of them begin to move at time 0.
            "phases": torch.linspace(0.0, 2.0 * math.pi, n + 1)[:n],
        }

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        """Returns the first and the last learning rate of each column, for a scene of unit size."""
        return {"amplitudes": (2e-3, 1e-4), "frequencies": (1e-2, 1e-3), "phases": (1e-2, 1e-3)}

    def at(self, params: g4.Params, time: float, sh_degree: int | None = None) -> g4.Gaussians:
        """Returns the Gaussians at clip time `time`, in the order of the table."""
        rest = g4.canonical_gaussians(params, sh_degree)
        angle = 2.0 * math.pi * params["frequencies"] * time + params["phases"]
        return dataclasses.replace(rest, means=rest.means + params["amplitudes"] * torch.sin(angle)[:, None])

    def describe(self, params: g4.Params) -> str:
        """Returns what `info` says besides the name."""
        return f"{float(params['frequencies'].mean()):.2f} swings per clip"
