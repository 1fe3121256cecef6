"""A moving model as a folder `frame_0000.ply`, `frame_0001.ply`, ...: what editors and web viewers play today."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..folders import atomic_folder
from ..model import splat_arrays
from .ply import write_ply

if TYPE_CHECKING:
    from ..gaussians import Gaussians
    from ..model import DynamicGaussians

# A Gaussian below this never reaches a pixel: the rasterizer's own threshold.
VISIBLE_OPACITY = 1.0 / 255.0

FRAME_PATTERN = r"frame_\d+\.ply"


def ply_columns(state: Gaussians, *, keep_invisible: bool = False) -> dict[str, np.ndarray]:
    """Returns what `write_ply` takes from the Gaussians of one instant.

    Gaussians that are faded out at this instant are left out unless `keep_invisible`: they draw nothing and, where
    motion models fade Gaussians in and out, they are most of the rows.
    """
    return splat_arrays(state if keep_invisible else state.select(state.opacities >= VISIBLE_OPACITY))


def write_ply_sequence(
    folder: str | os.PathLike[str],
    model: DynamicGaussians,
    times: Sequence[float],
    *,
    keep_invisible: bool = False,
    vertical_axis: str | None = None,
) -> list[Path]:
    """Returns the files `frame_0000.ply`, ... of `model` at the clip `times`, written into `folder`.

    The folder appears whole or not at all. A folder that holds an earlier sequence is replaced by the new one, so no
    frame of a longer one stays behind; any other content raises `UserError`.
    """
    return list(ply_sequence(folder, model, times, keep_invisible=keep_invisible, vertical_axis=vertical_axis))


def ply_sequence(
    folder: str | os.PathLike[str],
    model: DynamicGaussians,
    times: Iterable[float],
    *,
    keep_invisible: bool = False,
    vertical_axis: str | None = None,
) -> Iterator[Path]:
    """Yields each final path once its frame is written; the folder appears at the end. See `write_ply_sequence`."""
    with atomic_folder(folder, FRAME_PATTERN) as temporary:
        for index, time in enumerate(times):
            name = f"frame_{index:04d}.ply"
            columns = ply_columns(model.at(float(time)), keep_invisible=keep_invisible)
            write_ply(temporary / name, columns, vertical_axis=vertical_axis)
            yield Path(folder) / name
