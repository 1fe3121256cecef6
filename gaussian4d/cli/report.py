"""`gaussian4d report`: a run as one HTML page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from tyro.conf import Positional

from ..errors import UserError
from .choices import Unset


@dataclasses.dataclass
class Report:
    """Write a self-contained HTML report of a run: metrics, curves, errors by camera and time, worst views."""

    WRITES: ClassVar[dict[str, bool | None]] = {"out": None}
    EXAMPLES: ClassVar[str] = """
        gaussian4d report runs/fox
        gaussian4d report runs/fox --out fox.html --worst 12
    """

    run_folder: Positional[Path]
    """Run folder."""
    out: Unset[Path] = None
    """File to write. Default: RUN/report.html."""
    scene: Unset[Path] = None
    """Scene folder of the run. Only needed if it was moved and is not beside the run folder."""
    worst: int = 4
    """How many of the worst views to show."""
    device: str = "auto"
    """Device to render on: auto takes a GPU if a backend works on it, else cpu; or cuda, cuda:1, ..."""

    def run(self) -> None:
        """Writes the page and prints where it is."""
        from ..report import write_report
        from ..run_folder import RunFolder
        from .console import size
        from .placing import placed

        if self.worst < 0:
            raise UserError(f"--worst must not be negative, got {self.worst}")
        place = placed(self.device)
        scene = None if self.scene is None else RunFolder(self.run_folder).scene(self.scene)
        file = write_report(self.run_folder, self.out, scene=scene, worst=self.worst, device=place.device)
        print(f"wrote {file}: {size(file.stat().st_size)}")
