"""A whole fit: settings, run folder, start or resume, training, model, evaluation, report."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch

from ..errors import UserError
from ..model import DynamicGaussians
from ..motion import Params, PerFrame, make_motion
from ..scene import Scene
from .checkpoint import list_checkpoints, load_checkpoint
from .config import FitConfig, load_run_config, save_run_config
from .divergence import Diverged
from .hooks import FitHook, load_hook
from .initialise import initial_params, initial_points
from .normalise import Normalisation
from .parallel import Team
from .per_frame import PerFrameTrainer
from .presets import preset_config
from .progress import Narrator, Reporter, Silence
from .report import report_lines
from .targets import Targets
from .trainer import Trainer
from .windows import Plan, describe, plan_windows
from .windows_processes import WindowProcesses
from .windows_trainer import WindowsTrainer


class Stoppable(Protocol):
    """A loop that ends after the current step when it is asked to."""

    stop_requested: bool


AnyTrainer = Trainer | PerFrameTrainer | WindowsTrainer | WindowProcesses


@dataclasses.dataclass
class FitResult:
    """What a fit leaves behind."""

    path: Path
    """The run folder."""
    model: DynamicGaussians
    metrics: dict[str, Any] | None
    """The content of eval/metrics.json; None when the fit was interrupted or the scene has no test frames."""
    interrupted: bool = False
    leads: bool = True
    """False in all processes but the first of a fit by several (see `parallel`)."""


def fit(
    scene: Scene,
    preset: str = "quick",
    out: str | Path = "runs/a",
    *,
    motion: str | None = None,
    max_steps: int | None = None,
    max_minutes: float | None = None,
    seed: int = 0,
    resume: bool = False,
    backend: str = "auto",
    background: str | None = None,
    keep_checkpoints: int = 2,
    callbacks: Sequence[FitHook | str] = (),
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
        motion: `static`, `dual-domain`, `free-time`, `spacetime`, `hexplane` or `per-frame`; None lets the preset
            choose.
        max_steps: Steps to take; None keeps the preset's.
        max_minutes: Time limit; alone it lifts the preset's limit of steps. Two runs are then no longer equal.
        seed: Seed of everything random. Same seed, thread count and instruction set give the same model.
        resume: Go on from the newest checkpoint in `out`, with the settings saved there.
        backend: Rasterizer backend.
        background: `white`, `black`, `random` or `model`; None lets the preset choose.
        keep_checkpoints: How many checkpoints stay on disk.
        callbacks: Hooks (see `hooks`), or names of registered ones.
        evaluate: Whether to evaluate the test frames at the end.
        window: Longest window of a clip that is fitted in parts (see `windows`): instants, seconds ("2s"), or "none";
            None cuts clips of more than 100 instants that several cameras filmed. Steps and minutes that are given
            are shared out over the windows; the steps of a preset are for each.
        overlap: What neighbouring windows share, at least; None takes an eighth of a window.
        jobs: Processes that fit windows at the same time.
        overrides: Any other field of `FitConfig`.

    Under `torchrun` several processes fit together (docs/parallel.md); `batch` is then one picture for each of them
    unless it is given. Only the first process writes, prints, calls hooks and evaluates.

    Raises:
        UserError: for impossible settings, a scene without usable frames, or a run folder in the wrong state.
    """
    began = time.monotonic()
    out = Path(out)
    hooks = [load_hook(hook) if isinstance(hook, str) else hook for hook in callbacks]
    frames = scene.frames("train")
    if not frames:
        raise UserError(f"{scene.path} has no training frames; check the scene with `gaussian4d info`")
    given = {"motion": motion, "max_steps": max_steps, "max_minutes": max_minutes, "background": background}
    given = {name: value for name, value in {**given, **overrides}.items() if value is not None}
    ignored: list[str] = []
    team = Team.join()
    plan = None
    if resume:
        config, options = load_run_config(out / "config.json")
        if options.get("part") and "part" not in scene.options:
            scene = scene.part(*options["part"])
            frames = scene.frames("train")
        plan = Plan.load(out, scene)
        given.update({"window": window, "overlap": overlap} if window is not None or overlap is not None else {})
        ignored = [name for name, value in given.items() if value != getattr(config, name, None)]
    else:
        given.update(seed=seed, backend=backend, keep_checkpoints=keep_checkpoints)
        config = preset_config(preset, scene, {"batch": team.size, **given})
        _check_settings(config, scene)
        team.check_batch(config.batch)
        plan = _planned(scene, config, window, overlap, jobs, "max_steps" in given, team)
        if team.leads:
            if (out / "config.json").exists():
                raise UserError(f"{out} already holds a fit; add --resume to go on with it, or choose another --out")
            out.mkdir(parents=True, exist_ok=True)
            save_run_config(out / "config.json", config, scene_options(scene))
            if plan is not None:
                plan.save(out)
    with Reporter(out) if team.leads else contextlib.nullcontext(Silence()) as reporter:
        if ignored:
            reporter.say(f"--resume keeps the settings of the run; ignored: {', '.join(ignored)}")
        try:
            given_hooks = hooks if team.leads else ()
            trainer = _prepare(scene, frames, config, plan, out, reporter, given_hooks, resume, began, team)
        except UserError:
            if not resume and team.leads:
                _remove_start(out)
            raise
        try:
            with graceful_interrupt(trainer, reporter, team):
                progress = trainer.run()
        except Diverged as error:
            reporter.rest()
            raise _diverged(error, trainer, scene, config, out, team) from None
        reporter.rest()
        model = trainer.model()
        if not team.leads:
            return FitResult(out, model, None, progress < 1.0, leads=False)
        model.save(out / "model.g4d")
        if progress < 1.0:
            reporter.say(f"stopped at step {trainer.step}; the model so far is {out / 'model.g4d'}")
            reporter.say(f"go on with: gaussian4d fit {scene.path} --out {out} --resume")
            return FitResult(out, model, None, interrupted=True)
        reporter.say(
            f"fitted in {trainer.elapsed:.0f} s, {trainer.step} steps, {len(model):,} Gaussians: {out / 'model.g4d'}"
        )
        metrics = None
        if evaluate and scene.frames("test"):
            from ..evaluation import evaluate as evaluate_run

            metrics = evaluate_run(out, scene=scene)
            for line in report_lines(metrics):
                reporter.say(line)
        elif evaluate:
            reporter.say("the scene holds out no test frames, so nothing was evaluated")
        _write_report(out, scene, model, reporter)
    return FitResult(out, model, metrics)


def _write_report(out: Path, scene: Scene, model: DynamicGaussians, reporter: Narrator) -> None:
    """Writes the page about the run; what goes wrong with it is said, and costs nobody the fit."""
    from ..report import write_report

    try:
        reporter.say(f"report: {write_report(out, scene=scene, model=model)}")
    except Exception as error:
        reporter.say(f"the report could not be written ({type(error).__name__}: {error}); try gaussian4d report {out}")


def _diverged(
    error: Diverged, trainer: AnyTrainer, scene: Scene, config: FitConfig, out: Path, team: Team
) -> UserError:
    """Leaves the last good checkpoint behind, as the model too; returns the error that says so and how to go on."""
    kept = trainer.go_back()
    weaker = config.replace(lr_factor=0.5 * config.lr_factor)
    if team.leads:
        # Same settings, same end: a fit that goes on has to differ.
        save_run_config(out / "config.json", weaker, scene_options(scene))
        if kept:
            trainer.model().save(out / "model.g4d")
    left = (
        f"the checkpoint of step {trainer.step} is kept, and {out / 'model.g4d'} is the model of that step"
        if kept
        else "there was no checkpoint yet, so no model is written"
    )
    return UserError(
        f"the fit diverged and was stopped: {error}; {left}. Go on from there with half the learning rates (lr_factor"
        f" {weaker.lr_factor:g}, set in {out / 'config.json'}): gaussian4d fit {scene.path} --out {out} --resume"
    )


def _planned(
    scene: Scene,
    config: FitConfig,
    window: str | int | None,
    overlap: str | int | None,
    jobs: int,
    share_steps: bool,
    team: Team,
) -> Plan | None:
    """Returns how the clip is cut into windows, None when it is not; processes of a team do not fit windows."""
    if team.size > 1:
        if window is not None and str(window) != "none":
            raise UserError("--window and torchrun do not go together; use --jobs for windows, or leave --window out")
        return None
    plan = plan_windows(scene, config, window, overlap, jobs, share_steps)
    if plan is None and (overlap is not None or jobs > 1):
        raise UserError("--overlap and --jobs are for clips cut into windows, and this one is not; add --window")
    return plan


def _remove_start(out: Path) -> None:
    """Removes what a fit that could not begin has written, and the folder when nothing else is in it."""
    for name in ("config.json", "log.txt"):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / "windows", ignore_errors=True)
    if not any(out.iterdir()):
        out.rmdir()


def scene_options(scene: Scene) -> dict[str, Any]:
    """Returns the JSON values with which `load_scene` gives the same scene again."""
    return {"path": str(Path(scene.path).resolve()), **scene.options}


def _check_settings(config: FitConfig, scene: Scene) -> None:
    if config.background == "random" and not scene.has_alpha:
        raise UserError(
            f"background random needs pictures with alpha, {scene.path} has none; use model, white or black"
        )


def _prepare(
    scene: Scene,
    frames: Sequence[Any],
    config: FitConfig,
    plan: Plan | None,
    out: Path,
    reporter: Reporter | Silence,
    hooks: Sequence[FitHook],
    resume: bool,
    began: float,
    team: Team,
) -> AnyTrainer:
    """Returns the trainer at its start, or at the newest checkpoint."""
    if config.normalisation is not None:
        normalisation = Normalisation.from_dict(config.normalisation)
    else:
        normalisation = Normalisation.from_cameras([frame.camera for frame in frames])
    targets = Targets(scene, frames, normalisation)
    motion = make_motion(config.motion, config.motion_config)
    checkpoints = list_checkpoints(out / "checkpoints") if resume else []
    if not resume:
        limit = " and ".join(
            text
            for text in (
                f"{config.max_steps} steps" if config.max_steps else "",
                f"{config.max_minutes:g} minutes" if config.max_minutes else "",
            )
            if text
        )
        reporter.say(f"fit {scene.path}: {len(frames)} frames, motion {config.motion}, {limit}, seed {config.seed}")
        if team.size > 1:
            reporter.say(f"{team.size} processes draw {config.batch} pictures per step")
        if config.max_minutes:
            reporter.say("with a time limit the number of steps depends on the machine, so two runs differ")
    if plan is not None:
        reporter.say(describe(plan))
        if plan.jobs > 1:
            processes = WindowProcesses(scene, config, plan, normalisation, out, reporter, hooks, began)
            reporter.cut_metrics(processes.step)
            return processes
        windows = WindowsTrainer(scene, config, plan, normalisation, out, reporter, hooks, resume, began)
        reporter.cut_metrics(windows.step)
        return windows
    if config.motion == PerFrame.name:
        whole = PerFrameTrainer(scene, frames, config, normalisation, out, reporter, hooks, team, resume, began)
        reporter.cut_metrics(whole.step)
        return whole
    if checkpoints:
        tensors, state = load_checkpoint(checkpoints[-1])
        params = {name[7:]: value for name, value in tensors.items() if name.startswith("params/")}
        trainer = Trainer(scene, targets, config, normalisation, params, out, reporter, hooks, 0.0, team)
        trainer.load(tensors, state)
        reporter.say(f"resumed at step {trainer.step} from {checkpoints[-1].name}")
    else:
        if resume:
            reporter.say("no checkpoint yet: starting from the beginning with the saved settings")

        def start() -> Params:
            points = initial_points(scene, frames, normalisation, config, config.seed, reporter.say)
            return initial_params(points, motion, config)

        params = team.from_leader(start)
        elapsed = time.monotonic() - began
        trainer = Trainer(scene, targets, config, normalisation, params, out, reporter, hooks, elapsed, team)
    reporter.cut_metrics(trainer.step)
    torch.manual_seed(config.seed)
    return trainer


@contextlib.contextmanager
def graceful_interrupt(trainer: AnyTrainer | Stoppable, reporter: Narrator, team: Team | None = None) -> Iterator[None]:
    """Turns the first Ctrl-C into a request to stop after the current step; the second one interrupts at once."""
    team = team or Team()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # torchrun takes Ctrl-C for itself and passes on SIGTERM or SIGINT, sometimes both to one process.
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM] if team.size > 1 else [signal.SIGINT]
    previous: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}

    def request(number: int, frame: FrameType | None) -> None:
        trainer.stop_requested = True
        if team.size == 1:
            signal.signal(number, previous[number])

    for number in numbers:
        signal.signal(number, request)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, previous[number])
    if trainer.stop_requested:
        reporter.say("interrupted: the checkpoint is saved")
