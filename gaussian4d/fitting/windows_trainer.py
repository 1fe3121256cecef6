"""The fit of a long clip window by window, each in a run folder of its own, seen from outside as one fit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..model import DynamicGaussians, load_model
from ..motion import Params, Windows
from ..run_folder import RunFolder
from ..scene import Scene
from .checkpoint import list_checkpoints, load_checkpoint
from .config import FitConfig
from .hooks import FitHook
from .initialise import initial_params, initial_points
from .normalise import Normalisation
from .parallel import Team
from .parts import Parts, keep_colour, params_of
from .progress import Narrator
from .targets import Targets
from .trainer import Trainer
from .windows import Plan, joined, scene_options, window_config, window_folder
from .windows_start import Predecessor, start_params


class WindowsTrainer(Parts):
    """Fits of all windows in turn."""

    part = "window"

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
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(len(plan.windows), config, out, reporter, hooks, Team())
        self.scene, self.plan, self.normalisation = scene, plan, normalisation
        self.device = torch.device(device)
        self._resume, self._began = resume, began
        # In the order of the clip: a window starts from the one before.
        self.finished = [load_model(window_folder(out, index)) for index in range(len(plan.finished))]
        self.open()

    def finished_parts(self) -> int:
        return len(self.finished)

    def finished_figures(self) -> tuple[int, float]:
        fits = [model.meta["fit"] for model in self.finished]
        return sum(fit["steps"] for fit in fits), sum(fit["seconds"] for fit in fits)

    def leave(self, index: int, trainer: Trainer) -> None:
        """Writes the window's model."""
        trainer.model().save(RunFolder(window_folder(self.out, index)).model_path)

    def finish(self, index: int, trainer: Trainer) -> None:
        """Keeps the window's model, and that it is done."""
        self.finished.append(trainer.model())
        self.plan.finished.append(index)
        self.plan.save(self.out)

    def model(self) -> DynamicGaussians:
        """Returns the windows there are, the one under way included, as one model in world coordinates."""
        models = [*self.finished, *([self.current.model()] if self.current else [])]
        return joined(models, self.scene)

    def begin(self, index: int) -> Trainer:
        """Returns the trainer of window `index`, at its newest checkpoint when the fit is resumed."""
        began = self._began if index == 0 else time.monotonic()
        scene = self.scene.part(*self.plan.windows[index])
        frames = scene.frames("train")
        config = window_config(self.config, self.plan, index, self.scene, self.normalisation.to_dict())
        if index > 0:
            # One colour lies behind all windows: the first fit finds it, the others keep it.
            config = config.replace({"optim.background": (0.0, 0.0)})
        folder = window_folder(self.out, index)
        run = RunFolder(folder)
        saved = list_checkpoints(run.checkpoints) if self._resume else []
        self._resume = False
        self.reporter.say(f"window {index + 1} of {len(self.plan.windows)}: {_times(self.scene, self.plan, index)}")
        before = self._predecessor(index) if index > 0 and not saved else None

        def start() -> Params:
            motion = config.make_motion()
            points = None
            if before is None or motion.windowed:
                points = initial_points(scene, frames, self.normalisation, config, config.seed, self.reporter.say)
            return start_params(before, config, points) if before else initial_params(points, motion, config)  # type: ignore[arg-type]

        tensors, state = load_checkpoint(saved[-1]) if saved else ({}, {})
        params = params_of(tensors) or start()
        folder.mkdir(parents=True, exist_ok=True)
        run.write(config, scene_options(scene))
        targets = Targets(scene, frames, self.normalisation, self.device)
        elapsed = time.monotonic() - began
        told = self.narrator(index), self.hooks_of_part()
        trainer = Trainer(scene, targets, config, self.normalisation, params, folder, *told, elapsed)
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
        saved = list_checkpoints(RunFolder(window_folder(self.out, index - 1)).checkpoints)
        tensors, _ = load_checkpoint(saved[-1])
        model = self.finished[index - 1]
        assert isinstance(model.motion, Windows)
        spans = self.plan.spans(self.scene.times)
        frames = self.scene.part(*self.plan.windows[index - 1]).frames("train")
        return Predecessor(
            params=params_of(tensors),
            motion=model.motion,
            time=0.5 * (spans[index][0] + spans[index - 1][1]),
            background=tensors["background/color"],
            exposure=tensors.get("exposure/table"),
            camera_ids=list(dict.fromkeys(frame.camera_id for frame in frames)),
        )


@torch.no_grad()
def _settle(trainer: Trainer, before: Predecessor) -> None:
    """Gives a window the background and the exposures that the window before ended with."""
    keep_colour(trainer, before.background)
    if trainer.exposure is not None and before.exposure is not None:
        rows = {camera_id: row for row, camera_id in enumerate(before.camera_ids)}
        for row, camera_id in enumerate(trainer.targets.camera_ids):
            if camera_id in rows:
                trainer.exposure.table[row] = before.exposure[rows[camera_id]].to(trainer.device)


def _times(scene: Scene, plan: Plan, index: int) -> str:
    start, stop = plan.windows[index]
    first, last = plan.spans(scene.times)[index]
    return f"instants {start} to {stop - 1}, clip times {first:.3f} to {last:.3f}"
