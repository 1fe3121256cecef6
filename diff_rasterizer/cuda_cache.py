"""Compiled kernels on disk, so that a machine compiles each of them once."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

# A file is this line, the SHA-256 of the machine code, and the machine code.
_MAGIC = b"gaussian4d kernel 1\n"
_HEADER = len(_MAGIC) + hashlib.sha256().digest_size


def cache_folder() -> Path:
    """Returns where kernels are kept: below `GAUSSIAN4D_CACHE`, else `XDG_CACHE_HOME`, else ~/.cache."""
    own = os.environ.get("GAUSSIAN4D_CACHE")
    if own:
        return Path(own).expanduser() / "kernels"
    # The XDG specification says to ignore a relative path.
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(xdg) if Path(xdg).is_absolute() else Path("~/.cache").expanduser()
    return base / "gaussian4d" / "kernels"


class KernelCache:
    """A folder of compiled kernels. Reading and writing never raise: at worst a kernel is compiled again."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() if folder is None else folder
        self._warned = False

    def load(self, key: str) -> bytes | None:
        """Returns the machine code kept under the key; None when there is none, or it is damaged."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        cubin = data[_HEADER:]
        if data[:_HEADER] != _MAGIC + hashlib.sha256(cubin).digest():
            return None
        return cubin

    def save(self, key: str, cubin: bytes) -> None:
        """Keeps machine code under the key; processes that write the same key do not disturb each other.

        Where the folder cannot be written it warns, once, and keeps nothing.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=f"{key}.", suffix=".part")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_MAGIC + hashlib.sha256(cubin).digest() + cubin)
                Path(name).replace(self._path(key))
            except BaseException:
                with suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError as error:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"compiled CUDA kernels cannot be kept in {self.folder} ({error.strerror}), so every process "
                    "compiles them again; set GAUSSIAN4D_CACHE to a folder you may write to",
                    stacklevel=2,
                )

    def summary(self) -> str:
        """Returns how many kernels are kept and what they take."""
        try:
            sizes = [path.stat().st_size for path in self.folder.glob("*.cubin")]
        except OSError as error:
            return f"{self.folder} is not readable ({error.strerror})"
        return f"{self.folder}, {len(sizes)} kernels, {sum(sizes) / 1e6:.1f} MB"

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.cubin"
