"""Checkpoints of gsplat's trainers and of nerfstudio's splatfacto, and of FreeTimeGS trainers built on gsplat.

Read without either program, and without running anything a file contains: only tensors and plain values are unpickled.
"""

from __future__ import annotations

import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..model import DynamicGaussians
from ..motion import FreeTime, MotionModel, Static
from .packed import broken
from .splats import REST_COUNTS, only_gaussians, sh0_from_color, sigmoid

_NAMES = {
    "means": ("means", "xyz"),
    "quats": ("quats",),
    "scales": ("scales",),
    "opacities": ("opacities",),
    "sh0": ("sh0", "features_dc"),
    "shN": ("shN", "features_rest"),
}
"""What our columns are called by the trainers that write checkpoints."""

_MOTION_NAMES = ("velocities", "times", "durations")

# Learning rates in nerfstudio's checkpoints are numbers of numpy, which are as harmless as tensors: an element type and
# its bytes. numpy 1 names their maker otherwise than numpy 2.
_NUMBERS: list[Any] = [
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
]


def read_checkpoint(path: str | os.PathLike[str]) -> DynamicGaussians:
    """Returns the Gaussians of a `.pt` or `.ckpt` file; with velocities, times and durations the motion is `free-time`.

    Raises `UserError` when the file is missing, is no checkpoint, or lacks a column.
    """
    source = Path(path)
    table = _tensors(source, _load(source))
    columns: dict[str, np.ndarray] = {}
    for name, spellings in _NAMES.items():
        tensor = next((table[spelling] for spelling in spellings if spelling in table), None)
        if tensor is None:
            found = ", ".join(sorted(table)[:12]) or "no tensors"
            raise UserError(
                f"{source} has no {' or '.join(spellings)}; expected a gsplat or splatfacto checkpoint, found {found}"
            )
        columns[name] = tensor.detach().float().numpy()
    count = len(columns["means"])
    motion: MotionModel = Static()
    if all(name in table for name in _MOTION_NAMES):
        motion = FreeTime()
        columns |= {name: table[name].detach().float().numpy() for name in _MOTION_NAMES}
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3)}
    shapes |= {"velocities": (3,), "times": (), "durations": ()}
    for name in list(columns):
        if name == "shN":
            continue
        wanted = (count, *shapes[name])
        # Opacities and times come as [N] or [N, 1], colours of degree 0 as [N, 3] or [N, 1, 3].
        if columns[name].size != np.prod(wanted, dtype=np.int64):
            raise UserError(f"{source}: {name} must have shape {wanted}, got {columns[name].shape}; it is damaged")
        columns[name] = columns[name].reshape(wanted)
    rest = columns["shN"]
    if rest.ndim != 3 or rest.shape[0] != count or rest.shape[2] != 3 or rest.shape[1] not in REST_COUNTS:
        raise UserError(f"{source}: shN must have shape ({count}, K - 1, 3), got {rest.shape}; it is damaged")
    if "features_dc" in table and "sh0" not in table and not rest.shape[1]:
        # Splatfacto without harmonics fits the logits of colours.
        columns["sh0"] = sh0_from_color(sigmoid(columns["sh0"]))
    _say_unread(source, table, count, motion)
    columns = only_gaussians(source, columns)
    params = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in columns.items()}
    return DynamicGaussians(params, motion)


def _say_unread(source: Path, table: dict[str, Tensor], count: int, motion: MotionModel) -> None:
    """Warns of numbers per Gaussian that are not read, such as a part of a motion."""
    read = {spelling for spellings in _NAMES.values() for spelling in spellings}
    read |= set() if motion.still else set(_MOTION_NAMES)
    unread = sorted(name for name, tensor in table.items() if name not in read and tensor.shape[:1] == (count,))
    if unread:
        listed = ", ".join(name[:40] for name in unread[:4]) + (", ..." if len(unread) > 4 else "")
        warnings.warn(
            f"{source}: of its Gaussians {listed} {'is' if len(unread) == 1 else 'are'} not read; what that does to"
            " their motion or their colours is not drawn",
            stacklevel=4,
        )


def _load(source: Path) -> Any:
    if not source.exists():
        raise UserError(f"expected the file {source}, found none; check the path")
    if source.is_dir():
        raise UserError(f"{source} is a folder; expected a checkpoint file .pt or .ckpt")
    try:
        zipped = zipfile.is_zipfile(source)
    except zipfile.BadZipFile:
        zipped = False
    if not zipped:
        # The format before torch 1.6 states sizes that are allocated before they are compared with the file.
        raise broken(source, "checkpoint", "it is not a zip file, which torch.save writes")
    _check_sizes(source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.serialization.safe_globals(_NUMBERS):
                return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        first = str(error).splitlines()[0] if str(error) else "unknown content"
        raise UserError(
            f"{source} holds more than tensors and plain values, which is not run ({first[:160]}); "
            "save its Gaussians alone, or export a .ply with the program that wrote it"
        ) from None
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError, OSError) as error:
        text = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise broken(source, "checkpoint", text) from None
    except (AssertionError, ImportError, OverflowError, MemoryError, RecursionError, SystemError) as error:
        raise broken(source, "checkpoint", f"its pickle is damaged ({type(error).__name__})") from None


def _check_sizes(source: Path) -> None:
    """Raises `UserError` when an entry of the zip claims more bytes than the file has."""
    total = source.stat().st_size
    try:
        with zipfile.ZipFile(source) as archive:
            for info in archive.infolist():
                if info.file_size > total or info.compress_type != zipfile.ZIP_STORED:
                    raise broken(
                        source, "checkpoint", f"its entry {info.filename[:60]!r} claims {info.file_size} bytes"
                    )
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError, OverflowError, OSError) as error:
        raise broken(source, "checkpoint", str(error)) from None


def _tensors(source: Path, content: Any) -> dict[str, Tensor]:
    """Returns the Gaussians' tensors by their last name.

    gsplat nests them in `splats`; nerfstudio's pipeline writes `_model.gauss_params.means`, older ones `_model.means`.
    """
    if not isinstance(content, dict):
        raise broken(source, "checkpoint", f"it holds a {type(content).__name__}, expected a dictionary")
    for key in ("splats", "pipeline", "model", "state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
    table: dict[str, Tensor] = {}
    for key, value in content.items():
        name = str(key).rpartition(".")[2]
        prefix = str(key)[: -len(name)].rstrip(".")
        known = prefix == "" or prefix.endswith(("gauss_params", "_model", "splats"))
        if isinstance(value, Tensor) and known and value.layout == torch.strided:
            table[name] = value
    return table
