"""NumPy files from strangers: numbers only, never pickled objects, never more than the file can hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UserError


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
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: expected an array of N x {columns} numbers ({error}); restore the file") from None
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise UserError(f"{path}: row {bad[0]} holds NaN or Inf; restore the file from the calibration")
    return array
