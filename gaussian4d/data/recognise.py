"""Which format a folder holds: recognised by its files, never asked for.

Readers are asked one after the other, and the first that recognises a folder reads it: those with `first = True`, then
our own, then those of other packages, and at the end those with `last = True`, whose signs folders of other formats
bear too. Readers are in `gaussian4d.plugins.READERS`, the entry-point group `gaussian4d.readers`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Protocol

from ..errors import STUMBLES, UserError, unforeseen
from ..plugins import OWN_PACKAGE, READERS
from .problems import ProblemList
from .records import SceneRecord


class Reader(Protocol):
    """What reads one format: a module or an object.

    Optional attributes: `looked_for` (str), the files it goes by, for messages; `first` or `last` (bool), whether it is
    asked before or after all others.
    """

    def recognises(self, folder: Path) -> bool:
        """Returns whether `folder`, which exists, holds this format; opens as little as it can."""
        ...

    def read(self, folder: Path, problems: ProblemList) -> SceneRecord:
        """Returns the scene in `folder`.

        What is wrong with single files is noted in `problems`, so that all of it is seen at once. Raises `UserError`
        where nothing can be read.
        """
        ...


def read_scene(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`, read by the first reader that recognises it; raises `UserError` when none does."""
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; check the path")
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder that holds a scene, got a file; give its folder")
    readers = in_order()
    if not any(folder.iterdir()):
        raise UserError(f"{folder}: the folder is empty; looked for {_looked_for(readers)}")
    for name, reader in readers.items():
        if _recognises(name, reader, folder):
            try:
                return reader.read(folder, problems)
            except UserError:
                raise
            except STUMBLES as error:
                raise unforeseen(folder, f"a scene of the format {name}", error) from error
    raise UserError(
        f"{folder}: no scene found; looked for {_looked_for(readers)}; give the folder that holds one of them"
    )


def recognised(folder: Path) -> bool:
    """Returns whether a reader takes a folder, which exists, for a scene."""
    return any(_recognises(name, reader, folder) for name, reader in in_order().items())


def in_order() -> dict[str, Reader]:
    """Returns the readers by name, in the order in which they are asked; those that do not load are warned of."""
    readers = READERS.working()
    ranks = {
        name: 1 - getattr(reader, "first", False) + getattr(reader, "last", False) for name, reader in readers.items()
    }
    return {name: readers[name] for name in sorted(readers, key=ranks.__getitem__)}


def _recognises(name: str, reader: Reader, folder: Path) -> bool:
    try:
        return bool(reader.recognises(folder))
    except Exception as error:
        package = READERS.entries()[name].package
        if isinstance(error, UserError) or package == OWN_PACKAGE:
            raise
        warnings.warn(
            f"the reader {name!r} of the package {package} is left out: looking at {folder} it raised"
            f" {type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False


def _looked_for(readers: dict[str, Reader]) -> str:
    """Returns the files that the readers go by, as words."""
    *most, last = (getattr(reader, "looked_for", f"what {name} reads") for name, reader in readers.items())
    return f"{', '.join(most)}, or {last}"
