"""Flags whose choices are what a registry knows: the names are read when a command is defined, and nothing is imported.

if TYPE_CHECKING:
    MotionName = str
else:
    MotionName = choices(MOTIONS)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ..plugins import Registry


def choices(registry: Registry[Any], *, but: Sequence[str] = (), besides: Sequence[str] = ()) -> Any:
    """Returns the type of a flag that takes one of the names of `registry`, without those in `but`, or of `besides`."""
    names = (*besides, *(name for name in registry.choices() if name not in but))
    # A Literal needs at least one value.
    return Literal[names] if names else str


def listed(registry: Registry[Any], *besides: str) -> str:
    """Returns how help shows the value of a flag that takes a name of `registry` or something of `besides`."""
    return "|".join([f"{{{','.join(registry.choices())}}}", *besides])
