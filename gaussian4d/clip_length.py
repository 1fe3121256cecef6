"""How long a clip lasts: the one answer that the viewer, videos, pages and every format with a clock go by."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .view_block import ViewBlock

if TYPE_CHECKING:
    from .model import DynamicGaussians

ASSUMED_FPS = 24.0
"""Frames per second of a clip that does not say, if it has so many that it lasts for `LEAST_SECONDS` then."""
LEAST_SECONDS = 4.0
"""A clip of unknown rate is slowed down to last so long."""

_SAME_INSTANT = 1e-6


@dataclasses.dataclass(frozen=True)
class ClipLength:
    """Length and frame rate of a clip."""

    seconds: float
    """From clip time 0 to clip time 1; 0 for what does not move."""
    fps: float
    """Recorded frames per second, or those assumed."""
    start: float = 0.0
    """Clip time of the first recorded instant."""
    end: float = 1.0
    """Clip time of the last one."""
    assumed: bool = False
    """Whether nothing says how fast the clip was recorded."""

    @property
    def played(self) -> float:
        """Seconds from the first to the last recorded instant."""
        return self.seconds * (self.end - self.start)

    @property
    def note(self) -> str | None:
        """One sentence on what was assumed; None where the length is known."""
        if not self.assumed or self.seconds <= 0.0:
            return None
        return f"frame rate unknown: {self.fps:.4g} frames per second assumed, so the clip lasts {self.played:.3f} s"


def clip_length(model: DynamicGaussians) -> ClipLength:
    """Returns how long the clip of `model` lasts.

    What the model's view block says counts, else its frame rate and instants, else a rate is assumed.
    """
    from .io.cubic import own_instants

    times, block = own_instants(model), ViewBlock.of(model) or ViewBlock()
    fps = block.fps or model.fps
    if model.motion.still:
        return ClipLength(0.0, fps or ASSUMED_FPS, assumed=not fps)
    start, end = recorded_span(model)
    intervals = 0 if times is None else len(times) - 1
    if block.seconds is not None:
        known = fps or (intervals / (block.seconds * (end - start)) if intervals > 0 else ASSUMED_FPS)
        return ClipLength(block.seconds, known, start, end)
    if fps and intervals > 0:
        return ClipLength(intervals / fps / (end - start), fps, start, end)
    rate = ASSUMED_FPS if intervals < 1 else min(ASSUMED_FPS, intervals / LEAST_SECONDS)
    played = LEAST_SECONDS if intervals < 1 else intervals / rate
    return ClipLength(played / (end - start), rate, start, end, assumed=True)


def recorded_span(model: DynamicGaussians) -> tuple[float, float]:
    """Returns the clip times between which `model` was recorded: a fit of some frames of a clip knows only those."""
    from .io.cubic import own_instants

    times = own_instants(model)
    if model.motion.still or times is None or len(times) < 2:
        return 0.0, 1.0
    first, last = max(float(times[0]), 0.0), min(float(times[-1]), 1.0)
    return (first, last) if first < last else (0.0, 1.0)


def played_span(model: DynamicGaussians) -> tuple[float, float]:
    """Returns the first and the last clip time that films, files and the viewer play.

    That is `recorded_span`, but for a model of a single instant, which is shown at that one.
    """
    from .io.cubic import own_instants

    times = own_instants(model)
    if not model.motion.still and times is not None and len(times) == 1:
        only = min(max(float(times[0]), 0.0), 1.0)
        return only, only
    return recorded_span(model)


def outside(model: DynamicGaussians, times: Sequence[float]) -> str | None:
    """Returns a sentence on clip times at which nothing was recorded, None where all lie in `played_span`."""
    first, last = played_span(model)
    beyond = [time for time in times if not first - _SAME_INSTANT <= time <= last + _SAME_INSTANT]
    if model.motion.still or not beyond:
        return None
    return f"clip time {beyond[0]:g} was not recorded ({first:.4g} to {last:.4g} was): the motion there is extrapolated"


__all__ = ["ASSUMED_FPS", "ClipLength", "clip_length", "outside", "played_span", "recorded_span"]
