"""How the number of Gaussians changes: the faint go, and a fixed share of new ones comes."""

from __future__ import annotations

import torch

import gaussian4d as g4


class FixedRate(g4.Strategy):
    """Prunes Gaussians that are faint at all times, and copies others at random, the opaque ones more often.

    When and how much is said by the settings that our own strategies have as well: `--set densify.every=100`.
    """

    @torch.no_grad()
    def after_step(self, table, step: int, progress: float) -> bool:
        """Returns whether rows of the table were changed."""
        settings = self.config.densify
        if not settings.start <= progress < settings.stop or step % settings.every:
            return False
        # The model knows about windows in time and the like; its own columns are copied with the rest.
        peak = self.motion.peak_opacities(table.params)
        alive = peak > settings.prune_opacity
        room = min(settings.max_gaussians - int(alive.sum()), round(settings.fraction * len(table)))
        odds = torch.where(alive, peak, 0.0)
        if room <= 0 or float(odds.sum()) == 0.0:
            table.rebuild(alive)
            return True
        # Everything random comes from this generator: checkpoints keep it, so that a resumed fit is the same fit.
        chosen = torch.multinomial(odds.cpu(), room, replacement=True, generator=self.generator).to(odds.device)
        new = table.rows(chosen)
        noise = torch.randn(new["means"].shape, generator=self.generator).to(odds.device)
        new["means"] = new["means"] + 0.5 * new["scales"].exp() * noise
        # Rows leave and come together with the optimiser's moments.
        table.rebuild(alive, new)
        return True
