"""Niantic's `.spz`, versions 1 to 4: 65 bytes per Gaussian with SH 3 before compression, axes right-up-back.

Versions 1 to 3 are one gzip stream: a header of 16 bytes, then whole attributes one after the other. Version 4 is a
header of 32 bytes, a table of (compressed, unpacked) sizes and a zstd stream per attribute. Layout: the format's own
README and the files other programs write.

Positions are 24-bit fixed point (version 1: float16), scales a byte each of 16 steps per e-fold from e^-10, opacities a
byte, colours a byte of 0.15 per unit of the coefficient, rotations x y z in 3 bytes (to version 2) or the smallest
three in 4 bytes, coefficients a byte each in -1..1.
"""

from __future__ import annotations

import gzip
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import zstandard

from ..errors import UserError
from ..files import atomic_write
from .orient import PLY_TO_RUB, half_turned
from .packed import broken, check_reach, from_smallest_three, inflate, read_whole, smallest_three, warn_if_coarse
from .splats import REST_COUNTS, Splats, check_splats, degree_of, logit, only_gaussians, sigmoid, unit

MAGIC = b"NGSP"
VERSIONS = (2, 3, 4)
"""Versions that are written."""

_HEADER = struct.Struct("<4sIIBBBB")
_HEADER_4 = struct.Struct("<4sIIBBBBI12x")
_STREAM = struct.Struct("<QQ")
_ANTIALIASED, _EXTENDED = 1, 2
_COLOR_SCALE = 0.15
# The wire has 24 bits; more of them for the fraction than this makes files larger and nothing visible better.
_MOST_FRACTION_BITS = 16
# Significant bits of a coefficient byte, of degree 1 and beyond: fewer compress better. The format's own defaults.
_SH_BITS = (5, 4)
# No real file comes near these; they bound what a small hostile one can unpack to.
_MOST_INFLATION_GZIP = 1100
_MOST_INFLATION_ZSTD = 16000


def write_spz(path: str | os.PathLike[str], gaussians: Splats, *, version: int = 4, antialiased: bool = False) -> None:
    """Writes a `.spz`, atomically.

    Args:
        path: the file.
        gaussians: Splats in the axes of a 3DGS `.ply`; the file's axes are turned to right-up-back.
        version: 2 or 3 for older programs, 4 for smaller files and SH degree 4.
        antialiased: whether they were fitted with antialiasing.
    """
    if version not in VERSIONS:
        raise UserError(f"an .spz is written in version 2, 3 or 4, got {version}")
    splats = half_turned(check_splats(gaussians), PLY_TO_RUB)
    count, degree = len(splats["means"]), degree_of(splats)
    if degree > 3 and version < 4:
        raise UserError(f"an .spz of version {version} holds SH degrees up to 3, got {degree}; use version 4")
    reach = float(np.abs(splats["means"]).max()) if count else 1.0
    check_reach("an .spz", np.asarray(gaussians["means"]), (1 << 22) - 1)
    bits = int(np.clip(22 - np.ceil(np.log2(max(reach, 1e-6))), 0, _MOST_FRACTION_BITS))
    warn_if_coarse(path, splats["means"], 0.5**bits)
    streams = [
        _fixed_point(splats["means"], bits),
        _byte(sigmoid(splats["opacities"]) * 255.0),
        _byte(splats["sh0"][:, 0] * (_COLOR_SCALE * 255.0) + 127.5),
        _byte((splats["scales"] + 10.0) * 16.0),
        _pack_first_three(splats["quats"]) if version < 3 else _pack_smallest_three(splats["quats"]),
    ]
    if degree:
        streams.append(_pack_coefficients(splats["shN"]))
    content = [stream.tobytes() for stream in streams]
    flags = _ANTIALIASED if antialiased else 0
    if version < 4:
        head = _HEADER.pack(MAGIC, version, count, degree, bits, flags, 0)
        # No date, so that the same Gaussians give the same bytes.
        data = gzip.compress(head + b"".join(content), compresslevel=6, mtime=0)
    else:
        compressor = zstandard.ZstdCompressor(level=12, write_content_size=True)
        packed = [compressor.compress(part) for part in content]
        table = b"".join(_STREAM.pack(len(small), len(part)) for small, part in zip(packed, content))
        head = _HEADER_4.pack(MAGIC, version, count, degree, bits, flags, len(packed), _HEADER_4.size)
        data = head + table + b"".join(packed)
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def read_spz(path: str | os.PathLike[str]) -> Splats:
    """Returns the Gaussians of a `.spz` in the axes of a 3DGS `.ply`; raises `UserError` when it is damaged."""
    source = Path(path)
    data = read_whole(source, ".spz")
    try:
        if data[:2] == b"\x1f\x8b":
            return _read_gzip(source, data)
        if data[:4] == MAGIC and len(data) >= 16:
            return _read_zstd(source, data) if struct.unpack_from("<I", data, 4)[0] >= 4 else _read_plain(source, data)
    except (zlib.error, EOFError, zstandard.ZstdError) as error:
        raise broken(source, ".spz", str(error)) from None
    raise broken(source, ".spz", "it starts with neither NGSP nor a gzip header")


def states_antialiasing(path: str | os.PathLike[str]) -> bool:
    """Returns whether the header of a `.spz` that can be read says that it was fitted with antialiasing."""
    data = read_whole(path, ".spz")
    head = inflate(data, _HEADER.size) if data[:2] == b"\x1f\x8b" else data
    return bool(_HEADER.unpack_from(head)[5] & _ANTIALIASED)


def _read_gzip(source: Path, data: bytes) -> Splats:
    sizes = _sizes(source, *_header(source, inflate(data, _HEADER.size)))
    total = _HEADER.size + sum(sizes.values())
    if total > _MOST_INFLATION_GZIP * len(data):
        raise broken(source, ".spz", f"it promises {total} bytes, more than {len(data)} compressed ones can hold")
    return _read_plain(source, inflate(data, total))


def _read_plain(source: Path, content: bytes) -> Splats:
    """Returns the Gaussians of the unpacked bytes of versions 1 to 3."""
    head = _header(source, content)
    sizes = _sizes(source, *head)
    if len(content) < _HEADER.size + sum(sizes.values()):
        raise broken(source, ".spz", f"{head[1]} Gaussians need more bytes than the {len(content)} it unpacks to")
    streams, offset = {}, _HEADER.size
    for name, size in sizes.items():
        streams[name] = np.frombuffer(content, np.uint8, size, offset)
        offset += size
    return _decode(source, head, streams)


def _read_zstd(source: Path, data: bytes) -> Splats:
    if len(data) < _HEADER_4.size:
        raise broken(source, ".spz", "its header is truncated")
    *_, stream_count, table = _HEADER_4.unpack_from(data)
    head = _header(source, data)
    sizes = _sizes(source, *head)
    end = table + stream_count * _STREAM.size
    if stream_count < len(sizes) or end > len(data):
        raise broken(source, ".spz", f"it has {stream_count} streams, expected {len(sizes)} within the file")
    streams, offset = {}, end
    for index, (name, size) in enumerate(sizes.items()):
        packed, unpacked = _STREAM.unpack_from(data, table + index * _STREAM.size)
        if unpacked != size or offset + packed > len(data) or size > _MOST_INFLATION_ZSTD * packed:
            raise broken(
                source, ".spz", f"stream {name} of {packed} bytes should unpack to {size} bytes, it says {unpacked}"
            )
        with zstandard.ZstdDecompressor().stream_reader(data[offset : offset + packed]) as reader:
            content = reader.read(size)
        if len(content) != size:
            raise broken(source, ".spz", f"stream {name} unpacks to {len(content)} bytes, expected {size}")
        streams[name] = np.frombuffer(content, np.uint8)
        offset += packed
    return _decode(source, head, streams)


def _header(source: Path, content: bytes) -> tuple[int, int, int, int, int]:
    """Returns (version, count, degree, fraction bits, flags), checked."""
    if len(content) < _HEADER.size or content[:4] != MAGIC:
        raise broken(source, ".spz", "it has no NGSP header")
    _, version, count, degree, bits, flags, _ = _HEADER.unpack_from(content)
    if not 1 <= version <= 4:
        raise UserError(f"{source} is an .spz of version {version}; versions 1 to 4 are supported; update gaussian4d")
    if degree >= len(REST_COUNTS) or bits > 23:
        raise broken(source, ".spz", f"it names SH degree {degree} and {bits} fraction bits")
    if flags & _EXTENDED:
        warnings.warn(f"{source}: the extensions in this .spz are ignored", stacklevel=5)
    return version, count, degree, bits, flags


def _sizes(source: Path, version: int, count: int, degree: int, bits: int, flags: int) -> dict[str, int]:
    """Returns the bytes of each attribute, in file order."""
    sizes = {
        "positions": count * (6 if version == 1 else 9),
        "alphas": count,
        "colors": count * 3,
        "scales": count * 3,
        "rotations": count * (3 if version < 3 else 4),
    }
    return sizes | ({"sh": count * 3 * REST_COUNTS[degree]} if degree else {})


def _decode(source: Path, head: tuple[int, int, int, int, int], streams: dict[str, np.ndarray]) -> Splats:
    version, count, degree, bits, _ = head
    if version == 1:
        means = streams["positions"].view("<f2").reshape(count, 3).astype(np.float32)
    else:
        parts = streams["positions"].reshape(count, 3, 3).astype(np.int32)
        fixed = parts[..., 0] | (parts[..., 1] << 8) | (parts[..., 2] << 16)
        # The highest of the 24 bits is the sign.
        means = (((fixed ^ 0x800000) - 0x800000) / float(1 << bits)).astype(np.float32)
    if version < 3:
        xyz = streams["rotations"].reshape(count, 3).astype(np.float64) / 127.5 - 1.0
        w = np.sqrt(np.maximum(0.0, 1.0 - np.square(xyz).sum(axis=1)))
        quats = unit(np.concatenate([w[:, None], xyz], axis=1).astype(np.float32))
    else:
        quats = _unpack_smallest_three(streams["rotations"])
    rest = REST_COUNTS[degree]
    coefficients = streams["sh"] if degree else np.zeros(0, np.uint8)
    splats = {
        "means": means,
        "quats": quats,
        "scales": streams["scales"].reshape(count, 3).astype(np.float32) / 16.0 - 10.0,
        "opacities": logit(streams["alphas"].astype(np.float32) / 255.0),
        "sh0": ((streams["colors"].reshape(count, 1, 3) / 255.0 - 0.5) / _COLOR_SCALE).astype(np.float32),
        "shN": (coefficients.reshape(count, rest, 3).astype(np.float32) - 128.0) / 128.0,
    }
    return only_gaussians(source, half_turned(splats, PLY_TO_RUB))


def _byte(values: np.ndarray) -> np.ndarray:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)


def _fixed_point(means: np.ndarray, bits: int) -> np.ndarray:
    """Returns [N, 3, 3] bytes, lowest first, of 24-bit fixed-point numbers."""
    fixed = np.round(means.astype(np.float64) * (1 << bits)).astype(np.int32)
    return np.stack([fixed & 255, (fixed >> 8) & 255, (fixed >> 16) & 255], axis=-1).astype(np.uint8)


def _pack_first_three(quats: np.ndarray) -> np.ndarray:
    turned = unit(quats)
    turned = np.where(turned[:, :1] < 0, -turned, turned)
    return _byte(turned[:, 1:] * 127.5 + 127.5)


def _pack_smallest_three(quats: np.ndarray) -> np.ndarray:
    """Returns 32-bit words: 2 bits which of x y z w is left out, then sign and 9 bits of each other, in that order."""
    largest, others = smallest_three(quats[:, [1, 2, 3, 0]])
    size = np.minimum(np.abs(others) * np.sqrt(2.0) * 511.0 + 0.5, 511.0).astype(np.uint32)
    part = ((others < 0).astype(np.uint32) << 9) | size
    return ((largest.astype(np.uint32) << 30) | (part[:, 0] << 20) | (part[:, 1] << 10) | part[:, 2]).astype("<u4")


def _unpack_smallest_three(data: np.ndarray) -> np.ndarray:
    word = data.view("<u4")
    part = np.stack([(word >> shift) & 1023 for shift in (20, 10, 0)], axis=1)
    size = (part & 511) / 511.0 * np.sqrt(0.5)
    return from_smallest_three(word >> 30, np.where(part & 512, -size, size))[:, [3, 0, 1, 2]]


def _pack_coefficients(shN: np.ndarray) -> np.ndarray:
    value = np.round(np.clip(shN, -2.0, 2.0) * 128.0).astype(np.int32) + 128
    step = np.full(shN.shape[1], 1 << (8 - _SH_BITS[1]), np.int32)
    step[: REST_COUNTS[1]] = 1 << (8 - _SH_BITS[0])
    step = step[None, :, None]
    return np.clip((value + step // 2) // step * step, 0, 255).astype(np.uint8)
