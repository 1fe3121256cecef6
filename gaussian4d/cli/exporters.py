"""Files that are written and never read, such as the standalone player of `viewer`.

They are functions in `gaussian4d.plugins.EXPORTERS`, the entry-point group `gaussian4d.exporters`; the entry's name is
the file ending without its first dot. The function takes an `Opened` and the path to write, and prints what it wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..plugins import EXPORTERS

if TYPE_CHECKING:
    from .opened import Opened

Exporter = Callable[["Opened", Path], None]


def find_exporter(path: Path) -> Exporter | None:
    """Returns the registered exporter for the ending of `path`, the longest of several, or None."""
    fitting = [name for name in EXPORTERS if path.name.lower().endswith(f".{name}")]
    for name in sorted(fitting, key=len, reverse=True):
        try:
            return EXPORTERS.get(name)
        except UserError as error:
            # One broken package must not take the program down, nor vanish silently.
            print(f"warning: {error}", file=sys.stderr)
    return None


def check_readable(path: Path) -> None:
    """Raises `UserError` when `path` bears the ending of a file that is written and never read."""
    for ending in registered_endings():
        if path.name.lower().endswith(ending):
            raise UserError(f"{path.name}: {ending} cannot be read back; open it in the program it is for")
    if path.suffix.lower() == ".npz":
        raise UserError(f"{path.name}: tracks cannot be read back; open them with numpy.load")


def registered_endings() -> list[str]:
    """Returns the endings that have an exporter, with their dots."""
    return sorted(f".{name}" for name in EXPORTERS)
