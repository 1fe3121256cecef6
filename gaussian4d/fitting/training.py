"""The second room of a fit: from an open fit to a model, at the end or where it was stopped."""

from __future__ import annotations

import contextlib
import dataclasses
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
from ..motion import Params, PerFrame
from ..scene import Scene, load_scene
from .checkpoint import list_checkpoints, load_checkpoint
from .config import FitConfig
from .divergence import Diverged
from .hooks import FitHook
from .initialise import initial_params, initial_points
from .normalise import Normalisation
from .opening import OpenFit
from .parallel import Team
from .parts import params_of
from .per_frame import PerFrameTrainer
from .progress import Narrator, Reporter, Silence
from .targets import Targets
from .trainer import Trainer
from .windows import describe, scene_options
from .windows_processes import WindowProcesses
from .windows_trainer import WindowsTrainer


class Stoppable(Protocol):
    """A loop that ends after the current step when it is asked to."""

    stop_requested: bool


AnyTrainer = Trainer | PerFrameTrainer | WindowsTrainer | WindowProcesses


@dataclasses.dataclass
class Trained:
    """What training has come to."""

    trainer: AnyTrainer
    model: DynamicGaussians
    progress: float
    """How much of the fit is done, 0..1."""


def train(
    opened: OpenFit,
    reporter: Reporter | Silence,
    hooks: Sequence[FitHook],
    began: float,
) -> Trained:
    """Returns the model fitted as `opened` says, after model.g4d and a checkpoint were written.

    Args:
        opened: The fit; what it has written is removed when it cannot begin.
        reporter: Who is told.
        hooks: See `hooks`.
        began: Time of the monotonic clock at which the fit began, so that reading the scene counts.

    Raises:
        UserError: where no start is found, or the fit diverges; its last good checkpoint and model are kept then.
    """
    team = opened.team
    try:
        trainer = _prepare(opened, reporter, hooks if team.leads else (), began)
    except UserError:
        opened.discard()
        raise
    if team.leads:
        opened.run.mark(False, trainer.step)
    try:
        with graceful_interrupt(trainer, reporter, team):
            progress = trainer.run()
    except Diverged as error:
        reporter.rest()
        raise _diverged(error, trainer, opened) from None
    reporter.rest()
    model = trainer.model()
    if team.leads:
        model.save(opened.run.model_path)
    if progress < 1.0:
        reporter.say(f"stopped at step {trainer.step}; the model so far is {opened.run.model_path}")
        reporter.say(f"go on with: {resume_line(opened)}")
    return Trained(trainer, model, progress)


def _prepare(
    opened: OpenFit,
    reporter: Reporter | Silence,
    hooks: Sequence[FitHook],
    began: float,
) -> AnyTrainer:
    """Returns the trainer at its start, or at the newest checkpoint."""
    scene, frames, config, resume = opened.scene, opened.frames, opened.config, opened.resume
    team, out, plan, device = opened.team, opened.run.path, opened.plan, opened.device
    if config.normalisation is not None:
        normalisation = Normalisation.from_dict(config.normalisation)
    else:
        normalisation = Normalisation.from_cameras([frame.camera for frame in frames])
    if not resume:
        _announce(scene, config, len(frames), team, reporter)
    if plan is not None:
        reporter.say(describe(plan))
        if plan.jobs > 1:
            processes = WindowProcesses(scene, config, plan, normalisation, out, reporter, hooks, began)
            reporter.cut_metrics(processes.step)
            return processes
        windows = WindowsTrainer(scene, config, plan, normalisation, out, reporter, hooks, resume, began, device)
        reporter.cut_metrics(windows.step)
        return windows
    if config.motion == PerFrame.name:
        told = out, reporter, hooks, team
        whole = PerFrameTrainer(scene, frames, config, normalisation, *told, resume, began, device)
        reporter.cut_metrics(whole.step)
        return whole
    targets = Targets(scene, frames, normalisation, device)
    extra = _extra(config, normalisation, device)
    checkpoints = list_checkpoints(opened.run.checkpoints) if resume else []
    if checkpoints:
        tensors, state = load_checkpoint(checkpoints[-1])
        told = params_of(tensors), out, reporter, hooks, 0.0, team
        trainer = Trainer(scene, targets, config, normalisation, *told, extra=extra)
        trainer.load(tensors, state)
        reporter.say(f"resumed at step {trainer.step} from {checkpoints[-1].name}")
    else:
        if resume:
            reporter.say("no checkpoint yet: starting from the beginning with the saved settings")

        def start() -> Params:
            points = initial_points(scene, frames, normalisation, config, config.seed, reporter.say)
            return initial_params(points, config.make_motion(), config)

        params = team.from_leader(start)
        told = params, out, reporter, hooks, time.monotonic() - began, team
        trainer = Trainer(scene, targets, config, normalisation, *told, extra=extra)
    reporter.cut_metrics(trainer.step)
    torch.manual_seed(config.seed)
    return trainer


def _announce(scene: Scene, config: FitConfig, frames: int, team: Team, reporter: Narrator) -> None:
    """Says what is about to be fitted, and for how long."""
    limit = " and ".join(
        text
        for text in (
            f"{config.max_steps} steps" if config.max_steps else "",
            f"{config.max_minutes:g} minutes" if config.max_minutes else "",
        )
        if text
    )
    reporter.say(f"fit {scene.path}: {frames} frames, motion {config.motion}, {limit}, seed {config.seed}")
    if team.size > 1:
        reporter.say(f"{team.size} processes draw {config.batch} pictures per step")
    if config.max_minutes:
        reporter.say("with a time limit the number of steps depends on the machine, so two runs differ")


def _extra(config: FitConfig, normalisation: Normalisation, device: torch.device) -> Targets | None:
    """Returns the extra frames (see `ExtraConfig`); raises `UserError` when their folder holds none."""
    if config.extra.frames is None:
        return None
    scene = load_scene(Path(config.extra.frames))
    frames = scene.frames("train")
    if not frames:
        raise UserError(f"extra.frames: {config.extra.frames} has no training frames; give the folder of a scene")
    return Targets(scene, frames, normalisation, device)


def _diverged(error: Diverged, trainer: AnyTrainer, opened: OpenFit) -> UserError:
    """Leaves the last good checkpoint behind, as the model too; returns the error that says so and how to go on."""
    run, kept = opened.run, trainer.go_back()
    weaker = opened.config.replace({"optim.factor": 0.5 * opened.config.optim.factor})
    if opened.team.leads:
        # Same settings, same end: a fit that goes on has to differ.
        run.write(weaker, scene_options(opened.scene))
        if kept:
            trainer.model().save(run.model_path)
    left = (
        f"the checkpoint of step {trainer.step} is kept, and {run.model_path} is the model of that step"
        if kept
        else "there was no checkpoint yet, so no model is written"
    )
    return UserError(
        f"the fit diverged and was stopped: {error}; {left}. Go on from there with half the learning rates"
        f" (optim.factor {weaker.optim.factor:g}, set in {run.config_path}): {resume_line(opened)}"
    )


def resume_line(opened: OpenFit) -> str:
    """Returns what a user types to go on with a fit."""
    if opened.scene.has_files:
        return f"gaussian4d fit {opened.scene.path} --out {opened.run.path} --resume"
    return f"gaussian4d.fit(scene, out={str(opened.run.path)!r}, resume=True), with the same frames"


@contextlib.contextmanager
def graceful_interrupt(trainer: AnyTrainer | Stoppable, reporter: Narrator, team: Team | None = None) -> Iterator[None]:
    """Turns the first Ctrl-C into a request to stop after the current step; the second one interrupts at once."""
    team = team or Team()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Batch systems send SIGTERM before they kill. torchrun takes Ctrl-C for itself and passes on SIGTERM or SIGINT,
    # sometimes both to one process.
    numbers: list[int] = [signal.SIGINT, signal.SIGTERM]
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
