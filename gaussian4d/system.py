"""Errors of the operating system as one line: what could not be read or written, why, what to do."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from .errors import UserError

_ADVICE = {
    errno.ENOSPC: "free some space there, then run it again",
    errno.EDQUOT: "free some of the quota, then run it again",
    errno.EFBIG: "this system limits the size of files there; raise the limit or name another place",
    errno.EACCES: "ask for the permission, or name another place",
    errno.EPERM: "ask for the permission, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOTDIR: "a file stands where a folder is needed; name another place",
    errno.EEXIST: "name another place",
    errno.EISDIR: "a folder stands where a file is needed; name a file",
    errno.ENAMETOOLONG: "give it a shorter name",
    errno.ENOENT: "check the path",
    errno.ELOOP: "its symbolic links form a loop; check the path",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`)",
    errno.ENOMEM: "close other programs",
    errno.EIO: "the disk reports an I/O error; back up its files, then check it",
}
_LEAST_FREE = 1 << 20
"""Bytes below which a disk counts as full: not even a report fits."""


def system_error(error: OSError, path: str | os.PathLike[str] | None = None, done: str = "used") -> str:
    """Returns one line on an error of the system: which file could not be used, read or written, why, what to do."""
    named = path if path is not None else error.filename
    if isinstance(named, bytes):
        named = os.fsdecode(named)
    reason = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    what = f"{named} cannot be {done}: {reason}" if named is not None else reason
    advice = _ADVICE.get(error.errno or 0)
    return f"{what}; {advice}" if advice else what


def check_ordinary(path: Path, expected: str) -> None:
    """Raises `UserError` unless `path` is a file that can be read from any place; a pipe would be waited for."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise UserError(f"expected {expected} at {path}, found nothing; check the path") from None
    except OSError as error:
        raise UserError(system_error(error, path, "read")) from None
    if not stat.S_ISREG(found.st_mode):
        raise UserError(
            f"{path} is not a regular file: expected {expected}; write the output of a pipe to a file first"
        )


def check_writable(path: str | os.PathLike[str], *, folder: bool | None = None) -> None:
    """Raises `UserError` when nothing can be written at `path`; writes nothing, so it can be asked before long work.

    Args:
        path: What is going to be written; missing folders above it would be made.
        folder: Whether it is to be a folder (True) or a file (False), where that is known.
    """
    target = Path(path)
    try:
        exists, is_folder = target.exists(), target.is_dir()
        if exists and folder is True and not is_folder:
            raise UserError(f"{target} is a file; expected a folder to write; name another")
        if exists and folder is False and is_folder:
            raise UserError(f"{target} is a folder; expected a file to write; name another")
        standing = target.absolute()
        while not standing.exists():
            if standing.is_symlink():
                raise UserError(
                    f"{target} cannot be written: the symbolic link {standing} is broken; remove it or name another"
                )
            standing = standing.parent
        if not standing.is_dir() and standing != target.absolute():
            raise UserError(f"{target} cannot be written: {standing} is a file, not a folder; name another place")
        place = standing if standing.is_dir() else standing.parent
        if not os.access(place, os.W_OK | os.X_OK):
            raise UserError(f"{target} cannot be written: no permission to write in {place}; name another place")
        longest = os.pathconf(place, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
        missing = target.absolute().relative_to(place).parts
        # Temporary names are somewhat longer than what they become.
        if any(len(os.fsencode(part)) > longest - 20 for part in missing):
            raise UserError(f"{target} cannot be written: its name is too long for this disk; give it a shorter name")
        usage = shutil.disk_usage(place)
        # /proc and its like have no size at all; what is wrong with them is said when they are written to.
        if usage.total and usage.free < _LEAST_FREE:
            raise UserError(f"{target} cannot be written: no space left on the disk of {place}; free some space there")
    except OSError as error:
        raise UserError(system_error(error, target, "written")) from None
