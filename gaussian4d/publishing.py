"""The third room of a fit: the figures on what was held out, and the page about the run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .evaluation import evaluate
from .figures import report_lines
from .fitting.progress import Narrator
from .model import DynamicGaussians
from .run_folder import RunFolder
from .scene import Scene


def publish(
    run: RunFolder,
    scene: Scene,
    model: DynamicGaussians,
    reporter: Narrator,
    *,
    judge: bool = True,
    metrics: Sequence[Any] = (),
    device: torch.device | None = None,
    backend: str = "auto",
) -> dict[str, Any] | None:
    """Returns the figures of a finished fit, None without test frames; writes them, pictures and report.html.

    Args:
        run: The run folder.
        scene: What was fitted.
        model: The fitted model.
        reporter: Who is told.
        judge: Whether to evaluate.
        metrics: Further metrics, by name or as functions; see `evaluate`.
        device: Where to draw.
        backend: Rasterizer backend.
    """
    figures = None
    if judge and scene.frames("test"):
        figures = evaluate(run.path, scene=scene, device=device, backend=backend, metrics=metrics or None)
        for line in report_lines(figures):
            reporter.say(line)
    elif judge:
        reporter.say("the scene holds out no test frames, so nothing was evaluated")
    _write_report(run, scene, model, reporter)
    return figures


def _write_report(run: RunFolder, scene: Scene, model: DynamicGaussians, reporter: Narrator) -> None:
    """Writes the page about the run; what goes wrong with it is said, and costs nobody the fit."""
    from .report import write_report

    try:
        reporter.say(f"report: {write_report(run.path, scene=scene, model=model)}")
    except Exception as error:
        reporter.say(
            f"the report could not be written ({type(error).__name__}: {error}); try gaussian4d report {run.path}"
        )
