"""Files that are either whole or absent: write to a temporary name beside the target, then rename."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import UserError
from .system import system_error


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    The temporary name keeps the ending of `path`, because writers of images and videos choose their format by it.
    Raises `UserError` naming `path` and the reason when the system does not let it be written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}.partial{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        # What was being read meanwhile is named by its own name.
        if error.filename in (None, str(temporary), temporary, str(target), str(target.parent)):
            raise UserError(system_error(error, target, "written")) from error
        raise


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON, atomically. NaN is refused because other JSON readers refuse it."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Returns the parsed JSON of `path`; raises `UserError` naming the file when it is missing or not JSON."""
    source = Path(path)
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"expected the file {source}, found none; check the path") from None
    except OSError as error:
        raise UserError(system_error(error, source, "read")) from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{source} is not valid JSON ({error}); restore it from its source") from None


def inside(folder: str | os.PathLike[str], name: str) -> Path:
    """Returns `folder / name`; raises `UserError` when `name`, which may come from a stranger's file, leads outside."""
    root = Path(folder).resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise UserError(f"the file name {name!r} leads outside {root}; expected a path inside the folder")
    return path
