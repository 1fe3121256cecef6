"""What a benchmark case returns, and how a span of work is timed."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch


@dataclasses.dataclass
class Figure:
    """One measured number and what it is held to."""

    name: str
    value: float
    unit: str
    target: float | None = None
    """None: reported, not judged."""
    at_most: bool = False
    """Whether the target is an upper bound; it is a lower one otherwise."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

    def to_dict(self) -> dict[str, Any]:
        """Returns the figure as JSON values."""
        return {**dataclasses.asdict(self), "met": self.met}


@dataclasses.dataclass
class CaseResult:
    """The figures of one case and the conditions they hold under."""

    case: str
    what: str
    """What was run, in one sentence."""
    figures: list[Figure]
    conditions: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as JSON values."""
        return {
            "case": self.case,
            "what": self.what,
            "conditions": self.conditions,
            "figures": [figure.to_dict() for figure in self.figures],
        }


@dataclasses.dataclass(frozen=True)
class Seconds:
    """How long something took."""

    cpu: float
    wall: float


def timed(work: Callable[[], object]) -> Seconds:
    """Returns the CPU-seconds of the process and the seconds on the wall that `work` took."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def median(samples: list[float]) -> float:
    """Returns the median as a float."""
    return float(statistics.median(samples))


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Sets the number of threads of torch and of our loops inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
