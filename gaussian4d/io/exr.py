"""OpenEXR pictures: scan lines of 32-bit floats, ZIP compressed, any named channels. Written here, no library needed.

Format: https://openexr.com/en/latest/OpenEXRFileLayout.html. Sixteen lines make a chunk; its bytes are split into even
and odd ones, replaced by differences and deflated, as the reference implementation's ZIP does.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping

import numpy as np

from ..errors import UserError
from ..files import atomic_write

_LINES = 16
_ZIP = 3
_FLOAT = 2


def write_exr(path: str | os.PathLike[str], channels: Mapping[str, np.ndarray]) -> None:
    """Writes channels, each [H, W], as one file. Names are the usual ones: R, G, B, A, Z, or `layer.X`.

    Raises `UserError` without channels, or when they differ in size.
    """
    if not channels:
        raise UserError("an EXR picture needs at least one channel, got none")
    shapes = {value.shape for value in channels.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise UserError(f"channels of an EXR picture must all be [H, W] of one size, got {sorted(shapes)}")
    height, width = next(iter(shapes))
    # Readers rely on the alphabetical order of channels.
    names = sorted(channels)
    planes = [np.ascontiguousarray(channels[name], dtype="<f4") for name in names]
    chunks = []
    for top in range(0, height, _LINES):
        rows = range(top, min(top + _LINES, height))
        data = b"".join(plane[row].tobytes() for row in rows for plane in planes)
        chunks.append(struct.pack("<i", top) + _packed(data))
    header = _header(names, width, height)
    offset = len(header) + 8 * len(chunks)
    table = []
    for chunk in chunks:
        table.append(offset)
        offset += len(chunk)
    with atomic_write(path) as temporary:
        temporary.write_bytes(header + struct.pack(f"<{len(table)}Q", *table) + b"".join(chunks))


def _header(names: list[str], width: int, height: int) -> bytes:
    """Returns magic number, version and attributes."""
    listed = b"".join(name.encode() + b"\0" + struct.pack("<iB3xii", _FLOAT, 0, 1, 1) for name in names) + b"\0"
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    attributes = (
        ("channels", "chlist", listed),
        ("compression", "compression", bytes([_ZIP])),
        ("dataWindow", "box2i", window),
        ("displayWindow", "box2i", window),
        ("lineOrder", "lineOrder", b"\0"),
        ("pixelAspectRatio", "float", struct.pack("<f", 1.0)),
        ("screenWindowCenter", "v2f", struct.pack("<2f", 0.0, 0.0)),
        ("screenWindowWidth", "float", struct.pack("<f", 1.0)),
    )
    # Names of more than 31 characters need a flag in the version.
    version = 2 | (0x400 if max(map(len, names)) > 31 else 0)
    parts = [struct.pack("<ii", 20000630, version)]
    for name, kind, value in attributes:
        parts.append(name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value)
    return b"".join(parts) + b"\0"


def _packed(data: bytes) -> bytes:
    """Returns the size and the bytes of a chunk, deflated where that makes them fewer."""
    raw = np.frombuffer(data, np.uint8)
    halves = np.concatenate([raw[0::2], raw[1::2]]).astype(np.int16)
    halves[1:] = np.diff(halves) + 128
    deflated = zlib.compress((halves & 0xFF).astype(np.uint8).tobytes(), 4)
    # A chunk as large as it would be unpacked is taken as not packed.
    chosen = deflated if len(deflated) < len(data) else data
    return struct.pack("<i", len(chosen)) + chosen
