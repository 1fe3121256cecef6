"""The `.ply` layout of 3D Gaussian splatting: one vertex row per Gaussian, read and written in whole columns.

Columns: `x y z nx ny nz f_dc_0..2 f_rest_0.. opacity scale_0..2 rot_0..3`, float32. `opacity` is a logit, `scale_*` are
logs, `rot_*` is wxyz, `f_rest_*` holds all coefficients of red, then of green, then of blue (channel-major).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import atomic_write
from ..offsets import checked, offset_for
from .ply_dialects import columns_of, plain_layout
from .ply_header import PlyHeader, read_header
from .splats import EXTRA, Splats, check_splats, only_gaussians

VERTICAL_AXIS = "Vertical Axis"
WORLD_OFFSET = "World Offset"
"""Key of the comment with what is add it to positions to get recorded coordinates (`gaussian4d.offsets`)."""
RENDER_MODE = "SplatRenderMode"

# Blocks that fit in a core's own cache: the transposition of the coefficients is what costs.
_ROWS_PER_BLOCK = 1 << 12
_EXTRA_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,80}")
_NORMALS = ("nx", "ny", "nz")
# Converters write the logit of an opacity byte 0 or 255 as -Inf or Inf, and the logarithm of a scale 0 as -Inf.
_INFINITE = {"opacities": (-16.0, 16.0), "scales": (-28.0, np.inf)}


def write_ply(
    path: str | os.PathLike[str],
    gaussians: Splats,
    *,
    vertical_axis: str | None = None,
    render_mode: str = "default",
    comments: Sequence[str] = (),
) -> None:
    """Writes Gaussians as a standard 3DGS `.ply`, atomically.

    Args:
        path: the file.
        gaussians: `means` [N, 3], `quats` [N, 4] wxyz, `scales` [N, 3] log, `opacities` [N] logit, `sh0` [N, 1, 3] and
            `shN` [N, K - 1, 3] spherical-harmonics coefficients; columns `extra.NAME` [N] follow as `NAME`.
        vertical_axis: `x`, `y` or `z` when it is known which axis of the world is up; written as a header comment.
        render_mode: `default`, or `mip` when the Gaussians were fitted antialiased; written as a header comment.
        comments: further lines of the header, as `PlyHeader.comments` gives them.
    """
    splats = check_splats(gaussians)
    count, rest = len(splats["means"]), splats["shN"].shape[1]
    extras = {name[len(EXTRA) :]: value for name, value in splats.items() if name.startswith(EXTRA)}
    names = [*"xyz", *_NORMALS, "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(3 * rest)), "opacity"]
    names += [*(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    own = dict.fromkeys(names)
    trailing = [name for name in extras if name not in own]
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment {line}" for line in _comments(vertical_axis, render_mode, comments)]
    header += [f"element vertex {count}", *(f"property float {name}" for name in names + trailing), "end_header"]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii", "replace"))
        block = np.zeros((min(count, _ROWS_PER_BLOCK), len(names) + len(trailing)), dtype="<f4")
        for start in range(0, count, _ROWS_PER_BLOCK):
            rows = slice(start, min(start + _ROWS_PER_BLOCK, count))
            part = block[: rows.stop - start]
            part[:, :3] = splats["means"][rows]
            part[:, 6:9] = splats["sh0"][rows, 0]
            end = 9 + 3 * rest
            part[:, 9:end].reshape(len(part), 3, rest)[:] = splats["shN"][rows].transpose(0, 2, 1)
            part[:, end] = splats["opacities"][rows]
            part[:, end + 1 : end + 4] = splats["scales"][rows]
            part[:, end + 4 : end + 8] = splats["quats"][rows]
            for name, value in extras.items():
                part[:, 3 + _NORMALS.index(name) if name in _NORMALS else end + 8 + trailing.index(name)] = value[rows]
            file.write(part.data)


def read_ply(path: str | os.PathLike[str]) -> Splats:
    """Returns the Gaussians of a 3DGS `.ply`: the dictionary that `write_ply` takes, float32.

    Columns may come in any order and of any number type; positions in doubles that stand far from the origin stay
    doubles, of which 32-bit floats would keep half metres on a map. Columns that this layout does not have are kept as
    `extra.NAME`, normals only where they are not all zero. Bytes after the last row are ignored with a warning, and
    rows that are no Gaussians left out with one (`splats.only_gaussians`). Infinite opacities, and scales of -Inf,
    which other programs write for 0 and 1, become finite. `ply_dialects` says what is read besides the layout of 3DGS.
    Raises `UserError` for a file that is missing, holds no Gaussians, or has fewer bytes than its header promises.
    """
    source = Path(path)
    header = read_header(source)
    if header.stray_bytes > 0:
        warnings.warn(f"{source}: {header.stray_bytes} extra bytes after the last Gaussian are ignored", stacklevel=2)
    groups = _column_groups(source, header)
    splats: Splats = {name: np.empty((header.count, len(columns)), np.float32) for name, columns in groups.items()}
    if header.dtype["x"].kind == "f" and header.dtype["x"].itemsize == 8:
        splats["means"] = splats["means"].astype(np.float64)
    rest = len(groups["shN"]) // 3
    splats["shN"] = np.empty((header.count, rest, 3), np.float32)
    table = header.elements["vertex"].rows(source)
    names = list(header.dtype.names or ())
    matrix = table.view("<f4").reshape(header.count, len(names)) if _is_matrix(header.dtype) else None
    for start in range(0, header.count, _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        for name, columns in groups.items():
            if not columns:
                continue
            if matrix is not None:
                part = matrix[rows, _index(names, columns)]
            else:
                part = np.stack([table[column][rows] for column in columns], axis=1).astype(splats[name].dtype)
            if name in _INFINITE:
                part = np.where(np.isinf(part), np.clip(part, *_INFINITE[name]), part)
            if name == "shN":
                splats[name][rows] = part.reshape(len(part), 3, rest).transpose(0, 2, 1)
            else:
                splats[name][rows] = part
    for name in list(splats):
        if name.startswith(EXTRA):
            splats[name] = splats[name][:, 0]
            if name[len(EXTRA) :] in _NORMALS and not splats[name].any():
                del splats[name]
    splats["opacities"] = splats["opacities"][:, 0]
    splats["sh0"] = splats["sh0"][:, None]
    splats = only_gaussians(source, plain_layout(source, splats, groups, header.dtype))
    if not np.any(offset_for(splats["means"])):
        splats["means"] = splats["means"].astype(np.float32)
    return splats


def read_any_ply(path: str | os.PathLike[str]) -> Splats:
    """Returns the Gaussians of a `.ply` of the 3DGS layout or of the compressed one, whatever its name."""
    from .compressed_ply import is_compressed, read_compressed_ply

    return read_compressed_ply(path) if is_compressed(read_ply_header(path)) else read_ply(path)


def stated_offset(path: str | os.PathLike[str]) -> np.ndarray | None:
    """Returns the offset [3] that the header of a `.ply` states, None where it states none."""
    text = read_ply_header(path).comment(WORLD_OFFSET)
    if text is None:
        return None
    try:
        values = [float(word) for word in text.split()]
    except ValueError:
        values = []
    return checked(values, f'{path}: the comment "{WORLD_OFFSET}"')


def states_antialiasing(path: str | os.PathLike[str]) -> bool:
    """Returns whether the header of a `.ply` says that its Gaussians were fitted with antialiasing."""
    return (read_ply_header(path).comment(RENDER_MODE) or "").lower() in ("mip", "antialiased")


def read_ply_header(path: str | os.PathLike[str]) -> PlyHeader:
    """Returns the parsed header.

    Raises `UserError` when the file is missing, is no `.ply`, or is shorter than it says.
    """
    return read_header(Path(path))


def vertical_axis_of(comments: Sequence[str]) -> str | None:
    """Returns the axis that the comments of a header say is up: `x`, `y` or `z`; None when they do not."""
    for line in comments:
        key, _, value = line.partition(":")
        if key.strip().lower() == VERTICAL_AXIS.lower() and value.strip().lower() in ("x", "y", "z"):
            return value.strip().lower()
    return None


def _comments(vertical_axis: str | None, render_mode: str, further: Sequence[str]) -> list[str]:
    """Returns the comment lines: what is known now replaces what an earlier file said under the same key."""
    if vertical_axis is not None and vertical_axis not in ("x", "y", "z"):
        raise UserError(f"vertical_axis must be x, y or z, got {vertical_axis!r}")
    lines = [line for line in further if "\n" not in line and "\r" not in line]
    keys = {line.partition(":")[0].strip().lower() for line in lines}
    if vertical_axis is not None:
        lines = [line for line in lines if line.partition(":")[0].strip().lower() != VERTICAL_AXIS.lower()]
        lines.insert(0, f"{VERTICAL_AXIS}: {vertical_axis}")
    if RENDER_MODE.lower() not in keys:
        lines.append(f"{RENDER_MODE}: {render_mode}")
    return lines


def _column_groups(source: Path, header: PlyHeader) -> dict[str, list[str]]:
    """Returns the file's columns of each of our columns; raises `UserError` when one is missing."""
    names = header.dtype.names or ()
    groups = columns_of(source, names)
    used = {column for columns in groups.values() for column in columns}
    return groups | {EXTRA + name: [name] for name in names if name not in used and _EXTRA_NAME.fullmatch(name)}


def _is_matrix(dtype: np.dtype) -> bool:
    """Returns whether rows are float32 only, so that the table is a matrix."""
    return all(dtype[name] == np.dtype("<f4") for name in dtype.names or ())


def _index(names: list[str], columns: list[str]) -> slice | list[int]:
    """Returns where `columns` are among `names`, as a slice where they follow each other: that needs no gathering."""
    places = [names.index(column) for column in columns]
    if places == list(range(places[0], places[0] + len(places))):
        return slice(places[0], places[0] + len(places))
    return places
