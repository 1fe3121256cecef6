"""Numbered frames as instants of a clip: a gap keeps its place in time, and is said."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True)
class FrameNumbers:
    """The distinct numbers of the frames of a clip, ascending; at least one."""

    numbers: tuple[int, ...]
    step: int
    """How far neighbours lie apart where nothing is missing: the largest number that divides all distances."""

    @classmethod
    def of(cls, numbers: Iterable[int]) -> FrameNumbers:
        """Returns the numbers of the frames, each once."""
        distinct = sorted(set(numbers))
        assert distinct, "a clip has at least one frame"
        step = int(np.gcd.reduce(np.diff(np.array(distinct, dtype=object)))) if len(distinct) > 1 else 1
        return cls(tuple(distinct), step)

    @property
    def intervals(self) -> int:
        """Steps from the first frame to the last."""
        return (self.numbers[-1] - self.numbers[0]) // self.step

    @property
    def missing(self) -> int:
        """How many frames the gaps lack."""
        return self.intervals + 1 - len(self.numbers)

    def time(self, number: int) -> float:
        """Returns the clip time of a frame: 0 for the first, 1 for the last, in proportion to its number between."""
        return (number - self.numbers[0]) / max(self.numbers[-1] - self.numbers[0], 1)

    def gaps(self, most: int = 3) -> str | None:
        """Returns which frames are missing and what becomes of their time, None where there is no gap."""
        distances = np.diff(np.array(self.numbers, dtype=object))
        # Where neighbours seldom lie a step apart the numbers are no count, such as the times at which pictures were
        # taken: nothing is missing then.
        if not self.missing or 2 * int((distances == self.step).sum()) < len(distances):
            return None
        found = []
        for before, after in zip(self.numbers, self.numbers[1:]):
            if after - before > self.step:
                first, last = before + self.step, after - self.step
                found.append(f"{first}" if first == last else f"{first} to {last}")
        listed = ", ".join(found[:most]) + (f" and {len(found) - most} more gaps" if len(found) > most else "")
        return (
            f"{self.missing} of {self.intervals + 1} frame numbers are missing ({listed}): the others keep their place"
            " in time"
        )


def numbers_of_times(times: Iterable[float]) -> list[int]:
    """Returns frame numbers from 0 on for ascending clip times, which keep the gaps of times on an even grid.

    Times on no such grid are counted.
    """
    listed = np.asarray(list(times), dtype=np.float64)
    if len(listed) < 3:
        return list(range(len(listed)))
    steps = np.diff(listed)
    # A number is kept where all times are whole multiples of the smallest step; more than tenfold gaps are no clip.
    places = (listed - listed[0]) / steps.min() if steps.min() > 0 else np.full(len(listed), np.inf)
    rounded = np.round(places) if np.isfinite(places).all() else np.full(len(listed), np.inf)
    if not np.isfinite(rounded).all() or rounded[-1] > 10 * len(listed):
        return list(range(len(listed)))
    if np.abs(places - rounded).max() > 0.05 or len(set(rounded.tolist())) < len(listed):
        return list(range(len(listed)))
    return [int(place) for place in rounded]
