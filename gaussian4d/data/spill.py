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
    mask: np.ndarray | None = None
    """uint8 [H, W], or None when the data has no mask beside the picture."""
    depth: np.ndarray | None = None
    """float32 [H, W], camera z in world units, 0 where it is not known; None when the data has none."""
    weight: np.ndarray | None = None
    """float32 [H, W], how much each pixel counts, 0 to 1; None when all count in full."""
    share: float = 1.0
    """How much the frame counts."""

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What it holds, by name."""
        found = {name: getattr(self, name) for name in ("image", "mask", "depth", "weight")}
        return {name: array for name, array in found.items() if array is not None}


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a frame lies in the file, and what is there."""

    offset: int
    arrays: dict[str, tuple[tuple[int, ...], np.dtype]]
    share: float


class SpillFile:
    """Raw frames in a temporary file without a name: the system removes it however the process ends."""

    def __init__(self) -> None:
        self._file: IO[bytes] | None = None
        self._places: dict[int, _Place] = {}
        self._end = 0
        self._full = False

    def __contains__(self, key: int) -> bool:
        return key in self._places

    def write(self, key: int, pixels: Pixels) -> bool:
        """Stores the frame; returns False when it is stored already or the disk has no room."""
        if key in self._places or self._full:
            return False
        folder = tempfile.gettempdir()
        if shutil.disk_usage(folder).free - pixels.nbytes < _DISK_RESERVE:
            self._give_up(folder, "less than 1 GB would stay free")
            return False
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="gaussian4d-frames-", dir=folder, buffering=0)  # noqa: SIM115
            self._file.seek(self._end)
            for array in pixels.arrays.values():
                _write_all(self._file, np.ascontiguousarray(array).data.cast("B"))
        except OSError as error:
            self._give_up(folder, str(error))
            return False
        arrays = {name: (array.shape, array.dtype) for name, array in pixels.arrays.items()}
        self._places[key] = _Place(self._end, arrays, pixels.share)
        self._end += pixels.nbytes
        return True

    def read(self, key: int) -> Pixels | None:
        """Returns the stored frame, or None when it was not stored."""
        place = self._places.get(key)
        if place is None or self._file is None:
            return None
        self._file.seek(place.offset)
        arrays = {name: _read_array(self._file, shape, dtype) for name, (shape, dtype) in place.arrays.items()}
        return Pixels(**arrays, share=place.share)

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


def own_pages(shape: tuple[int, ...], dtype: np.dtype | type = np.uint8) -> np.ndarray:
    """Returns an uninitialised array whose memory goes back to the system the moment it is freed.

    Frames come and go by the thousand, from several threads, between the allocations of decoders and torch. On the
    common heap that leaves holes: with a budget of 512 MB the process grew by twice as much.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < _SMALL:
        return np.empty(shape, dtype=dtype)
    try:
        pages = mmap.mmap(-1, size)
    except OSError:
        # The system's limit on mappings per process.
        return np.empty(shape, dtype=dtype)
    return np.frombuffer(pages, dtype=dtype).reshape(shape)


def _read_array(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    array = own_pages(shape, dtype)
    view = array.data.cast("B")
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise OSError("the scratch file of decoded frames ended early")
        view = view[count:]
    return array
