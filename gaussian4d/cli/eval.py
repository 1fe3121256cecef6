"""`gaussian4d eval`: figures on views that were not fitted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tyro.conf import Positional

from ..plugins import METRICS
from .choices import Several, Unset, choices
from .fit import Backend
from .placing import placed

if TYPE_CHECKING:
    MetricName = str
else:
    MetricName = choices(METRICS)


@dataclasses.dataclass
class Eval:
    """Evaluate a run against the recorded images and trivial baselines; writes RUN/eval/metrics.json."""

    EXAMPLES: ClassVar[str] = """
        gaussian4d eval runs/fox
        gaussian4d eval runs/fox --split train
        gaussian4d eval runs/fox --metrics psnr ssim
    """

    run_folder: Positional[Path]
    """Run folder."""
    split: Literal["test", "train"] = "test"
    """Which split to compare with."""
    scene: Unset[Path] = None
    """Scene folder of the run. Only needed if it was moved and is not beside the run folder."""
    metrics: Several[MetricName] = ()
    """Further metrics to report besides the usual ones. Default: those that installed plugins enable."""
    device: str = "auto"
    """Device to render on: auto takes a GPU if a backend works on it, else cpu; or cuda, cuda:1, ..."""
    backend: Backend = "auto"
    """Rasterizer."""

    def run(self) -> None:
        """Evaluates and prints the figures with their protocol."""
        from ..evaluation import evaluate
        from ..figures import report_lines
        from ..run_folder import RunFolder

        place = placed(self.device, self.backend)
        run = RunFolder(self.run_folder)
        metrics = evaluate(
            self.run_folder,
            run.scene(self.scene) if run.exists else None,
            split=self.split,
            backend=place.backend,
            device=place.device,
            metrics=self.metrics or None,
        )
        for line in report_lines(metrics):
            print(line)
        print(f"figures  {self.run_folder / 'eval' / 'metrics.json'}")
