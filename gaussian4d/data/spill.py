"""Decoded frames on disk: what the memory budget pushes out, kept as raw bytes."""

from __future__ import annotations

import dataclasses
import math
import mmap
import shutil
import tempfile
import warnings
from typing import IO

import numpy as np

# Free disk space the scratch file never touches.
_DISK_RESERVE = 1 << 30

# Below this, mappings of their own would waste pages and soon be too many.
_SMALL = 1 << 18


@dataclasses.dataclass(frozen=True)
class Pixels:
    """One served frame."""

    image: np.ndarray
    """uint8 [H, W, 3 | 4]."""
    mask: np.ndarray | None
    """uint8 [H, W], or None when the data has no mask beside the picture."""

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + (0 if self.mask is None else self.mask.nbytes)


class SpillFile:
    """Raw frames in a temporary file without a name: the system removes it however the process ends."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._offsets: dict[int, int] = {}
        self._end = 0
        self._full = False

    def __contains__(self, key: int) -> bool:
        return key in self._offsets

    def write(self, key: int, pixels: Pixels) -> bool:
        """Stores the frame; returns False when it is stored already or the disk has no room."""
        if key in self._offsets or self._full:
            return False
        folder = tempfile.gettempdir()
        if shutil.disk_usage(folder).free - pixels.nbytes < _DISK_RESERVE:
            self._give_up(folder, "less than 1 GB would stay free")
            return False
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="gaussian4d-frames-", dir=folder, buffering=0)  # noqa: SIM115
            self._file.seek(self._end)
            for array in (pixels.image, pixels.mask):
                if array is not None:
                    _write_all(self._file, np.ascontiguousarray(array).data.cast("B"))
        except OSError as error:
            self._give_up(folder, str(error))
            return False
        self._offsets[key] = self._end
        self._end += pixels.nbytes
        return True

    def read(self, key: int, shape: tuple[int, int, int], masked: bool) -> Pixels | None:
        """Returns the stored frame, or None when it was not stored."""
        offset = self._offsets.get(key)
        if offset is None or self._file is None:
            return None
        self._file.seek(offset)
        image = _read_array(self._file, shape)
        return Pixels(image, _read_array(self._file, shape[:2]) if masked else None)

    def _give_up(self, folder: str, reason: str) -> None:
        self._full = True
        warnings.warn(
            f"no room for decoded frames in {folder} ({reason}): frames that leave the cache will be decoded again,"
            " which is slow; free some space, set TMPDIR to another disk, or raise --cache-mb",
            stacklevel=2,
        )


def _write_all(file: IO[bytes], data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def own_pages(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an uninitialised uint8 array whose memory goes back to the system the moment it is freed.

    Frames come and go by the thousand, from several threads, between the allocations of decoders and torch. On the
    common heap that leaves holes: with a budget of 512 MB the process grew by twice as much.
    """
    size = math.prod(shape)
    if size < _SMALL:
        return np.empty(shape, dtype=np.uint8)
    try:
        pages = mmap.mmap(-1, size)
    except OSError:
        # The system's limit on mappings per process.
        return np.empty(shape, dtype=np.uint8)
    return np.frombuffer(pages, dtype=np.uint8).reshape(shape)


def _read_array(file: IO[bytes], shape: tuple[int, ...]) -> np.ndarray:
    array = own_pages(shape)
    view = array.data.cast("B")
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise OSError("the scratch file of decoded frames ended early")
        view = view[count:]
    return array
