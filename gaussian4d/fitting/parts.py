"""A fit that is several fits in turn (instants, windows of a clip), seen from outside as one."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..model import DynamicGaussians
from ..motion import Params
from .config import FitConfig
from .hooks import FitHook, tell_hooks
from .parallel import Team
from .progress import Narrator
from .trainer import Trainer

_OF_THE_WHOLE = ("start", "end", "evaluated")


class Parts(abc.ABC):
    """Fits of all parts in turn; has the surface of `Loop`.

    A subclass says how a part is begun (`begin`), what is kept of a finished one (`finish`), and what all of them make
    together (`model`).
    """

    part = "part"
    """What a part is called in messages and in metrics.jsonl."""

    def __init__(
        self, count: int, config: FitConfig, out: Path, reporter: Narrator, hooks: Sequence[FitHook], team: Team
    ) -> None:
        self.count_of_parts, self.config, self.out, self.reporter = count, config, out, reporter
        self.hooks, self.team = hooks, team
        self.current: Trainer | None = None
        self.metrics: dict[str, Any] | None = None
        self._stop_requested = False

    def open(self) -> None:
        """Begins the first part that is missing, so that a scene without points is refused before the fit begins."""
        done = self.finished_parts()
        if done:
            self.reporter.say(f"{done} of {self.count_of_parts} {self.part}s were finished before")
        if done < self.count_of_parts:
            self.current = self.begin(done)

    @abc.abstractmethod
    def finished_parts(self) -> int:
        """Returns how many parts are done."""

    @abc.abstractmethod
    def finished_figures(self) -> tuple[int, float]:
        """Returns the steps and seconds that these took."""

    @abc.abstractmethod
    def begin(self, index: int) -> Trainer:
        """Returns the trainer of part `index`, at its newest checkpoint when the fit is resumed."""

    @abc.abstractmethod
    def finish(self, index: int, trainer: Trainer) -> None:
        """Keeps the result of part `index`."""

    @abc.abstractmethod
    def model(self) -> DynamicGaussians:
        """Returns the parts there are, the one under way included, as one model in world coordinates."""

    def leave(self, index: int, trainer: Trainer) -> None:  # noqa: B027 - nothing to do is the rule
        """Keeps what there is of part `index`, finished or stopped."""

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
        """Steps taken so far, over all parts."""
        return self.finished_figures()[0] + (self.current.step if self.current else 0)

    @property
    def elapsed(self) -> float:
        """Seconds of fitting so far, over all parts and sittings."""
        return self.finished_figures()[1] + (self.current.elapsed if self.current else 0.0)

    @property
    def progress(self) -> float:
        """How much of the fit is done, 0..1."""
        return (self.finished_parts() + (self.current.progress if self.current else 0.0)) / self.count_of_parts

    def run(self) -> float:
        """Fits the parts that are missing, until a stop is requested; returns how much is done."""
        self.tell("start")
        for index in range(self.finished_parts(), self.count_of_parts):
            trainer = self.current = self.current or self.begin(index)
            done = trainer.run()
            self.leave(index, trainer)
            # Asked here too, so that all processes stop between the same two parts.
            self._stop_requested = self.team.any(self.stop_requested)
            if done < 1.0:
                break
            self.finish(index, trainer)
            self.current = None
            if self._stop_requested:
                break
        self.tell("end")
        return self.progress

    def go_back(self) -> bool:
        """Takes the part under way back to its newest checkpoint; returns whether there is anything to keep."""
        if self.current is not None and not self.current.go_back():
            self.current = None
        return self.finished_parts() > 0 or self.current is not None

    def tell(self, event: str) -> None:
        """Tells the hooks about the whole fit."""
        tell_hooks(self.hooks, self, event)

    def hooks_of_part(self) -> list[FitHook]:
        """Returns the hooks of a part's trainer, which tell ours about its steps as about steps of the whole."""

        def relay(trainer: Trainer, event: str) -> None:
            if event not in _OF_THE_WHOLE:
                self.tell(event)

        return [relay] if self.hooks else []

    def narrator(self, index: int) -> Narrator:
        """Returns who is told how part `index` is going."""
        return _PartNarrator(self, index)


class _PartNarrator:
    """Turns the figures of one part's fit into figures of the whole."""

    def __init__(self, whole: Parts, index: int) -> None:
        self.whole, self.index = whole, index

    def say(self, message: str) -> None:
        """Passes a message on."""
        self.whole.reporter.say(message)

    def figures(self, values: dict[str, Any], progress: float, eta: float | None) -> None:
        """Passes figures on, with the step, the time and what is left counted over all parts."""
        whole = self.whole
        done, elapsed = (self.index + progress) / whole.count_of_parts, whole.elapsed
        left = elapsed * (1.0 - done) / done if done > 0 else None
        counted = {"step": whole.step, "progress": round(done, 6), "elapsed": round(elapsed, 2)}
        whole.reporter.figures({**values, **counted, whole.part: self.index}, done, left)


def params_of(tensors: dict[str, Tensor]) -> Params:
    """Returns the parameter table that a checkpoint holds."""
    return {name[len("params/") :]: value for name, value in tensors.items() if name.startswith("params/")}


@torch.no_grad()
def keep_colour(trainer: Trainer, colour: Tensor) -> None:
    """Gives a part the background that the first part found."""
    trainer.background.color.copy_(colour)
