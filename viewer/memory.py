"""What is kept of a browser that left: reloading the page, or a line that drops, loses nothing."""

from __future__ import annotations

import collections
import dataclasses
import threading

from gaussian4d.keyframes import Keyframe

_MOST = 200


@dataclasses.dataclass(frozen=True)
class Kept:
    """Where one browser was."""

    time: float
    """Clip time."""
    output: str
    pose: tuple[tuple[float, ...], ...] | None
    """Position, point looked at and up direction, viewer units; None before the browser told its view."""
    fov: float
    """Vertical, radians."""
    keyframes: tuple[Keyframe, ...] = ()


class Memory:
    """What is kept of the browsers that were here last, by their ids."""

    def __init__(self) -> None:
        self._kept: collections.OrderedDict[str, Kept] = collections.OrderedDict()
        self._lock = threading.Lock()

    def keep(self, browser: str | None, kept: Kept) -> None:
        """Keeps the state of a browser; one without an id, such as a program, is forgotten."""
        if browser is None:
            return
        with self._lock:
            self._kept[browser] = kept
            self._kept.move_to_end(browser)
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)

    def of(self, browser: str | None) -> Kept | None:
        """Returns what is kept of a browser, None where nothing is."""
        with self._lock:
            return None if browser is None else self._kept.get(browser)
