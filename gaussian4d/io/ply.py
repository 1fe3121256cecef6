"""The `.ply` layout of 3D Gaussian splatting: one binary vertex row per Gaussian, read and written in whole columns.

Columns: `x y z nx ny nz f_dc_0..2 f_rest_0.. opacity scale_0..2 rot_0..3`, float32. `opacity` is a logit, `scale_*` are
logs, `rot_*` is wxyz, `f_rest_*` holds all coefficients of red, then of green, then of blue (channel-major).
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import atomic_write

VERTICAL_AXIS = "Vertical Axis"
RENDER_MODE = "SplatRenderMode"

_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
_MAX_HEADER_BYTES = 1 << 20
_REST_COUNTS = {3 * ((degree + 1) ** 2 - 1): degree for degree in range(5)}
_ROWS_PER_WRITE = 1 << 16


@dataclasses.dataclass(frozen=True)
class PlyHeader:
    """What the text at the start of a `.ply` file says about its vertices."""

    count: int
    dtype: np.dtype
    """Structured type of one vertex row, little-endian."""
    offset: int
    """Byte at which the first vertex row starts."""
    ends_with_vertices: bool
    """Whether no other element follows the vertices."""
    comments: tuple[str, ...]

    def comment(self, key: str) -> str | None:
        """Returns the value of the comment `key: value`, or None."""
        for line in self.comments:
            name, separator, value = line.partition(":")
            if separator and name.strip().lower() == key.lower():
                return value.strip()
        return None


def write_ply(
    path: str | os.PathLike[str],
    gaussians: dict[str, np.ndarray],
    *,
    vertical_axis: str | None = None,
    render_mode: str = "default",
) -> None:
    """Writes Gaussians as a standard 3DGS `.ply`, atomically.

    Args:
        path: the file.
        gaussians: `means` [N, 3], `quats` [N, 4] wxyz, `scales` [N, 3] log, `opacities` [N] logit, `sh0` [N, 1, 3] and
            `shN` [N, K - 1, 3] spherical-harmonics coefficients.
        vertical_axis: `x`, `y` or `z` when it is known which axis of the world is up; written as a header comment.
        render_mode: `default`, or `mip` when the Gaussians were fitted antialiased; written as a header comment.
    """
    columns = _columns(gaussians)
    count = len(columns["x"])
    comments = [f"{RENDER_MODE}: {render_mode}"]
    if vertical_axis is not None:
        if vertical_axis not in ("x", "y", "z"):
            raise UserError(f"vertical_axis must be x, y or z, got {vertical_axis!r}")
        comments.insert(0, f"{VERTICAL_AXIS}: {vertical_axis}")
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in comments)]
    header += [f"element vertex {count}", *(f"property float {name}" for name in columns), "end_header"]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join(header) + "\n").encode("ascii"))
        # In pieces, so that a large export does not need the whole table in memory a second time.
        for start in range(0, count, _ROWS_PER_WRITE):
            rows = np.stack([column[start : start + _ROWS_PER_WRITE] for column in columns.values()], axis=1)
            file.write(np.ascontiguousarray(rows, dtype="<f4").data)


def read_ply(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the Gaussians of a 3DGS `.ply`: the dictionary that `write_ply` takes, float32.

    Columns may come in any order and of any number type, columns this layout does not have are ignored, and bytes after
    the last row are ignored with a warning. Raises `UserError` for a file that is missing, is no 3DGS `.ply`, has
    fewer bytes than its header promises, or holds NaN or Inf.
    """
    source = Path(path)
    header = read_ply_header(source)
    names = header.dtype.names or ()
    required = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    required += [f"scale_{i}" for i in range(3)] + [f"rot_{i}" for i in range(4)]
    missing = [name for name in required if name not in names]
    if missing:
        raise UserError(
            f"{source} has no column {', '.join(missing)}; expected a 3D Gaussian splatting .ply "
            f"(x y z f_dc_* opacity scale_* rot_*), found {' '.join(names) or 'no columns'}"
        )
    rest = sorted((name for name in names if name.startswith("f_rest_")), key=lambda name: (len(name), name))
    if rest != [f"f_rest_{i}" for i in range(len(rest))] or len(rest) not in _REST_COUNTS:
        raise UserError(
            f"{source} has {len(rest)} f_rest_* columns; expected f_rest_0 up to one of {sorted(_REST_COUNTS)} columns"
        )
    used = [*required, *rest]
    table = _float_table(source, header, used)
    finite = np.isfinite(table)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        bad = int((~finite.all(axis=1)).sum())
        raise UserError(
            f"{source}: {bad} of {header.count} rows hold NaN or Inf, first row {row}, column {used[column]}; "
            "remove these rows in the program that wrote the file"
        )
    at = {name: index for index, name in enumerate(used)}
    sh_rest = table[:, len(required) :].reshape(header.count, 3, len(rest) // 3)
    return {
        "means": table[:, at["x"] : at["x"] + 3].copy(),
        "quats": table[:, at["rot_0"] : at["rot_0"] + 4].copy(),
        "scales": table[:, at["scale_0"] : at["scale_0"] + 3].copy(),
        "opacities": table[:, at["opacity"]].copy(),
        "sh0": table[:, None, at["f_dc_0"] : at["f_dc_0"] + 3].copy(),
        "shN": np.ascontiguousarray(sh_rest.transpose(0, 2, 1)),
    }


def read_ply_header(path: str | os.PathLike[str]) -> PlyHeader:
    """Returns the parsed header.

    Raises `UserError` when the file is missing, is no binary `.ply`, or is shorter than it says.
    """
    source = Path(path)
    try:
        total = source.stat().st_size
        with source.open("rb") as file:
            head = file.read(min(total, _MAX_HEADER_BYTES))
    except FileNotFoundError:
        raise UserError(f"expected the file {source}, found none; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{source} is a folder; expected a .ply file") from None
    if not head.startswith((b"ply\n", b"ply\r\n")):
        raise UserError(f"{source} is not a .ply file: it does not start with the line 'ply'")
    end = head.find(b"\nend_header")
    newline = head.find(b"\n", end + 1) if end >= 0 else -1
    if newline < 0:
        raise UserError(f"{source}: the header has no end_header line in its first {len(head)} bytes; it was cut short")
    lines = [line.strip().decode("ascii", "replace") for line in head[:newline].split(b"\n")]
    return _parse_header(source, lines, newline + 1, total)


def _parse_header(source: Path, lines: list[str], data_start: int, total: int) -> PlyHeader:
    """Returns the header from its lines; every count is compared with the bytes that are there."""
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    comments: list[str] = []
    layout = None
    for line in lines[1:-1]:
        words = line.split()
        if not words:
            continue
        if words[0] == "comment":
            comments.append(line[len("comment") :].strip())
        elif words[0] == "format" and len(words) >= 2:
            layout = words[1]
        elif words[0] == "element" and len(words) == 3 and words[2].isascii() and words[2].isdigit():
            elements.append((words[1], int(words[2][:20]), []))
        elif words[0] == "property" and len(words) == 3 and words[1] in _TYPES and elements:
            elements[-1][2].append((words[2], "<" + _TYPES[words[1]]))
        elif words[0] == "property" and len(words) == 5 and words[1] == "list" and elements:
            elements[-1][2].append((words[4], "list"))
        elif words[0] != "obj_info":
            raise UserError(f"{source}: the header line {line[:80]!r} is not understood; expected a .ply header")
    if layout != "binary_little_endian":
        raise UserError(f"{source} is in the format {layout}; expected binary_little_endian; convert it")
    offset = data_start
    for index, (name, count, properties) in enumerate(elements):
        last = index == len(elements) - 1
        if any(kind == "list" for _, kind in properties):
            if name == "vertex" or not any(other == "vertex" for other, _, _ in elements[:index]):
                raise UserError(
                    f"{source}: the element {name} has list columns before the Gaussians; expected plain rows"
                )
            continue
        if len({column for column, _ in properties}) != len(properties):
            raise UserError(f"{source}: the element {name} names a column twice")
        size = sum(np.dtype(kind).itemsize for _, kind in properties)
        if name != "vertex":
            offset += count * size
            continue
        available = max(total - offset, 0)
        if count * size > available:
            raise UserError(
                f"{source} promises {count} Gaussians of {size} bytes, but only {available} bytes follow: "
                f"room for {available // max(size, 1)}; it was cut short or its header is wrong; copy it again"
            )
        return PlyHeader(count, np.dtype(properties), offset, last, tuple(comments))
    raise UserError(f"{source} has no element 'vertex'; expected a 3D Gaussian splatting .ply")


def _float_table(source: Path, header: PlyHeader, used: list[str]) -> np.ndarray:
    """Returns the columns `used` as one float32 table [N, len(used)]."""
    stray = source.stat().st_size - header.offset - header.count * header.dtype.itemsize
    if stray > 0 and header.ends_with_vertices:
        warnings.warn(f"{source}: {stray} stray bytes after the last Gaussian were ignored", stacklevel=3)
    table = np.empty((header.count, len(used)), dtype=np.float32)
    if header.count == 0:
        return table
    names = list(header.dtype.names or ())
    rows = np.memmap(source, dtype=header.dtype, mode="r", offset=header.offset, shape=(header.count,))
    if all(header.dtype[name] == np.dtype("<f4") for name in names):
        # The common case, one gather: rows of equal type are a matrix.
        np.take(rows.view("<f4").reshape(header.count, len(names)), [names.index(n) for n in used], axis=1, out=table)
    else:
        for column, name in enumerate(used):
            table[:, column] = rows[name]
    return table


def _columns(gaussians: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the file's columns by name, in file order, each [N] float32; checks the shapes."""
    means = np.asarray(gaussians["means"], dtype=np.float32)
    count = len(means)
    sh_rest = np.asarray(gaussians["shN"], dtype=np.float32)
    if sh_rest.ndim != 3 or sh_rest.shape[::2] != (count, 3):
        raise UserError(f"shN must have shape ({count}, K - 1, 3), got {sh_rest.shape}")
    expected = {"means": (count, 3), "quats": (count, 4), "scales": (count, 3), "opacities": (count,)}
    expected["sh0"] = (count, 1, 3)
    arrays = {name: np.asarray(gaussians[name], dtype=np.float32) for name in expected}
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise UserError(f"{name} must have shape {shape}, got {arrays[name].shape}")
    if 3 * sh_rest.shape[1] not in _REST_COUNTS:
        raise UserError(f"shN must hold 0, 3, 8, 15 or 24 coefficients per Gaussian, got {sh_rest.shape[1]}")
    columns = {name: arrays["means"][:, i] for i, name in enumerate("xyz")}
    columns |= {name: np.zeros(count, np.float32) for name in ("nx", "ny", "nz")}
    columns |= {f"f_dc_{i}": arrays["sh0"][:, 0, i] for i in range(3)}
    channel_major = sh_rest.transpose(0, 2, 1).reshape(count, 3 * sh_rest.shape[1])
    columns |= {f"f_rest_{i}": channel_major[:, i] for i in range(channel_major.shape[1])}
    columns["opacity"] = arrays["opacities"]
    columns |= {f"scale_{i}": arrays["scales"][:, i] for i in range(3)}
    columns |= {f"rot_{i}": arrays["quats"][:, i] for i in range(4)}
    return columns
