"""The loop that every fit runs in: clock, limits, stopping, steps that are dropped, figures, checkpoints, hooks.

A fit is a subclass that says what a step is (`take_step`), what must be finite (`watched`), and what a checkpoint holds
(`tensors`, `values`, `load`). What it fits, and to what, the loop does not know.
"""

from __future__ import annotations

import abc
import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..run_folder import RunFolder
from .checkpoint import checkpoint_path, list_checkpoints, load_checkpoint, save_checkpoint
from .config import FitConfig
from .divergence import PATIENCE, Diverged, unsound
from .hooks import FitHook, tell_hooks
from .parallel import Team
from .progress import Narrator
from .schedule import progress_of


@dataclasses.dataclass
class Figures:
    """What a step has come to."""

    loss: float
    squared_error: float
    terms: dict[str, float]
    """The weighted value of each term."""
    steps: int = 1
    """How many steps these are the sums of."""


class Deferred:
    """What `take_step` returns on an accelerator: what came of the step is read later, when the loop needs to know."""


DEFERRED = Deferred()


@dataclasses.dataclass
class Recent:
    """Sums over the steps since the last line of metrics."""

    loss: float = 0.0
    squared_error: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    terms: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, figures: Figures) -> None:
        """Counts one step."""
        self.loss += figures.loss
        self.squared_error += figures.squared_error
        self.steps += figures.steps
        for name, value in figures.terms.items():
            self.terms[name] = self.terms.get(name, 0.0) + value


class Loop(abc.ABC):
    """A fit in progress. `run` goes on until the limit or until `stop_requested`."""

    def __init__(
        self, config: FitConfig, out: Path, reporter: Narrator, hooks: Sequence[FitHook], elapsed: float, team: Team
    ) -> None:
        self.config, self.out, self.reporter, self.hooks, self.team = config, out, reporter, hooks, team
        self.recent = Recent()
        self.step = 0
        self.stop_requested = False
        self.skipped = 0
        self.skipped_running = 0
        """How many of the last steps had no finite loss, one after the other."""
        self.metrics: dict[str, Any] | None = None
        """The content of eval/metrics.json, once there is one."""
        self._elapsed_before, self._started = elapsed, time.monotonic()

    @abc.abstractmethod
    def take_step(self, progress: float) -> Figures | Deferred | None:
        """Takes one step; returns None, and changes nothing, when its loss is not finite."""

    def settle(self) -> None:  # noqa: B027 - nothing is deferred unless a subclass says so
        """Counts the steps whose figures were deferred."""

    @abc.abstractmethod
    def after_step(self, progress: float) -> None:
        """Does what follows a step, with the step counted: refinement."""

    @abc.abstractmethod
    def watched(self) -> Mapping[str, Tensor]:
        """Returns the tensors that must stay finite."""

    @abc.abstractmethod
    def count(self) -> int:
        """Returns the number of Gaussians."""

    @abc.abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Returns every tensor that a checkpoint needs."""

    @abc.abstractmethod
    def values(self) -> dict[str, Any]:
        """Returns the JSON values that a checkpoint needs besides the loop's own."""

    @abc.abstractmethod
    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Goes back to what `tensors` and `values` returned."""

    @property
    def elapsed(self) -> float:
        """Seconds of fitting so far, over all sittings."""
        return self._elapsed_before + time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """How much of the fit is done, 0..1."""
        return progress_of(self.step, self.elapsed, self.config.max_steps, self.config.max_minutes)

    def run(self) -> float:
        """Trains until the fit is done or a stop is requested; saves a checkpoint, returns how much of it is done.

        Raises `Diverged` when that leads nowhere; `go_back` then returns to the last checkpoint.
        """
        keep = self.config.keep
        self.tell("start")
        progress = self._agreed_progress()
        while progress < 1.0 and not self._stopping():
            self.tell("before_step")
            began = time.monotonic()
            figures = self.take_step(progress)
            if isinstance(figures, Figures):
                self.skipped_running = 0
                self.recent.add(figures)
            elif figures is None:
                self.drop(1, self.skipped_running + 1)
            self.step += 1
            self.recent.seconds += time.monotonic() - began
            # Read once per step: the clock may not differ between two decisions of the same step.
            progress = self._agreed_progress()
            self.after_step(progress)
            if self.step % keep.log_every == 0 or progress >= 1.0:
                self.settle()
                self.check(self.watched())
                self._report(progress)
            # Amid steps without a finite loss the Gaussians may be finite and yet beyond help.
            if self.step % keep.checkpoint_every == 0 and not self.skipped_running:
                self.save()
            self.tell("after_step")
        if self.step % keep.checkpoint_every != 0 or self.skipped_running:
            self.save()
        if self.skipped:
            self.reporter.say(f"{self.skipped} of {self.step} steps had no finite loss and were dropped")
        self.tell("end")
        return progress

    def tell(self, event: str) -> None:
        """Tells the hooks; what they take, a pause above all, is no time of fitting, and limits do not count it."""
        if not self.hooks:
            return
        began = time.monotonic()
        tell_hooks(self.hooks, self, event)
        self._started += time.monotonic() - began

    def check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises `Diverged` when one of `tensors` holds a number that is none."""
        names = unsound(tensors)
        if names:
            raise Diverged(f"by step {self.step} there are numbers in {', '.join(names)} that are not finite")

    def save(self) -> Path:
        """Writes a checkpoint from which a fit goes on exactly; returns its path. Rank 0 writes for all.

        Raises `Diverged` instead of writing numbers that are not finite.
        """
        folder = RunFolder(self.out).checkpoints
        self.settle()
        tensors = self.tensors()
        # In all processes, so that all of them stop.
        self.check(tensors)
        if not self.team.leads:
            return checkpoint_path(folder, self.step)
        state = {
            **self.values(),
            "elapsed": self.elapsed,
            "recent": dataclasses.asdict(self.recent),
            "skipped": self.skipped,
        }
        path = save_checkpoint(folder, self.step, tensors, state, self.config.keep.checkpoints)
        self.tell("saved")
        return path

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Goes back to a checkpoint."""
        self.restore(tensors, state)
        self.recent = Recent(**state["recent"])
        self.skipped, self.skipped_running = state.get("skipped", 0), 0
        self.step = state["step"]
        self._elapsed_before, self._started = state["elapsed"], time.monotonic()

    def go_back(self) -> bool:
        """Goes back to the newest checkpoint; returns False when there is none."""
        saved = list_checkpoints(RunFolder(self.out).checkpoints)
        if saved:
            self.load(*load_checkpoint(saved[-1]))
        return bool(saved)

    def fit_values(self) -> dict[str, Any]:
        """Returns how the model came about, as it travels with the model."""
        config = self.config
        return {"preset": config.preset, "seed": config.seed, "steps": self.step, "seconds": round(self.elapsed, 2)}

    def _agreed_progress(self) -> float:
        """Returns the progress, equal in all processes of the team though their clocks differ."""
        return self.team.of_leader(self.progress) if self.config.max_minutes else self.progress

    def _stopping(self) -> bool:
        """Returns whether any process of the team was asked to stop; the others then are, too."""
        self.stop_requested = self.team.any(self.stop_requested)
        return self.stop_requested

    def drop(self, count: int, running: int) -> None:
        """Counts `count` steps that were dropped, `running` in a row; raises `Diverged` when that is the rule."""
        if self.skipped == 0:
            self.reporter.say(f"step {self.step}: the loss is not finite; such steps are dropped and counted")
        self.skipped += count
        self.skipped_running = running
        if self.skipped_running >= PATIENCE:
            raise Diverged(f"the loss of the {PATIENCE} steps up to step {self.step + 1} is not finite")

    def _report(self, progress: float) -> None:
        recent, n, elapsed = self.recent, max(self.recent.steps, 1), self.elapsed
        values = {
            "step": self.step,
            "progress": round(progress, 6),
            "loss": recent.loss / n,
            "psnr": -10.0 * math.log10(max(recent.squared_error / n, 1e-12)),
            "gaussians": self.count(),
            "elapsed": round(elapsed, 2),
            "steps_per_second": round(n / max(recent.seconds, 1e-9), 2),
            "terms": {name: value / n for name, value in recent.terms.items()},
        }
        eta = elapsed * (1.0 - progress) / progress if progress > 0 else None
        self.reporter.figures(values, progress, eta)
        self.recent = Recent()
