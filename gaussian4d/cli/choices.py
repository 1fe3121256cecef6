"""Flags whose choices are what a registry knows: the names are read when a command is defined, and nothing is imported.

if TYPE_CHECKING:
    MotionName = str
else:
    MotionName = choices(MOTIONS)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Optional, TypeVar

from tyro.conf import arg

from ..plugins import Registry

T = TypeVar("T")
Unset = Annotated[Optional[T], arg(help_behavior_hint="")]  # noqa: UP045 - a generic alias at run time
"""A flag that is None unless given: its help says what happens then, so `(default: None)` is not shown."""
Several = Annotated[tuple[T, ...], arg(help_behavior_hint="")]
"""A flag that takes any number of values, by default none."""

Up = Literal["x", "y", "z", "-x", "-y", "-z"]
"""A direction that can be up; `framing.UPS` has them as vectors."""


def joined_signs(arguments: Sequence[str]) -> list[str]:
    """Returns `arguments` with `--up -y` as `--up=-y`: the parser takes what begins with a dash for a flag."""
    result: list[str] = []
    for argument in arguments:
        if result and result[-1] == "--up" and argument in ("-x", "-y", "-z"):
            result[-1] = f"--up={argument}"
        else:
            result.append(argument)
    return result


def choices(registry: Registry[Any], *, but: Sequence[str] = (), besides: Sequence[str] = ()) -> Any:
    """Returns the type of a flag that takes one of the names of `registry`, without those in `but`, or of `besides`."""
    names = (*besides, *(name for name in registry.choices() if name not in but))
    # A Literal needs at least one value.
    return Literal[names] if names else str


def listed(registry: Registry[Any], *besides: str) -> str:
    """Returns how help shows the value of a flag that takes a name of `registry` or something of `besides`."""
    return "|".join([f"{{{','.join(registry.choices())}}}", *besides])
