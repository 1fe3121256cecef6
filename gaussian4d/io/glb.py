"""Binary glTF containers and their accessors: checked tables out of a stranger's file, plain ones into our own.

The Khronos Group, glTF 2.0 specification, sections 3.6 (binary data) and 4 (GLB).
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import inside
from .packed import broken, read_whole

_MAGIC = 0x46546C67
_JSON, _BIN = 0x4E4F534A, 0x004E4942
_TYPES = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_NORMALS = {"i1": 127.0, "u1": 255.0, "i2": 32767.0, "u2": 65535.0}
_FLOAT, _ARRAY_BUFFER, _INDEX_BUFFER = 5126, 34962, 34963


class Document:
    """An open `.glb` or `.gltf`: its JSON and its buffers."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = read_whole(path, ".glb")
        self.size = len(data)
        self.binary = b""
        self.offset = np.zeros(3)
        """[3] of the recorded world that places are relative to (`gaussian4d.offsets`), in the axes we keep."""
        if data[:4] == b"glTF":
            text = self._chunks(data)
        else:
            text = data
        try:
            self.json = json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise broken(path, "glTF", f"its JSON is not valid ({error})") from None
        if not isinstance(self.json, dict) or not isinstance(self.json.get("asset"), dict):
            raise broken(path, "glTF", "its JSON has no asset")
        self._buffers: dict[int, bytes] = {}

    def items(self, name: str) -> list[Any]:
        """Returns the list `name` of the document, empty without one."""
        value = self.json.get(name, [])
        if not isinstance(value, list):
            raise broken(self.path, "glTF", f"{name} is not a list")
        return value

    def item(self, name: str, index: Any) -> dict[str, Any]:
        """Returns entry `index` of the list `name`; raises `UserError` when there is none."""
        values = self.items(name)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(values):
            raise broken(self.path, "glTF", f"{name} has no entry {index!r}")
        if not isinstance(values[index], dict):
            raise broken(self.path, "glTF", f"{name} {index} is not an object")
        return values[index]

    def accessor(self, index: Any, width: int) -> np.ndarray:
        """Returns the values of an accessor, float32 [count, width]; normalised integers become -1..1 or 0..1."""
        accessor = self.item("accessors", index)
        stated = accessor.get("componentType"), accessor.get("type")
        kind = _TYPES.get(stated[0]) if isinstance(stated[0], int) else None
        count, offset = accessor.get("count"), accessor.get("byteOffset", 0)
        if kind is None or not isinstance(stated[1], str) or _WIDTHS.get(stated[1]) != width:
            raise broken(self.path, "glTF", f"accessor {index} is not {width} numbers of a known type")
        if "sparse" in accessor or "bufferView" not in accessor:
            raise UserError(f"{self.path}: accessor {index} is sparse or compressed, which is not read; convert it")
        view = self.item("bufferViews", accessor["bufferView"])
        start, length = view.get("byteOffset", 0), view.get("byteLength")
        element = np.dtype(kind).itemsize * width
        stride = view.get("byteStride", element)
        count, offset, start, length, stride = (
            self._size(index, value) for value in (count, offset, start, length, stride)
        )
        buffer = self._buffer(view.get("buffer"))
        needed = (count - 1) * stride + element if count else 0
        if stride < element or offset + needed > length or start + length > len(buffer):
            raise broken(self.path, "glTF", f"accessor {index} of {count} elements reaches past its bytes")
        if count == 0:
            return np.zeros((0, width), np.float32)
        rows = np.ndarray((count, width), kind, buffer, start + offset, (stride, np.dtype(kind).itemsize))
        values = rows.astype(np.float32)
        if accessor.get("normalized"):
            values = np.maximum(values / np.float32(_NORMALS.get(kind.lstrip("<"), 1.0)), -1.0)
        return values

    def _size(self, index: Any, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise broken(self.path, "glTF", f"accessor {index} has the impossible size {value!r}")
        return value

    def _chunks(self, data: bytes) -> bytes:
        """Returns the JSON chunk of a `.glb` and keeps its binary one."""
        text, offset = b"", 12
        while offset + 8 <= len(data):
            length, kind = struct.unpack_from("<II", data, offset)
            if offset + 8 + length > len(data):
                raise broken(self.path, "glTF", f"a chunk of {length} bytes reaches past its end; it was cut short")
            if kind == _JSON and not text:
                text = data[offset + 8 : offset + 8 + length]
            elif kind == _BIN and not self.binary:
                self.binary = data[offset + 8 : offset + 8 + length]
            offset += 8 + length
        return text

    def _buffer(self, index: Any) -> bytes:
        buffer = self.item("buffers", index)
        if index not in self._buffers:
            uri = buffer.get("uri")
            if uri is None:
                content = self.binary
            elif not isinstance(uri, str):
                raise broken(self.path, "glTF", f"buffer {index} has the address {uri!r}")
            elif uri.startswith("data:"):
                try:
                    content = base64.b64decode(uri.partition(",")[2], validate=True)
                except (binascii.Error, ValueError) as error:
                    raise broken(self.path, "glTF", f"buffer {index} is not valid base64 ({error})") from None
            elif "://" in uri:
                raise UserError(f"{self.path} keeps its data at {uri[:80]}; expected it in the file or beside it")
            else:
                content = read_whole(inside(self.path.parent, uri), "glTF buffer")
            self._buffers[index] = content
        return self._buffers[index]


def node_transform(document: Document, node: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the translation [3], rotation (quaternion xyzw) [4] and scale [3] of a node without a matrix."""
    try:
        return (
            np.asarray(node.get("translation", (0.0, 0.0, 0.0)), np.float64).reshape(3),
            np.asarray(node.get("rotation", (0.0, 0.0, 0.0, 1.0)), np.float64).reshape(4),
            np.asarray(node.get("scale", (1.0, 1.0, 1.0)), np.float64).reshape(3),
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise broken(document.path, "glTF", f"a node's transform is not of the layout ({error})") from None


def node_matrix(document: Document, node: dict[str, Any]) -> np.ndarray:
    """Returns T_parent_node [4, 4] of a node's matrix, or of its translation, rotation and scale."""
    if "matrix" in node:
        try:
            return np.asarray(node["matrix"], np.float64).reshape(4, 4).T
        except (ValueError, TypeError, OverflowError) as error:
            raise broken(document.path, "glTF", f"a node's matrix is not of the layout ({error})") from None
    return transform_matrices(*(value[None] for value in node_transform(document, node)))[0]


def transform_matrices(translations: np.ndarray, rotations: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Returns the matrices [T, 4, 4] of translations [T, 3], rotations (quaternions xyzw) [T, 4] and scales [T, 3].

    A quaternion of length zero gives NaN, which no caller takes for a place.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        x, y, z, w = (rotations / np.linalg.norm(rotations, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    result = np.zeros((len(translations), 4, 4))
    result[:, :3, :3] = np.moveaxis(np.array(rows), -1, 0) * scales[:, None]
    result[:, :3, 3] = translations
    result[:, 3, 3] = 1.0
    return result


class Builder:
    """Collects float32 tables and JSON into the bytes of a `.glb`."""

    def __init__(self) -> None:
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []
        self._parts: list[bytes] = []
        self._length = 0

    def add(
        self,
        values: np.ndarray,
        *,
        bounds: bool = False,
        normalized: bool = False,
        target: int | None = _ARRAY_BUFFER,
    ) -> int:
        """Returns the index of a new accessor for float32 or, `normalized`, uint8 values [N, W] or [N].

        `target` is None for what is no attribute of vertices.
        """
        return self._add(values, ("u1", 5121) if normalized else ("<f4", _FLOAT), bounds, normalized, target)

    def add_indices(self, values: np.ndarray) -> int:
        """Returns the index of a new accessor for uint32 indices [N] of vertices."""
        return self._add(values, ("<u4", 5125), False, False, _INDEX_BUFFER)

    def _add(
        self, values: np.ndarray, type: tuple[str, int], bounds: bool, normalized: bool, target: int | None
    ) -> int:
        kind, code = type
        table = np.ascontiguousarray(values, dtype=kind)
        data = table.tobytes()
        data += bytes(-len(data) % 4)
        view = {"buffer": 0, "byteOffset": self._length, "byteLength": table.nbytes}
        self.views.append(view if target is None else view | {"target": target})
        width = 1 if table.ndim == 1 else table.shape[1]
        name = next(key for key, value in _WIDTHS.items() if value == width)
        accessor = {"bufferView": len(self.views) - 1, "componentType": code, "count": len(table), "type": name}
        if normalized:
            accessor["normalized"] = True
        if bounds:
            rows = table.reshape(len(table), width)
            accessor |= {"min": rows.min(axis=0).tolist(), "max": rows.max(axis=0).tolist()}
        self.accessors.append(accessor)
        self._parts.append(data)
        self._length += len(data)
        return len(self.accessors) - 1

    def glb(self, document: dict[str, Any]) -> bytes:
        """Returns the whole file."""
        tables = {"buffers": [{"byteLength": self._length}], "bufferViews": self.views, "accessors": self.accessors}
        text = json.dumps({**document, **tables}, separators=(",", ":"), allow_nan=False).encode("utf-8")
        text += b" " * (-len(text) % 4)
        total = 12 + 8 + len(text) + 8 + self._length
        head = struct.pack("<III", _MAGIC, 2, total) + struct.pack("<II", len(text), _JSON)
        return b"".join([head, text, struct.pack("<II", self._length, _BIN), *self._parts])
