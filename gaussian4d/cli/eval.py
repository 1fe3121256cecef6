"""`gaussian4d eval`: figures on views that were not fitted."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tyro.conf import Positional

from ..plugins import METRICS
from .choices import choices
from .fit import Backend
from .placing import placed

if TYPE_CHECKING:
    MetricName = str
else:
    MetricName = choices(METRICS)


@dataclasses.dataclass
class Eval:
    """Compare a run with recorded pictures, beside trivial baselines; writes RUN/eval/metrics.json."""

    EXAMPLES: ClassVar[str] = """
        gaussian4d eval runs/fox
        gaussian4d eval runs/fox --split train
        gaussian4d eval runs/fox --metrics psnr ssim
    """

    run_folder: Positional[Path]
    """Run folder."""
    split: Literal["test", "train"] = "test"
    """Which pictures to compare with."""
    scene: Path | None = None
    """Where the scene of the run lies, when that is not where it was and not beside the run."""
    metrics: tuple[MetricName, ...] = ()
    """Metrics to take besides the usual figures. Default: those of installed packages that want to be."""
    device: str = "auto"
    """Where to draw: auto is a GPU where a backend works there, else cpu; also cuda, cuda:1."""
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
