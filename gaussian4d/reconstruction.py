"""A whole fit: settings and folder (`fitting.opening`), training (`fitting.training`), figures (`publishing`)."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .fitting.config import FitConfig
from .fitting.hooks import FitHook, load_hook
from .fitting.opening import OpenFit, open_fit, register_objects
from .fitting.progress import Reporter, Silence
from .fitting.stages import check_stages, run_stages, stage_names
from .fitting.training import Trained, train
from .model import DynamicGaussians
from .motion import MotionModel
from .publishing import publish
from .scene import Scene


@dataclasses.dataclass(repr=False)
class FitResult:
    """What a fit leaves behind."""

    path: Path
    """The run folder."""
    model: DynamicGaussians
    metrics: dict[str, Any] | None
    """The content of eval/metrics.json; None when the fit was interrupted or the scene has no test frames."""
    interrupted: bool = False
    leads: bool = True
    """False in all processes but the first of a fit by several (see `fitting.parallel`)."""

    def __repr__(self) -> str:
        judged = "" if self.metrics is None else f", PSNR {self.metrics['psnr']:.2f} dB"
        stopped = ", interrupted" if self.interrupted else ""
        return f"FitResult({str(self.path)!r}, {len(self.model):,} Gaussians{judged}{stopped})"


def fit(
    scene: Scene,
    preset: str = "quick",
    out: str | Path = "runs/a",
    *,
    motion: str | MotionModel | None = None,
    max_steps: int | None = None,
    max_minutes: float | None = None,
    seed: int = 0,
    resume: bool = False,
    device: Any = None,
    backend: str = "auto",
    background: str | None = None,
    keep_checkpoints: int = 2,
    terms: Sequence[Any] | Mapping[str, Any] = (),
    strategy: Any = None,
    metrics: Sequence[Any] = (),
    callbacks: Sequence[FitHook | str] = (),
    stages: Sequence[Any] = (),
    settings: Mapping[str, Any] | None = None,
    evaluate: bool = True,
    window: str | int | None = None,
    overlap: str | int | None = None,
    jobs: int = 1,
    **overrides: Any,
) -> FitResult:
    """Returns the model fitted to the training frames of `scene`; everything about the run is in the folder `out`.

    Args:
        scene: What to fit.
        preset: `quick`, `balanced` or `best`.
        out: Run folder; it must not hold another fit, unless `resume`.
        motion: How Gaussians move: the name of a model, or a `MotionModel`, which is made again from its name and
            `config_dict()`; None lets the preset choose.
        max_steps: Steps to take; None keeps the preset's.
        max_minutes: Time limit; alone it lifts the preset's limit of steps. Two runs are then no longer equal.
        seed: Seed of everything random. Same seed, thread count and instruction set give the same model.
        resume: Go on from the newest checkpoint in `out`, with the settings saved there.
        device: Where the tensors of the fit live: None or "auto", "cpu", "cuda", "cuda:1", a `torch.device`.
        backend: Rasterizer backend.
        background: `white`, `black`, `random` or `model`; None lets the preset choose.
        keep_checkpoints: How many checkpoints stay on disk.
        terms: What is minimised besides: `Term` functions, whose weight is their attribute `weight` or 1; or a table of
            names and weights or functions. A resumed fit needs the functions again, unless a package registers them.
        strategy: How the number of Gaussians changes: a name, a `Strategy`, or a strategy object of gsplat.
        metrics: Metrics beside PSNR and SSIM, by name or as functions (see `evaluate`).
        callbacks: Hooks (see `fitting.hooks`), or names of registered ones.
        stages: What runs after training and may send it on (see `fitting.stages`), by name or as functions.
        settings: Any other setting by its path, such as {"densify.grad": 2e-4, "loss.rigidity": 0.1}.
        evaluate: Whether to evaluate the test frames at the end and to write the report.
        window: Longest window of a clip that is fitted in parts (see `fitting.windows`): instants, seconds ("2s"), or
            "none"; None cuts clips of more than 100 instants that several cameras filmed. Steps and minutes that are
            given are shared out over the windows; the steps of a preset are for each.
        overlap: What neighbouring windows share, at least; None takes an eighth of a window.
        jobs: Processes that fit windows at the same time.
        overrides: Settings by the flat names of schema 1, such as densify_grad.

    Under `torchrun` several processes fit together (docs/parallel.md); `batch` is then one picture for each of them
    unless it is given. Only the first process writes, prints, calls hooks and evaluates.

    Raises:
        UserError: for impossible settings, a device or backend that cannot be used, a scene without usable frames, or a
            run folder in the wrong state.
    """
    began, out = time.monotonic(), Path(out)
    hooks = [load_hook(hook) if isinstance(hook, str) else hook for hook in callbacks]
    plain = {"max_steps": max_steps, "max_minutes": max_minutes, "background": background, **overrides}
    given = {name: value for name, value in plain.items() if value is not None}
    names, functions = stage_names(stages)
    given |= {**register_objects(motion, terms, strategy), **({"stages": names} if names else {}), **(settings or {})}
    fixed = {"seed": seed, "backend": backend, "keep.checkpoints": keep_checkpoints}
    if device is not None:
        given["device"] = str(device)
    given = {**({} if resume else fixed), **({"backend": backend} if backend != "auto" else {}), **given}
    opened = open_fit(scene, out, preset, given, resume=resume, window=window, overlap=overlap, jobs=jobs)
    check_stages(functions, opened)
    with Reporter(out) if opened.team.leads else contextlib.nullcontext(Silence()) as reporter:
        for note in opened.notes:
            reporter.say(note)
        # What could be worked around while reading, and what was chosen, as `info` says it.
        for problem in scene.problems:
            reporter.say(str(problem))
        for note in scene.notes:
            reporter.say(note)
        trained = train(opened, reporter, hooks, began)
        if trained.progress >= 1.0:
            opened, trained = run_stages(functions, opened, trained, reporter, hooks)
        return _conclude(opened, trained, reporter, evaluate, metrics)


def _conclude(
    opened: OpenFit, trained: Trained, reporter: Reporter | Silence, judge: bool, metrics: Sequence[Any]
) -> FitResult:
    """Publishes a finished fit; returns what there is of any."""
    out, model, trainer = opened.run.path, trained.model, trained.trainer
    done = trained.progress >= 1.0
    if not opened.team.leads:
        return FitResult(out, model, None, not done, leads=False)
    if not done:
        return FitResult(out, model, None, interrupted=True)
    opened.run.mark(True, trainer.step)
    reporter.say(
        f"fitted in {trainer.elapsed:.0f} s, {trainer.step} steps, {len(model):,} Gaussians: {opened.run.model_path}"
    )
    where = {"device": opened.device, "backend": opened.config.backend}
    figures = publish(opened.run, opened.scene, model, reporter, judge=judge, metrics=metrics, **where)
    if figures is not None:
        trainer.metrics = figures
        trainer.tell("evaluated")
    return FitResult(out, model, figures)


__all__ = ["FitConfig", "FitResult", "fit"]
