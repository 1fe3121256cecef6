"""The `.ply` layout of 3D Gaussian splatting: one binary vertex row per Gaussian, read and written in whole columns.

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
from .ply_header import PlyHeader, read_header
from .splats import EXTRA, REST_COUNTS, Splats, check_finite, check_splats

VERTICAL_AXIS = "Vertical Axis"
RENDER_MODE = "SplatRenderMode"

_REST_COLUMNS = {3 * count: degree for degree, count in enumerate(REST_COUNTS)}
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

    Columns may come in any order and of any number type. Columns that this layout does not have are kept as
    `extra.NAME`, normals only where they are not all zero. Bytes after the last row are ignored with a warning. Raises
    `UserError` for a file that is missing, is no 3DGS `.ply`, has fewer bytes than its header promises, or holds NaN
    or Inf; but for infinite opacities, and scales of -Inf, which other programs write for 0 and 1: they become finite.
    """
    source = Path(path)
    header = read_header(source)
    if header.stray_bytes > 0:
        warnings.warn(f"{source}: {header.stray_bytes} stray bytes after the last Gaussian were ignored", stacklevel=2)
    groups = _column_groups(source, header)
    splats: Splats = {name: np.empty((header.count, len(columns)), np.float32) for name, columns in groups.items()}
    rest = len(groups["shN"]) // 3
    splats["shN"] = np.empty((header.count, rest, 3), np.float32)
    table = header.elements["vertex"].rows(source)
    names = list(header.dtype.names or ())
    matrix = table.view("<f4").reshape(header.count, len(names)) if _is_matrix(header.dtype) else None
    finite = True
    for start in range(0, header.count, _ROWS_PER_BLOCK):
        rows = slice(start, start + _ROWS_PER_BLOCK)
        for name, columns in groups.items():
            if not columns:
                continue
            if matrix is not None:
                part = matrix[rows, _index(names, columns)]
            else:
                part = np.stack([table[column][rows] for column in columns], axis=1).astype(np.float32)
            if name in _INFINITE:
                part = np.where(np.isinf(part), np.clip(part, *_INFINITE[name]), part)
            finite = finite and bool(np.isfinite(part).all())
            if name == "shN":
                splats[name][rows] = part.reshape(len(part), 3, rest).transpose(0, 2, 1)
            else:
                splats[name][rows] = part
    if not finite:
        _refuse_rows(source, splats, groups)
    for name in list(splats):
        if name.startswith(EXTRA):
            splats[name] = splats[name][:, 0]
            if name[len(EXTRA) :] in _NORMALS and not splats[name].any():
                del splats[name]
    splats["opacities"] = splats["opacities"][:, 0]
    splats["sh0"] = splats["sh0"][:, None]
    return splats


def read_any_ply(path: str | os.PathLike[str]) -> Splats:
    """Returns the Gaussians of a `.ply` of the 3DGS layout or of the compressed one, whatever its name."""
    from .compressed_ply import is_compressed, read_compressed_ply

    return read_compressed_ply(path) if is_compressed(read_ply_header(path)) else read_ply(path)


def read_ply_header(path: str | os.PathLike[str]) -> PlyHeader:
    """Returns the parsed header.

    Raises `UserError` when the file is missing, is no binary `.ply`, or is shorter than it says.
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
    groups = {
        "means": list("xyz"),
        "quats": [f"rot_{i}" for i in range(4)],
        "scales": [f"scale_{i}" for i in range(3)],
        "opacities": ["opacity"],
        "sh0": [f"f_dc_{i}" for i in range(3)],
    }
    used = [column for columns in groups.values() for column in columns]
    missing = [column for column in used if column not in names]
    if missing:
        raise UserError(
            f"{source} has no column {', '.join(missing)}; expected a 3D Gaussian splatting .ply "
            f"(x y z f_dc_* opacity scale_* rot_*), found {' '.join(names) or 'no columns'}"
        )
    rest = sorted((name for name in names if name.startswith("f_rest_")), key=lambda name: (len(name), name))
    if rest != [f"f_rest_{i}" for i in range(len(rest))] or len(rest) not in _REST_COLUMNS:
        raise UserError(
            f"{source} has {len(rest)} f_rest_* columns; expected f_rest_0 up to one of {sorted(_REST_COLUMNS)} columns"
        )
    groups["shN"] = rest
    others = [name for name in names if name not in {*used, *rest} and _EXTRA_NAME.fullmatch(name)]
    return groups | {EXTRA + name: [name] for name in others}


def _is_matrix(dtype: np.dtype) -> bool:
    """Returns whether rows are float32 only, so that the table is a matrix."""
    return all(dtype[name] == np.dtype("<f4") for name in dtype.names or ())


def _index(names: list[str], columns: list[str]) -> slice | list[int]:
    """Returns where `columns` are among `names`, as a slice where they follow each other: that needs no gathering."""
    places = [names.index(column) for column in columns]
    if places == list(range(places[0], places[0] + len(places))):
        return slice(places[0], places[0] + len(places))
    return places


def _refuse_rows(source: Path, splats: Splats, groups: dict[str, list[str]]) -> None:
    """Raises `UserError` about NaN or Inf, naming the file's own column."""
    flat: Splats = {}
    for name, columns in groups.items():
        values = splats[name]
        for index, column in enumerate(columns):
            if name == "shN":
                flat[column] = values[:, index % values.shape[1], index // values.shape[1]]
            else:
                flat[column] = values[:, index]
    check_finite(source, flat)
