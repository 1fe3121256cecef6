"""NumPy files from strangers: numbers only, never pickled objects, never more than the file can hold."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ..errors import UserError

STUMBLES = (OSError, ValueError, EOFError, KeyError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error)
"""What numpy and the zip module end in when a file of theirs is damaged."""


def read_archived(path: Path, name: str) -> np.ndarray:
    """Returns the array `name` of a `.npz` file as float64; raises `UserError` where it is damaged or no numbers."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            size = archive.getinfo(f"{name}.npy").file_size
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            # numpy would take the memory that the header asks for before it reads.
            if dtype.kind not in "fiu" or math.prod(shape) * dtype.itemsize > size:
                raise ValueError(f"it states {dtype} of shape {shape} in {size} bytes")
        with np.load(path, allow_pickle=False) as content:
            return np.asarray(content[name], dtype=np.float64)
    except STUMBLES as error:
        raise UserError(f"{path}: expected an archive with the array {name!r} ({error}); restore the file") from None


def read_array(path: Path, columns: int) -> np.ndarray:
    """Returns the finite float64 [N, columns] array of a `.npy` file, N at least 1.

    Raises `UserError` naming the file when it is missing, cut, pickled, or holds anything else.
    """
    try:
        # The header's shape is believed only as far as the file reaches.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(mapped, np.ndarray):
            raise ValueError("it is an archive of several arrays")
        if mapped.ndim != 2 or mapped.shape[1] != columns or len(mapped) == 0 or mapped.dtype.kind not in "fiu":
            raise ValueError(f"it holds {mapped.dtype} of shape {mapped.shape}")
        array = np.array(mapped, dtype=np.float64)
    except FileNotFoundError:
        raise UserError(f"{path}: expected the file, found none; restore it") from None
    except STUMBLES as error:
        raise UserError(f"{path}: expected an array of N x {columns} numbers ({error}); restore the file") from None
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise UserError(f"{path}: row {bad[0]} holds NaN or Inf; restore the file from the calibration")
    return array
