"""The `.ksplat` file of mkkellogg's GaussianSplats3D: read only, because that program is no longer maintained.

A header of 4096 bytes, section headers of 1024 bytes each, then the sections: sizes of the buckets that are not full,
centres of the buckets, Gaussians. Level 0 holds float32; levels 1 and 2 hold positions relative to a bucket as 16 bits
and float16 scales and rotations, and coefficients as float16 or as bytes between two bounds.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from pathlib import Path

import numpy as np

from .packed import broken, read_whole
from .splats import REST_COUNTS, Splats, log_scales, logit, only_gaussians, sh0_from_color, unit

_HEADER_BYTES = 4096
_SECTION_BYTES = 1024
_LEVELS = (
    (np.dtype("<f4"), np.dtype("<f4"), np.dtype("<f4")),
    (np.dtype("<u2"), np.dtype("<f2"), np.dtype("<f2")),
    (np.dtype("<u2"), np.dtype("<f2"), np.dtype("u1")),
)
"""Types of positions, of scales and rotations, and of coefficients, by compression level."""


@dataclasses.dataclass(frozen=True)
class _Section:
    """What a section header says."""

    count: int
    capacity: int
    bucket_capacity: int
    bucket_count: int
    block_size: float
    bucket_bytes: int
    scale_range: int
    full_buckets: int
    partial_buckets: int
    degree: int


def read_ksplat(path: str | os.PathLike[str]) -> Splats:
    """Returns the Gaussians of a `.ksplat`; raises `UserError` when it is missing, damaged or of another version."""
    source = Path(path)
    data = read_whole(source, ".ksplat")
    if len(data) < _HEADER_BYTES:
        raise broken(source, ".ksplat", f"it has {len(data)} bytes, the header alone has {_HEADER_BYTES}")
    major, minor = data[0], data[1]
    if major != 0 or minor < 1:
        raise broken(source, ".ksplat", f"it names version {major}.{minor}, expected 0.1")
    section_count, _, _, count = struct.unpack_from("<4I", data, 4)
    (level,) = struct.unpack_from("<H", data, 20)
    low, high = struct.unpack_from("<2f", data, 36)
    if level >= len(_LEVELS):
        raise broken(source, ".ksplat", f"it names compression level {level}, expected 0, 1 or 2")
    offset = _HEADER_BYTES + section_count * _SECTION_BYTES
    if offset > len(data):
        raise broken(source, ".ksplat", f"{section_count} section headers reach past its end; it was cut short")
    bounds = (low, high) if low < high else (-1.5, 1.5)
    parts = []
    for index in range(section_count):
        section = _section(source, data, _HEADER_BYTES + index * _SECTION_BYTES)
        part, offset = _read_section(source, data, offset, section, level, bounds)
        parts.append(part)
    found = sum(len(part["means"]) for part in parts)
    if found != count:
        raise broken(source, ".ksplat", f"its header promises {count} Gaussians, its sections hold {found}")
    if not parts:
        return _empty()
    widest = max(part["shN"].shape[1] for part in parts)
    for part in parts:
        part["shN"] = np.pad(part["shN"], ((0, 0), (0, widest - part["shN"].shape[1]), (0, 0)))
    return only_gaussians(source, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _section(source: Path, data: bytes, offset: int) -> _Section:
    count, capacity, bucket_capacity, bucket_count = struct.unpack_from("<4I", data, offset)
    block_size, bucket_bytes, scale_range = struct.unpack_from("<fH2xI", data, offset + 16)
    full, partial, degree = struct.unpack_from("<2IH", data, offset + 32)
    if degree > 3 or count > capacity:
        raise broken(source, ".ksplat", f"a section names {count} of {capacity} Gaussians and SH degree {degree}")
    return _Section(
        count, capacity, bucket_capacity, bucket_count, block_size, bucket_bytes, scale_range, full, partial, degree
    )


def _read_section(
    source: Path, data: bytes, offset: int, section: _Section, level: int, bounds: tuple[float, float]
) -> tuple[Splats, int]:
    """Returns the Gaussians of one section and the offset of the next."""
    place_type, shape_type, coefficient_type = _LEVELS[level]
    rest = REST_COUNTS[section.degree]
    row = np.dtype(
        [
            ("means", place_type, 3),
            ("scales", shape_type, 3),
            ("quats", shape_type, 4),
            ("rgba", "u1", 4),
            ("sh", coefficient_type, 3 * rest),
        ]
    )
    buckets = section.partial_buckets * 4 + section.bucket_bytes * section.bucket_count
    start = offset + buckets
    end = start + row.itemsize * section.capacity
    if end > len(data):
        raise broken(source, ".ksplat", f"a section of {section.capacity} Gaussians reaches past its end")
    rows = np.frombuffer(data, row, section.count, start)
    means = rows["means"].astype(np.float32)
    if level > 0:
        centers = _bucket_centers(source, data, offset, section)
        half = section.scale_range or 32767
        means = (means - half) * np.float32(section.block_size / 2.0 / half) + centers
    scales = rows["scales"].astype(np.float32)
    rgba = rows["rgba"].astype(np.float32) / np.float32(255.0)
    with np.errstate(invalid="ignore"):
        quats = rows["quats"].astype(np.float32)
        quats = np.where(np.isfinite(quats).all(axis=1, keepdims=True), unit(quats), np.float32(np.nan))
        logs = np.where(np.isfinite(scales), log_scales(scales), np.float32(np.nan))
    splats = {
        "means": means,
        "quats": quats,
        "scales": logs,
        "opacities": logit(rgba[:, 3]),
        "sh0": sh0_from_color(rgba[:, None, :3]),
        "shN": _coefficients(rows["sh"], section.degree, level, bounds),
    }
    return splats, end


def _bucket_centers(source: Path, data: bytes, offset: int, section: _Section) -> np.ndarray:
    """Returns [N, 3] the centre of each Gaussian's bucket: full buckets come first, the others state their sizes."""
    sizes = np.frombuffer(data, "<u4", section.partial_buckets, offset).astype(np.int64)
    full = np.full(min(section.full_buckets, section.count), section.bucket_capacity, np.int64)
    ends = np.cumsum(np.concatenate([full, sizes]))
    bucket = np.searchsorted(ends, np.arange(section.count), side="right")
    if section.count and (bucket.max() >= min(len(ends), section.bucket_count) or section.bucket_bytes < 12):
        raise broken(source, ".ksplat", "its buckets do not cover its Gaussians")
    table = np.frombuffer(
        data, np.uint8, section.bucket_count * section.bucket_bytes, offset + section.partial_buckets * 4
    ).reshape(section.bucket_count, section.bucket_bytes)
    return np.ascontiguousarray(table[:, :12]).view("<f4").reshape(-1, 3)[bucket]


def _coefficients(packed: np.ndarray, degree: int, level: int, bounds: tuple[float, float]) -> np.ndarray:
    """Returns shN [N, K - 1, 3]; in the file each band holds red, then green, then blue."""
    values = packed.astype(np.float32)
    if level == 2:
        values = bounds[0] + values / 255.0 * (bounds[1] - bounds[0])
    bands, start = [], 0
    for band in range(1, degree + 1):
        width = 2 * band + 1
        block = values[:, start : start + 3 * width].reshape(len(values), 3, width)
        bands.append(block.transpose(0, 2, 1))
        start += 3 * width
    if not bands:
        return np.zeros((len(values), 0, 3), np.float32)
    return np.ascontiguousarray(np.concatenate(bands, axis=1).astype(np.float32))


def _empty() -> Splats:
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (0, 3)}
    return {name: np.zeros((0, *shape), np.float32) for name, shape in shapes.items()}
