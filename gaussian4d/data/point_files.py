"""The points of a PLY file: vertex positions and colours, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import UserError
from ..files import atomic_write
from .named_files import SceneFiles
from .problems import ProblemList
from .records import FARTHEST, PointCloud

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}


def stated_points(
    named: SceneFiles, path: Path, content: Mapping[str, Any], problems: ProblemList
) -> PointCloud | None:
    """Returns the points that a `transforms*.json` names (`ply_file_path`), None with a warning when it cannot."""
    name = content.get("ply_file_path")
    if not isinstance(name, str):
        return None
    try:
        return read_points(named.file(name, "point cloud"))
    except UserError as error:
        problems.warning(path, f"ply_file_path is ignored: {error}")
        return None


def read_points(path: Path) -> PointCloud:
    """Returns the vertices of a PLY file (ASCII or binary), grey where it has no colours; doubles as doubles.

    A vertex property `time` gives every point its clip time. Raises `UserError` naming the file when it is broken.
    """
    try:
        with path.open("rb") as file:
            order, count, fields = _header(file)
            vertices = _ascii(file, count, fields) if not order else _binary(file, count, fields, order)
        xyz = np.stack([vertices[axis] for axis in "xyz"], axis=-1)
        # Doubles stay: where places are those of a map, 32-bit floats hold only steps of half a metre.
        xyz = xyz.astype(np.float64 if xyz.dtype.itemsize == 8 else np.float32)
        if not (np.abs(xyz) < FARTHEST).all():
            raise ValueError("positions are NaN, Inf or out of range")
        rgb = _colours(vertices, count)
        times = vertices["time"].astype(np.float64) if "time" in (vertices.dtype.names or ()) else None
    except (OSError, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the points cannot be read ({error}); expected a PLY with vertices x, y, z") from None
    return PointCloud(xyz, rgb, times)


def _header(file: IO[bytes]) -> tuple[str, int, list[tuple[str, str]]]:
    if file.readline(16).strip() != b"ply":
        raise ValueError("it does not start with 'ply'")
    order: str | None = None
    count = -1
    fields: list[tuple[str, str]] = []
    inside_vertex = first = False
    for _ in range(1000):
        words = file.readline(1024).decode("ascii").split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "end_header":
            break
        if words[0] == "format":
            order = _ORDERS[words[1]]
        elif words[0] == "element":
            inside_vertex = words[1] == "vertex"
            if inside_vertex:
                count = int(words[2])
            elif not first:
                raise ValueError(f"the element {words[1]} comes before the vertices")
            first = True
        elif words[0] == "property" and inside_vertex:
            fields.append((words[2], _TYPES[words[1]]))
    if order is None or count < 0:
        raise ValueError("its header names no format or no vertices")
    return order, count, fields


def _binary(file: IO[bytes], count: int, fields: list[tuple[str, str]], order: str) -> np.ndarray:
    dtype = np.dtype([(name, order + kind) for name, kind in fields])
    data = file.read(count * dtype.itemsize)
    if len(data) < count * dtype.itemsize:
        raise ValueError(f"it is truncated: {count} vertices are stated, {len(data) // dtype.itemsize} are there")
    return np.frombuffer(data, dtype=dtype)


def _ascii(file: IO[bytes], count: int, fields: list[tuple[str, str]]) -> np.ndarray:
    vertices = np.zeros(count, dtype=[(name, "f8") for name, _ in fields])
    for k in range(count):
        words = file.readline().split()
        if len(words) < len(fields):
            raise ValueError(f"it is truncated: {count} vertices are stated, {k} are there")
        vertices[k] = tuple(float(word) for word in words[: len(fields)])
    return vertices


def _colours(vertices: np.ndarray, count: int) -> np.ndarray:
    names = vertices.dtype.names or ()
    for channels in (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue")):
        if all(name in names for name in channels):
            rgb = np.stack([vertices[name] for name in channels], axis=-1)
            if rgb.dtype.kind == "f" and (rgb.max(initial=0.0) <= 1.0):
                rgb = rgb * 255.0
            return np.clip(np.round(rgb), 0, 255).astype(np.uint8)
    return np.full((count, 3), 128, dtype=np.uint8)


def write_points(path: Path, points: PointCloud) -> None:
    """Writes a binary PLY with x, y, z, red, green, blue and, where points have one, `time` (NaN: the whole clip).

    Positions are doubles where those of `points` are.
    """
    kind = "<f8" if points.xyz.dtype == np.float64 else "<f4"
    fields = [("x", kind), ("y", kind), ("z", kind), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    fields += [("time", "<f4")] if points.times is not None else []
    vertices = np.zeros(len(points), dtype=fields)
    for axis, name in enumerate("xyz"):
        vertices[name] = points.xyz[:, axis]
    for channel, name in enumerate(("red", "green", "blue")):
        vertices[name] = points.rgb[:, channel]
    if points.times is not None:
        vertices["time"] = points.times
    names = {"<f4": "float", "<f8": "double", "u1": "uchar"}
    header = "".join(f"property {names[kind]} {name}\n" for name, kind in fields)
    text = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{header}end_header\n"
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("ascii") + vertices.tobytes())
