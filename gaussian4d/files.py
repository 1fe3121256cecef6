"""Files that are either whole or absent: write to a temporary name beside the target, then rename."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
import secrets
import shutil
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
    temporary = temporary_beside(target, target.stem, target.suffix)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target, target.stem)
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


def temporary_beside(target: Path, stem: str, ending: str = "") -> Path:
    """Returns a name beside `target` that nobody else uses, and that says which process it belongs to."""
    return target.with_name(f".{stem}.{os.getpid()}-{secrets.token_hex(4)}.partial{ending}")


def sweep(target: Path, stem: str) -> None:
    """Removes what processes that are gone left half written beside `target`; a killed one cleans nothing up."""
    left = re.compile(rf"\.{re.escape(stem)}\.(\d+)-[0-9a-f]{{8}}\.partial.*", re.DOTALL)
    with contextlib.suppress(OSError):
        for path in list(target.parent.iterdir()):
            match = left.fullmatch(path.name)
            if match is None or _runs(int(match[1])):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _runs(process: int) -> bool:
    """Returns whether a process of this machine is still there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as indented JSON, atomically. NaN is refused because other JSON readers refuse it."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Returns the parsed JSON of `path`; raises `UserError` naming the file when it is missing or not JSON."""
    source = Path(path)
    try:
        return json.loads(decoded(source.read_bytes()))
    except FileNotFoundError:
        raise UserError(f"expected the file {source}, found none; check the path") from None
    except OSError as error:
        raise UserError(system_error(error, source, "read")) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid JSON ({error}); restore it from its source") from None


def decoded(data: bytes) -> str:
    """Returns text as programs write it: UTF-8 or UTF-16, with or without a byte order mark.

    Bytes that are no UTF-8, as in names of old systems, are kept as Python keeps them in names of files, and so find
    their file.
    """
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "surrogateescape" if encoding == "utf-8" else "replace")
    return data.decode("utf-8", "surrogateescape")


def inside(folder: str | os.PathLike[str], name: str) -> Path:
    """Returns `folder / name`; raises `UserError` when `name`, which may come from a stranger's file, leads outside."""
    root = Path(folder).resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root):
        raise UserError(f"the file name {name!r} leads outside {root}; expected a path inside the folder")
    return path
