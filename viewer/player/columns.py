"""A series (`gaussian4d.io.series`) as bytes, and back. The page's `series.ts` is the reader; see docs/player.md.

First float32 tables, for each window in turn: [K, 4] of the path, [K, 2] of the turn, [K] of size, [K] of colour. Then
the columns, whole numbers of all Gaussians, a plane of bytes for each of their bytes, the lowest first; signed numbers
are folded to unsigned ones (0, -1, 1, -2, ... as 0, 1, 2, 3, ...). Then the trees, one bit after the other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gaussian4d.io.series import WIDTHS, Series

from .packing import Packed


def series_bytes(series: Series, packed: Packed, first: int) -> tuple[dict[str, Any], bytes]:
    """Returns (what the header says of the series, its bytes).

    `packed` are all rows of the page, of which those from `first` on are the expanded series: a Gaussian's opacity,
    fading and harmonics are written as they stand in its rows.
    """
    windows = series.leaves()
    tables = [
        np.concatenate([series.tables(*window)[name].reshape(-1) for name in WIDTHS]).astype("<f4")
        for window in windows
    ]
    # Of each Gaussian the first of its rows.
    gaussians, places = np.unique(np.concatenate([*windows.values(), np.zeros(0, int)]), return_index=True)
    assert len(gaussians) == len(series)
    rows = packed.words[first + places].astype(np.int64)
    fades = series.sharpness > 0
    columns: list[np.ndarray] = [
        series.octaves,
        rows[:, 13] >> 14 & 1023,
        np.where(fades, rows[:, 7] >> 16, 0),
        np.where(fades, rows[:, 13] & 0x3FFF, 0),
        *(rows[:, 14 + k // 4] >> 8 * (k % 4) & 255 for k in range(8)),
        rows[:, 13] >> 24,
    ]
    for name in WIDTHS:
        columns += [_folded(values) for values in series.means[name].T]
        columns += [_folded(values) for values in series.coefficients[name].reshape(len(series), -1).T]
    sizes = [max(1, (int(column.max(initial=0)).bit_length() + 7) // 8) for column in columns]
    planes = [column >> 8 * byte & 255 for column, size in zip(columns, sizes) for byte in range(size)]
    trees = np.packbits(np.concatenate([*series.trees, np.zeros(0, np.uint8)]))
    header = {
        "count": len(series),
        "levels": series.levels,
        "functions": [series.functions[name].shape[1] for name in WIDTHS],
        "steps": [series.steps[name] for name in WIDTHS],
        "mean_steps": [series.mean_steps[name] for name in WIDTHS],
        "windows": [[*window, len(rows)] for window, rows in windows.items()],
        "column_bytes": sizes,
        "tree_bytes": len(trees),
    }
    parts = [*(table.tobytes() for table in tables), *(plane.astype(np.uint8).tobytes() for plane in planes)]
    return header, b"".join([*parts, trees.tobytes()])


def _folded(values: np.ndarray) -> np.ndarray:
    return np.where(values >= 0, 2 * values, -2 * values - 1)
