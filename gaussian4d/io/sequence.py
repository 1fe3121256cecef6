"""A moving model as a folder `frame_0000.ply`, `frame_0001.ply`, ...: what editors and web viewers play today."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import UserError
from ..folders import atomic_folder
from ..frame_numbers import FrameNumbers, numbers_of_times
from ..model import DynamicGaussians, splat_arrays
from ..motion import PerFrame
from ..motion.per_frame import PerFrameConfig
from ..offsets import meta_of, rebased
from ..plugins import FORMATS
from .formats import Format
from .orient import rotated
from .ply_dialects import are_points
from .ply_header import read_header
from .registry import (
    format_named,
    format_of,
    frame_formats,
    read_still,
    stated_by,
    stating_options,
    with_axes,
)
from .splats import Splats, said_once, say_alike

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
        listed, said = list(times), []
        for number, time in zip(numbers_of_times(listed), listed):
            name = f"frame_{number:04d}{format.endings[0]}"
            columns = ply_columns(model.at(float(time)), keep_invisible=keep_invisible)
            columns = columns if turn is None else rotated(columns, turn)
            options = {"vertical_axis": vertical_axis, **stating_options(model, format, turn)}
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                format.write(temporary / name, columns, **options)
            said += [str(warning.message).replace(str(temporary), str(folder)) for warning in caught]
            yield Path(folder) / name
        say_alike(said)


def find_frames(folder: str | os.PathLike[str]) -> list[Path]:
    """Returns the files of a folder that form its one clip, by number; none where there is none or more than one."""
    clips = _clips(Path(folder))
    return clips[0].files if len(clips) == 1 and not clips[0].twice else []


def why_no_clip(folder: str | os.PathLike[str]) -> str | None:
    """Returns why the files of Gaussians in a folder are no clip, and what to do; None where there are none."""
    folder = Path(folder)
    clips, files = _clips(folder), gaussian_files(folder)
    if all(_holds_points(path) for path in files):
        return None
    if len(clips) > 1:
        said = ", ".join(f"{clip.files[0].name} to {clip.files[-1].name} ({len(clip.files)})" for clip in clips[:4])
        return f"{folder} holds {len(clips)} sequences of Gaussians: {said}; move each into its own folder"
    if clips:
        one, other = clips[0].twice
        return f"{folder}: {one.name} and {other.name} are the same frame of a clip; remove one of them"
    listed = ", ".join(path.name for path in files[:4]) + (", ..." if len(files) > 4 else "")
    return f"{folder} holds {len(files)} Gaussian files whose names do not form a clip ({listed}); pass one of them"


def gaussian_files(folder: Path) -> list[Path]:
    """Returns the files of Gaussians in a folder that could be frames, without hidden ones, as a Mac leaves them."""
    ending = re.compile(rf".+({_frame_endings()})", re.IGNORECASE)
    found = (path for path in folder.iterdir() if ending.fullmatch(path.name) and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


@dataclasses.dataclass(frozen=True)
class _Clip:
    """Files whose names differ in one number only."""

    files: list[Path]
    """In the order of their numbers."""
    numbers: list[int]
    twice: tuple[Path, ...]
    """Two files of the same number."""


def _clips(folder: Path) -> list[_Clip]:
    """Returns the clips in a folder: two or more files each whose names differ in one number."""
    alike: dict[tuple[str, ...], list[tuple[list[int], Path]]] = {}
    for path in gaussian_files(folder):
        parts = re.split(r"(\d+)", path.name.lower())
        alike.setdefault(tuple(parts[::2]), []).append(([int(part) for part in parts[1::2]], path))
    clips = []
    for files in alike.values():
        numbers = [numbers for numbers, _ in files]
        vary = [k for k in range(len(numbers[0])) if len({row[k] for row in numbers}) > 1]
        if not vary:
            # Names that differ in the zeros before a number, or not at all but for the case of letters.
            vary = [len(numbers[0]) - 1] if numbers[0] else []
        # Of several numbers that vary the last counts frames; what stands before it tells sequences apart.
        groups: dict[tuple[int, ...], list[tuple[int, Path]]] = {}
        for row, path in files:
            if vary:
                groups.setdefault(tuple(row[k] for k in vary[:-1]), []).append((row[vary[-1]], path))
        for group in groups.values():
            if len(group) > 1:
                group.sort()
                same = [(a[1], b[1]) for a, b in itertools.pairwise(group) if a[0] == b[0]]
                clips.append(_Clip([path for _, path in group], [n for n, _ in group], same[0] if same else ()))
    return sorted(clips, key=lambda clip: clip.files[0])


def numbers_in(folder: Path) -> FrameNumbers:
    """Returns the numbers of the frames of a folder's clip."""
    return FrameNumbers.of(_clips(folder)[0].numbers)


def _frame_endings() -> str:
    """Returns the endings of frames as a regular expression, the longest first."""
    endings = [ending for format in frame_formats().values() for ending in format.endings]
    return "|".join(re.escape(ending) for ending in sorted(endings, key=len, reverse=True))


def read_sequence(folder: str | os.PathLike[str]) -> DynamicGaussians:
    """Returns a folder of frames as a model of separate instants, at the clip times that their numbers mean.

    What is wrong with single frames is warned of once.
    """
    paths = find_frames(folder)
    if not paths:
        nothing = f"{folder} contains no clip; expected two or more files such as frame_0000.ply, frame_0001.ply"
        raise UserError(why_no_clip(folder) or nothing)
    numbers = numbers_in(Path(folder))
    if gaps := numbers.gaps():
        warnings.warn(f"{folder}: {gaps}", stacklevel=2)
    # One offset for all of them: that of the first.
    read = _read_frames(paths)
    offset = read[0][1]
    states = [rebased(state, own - offset) for state, own in read]
    degrees = {state["shN"].shape[1] for state in states}
    if len(degrees) > 1:
        raise UserError(f"{folder}: its frames have different SH degrees; convert them to the same degree")
    names = ("means", "quats", "scales", "opacities", "sh0", "shN")
    params = {name: torch.from_numpy(np.concatenate([state[name] for state in states])) for name in names}
    counts = torch.tensor([len(state["means"]) for state in states])
    params["instants"] = torch.repeat_interleave(torch.arange(len(states), dtype=torch.float32), counts)
    times = np.array([numbers.time(number) for number in numbers.numbers])
    format = format_of(paths[0])
    stated = {name: value for name, value in stated_by(paths[0], format).items() if name != "ply_comments"}
    stated |= meta_of(offset)
    model = DynamicGaussians(params, PerFrame(PerFrameConfig(times=tuple(times.tolist()))), times=times, meta=stated)
    return with_axes(model, format)


def _read_frames(paths: list[Path]) -> list[tuple[Splats, np.ndarray]]:
    """Returns Gaussians and offset of each frame; what there is to say is said once, with how many it holds for."""
    with said_once():
        return [read_still(path) for path in paths]


def gaussians_in(folder: str | os.PathLike[str]) -> Path | None:
    """Returns the one file of Gaussians that a folder stands for, where it is no run and no clip; None without one.

    That is a run's `model.g4d`, the `meta.json` of Gaussians that were not bundled into a `.sog`, the newest iteration
    of 3DGS's output folder, or the only file of Gaussians that lies there.
    """
    from .sog import META, is_meta

    folder = Path(folder)
    for name in ("model.g4d", META):
        if (folder / name).is_file() and (name != META or is_meta(folder / name)):
            return folder / name
    iterations = [path for place in (folder, folder / "point_cloud") for path in place.glob("iteration_*/*.ply")]
    numbered = [
        (int(path.parent.name[10:]), path)
        for path in iterations
        if path.parent.name[10:].isdigit() and not path.name.startswith(".")
    ]
    if numbered:
        latest = max(numbered)[1]
        if len(numbered) > 1:
            warnings.warn(f"{folder} holds {len(numbered)} iterations: the newest is used, {latest}", stacklevel=3)
        return latest
    endings = tuple(ending.lower() for format in FORMATS.working().values() for ending in format.endings)
    files = [path for path in folder.iterdir() if path.name.lower().endswith(endings) and not path.name.startswith(".")]
    # The one .ply in a scene is mostly its points.
    return files[0] if len(files) == 1 and files[0].is_file() and not _holds_points(files[0]) else None


def _holds_points(path: Path) -> bool:
    """Returns whether a file is a `.ply` of points."""
    if path.suffix.lower() != ".ply":
        return False
    try:
        return are_points(read_header(path).dtype.names or ())
    except UserError:
        return False
