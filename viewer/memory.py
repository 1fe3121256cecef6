"""What is kept of a browser that left: reloading the page, or a line that drops, loses nothing."""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Mapping
from typing import Any

from gaussian4d.keyframes import Keyframe

from .door import Visitor

_MOST = 200


@dataclasses.dataclass(frozen=True)
class Kept:
    """Where one browser was."""

    time: float
    """Clip time."""
    playing: bool
    pose: tuple[tuple[float, ...], ...] | None
    """Position, point looked at and up direction, viewer units; None before the browser told its view."""
    fov: float
    """Vertical, radians."""
    controls: Mapping[str, Any]
    """Values of the controls in `Session.lasting`, by their names there."""
    crop: tuple[tuple[float, ...], tuple[float, ...]]
    """Place and turn (w x y z) of the crop box."""
    keyframes: tuple[Keyframe, ...] = ()
    earlier: tuple[tuple[Keyframe, ...], ...] = ()
    """The keyframes before each of the last changes, for undo."""


class Memory:
    """What is kept of the visitors that were here last."""

    def __init__(self) -> None:
        self._kept: collections.OrderedDict[Visitor, Kept] = collections.OrderedDict()
        self._lock = threading.Lock()

    def keep(self, visitor: Visitor, kept: Kept) -> None:
        """Keeps the state of a visitor."""
        with self._lock:
            self._kept[visitor] = kept
            self._kept.move_to_end(visitor)
            while len(self._kept) > _MOST:
                self._kept.popitem(last=False)

    def of(self, visitor: Visitor) -> Kept | None:
        """Returns what is kept of a visitor: of this tab, or for a new one of what its browser closed last."""
        with self._lock:
            if visitor in self._kept:
                return self._kept[visitor]
            return next(
                (kept for other, kept in reversed(self._kept.items()) if other.browser == visitor.browser), None
            )
