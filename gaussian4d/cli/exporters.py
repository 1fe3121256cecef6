"""File formats that other packages write, such as the standalone player of `viewer`.

They register a function under the entry-point group `gaussian4d.exporters`; the entry's name is the file ending without
its dot. The function takes an `Opened` and the path to write, and prints what it wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from .opened import Opened

ENTRY_POINTS = "gaussian4d.exporters"

Exporter = Callable[["Opened", Path], None]


def find_exporter(path: Path) -> Exporter | None:
    """Returns the registered exporter for the ending of `path`, or None."""
    ending = path.suffix.lower().removeprefix(".")
    for point in entry_points(group=ENTRY_POINTS):
        if ending and point.name == ending:
            try:
                return point.load()
            except Exception as error:
                # As for commands: one broken package must not take the program down, nor vanish silently.
                print(f"warning: the exporter {point.name!r} of {point.value} does not load: {error}", file=sys.stderr)
    return None


def check_readable(path: Path) -> None:
    """Raises `UserError` when `path` bears the ending of a file that is written and never read."""
    ending = path.suffix.lower()
    if ending in registered_endings():
        raise UserError(f"{path.name}: {ending} is written, not read; open it in the program it is for")
    if ending == ".npz":
        raise UserError(f"{path.name}: tracks are written, not read; open them with numpy.load")


def registered_endings() -> list[str]:
    """Returns the endings that have an exporter, with their dots."""
    return sorted(f".{point.name}" for point in entry_points(group=ENTRY_POINTS))
