"""The instants of the clip, and which frame of each camera shows them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import UserError
from .recordings import Recording

# Shares of a frame that rounding of offsets and rates may cost at the ends of the clip.
_SLACK = 1e-3


@dataclasses.dataclass(frozen=True)
class Timeline:
    """Instants that all cameras saw."""

    fps: float
    start: float
    """Seconds on the common clock (the earliest camera's first frame is 0) of the first instant."""
    count: int
    indices: dict[str, np.ndarray]
    """[count] frame numbers of every camera."""
    seconds: dict[str, np.ndarray]
    """[count] when those frames were taken, in seconds after the first instant."""

    @property
    def duration(self) -> float:
        """Seconds between the first and the last instant."""
        return (self.count - 1) / self.fps

    @property
    def furthest(self) -> float:
        """Seconds by which some frame misses its instant."""
        instants = np.arange(self.count) / self.fps
        return max(float(np.abs(at - instants).max()) for at in self.seconds.values())


def common_timeline(recordings: Sequence[Recording], starts: Mapping[str, float]) -> Timeline:
    """Returns the instants at which the slowest camera took frames while all others ran.

    Every other camera gives its nearest frame. Raises `UserError` when the recordings do not overlap.
    """
    slowest = min(recordings, key=lambda recording: recording.fps)
    begin = max(starts[recording.name] for recording in recordings)
    end = min(starts[recording.name] + recording.seconds for recording in recordings)
    # Half a frame more on either side: the nearest frame of a camera still is there.
    half = 0.5 / max(recording.fps for recording in recordings)
    own = starts[slowest.name]
    first = int(np.ceil((begin - half - own) * slowest.fps - _SLACK))
    last = int(np.floor((end + half - own) * slowest.fps + _SLACK))
    first, last = max(first, 0), min(last, slowest.count - 1)
    if last <= first:
        late = max(recordings, key=lambda recording: starts[recording.name])
        raise UserError(
            f"{late.path}: the recordings do not overlap: {late.name} starts at {begin:.2f} s, another has ended by"
            f" {end:.2f} s; leave the camera out, or correct the offsets"
        )
    instants = own + np.arange(first, last + 1) / slowest.fps
    indices, seconds = {}, {}
    for recording in recordings:
        stamps = recording.stamps
        number = _nearest(stamps, instants - starts[recording.name])
        indices[recording.name] = number
        seconds[recording.name] = starts[recording.name] + stamps[number] - instants[0]
    return Timeline(slowest.fps, float(instants[0]), len(instants), indices, seconds)


def path_timeline(recording: Recording, first: int, count: int) -> Timeline:
    """Returns the timeline of one recording alone: its `count` frames from `first` on."""
    numbers = first + np.arange(count)
    seconds = recording.stamps[numbers] - recording.stamps[first]
    fps = (count - 1) / float(seconds[-1])
    return Timeline(fps, float(recording.stamps[first]), count, {recording.name: numbers}, {recording.name: seconds})


def _nearest(stamps: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Returns the index of the stamp nearest to every time."""
    after = np.clip(np.searchsorted(stamps, at), 1, len(stamps) - 1)
    return np.where(at - stamps[after - 1] <= stamps[after] - at, after - 1, after)
