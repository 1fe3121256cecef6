"""A look into a running fit: how many Gaussians there were, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Counts:
    """Writes RUN/counts.csv. Methods are named for the events that it wants to hear of.

    A hook reads; what changes a fit is a term or a strategy.
    """

    def start(self, trainer: Any) -> None:
        """Hears of the beginning, and of going on."""
        self.file = Path(trainer.out) / "counts.csv"
        if trainer.step == 0:
            self.file.write_text("step,gaussians\n", encoding="ascii")

    def after_densify(self, trainer: Any) -> None:
        """Hears that the number of Gaussians may have changed."""
        with self.file.open("a", encoding="ascii") as file:
            file.write(f"{trainer.step},{trainer.count()}\n")
