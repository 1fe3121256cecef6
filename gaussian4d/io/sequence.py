"""A moving model as a folder `frame_0000.ply`, `frame_0001.ply`, ...: what editors and web viewers play today."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import UserError
from ..folders import atomic_folder
from ..model import DynamicGaussians, splat_arrays
from ..motion import PerFrame
from ..motion.per_frame import PerFrameConfig
from .formats import Format
from .orient import rotated
from .registry import comments_of, format_named, format_of, frame_formats, with_axes

if TYPE_CHECKING:
    from ..gaussians import Gaussians

# A Gaussian below this never reaches a pixel: the rasterizer's own threshold.
VISIBLE_OPACITY = 1.0 / 255.0


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
    turn: np.ndarray | None = None,
    format: Format | None = None,
) -> Iterator[Path]:
    """Yields each final path once its frame is written; the folder appears at the end. See `write_ply_sequence`.

    `format` is any with `frames`, by default the 3DGS `.ply`; `turn` [3, 3] is a rotation of all frames.
    """
    format = format or format_named("ply")
    # SuperSplat takes two or more `.ply` that differ in a number, PlayCanvas `.sog` too.
    with atomic_folder(folder, rf"frame_\d+({_frame_endings()})") as temporary:
        for index, time in enumerate(times):
            name = f"frame_{index:04d}{format.endings[0]}"
            columns = ply_columns(model.at(float(time)), keep_invisible=keep_invisible)
            columns = columns if turn is None else rotated(columns, turn)
            format.write(temporary / name, columns, vertical_axis=vertical_axis)
            yield Path(folder) / name


def find_frames(folder: str | os.PathLike[str]) -> list[Path]:
    """Returns the files of a folder that form a clip, by number: two or more of one name and ending, else none."""
    numbered = re.compile(rf"(.*?)(\d+)({_frame_endings()})", re.IGNORECASE)
    groups: dict[tuple[str, str], list[tuple[int, Path]]] = {}
    for path in Path(folder).iterdir():
        match = numbered.fullmatch(path.name)
        if match and path.is_file():
            groups.setdefault((match[1], match[3].lower()), []).append((int(match[2]), path))
    clips = [group for group in groups.values() if len(group) > 1]
    return [path for _, path in sorted(clips[0])] if len(clips) == 1 else []


def _frame_endings() -> str:
    """Returns the endings of frames as a regular expression, the longest first."""
    endings = [ending for format in frame_formats().values() for ending in format.endings]
    return "|".join(re.escape(ending) for ending in sorted(endings, key=len, reverse=True))


def read_sequence(folder: str | os.PathLike[str]) -> DynamicGaussians:
    """Returns a folder of frames as a model of separate instants, evenly spread over the clip."""
    paths = find_frames(folder)
    if not paths:
        raise UserError(f"{folder} holds no clip; expected two or more files such as frame_0000.ply, frame_0001.ply")
    states = [format_of(path).read(path) for path in paths]
    degrees = {state["shN"].shape[1] for state in states}
    if len(degrees) > 1:
        raise UserError(f"{folder}: its frames have spherical harmonics of different degrees; convert them alike")
    names = ("means", "quats", "scales", "opacities", "sh0", "shN")
    params = {name: torch.from_numpy(np.concatenate([state[name] for state in states])) for name in names}
    counts = torch.tensor([len(state["means"]) for state in states])
    params["instants"] = torch.repeat_interleave(torch.arange(len(states), dtype=torch.float32), counts)
    times = np.linspace(0.0, 1.0, len(states))
    format = format_of(paths[0])
    stated = {name: value for name, value in comments_of(paths[0], format).items() if name == "view"}
    model = DynamicGaussians(params, PerFrame(PerFrameConfig(times=tuple(times.tolist()))), times=times, meta=stated)
    return with_axes(model, format)
