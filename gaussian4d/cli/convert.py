"""`gaussian4d convert`: one file format into another."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from tyro.conf import Positional


@dataclasses.dataclass
class Convert:
    """Convert Gaussians between .g4d and 3DGS .ply; the formats are told by the endings."""

    EXAMPLES: ClassVar[str] = """
        gaussian4d convert splat.ply splat.g4d
        gaussian4d convert fox.g4d fox.ply
    """

    source: Positional[Path]
    """File to read: .g4d or .ply."""
    target: Positional[Path]
    """File to write: .g4d or .ply."""

    def run(self) -> None:
        """Converts, and says what the target format cannot hold."""
        from ..errors import UserError
        from ..model import load_model
        from .export import save_model

        if self.source.is_dir():
            raise UserError(f"{self.source} is a folder; expected a file; use `gaussian4d export` for a run")
        save_model(load_model(self.source), self.target)
