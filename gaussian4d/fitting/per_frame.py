"""The fit of the per-frame baseline: one still fit per instant, one after the other.

Each instant gets the same share of the steps or the time. A finished instant is a file of its own under
RUN/instants; the one under way has its checkpoints in a folder beside them. A stopped fit goes on from there.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..model import DynamicGaussians
from ..motion import Params, PerFrame, PerFrameConfig, Static
from ..offsets import meta_of
from ..run_folder import RunFolder
from ..scene import Frame, PointCloud, Scene
from ..view_block import with_view
from .checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from .config import FitConfig
from .hooks import FitHook
from .initialise import initial_params, initial_points
from .normalise import Normalisation
from .parallel import Team
from .parts import Parts, keep_colour, params_of
from .progress import Narrator
from .targets import Targets
from .trainer import Trainer


@dataclasses.dataclass
class _Finished:
    """What is kept of the fit of one instant."""

    params: Params
    """In the fit's frame, static columns."""
    background: Tensor
    steps: int
    seconds: float


class PerFrameTrainer(Parts):
    """Fits of all instants in turn."""

    part = "instant"

    def __init__(
        self,
        scene: Scene,
        frames: Sequence[Frame],
        config: FitConfig,
        normalisation: Normalisation,
        out: Path,
        reporter: Narrator,
        hooks: Sequence[FitHook],
        team: Team,
        resume: bool,
        began: float,
        device: torch.device | str = "cpu",
    ) -> None:
        groups: dict[float, list[Frame]] = {}
        for frame in frames:
            groups.setdefault(float(frame.time), []).append(frame)
        self.times = sorted(groups)
        self.groups = [groups[moment] for moment in self.times]
        super().__init__(len(self.times), config, out, reporter, hooks, team)
        self.scene, self.normalisation, self.folder = scene, normalisation, RunFolder(out).instants
        self.device = torch.device(device)
        self._check()
        self.settings: PerFrameConfig = config.make_motion().config
        self.finished = self._load() if resume else []
        self._resume, self._began = resume, began
        self.open()

    def finished_parts(self) -> int:
        return len(self.finished)

    def finished_figures(self) -> tuple[int, float]:
        return sum(item.steps for item in self.finished), sum(item.seconds for item in self.finished)

    def model(self) -> DynamicGaussians:
        """Returns the instants there are, the one under way included, in world coordinates."""
        items = [(item.params, item.background) for item in self.finished]
        if self.current is not None:
            table = {name: value.detach().cpu() for name, value in self.current.table.params.items()}
            items.append((table, self.current.background.final().cpu()))
        settings = dataclasses.replace(self.settings, times=tuple(self.times[: len(items)]))
        motion = PerFrame(settings)
        params = {name: torch.cat([table[name] for table, _ in items]) for name in items[0][0]}
        counts = torch.tensor([len(table["means"]) for table, _ in items])
        params["instants"] = torch.arange(len(items), dtype=torch.float32).repeat_interleave(counts)
        nearest = min(Targets(self.scene, group, self.normalisation).nearest_camera() for group in self.groups)
        model = DynamicGaussians(
            params=self.normalisation.undo(params, motion),
            motion=motion,
            background=items[0][1],
            fps=self.scene.fps,
            times=self.scene.times,
            meta={
                "normalisation": self.normalisation.to_dict(),
                "fit": {
                    "preset": self.config.preset,
                    "seed": self.config.seed,
                    "steps": self.step,
                    "seconds": round(self.elapsed, 2),
                },
                "background_mode": self.config.background,
                "near": self.config.near * min(1.0, nearest) / self.normalisation.scale,
                **meta_of(self.scene.offset),
            },
        )
        return with_view(model, self.scene)

    def _check(self) -> None:
        """Raises `UserError` when an instant cannot be fitted by itself."""
        fewest = min(range(len(self.times)), key=lambda index: len(self.groups[index]))
        if len(self.groups[fewest]) < 2:
            raise UserError(
                "motion per-frame fits every instant by itself and needs at least 2 training pictures of each; at clip"
                f" time {self.times[fewest]:.4f} {self.scene.path} has 1; choose another --motion"
            )
        if self.config.max_steps is not None and self.config.max_steps < len(self.times):
            raise UserError(
                f"motion per-frame needs at least one step for each of {len(self.times)} instants, got"
                f" {self.config.max_steps} steps; raise --max-steps or choose fewer --frames"
            )

    def _instant_config(self, index: int) -> FitConfig:
        """Returns the settings of the still fit of instant `index`."""
        steps, minutes = self.config.max_steps, self.config.max_minutes
        if steps is not None:
            share, more = divmod(steps, len(self.times))
            steps = share + (index < more)
        if minutes is not None:
            minutes = minutes / len(self.times)
        # One colour lies behind all instants: the first fit finds it, the others keep it.
        keep = {"optim.background": (0.0, 0.0)} if index > 0 else {}
        still = {"motion": Static.name, "motion_config": {}, "max_steps": steps, "max_minutes": minutes}
        return self.config.replace({**still, **keep})

    def begin(self, index: int) -> Trainer:
        """Returns the trainer of instant `index`, at its newest checkpoint when the fit is resumed."""
        began, config = time.monotonic(), self._instant_config(index)
        if index == 0:
            # Reading the scene's frames counts, as in other fits.
            began = self._began
        scene, frames = _still(self.scene, self.times, index), self.groups[index]
        targets = Targets(scene, frames, self.normalisation, self.device)
        out = self.folder / f"instant_{index:04d}"
        saved = list_checkpoints(RunFolder(out).checkpoints) if self._resume else []
        self._resume = False

        def start() -> Params:
            if self.settings.warm_start and index > 0:
                return {name: value.clone() for name, value in self.finished[-1].params.items()}
            say = self.reporter.say if index == 0 else _nothing
            points = initial_points(scene, frames, self.normalisation, config, config.seed, say)
            return initial_params(points, Static(), config)

        tensors, state = load_checkpoint(saved[-1]) if saved else ({}, {})
        params = params_of(tensors) or self.team.from_leader(start)
        elapsed = time.monotonic() - began
        told = self.narrator(index), self.hooks_of_part()
        trainer = Trainer(scene, targets, config, self.normalisation, params, out, *told, elapsed, self.team)
        if saved:
            trainer.load(tensors, state)
            self.reporter.say(f"resumed instant {index + 1} at its step {trainer.step}")
        elif index > 0:
            keep_colour(trainer, self.finished[0].background)
        torch.manual_seed(config.seed)
        return trainer

    def finish(self, index: int, trainer: Trainer) -> None:
        """Keeps the result of an instant, on disk as well, and removes its checkpoints."""
        params = {name: value.detach().cpu().clone() for name, value in trainer.table.params.items()}
        item = _Finished(params, trainer.background.final().cpu(), trainer.step, trainer.elapsed)
        self.finished.append(item)
        if self.team.leads:
            tensors = {**{f"params/{name}": value for name, value in params.items()}, "background": item.background}
            save_checkpoint(self.folder, index, tensors, {"steps": item.steps, "seconds": item.seconds}, keep=10**9)
            # Not there when the search for the first points took the whole time of the instant: no step, no checkpoint.
            shutil.rmtree(self.folder / f"instant_{index:04d}", ignore_errors=True)

    def _load(self) -> list[_Finished]:
        """Returns the instants that were finished in earlier sittings."""
        items = []
        for path in list_checkpoints(self.folder):
            tensors, state = load_checkpoint(path)
            if state["step"] != len(items):
                raise UserError(f"expected {self.folder} to hold instant {len(items)} before {path.name}; fit anew")
            items.append(_Finished(params_of(tensors), tensors["background"], state["steps"], state["seconds"]))
        return items


def _still(scene: Scene, times: Sequence[float], index: int) -> Scene:
    """Returns the scene with only the points of instant `index` and those of no instant."""
    cloud = scene.points
    if cloud is None or cloud.times is None:
        return scene
    moments = np.asarray(cloud.times, dtype=np.float64)
    nearest = np.abs(np.nan_to_num(moments)[:, None] - np.asarray(times)).argmin(axis=1)
    chosen = np.isnan(moments) | (nearest == index)
    still = copy.copy(scene)
    still.points = PointCloud(cloud.xyz[chosen], cloud.rgb[chosen], np.full(int(chosen.sum()), math.nan))
    return still


def _nothing(message: str) -> None:
    """Drops a message that the first instant has given already."""
