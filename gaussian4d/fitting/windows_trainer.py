"""The fit of a long clip window by window, each in a run folder of its own, seen from outside as one fit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..model import DynamicGaussians, load_model
from ..motion import Params, Windows, make_motion
from ..scene import Scene
from .checkpoint import list_checkpoints, load_checkpoint
from .config import FitConfig, save_run_config
from .hooks import FitHook
from .initialise import initial_params, initial_points
from .normalise import Normalisation
from .progress import Narrator
from .targets import Targets
from .trainer import Trainer
from .windows import Plan, joined, window_config, window_folder
from .windows_start import Predecessor, start_params


class WindowsTrainer:
    """Fits of all windows in turn: see `Trainer`, whose surface this has."""

    def __init__(
        self,
        scene: Scene,
        config: FitConfig,
        plan: Plan,
        normalisation: Normalisation,
        out: Path,
        reporter: Narrator,
        hooks: Sequence[FitHook],
        resume: bool,
        began: float,
    ) -> None:
        self.scene, self.config, self.plan, self.normalisation = scene, config, plan, normalisation
        self.out, self.reporter, self.hooks = out, reporter, hooks
        self._resume, self._began, self._stop_requested = resume, began, False
        # In the order of the clip: a window starts from the one before.
        self.finished = [load_model(window_folder(out, index)) for index in range(len(plan.finished))]
        self.current: Trainer | None = None
        if self.finished:
            reporter.say(f"{len(self.finished)} of {len(plan.windows)} windows were finished before")
        # Made now, so that a scene without points is refused before the fit begins.
        if len(self.finished) < len(plan.windows):
            self.current = self._trainer(len(self.finished))

    @property
    def stop_requested(self) -> bool:
        """Whether the fit is to stop after the current step."""
        return self._stop_requested or (self.current is not None and self.current.stop_requested)

    @stop_requested.setter
    def stop_requested(self, value: bool) -> None:
        self._stop_requested = value
        if self.current is not None:
            self.current.stop_requested = value

    @property
    def step(self) -> int:
        """Steps taken so far, over all windows."""
        return self._sum("steps") + (self.current.step if self.current else 0)

    @property
    def elapsed(self) -> float:
        """Seconds of fitting so far, over all windows and sittings."""
        return self._sum("seconds") + (self.current.elapsed if self.current else 0.0)

    @property
    def progress(self) -> float:
        """How much of the fit is done, 0..1."""
        return (len(self.finished) + (self.current.progress if self.current else 0.0)) / len(self.plan.windows)

    def run(self) -> float:
        """Fits the windows that are missing, until a stop is requested; returns how much is done."""
        self._tell("start")
        for index in range(len(self.finished), len(self.plan.windows)):
            trainer = self.current = self.current or self._trainer(index)
            done = trainer.run()
            trainer.model().save(window_folder(self.out, index) / "model.g4d")
            if done < 1.0:
                break
            self.finished.append(trainer.model())
            self.plan.finished.append(index)
            self.plan.save(self.out)
            self._stop_requested = self.stop_requested
            self.current = None
            if self._stop_requested:
                break
        self._tell("end")
        return self.progress

    def model(self) -> DynamicGaussians:
        """Returns the windows there are, the one under way included, as one model in world coordinates."""
        models = [*self.finished, *([self.current.model()] if self.current else [])]
        return joined(models, self.scene)

    def go_back(self) -> bool:
        """Takes the window under way back to its newest checkpoint; returns whether there is anything to keep."""
        if self.current is not None and not self.current.go_back():
            self.current = None
        return bool(self.finished) or self.current is not None

    def _trainer(self, index: int) -> Trainer:
        """Returns the trainer of window `index`, at its newest checkpoint when the fit is resumed."""
        began = self._began if index == 0 else time.monotonic()
        scene = self.scene.part(*self.plan.windows[index])
        frames = scene.frames("train")
        config = window_config(self.config, self.plan, index, self.scene, self.normalisation.to_dict())
        if index > 0:
            # One colour lies behind all windows: the first fit finds it, the others keep it.
            config = config.replace(lr_background=(0.0, 0.0))
        folder = window_folder(self.out, index)
        saved = list_checkpoints(folder / "checkpoints") if self._resume else []
        self._resume = False
        self.reporter.say(f"window {index + 1} of {len(self.plan.windows)}: {_times(self.scene, self.plan, index)}")
        before = self._predecessor(index) if index > 0 and not saved else None

        def start() -> Params:
            motion = make_motion(config.motion, config.motion_config)
            points = None
            if before is None or motion.windowed:
                points = initial_points(scene, frames, self.normalisation, config, config.seed, self.reporter.say)
            return start_params(before, config, points) if before else initial_params(points, motion, config)  # type: ignore[arg-type]

        tensors, state = load_checkpoint(saved[-1]) if saved else ({}, {})
        restored = {name[7:]: value for name, value in tensors.items() if name.startswith("params/")}
        params = restored or start()
        folder.mkdir(parents=True, exist_ok=True)
        save_run_config(folder / "config.json", config, {"path": str(Path(scene.path).resolve()), **scene.options})
        targets = Targets(scene, frames, self.normalisation)
        narrator = _WindowNarrator(self, index)
        elapsed = time.monotonic() - began
        hooks = [self._relay] if self.hooks else []
        trainer = Trainer(scene, targets, config, self.normalisation, params, folder, narrator, hooks, elapsed)
        if saved:
            trainer.load(tensors, state)
            self.reporter.say(f"resumed window {index + 1} at its step {trainer.step}")
        elif before is not None:
            _settle(trainer, before)
            # Written at once: the folder is then a run that can be resumed by itself.
            trainer.save()
        torch.manual_seed(config.seed)
        return trainer

    def _predecessor(self, index: int) -> Predecessor:
        """Returns the end of window `index - 1`, from its last checkpoint."""
        saved = list_checkpoints(window_folder(self.out, index - 1) / "checkpoints")
        tensors, _ = load_checkpoint(saved[-1])
        model = self.finished[index - 1]
        assert isinstance(model.motion, Windows)
        spans = self.plan.spans(self.scene.times)
        frames = self.scene.part(*self.plan.windows[index - 1]).frames("train")
        return Predecessor(
            params={name[7:]: value for name, value in tensors.items() if name.startswith("params/")},
            motion=model.motion,
            time=0.5 * (spans[index][0] + spans[index - 1][1]),
            background=tensors["background/color"],
            exposure=tensors.get("exposure/table"),
            camera_ids=list(dict.fromkeys(frame.camera_id for frame in frames)),
        )

    def _sum(self, key: str) -> Any:
        return sum(model.meta["fit"][key] for model in self.finished)

    def _relay(self, trainer: Trainer, event: str) -> None:
        """Tells the hooks about one window's steps as about steps of the whole fit."""
        if event in ("step", "checkpoint"):
            self._tell(event)

    def _tell(self, event: str) -> None:
        for hook in self.hooks:
            hook(self, event)  # type: ignore[arg-type]


class _WindowNarrator:
    """Turns the figures of one window's fit into figures of the whole."""

    def __init__(self, whole: WindowsTrainer, index: int) -> None:
        self.whole, self.index = whole, index

    def say(self, message: str) -> None:
        """Passes a message on."""
        self.whole.reporter.say(message)

    def figures(self, values: dict[str, Any], progress: float, eta: float | None) -> None:
        """Passes figures on, with the step, the time and what is left counted over all windows."""
        whole = self.whole
        done, elapsed = (self.index + progress) / len(whole.plan.windows), whole.elapsed
        left = elapsed * (1.0 - done) / done if done > 0 else None
        changed = {"step": whole.step, "progress": round(done, 6), "elapsed": round(elapsed, 2), "window": self.index}
        whole.reporter.figures({**values, **changed}, done, left)


@torch.no_grad()
def _settle(trainer: Trainer, before: Predecessor) -> None:
    """Gives a window the background and the exposures that the window before ended with."""
    trainer.background.color.copy_(before.background)
    if trainer.exposure is not None and before.exposure is not None:
        rows = {camera_id: row for row, camera_id in enumerate(before.camera_ids)}
        for row, camera_id in enumerate(trainer.targets.camera_ids):
            if camera_id in rows:
                trainer.exposure.table[row] = before.exposure[rows[camera_id]]


def _times(scene: Scene, plan: Plan, index: int) -> str:
    start, stop = plan.windows[index]
    first, last = plan.spans(scene.times)[index]
    return f"instants {start} to {stop - 1}, clip times {first:.3f} to {last:.3f}"
