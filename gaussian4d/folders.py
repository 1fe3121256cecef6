"""Folders that are either whole or absent, as `files.py` does for single files."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import UserError
from .files import sweep, temporary_beside
from .system import system_error


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], replaceable: str | None = None) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` on success and is removed on any error.

    A folder that already stands at `path` is replaced as a whole, so that no file of a longer, earlier result stays
    behind; see `check_replaceable`.
    """
    target = Path(path)
    check_replaceable(target, replaceable)
    temporary = temporary_beside(target, target.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target, target.name)
        temporary.mkdir()
    except OSError as error:
        raise UserError(system_error(error, target, "written")) from error
    try:
        yield temporary
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(path: str | os.PathLike[str], replaceable: str | None = None) -> None:
    """Raises `UserError` when `path` is a file, or a folder with any name that `replaceable` does not match whole.

    Without a pattern only an empty folder may be replaced: pictures named `frame_0000.png` may be a user's recording.
    """
    target = Path(path)
    if target.is_file():
        raise UserError(f"{target} is a file; expected a new folder; name another")
    if target.is_dir():
        names = sorted(entry.name for entry in target.iterdir())
        lost = [name for name in names if not (replaceable and re.fullmatch(replaceable, name))]
        if lost:
            raise UserError(f"{target} holds {lost[0]!r}, which would be lost; name a new folder, or empty this one")
