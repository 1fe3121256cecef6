"""How the number of Gaussians changes: refine where the picture pulls at them, drop those nobody sees.

Two strategies. `densify` clones small and splits large Gaussians whose projected position has a large mean gradient
(Kerbl et al., "3D Gaussian Splatting", 2023, section 5.2), with opacities corrected so that two copies look like one
(Bulo et al., "Revising Densification in Gaussian Splatting", 2024, section 4.3). `relocate` moves dead Gaussians onto
others drawn by opacity and gradient (Kheradmand et al., "3D Gaussian Splatting as Markov Chain Monte Carlo", 2024,
equation 9; score of FreeTimeGS). Gradients are averaged over the steps in which a Gaussian is drawn, so short-lived
ones count in full. Opacities are never reset: over time it does harm.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..motion import MotionModel, Params
from .config import FitConfig
from .table import ParameterTable

_SPLIT_SHRINK = 1.6


class Densifier:
    """Gathers gradient statistics in the table and changes its rows from time to time."""

    def __init__(self, config: FitConfig, motion: MotionModel, generator: torch.Generator) -> None:
        self.config = config
        self.motion = motion
        self.generator = generator

    def active(self, progress: float) -> bool:
        """Returns whether the number of Gaussians may still change."""
        return self.config.densify_start <= progress < self.config.densify_stop

    @torch.no_grad()
    def observe(
        self, seen: Float[Tensor, "2 N"], grads: Float[Tensor, "N 2"], drawn: Tensor, width: int, height: int
    ) -> None:
        """Adds to `seen` one picture's gradients of the projected positions, in pixels, and who was `drawn` [N]."""
        norms = (grads * grads.new_tensor([0.5 * width, 0.5 * height])).norm(dim=-1)
        seen[0] += torch.where(drawn, norms, norms.new_zeros(()))
        seen[1] += drawn

    @torch.no_grad()
    def count(self, table: ParameterTable, seen: Float[Tensor, "2 N"]) -> None:
        """Adds one step's `seen` (see `observe`) to the statistics of the table."""
        if not table.statistics:
            table.statistics = {"grad": torch.zeros(len(table)), "count": torch.zeros(len(table))}
        table.statistics["grad"] += seen[0]
        table.statistics["count"] += seen[1]

    @torch.no_grad()
    def change(self, table: ParameterTable) -> None:
        """Refines and prunes once, then clears the statistics."""
        if self.config.strategy == "relocate":
            self._relocate(table)
        else:
            self._densify(table)
        if self.config.static_after is not None:
            self._freeze(table, self.config.static_after)
        for value in table.statistics.values():
            value.zero_()

    def _scores(self, table: ParameterTable) -> Float[Tensor, " N"]:
        statistics = table.statistics
        return statistics["grad"] / statistics["count"].clamp_min(1.0)

    def _densify(self, table: ParameterTable) -> None:
        config = self.config
        scores = self._scores(table)
        peak = self.motion.peak_opacities(table.params)
        longest = table.params["scales"].detach().amax(dim=1).exp()
        alive = (peak > config.prune_opacity) & (longest < config.prune_scale)

        room = min(config.max_gaussians - int(alive.sum()), int(config.densify_fraction * len(table)))
        wanted = torch.where(alive, scores, scores.new_zeros(()))
        chosen = torch.argsort(wanted, descending=True, stable=True)[: max(room, 0)]
        chosen = chosen[wanted[chosen] > config.densify_grad]

        originals = table.rows(chosen)
        split = longest[chosen] > config.split_scale
        first, second = _halves(originals, split, self.generator)
        table.overwrite(chosen, first)
        table.rebuild(alive, second)

    def _relocate(self, table: ParameterTable) -> None:
        config = self.config
        n = len(table)
        peak = self.motion.peak_opacities(table.params)
        dead = peak <= config.prune_opacity
        scores = self._scores(table)
        odds = torch.where(
            dead, scores.new_zeros(()), 0.5 * peak / peak.sum() + 0.5 * scores / scores.sum().clamp_min(1e-12)
        )
        if float(odds.sum()) <= 0.0:
            return
        free = dead.nonzero()[:, 0]
        grown = max(min(config.max_gaussians - n, int(config.densify_fraction * n)), 0)
        drawn = torch.multinomial(odds, len(free) + grown, replacement=True, generator=self.generator)
        copies = torch.bincount(drawn, minlength=n)
        sources = copies.nonzero()[:, 0]
        table.overwrite(sources, relocated(table.rows(sources), copies[sources] + 1))
        rows = table.rows(drawn)
        table.overwrite(free, {name: value[: len(free)] for name, value in rows.items()})
        table.rebuild(torch.arange(n), {name: value[len(free) :] for name, value in rows.items()})

    def _freeze(self, table: ParameterTable, clips: float) -> None:
        """Stops the Gaussians that are there for more than `clips`."""
        chosen = self.motion.outlasting(table.params, clips).nonzero()[:, 0]
        table.overwrite(chosen, self.motion.frozen(table.rows(chosen)))

    @torch.no_grad()
    def explore(self, table: ParameterTable, progress: float) -> None:
        """Moves the means a little at random, the more the less opaque a Gaussian is (strategy `relocate`)."""
        rate = next(group["lr"] for group in table.optimizer.param_groups if group["name"] == "means")
        means, scales = table.params["means"], table.params["scales"].exp()
        gate = torch.sigmoid(-100.0 * (torch.sigmoid(table.params["opacities"]) - 0.005))
        noise = torch.randn(means.shape, generator=self.generator) * scales.square()
        turned = rotate(table.params["quats"], noise)
        means.add_(turned * (gate * rate * self.config.noise)[:, None])


def relocated(rows: Params, copies: Tensor) -> Params:
    """Returns `rows` [M, ...] with opacity and scale such that `copies` [M] of each look like one of before.

    Kheradmand et al., equation 9: o' = 1 - (1 - o)^(1/n), and scale' = scale * o / D with
    D = sum_{i=1}^{n} sum_{k=0}^{i-1} C(i-1, k) (-1)^k o'^(k+1) / sqrt(k+1).
    """
    counts = copies.clamp(max=20).double()
    opacity = torch.sigmoid(rows["opacities"].double()).clamp(1e-6, 1.0 - 1e-6)
    new = 1.0 - (1.0 - opacity) ** (1.0 / counts)
    total = torch.zeros_like(opacity)
    for i in range(1, int(counts.max()) + 1 if len(counts) else 1):
        inner = torch.zeros_like(opacity)
        for k in range(i):
            inner = inner + math.comb(i - 1, k) * (-1) ** k * new ** (k + 1) / math.sqrt(k + 1)
        total = total + torch.where(counts >= i, inner, torch.zeros_like(inner))
    ratio = (opacity / total.clamp_min(1e-9)).clamp(0.2, 1.0)
    return {
        **rows,
        "opacities": torch.logit(new.clamp_min(1e-6)).float(),
        "scales": rows["scales"] + ratio.log().float()[:, None],
    }


def _halves(rows: Params, split: Tensor, generator: torch.Generator) -> tuple[Params, Params]:
    """Returns the two sets of rows that replace `rows`: shrunk and moved apart where `split`, equal elsewhere."""
    opacity = torch.sigmoid(rows["opacities"])
    halved = torch.logit((1.0 - torch.sqrt(1.0 - opacity)).clamp(1e-6, 1.0 - 1e-6))
    scales = torch.where(split[:, None], rows["scales"] - math.log(_SPLIT_SHRINK), rows["scales"])
    offsets = torch.randn(rows["means"].shape, generator=generator) * rows["scales"].exp()
    offsets = torch.where(split[:, None], rotate(rows["quats"], offsets), torch.zeros_like(offsets))
    base = {**rows, "opacities": halved, "scales": scales}
    return {**base, "means": rows["means"] + offsets}, {**base, "means": rows["means"] - offsets}


def rotate(quats: Float[Tensor, "N 4"], vectors: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Returns `vectors` turned by `quats` wxyz of any length."""
    q = torch.nn.functional.normalize(quats, dim=-1)
    w, axis = q[:, :1], q[:, 1:]
    twice = 2.0 * torch.linalg.cross(axis, vectors)
    return vectors + w * twice + torch.linalg.cross(axis, twice)
