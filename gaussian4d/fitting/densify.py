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
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..devices import uploaded
from ..motion import Params
from .drawing import Drawing
from .strategies import Strategy, StrategySetup
from .table import ParameterTable

_SPLIT_SHRINK = 1.6


class Refinement(Strategy):
    """What our two strategies share: gradient statistics in the table, when rows change, Gaussians that stop for good.

    Subclasses say how rows change (`change_rows`).
    """

    def start(self, setup: StrategySetup) -> None:
        super().start(setup)
        self.settings = setup.config.densify
        self._half_sizes: dict[tuple[int, int], Tensor] = {}
        self.seen: Tensor | None = None
        """[2, N] sums over the pictures of the step under way: gradients, and how often each Gaussian was drawn."""

    def active(self, progress: float) -> bool:
        """Returns whether the number of Gaussians may still change."""
        return self.settings.start <= progress < self.settings.stop

    def observing(self, progress: float) -> bool:
        return progress < self.settings.stop

    @torch.no_grad()
    def observe(self, table: ParameterTable, drawing: Drawing) -> None:
        if drawing.means2d.grad is None:
            return
        if self.seen is None:
            self.seen = drawing.alpha.new_zeros(2, len(table))
        half = self._half_size(drawing)
        for camera in range(len(drawing.drawn)):
            grads, drawn = drawing.means2d.grad[camera], drawing.drawn[camera]
            grads = grads if drawing.scale == 1.0 else grads * drawing.scale
            self.seen[0] += torch.where(drawn, (grads * half).norm(dim=-1), 0.0)
            self.seen[1] += drawn

    @torch.no_grad()
    def after_backward(self, table: ParameterTable, total: Callable[[list[Tensor]], None]) -> None:
        seen, self.seen = self.seen, None
        if seen is None:
            seen = table.params["means"].new_zeros(2, len(table))
        total([seen])
        if not table.statistics:
            table.statistics = {"grad": torch.zeros_like(seen[0]), "count": torch.zeros_like(seen[0])}
        table.statistics["grad"] += seen[0]
        table.statistics["count"] += seen[1]

    def dropped(self) -> None:
        self.seen = None

    @torch.no_grad()
    def after_step(self, table: ParameterTable, step: int, progress: float) -> bool:
        if not self.active(progress) or step % self.settings.every:
            return False
        self.change(table)
        return True

    @torch.no_grad()
    def change(self, table: ParameterTable) -> None:
        """Refines and prunes once, then clears the statistics."""
        self.change_rows(table)
        if self.settings.static_after is not None:
            self._freeze(table, self.settings.static_after)
        for value in table.statistics.values():
            value.zero_()

    def _half_size(self, drawing: Drawing) -> Float[Tensor, "2"]:
        """Returns half the size of the pictures in pixels, made once: gradients are counted in these units."""
        size = (drawing.width, drawing.height)
        if size not in self._half_sizes:
            self._half_sizes[size] = uploaded([0.5 * side for side in size], drawing.alpha.device)
        return self._half_sizes[size]

    def change_rows(self, table: ParameterTable) -> None:
        """Adds, moves and removes rows."""
        raise NotImplementedError

    def scores(self, table: ParameterTable) -> Float[Tensor, " N"]:
        """Returns the mean gradient of each Gaussian over the pictures in which it was drawn."""
        statistics = table.statistics
        return statistics["grad"] / statistics["count"].clamp_min(1.0)

    def _freeze(self, table: ParameterTable, clips: float) -> None:
        """Stops the Gaussians that are there for more than `clips`."""
        chosen = self.motion.outlasting(table.params, clips).nonzero()[:, 0]
        table.overwrite(chosen, self.motion.frozen(table.rows(chosen)))


class Densify(Refinement):
    """Clones small and splits large Gaussians that the pictures pull at, and prunes the faint and the huge."""

    def change_rows(self, table: ParameterTable) -> None:
        settings = self.settings
        scores = self.scores(table)
        peak = self.motion.peak_opacities(table.params)
        longest = table.params["scales"].detach().amax(dim=1).exp()
        alive = (peak > settings.prune_opacity) & (longest < settings.prune_scale)

        room = min(settings.max_gaussians - int(alive.sum()), int(settings.fraction * len(table)))
        wanted = torch.where(alive, scores, scores.new_zeros(()))
        chosen = torch.argsort(wanted, descending=True, stable=True)[: max(room, 0)]
        chosen = chosen[wanted[chosen] > settings.grad]

        originals = table.rows(chosen)
        split = longest[chosen] > settings.split_scale
        first, second = _halves(originals, split, self.generator)
        table.overwrite(chosen, first)
        table.rebuild(alive, second)


class Relocate(Refinement):
    """Moves dead Gaussians onto others drawn by opacity and gradient; noise lets faint ones explore."""

    def after_step(self, table: ParameterTable, step: int, progress: float) -> bool:
        if self.settings.noise:
            self.explore(table)
        return super().after_step(table, step, progress)

    def change_rows(self, table: ParameterTable) -> None:
        settings = self.settings
        n = len(table)
        peak = self.motion.peak_opacities(table.params)
        dead = peak <= settings.prune_opacity
        scores = self.scores(table)
        odds = torch.where(
            dead, scores.new_zeros(()), 0.5 * peak / peak.sum() + 0.5 * scores / scores.sum().clamp_min(1e-12)
        )
        if float(odds.sum()) <= 0.0:
            return
        free = dead.nonzero()[:, 0]
        grown = max(min(settings.max_gaussians - n, int(settings.fraction * n)), 0)
        # Drawn where the generator lives, which is the CPU on every device.
        drawn = torch.multinomial(odds.cpu(), len(free) + grown, replacement=True, generator=self.generator)
        drawn = drawn.to(odds.device)
        copies = torch.bincount(drawn, minlength=n)
        sources = copies.nonzero()[:, 0]
        table.overwrite(sources, relocated(table.rows(sources), copies[sources] + 1))
        rows = table.rows(drawn)
        table.overwrite(free, {name: value[: len(free)] for name, value in rows.items()})
        table.rebuild(torch.arange(n, device=odds.device), {name: value[len(free) :] for name, value in rows.items()})

    @torch.no_grad()
    def explore(self, table: ParameterTable) -> None:
        """Moves the means a little at random, the more the less opaque a Gaussian is."""
        rate = next(group["lr"] for group in table.optimizer.param_groups if group["name"] == "means")
        means, scales = table.params["means"], table.params["scales"].exp()
        gate = torch.sigmoid(-100.0 * (torch.sigmoid(table.params["opacities"]) - 0.005))
        noise = uploaded(torch.randn(means.shape, generator=self.generator), means.device) * scales.square()
        turned = rotate(table.params["quats"], noise)
        means.add_(turned * (gate * rate * self.settings.noise)[:, None])


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
    noise = uploaded(torch.randn(rows["means"].shape, generator=generator), rows["means"].device)
    offsets = noise * rows["scales"].exp()
    offsets = torch.where(split[:, None], rotate(rows["quats"], offsets), torch.zeros_like(offsets))
    base = {**rows, "opacities": halved, "scales": scales}
    return {**base, "means": rows["means"] + offsets}, {**base, "means": rows["means"] - offsets}


def rotate(quats: Float[Tensor, "N 4"], vectors: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Returns `vectors` turned by `quats` wxyz of any length."""
    q = torch.nn.functional.normalize(quats, dim=-1)
    w, axis = q[:, :1], q[:, 1:]
    twice = 2.0 * torch.linalg.cross(axis, vectors)
    return vectors + w * twice + torch.linalg.cross(axis, twice)
