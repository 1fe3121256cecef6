"""PlayCanvas' `.compressed.ply`: blocks of 256 Gaussians, 16 bytes each, and a byte per further coefficient.

Three elements: `chunk`, the bounds of each block (positions, log scales, colours); `vertex`, four 32-bit words:
position and scale of 11, 10 and 11 bits, quaternion as 2 bits for the largest component and 3 x 10, colour and opacity
of 8 bits each; `sh`, optional, a byte per coefficient in -4..4, channel-major.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import atomic_write
from .packed import broken, from_smallest_three, morton_order, smallest_three, to_unorm, warn_if_coarse
from .ply_header import PlyHeader, read_header
from .splats import (
    REST_COUNTS,
    Splats,
    check_splats,
    color_from_sh0,
    limit_degree,
    logit,
    only_gaussians,
    sh0_from_color,
    sigmoid,
)

BLOCK = 256
_BOUNDS = [f"{end}_{axis}" for end in ("min", "max") for axis in "xyz"]
_BOUNDS += [f"{end}_scale_{axis}" for end in ("min", "max") for axis in "xyz"]
_COLORS = [f"{end}_{channel}" for end in ("min", "max") for channel in "rgb"]
_PACKED = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
_LARGEST_LOG_SCALE = 20.0


def is_compressed(header: PlyHeader) -> bool:
    """Returns whether a `.ply` is of this layout, whatever its name."""
    return "chunk" in header.elements and set(_PACKED) <= set(header.dtype.names or ())


def write_compressed_ply(path: str | os.PathLike[str], gaussians: Splats, *, comments: Sequence[str] = ()) -> None:
    """Writes a `.compressed.ply`, atomically; Gaussians are reordered so that those of a block are near each other.

    Spherical harmonics beyond degree 3 are left out.
    """
    splats = limit_degree(check_splats(gaussians), 3)
    order = morton_order(splats["means"])
    splats = {name: value[order] for name, value in splats.items()}
    count, rest = len(order), splats["shN"].shape[1]
    starts = np.arange(0, count, BLOCK)
    position, position_bounds = _quantize(splats["means"], starts)
    spans = (position_bounds[:, 3:].astype(np.float64) - position_bounds[:, :3])[np.arange(count) // BLOCK]
    warn_if_coarse(path, splats["means"], spans / np.array([2047.0, 1023.0, 2047.0]))
    scales = np.clip(splats["scales"], -_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE)
    scale, scale_bounds = _quantize(scales, starts)
    color, color_bounds = _quantize(color_from_sh0(splats["sh0"][:, 0]), starts)
    largest, others = smallest_three(splats["quats"])
    three = to_unorm(others * np.sqrt(0.5) + 0.5, 10)
    packed = np.stack(
        [
            _pack_11_10_11(position),
            (largest.astype(np.uint32) << 30) | (three[:, 0] << 20) | (three[:, 1] << 10) | three[:, 2],
            _pack_11_10_11(scale),
            (to_unorm(color[:, 0], 8) << 24)
            | (to_unorm(color[:, 1], 8) << 16)
            | (to_unorm(color[:, 2], 8) << 8)
            | to_unorm(sigmoid(splats["opacities"]), 8),
        ],
        axis=1,
    ).astype("<u4")
    bounds = np.concatenate([position_bounds, scale_bounds, color_bounds], axis=1).astype("<f4")
    coefficients = splats["shN"].transpose(0, 2, 1).reshape(count, 3 * rest)
    header = ["ply", "format binary_little_endian 1.0", *(f"comment {line}" for line in comments)]
    header += [f"element chunk {len(starts)}", *(f"property float {name}" for name in _BOUNDS + _COLORS)]
    header += [f"element vertex {count}", *(f"property uint {name}" for name in _PACKED)]
    if rest:
        header += [f"element sh {count}", *(f"property uchar f_rest_{i}" for i in range(3 * rest))]
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(("\n".join([*header, "end_header"]) + "\n").encode("ascii", "replace"))
        file.write(bounds.tobytes())
        file.write(packed.tobytes())
        file.write(np.clip(np.floor((coefficients / 8.0 + 0.5) * 256.0), 0, 255).astype(np.uint8).tobytes())


def read_compressed_ply(path: str | os.PathLike[str]) -> Splats:
    """Returns the Gaussians of a `.compressed.ply`; raises `UserError` when it is damaged or of another kind."""
    source = Path(path)
    header = read_header(source)
    if not is_compressed(header):
        raise UserError(f"{source} has no blocks of packed Gaussians; expected a .compressed.ply; name it .ply")
    chunk, vertex = header.elements["chunk"], header.elements["vertex"]
    names = set(chunk.dtype.names or ())
    if not set(_BOUNDS) <= names or any(vertex.dtype[name] != np.dtype("<u4") for name in _PACKED):
        raise broken(source, ".compressed.ply", "its columns are not those of the layout")
    blocks = -(-vertex.count // BLOCK)
    if chunk.count != blocks:
        raise broken(source, ".compressed.ply", f"{vertex.count} Gaussians need {blocks} blocks, it has {chunk.count}")
    limits, rows = chunk.rows(source), vertex.rows(source)
    block = np.arange(vertex.count) // BLOCK
    word = {name: np.asarray(rows[name]) for name in _PACKED}
    rgba = (
        np.stack([(word["packed_color"] >> shift) & 255 for shift in (24, 16, 8, 0)], axis=1).astype(np.float32) / 255
    )
    color = rgba[:, :3]
    if set(_COLORS) <= names:
        color = _between(limits, "", "rgb", block, color)
    rotation = word["packed_rotation"]
    three = np.stack([(rotation >> shift) & 1023 for shift in (20, 10, 0)], axis=1) / 1023.0
    return only_gaussians(
        source,
        {
            "means": _between(limits, "", "xyz", block, _unpack_11_10_11(word["packed_position"])),
            "quats": from_smallest_three(rotation >> 30, (three - 0.5) * np.sqrt(2.0)),
            "scales": _between(limits, "scale_", "xyz", block, _unpack_11_10_11(word["packed_scale"])),
            "opacities": logit(rgba[:, 3]),
            "sh0": sh0_from_color(color)[:, None],
            "shN": _coefficients(source, header),
        },
    )


def _coefficients(source: Path, header: PlyHeader) -> np.ndarray:
    """Returns shN [N, K - 1, 3] of the element `sh`, of width 0 without one."""
    element = header.elements.get("sh")
    if element is None:
        return np.zeros((header.count, 0, 3), np.float32)
    names = element.dtype.names or ()
    if (
        element.count != header.count
        or names != tuple(f"f_rest_{i}" for i in range(len(names)))
        or len(names) not in [3 * count for count in REST_COUNTS[1:4]]
        or element.dtype.itemsize != len(names)
    ):
        raise broken(source, ".compressed.ply", "its element sh is not 9, 24 or 45 bytes for every Gaussian")
    table = np.asarray(element.rows(source)).view(np.uint8).reshape(header.count, 3, len(names) // 3)
    value = (table + 0.5) / 256.0
    value[table == 0], value[table == 255] = 0.0, 1.0
    return np.ascontiguousarray(((value - 0.5) * 8.0).transpose(0, 2, 1).astype(np.float32))


def _quantize(values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (values [N, 3] within the bounds of their block as 0..1, the bounds [blocks, 6] as min and max)."""
    if len(values) == 0:
        return values, np.zeros((0, 6), np.float32)
    low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
    block = np.arange(len(values)) // BLOCK
    span = np.maximum(high - low, 1e-12)
    return (values - low[block]) / span[block], np.concatenate([low, high], axis=1)


def _between(limits: np.ndarray, kind: str, axes: str, block: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Returns values [N, 3] from their share 0..1 of the bounds of their block."""
    low = np.stack([np.asarray(limits[f"min_{kind}{axis}"], np.float32) for axis in axes], axis=1)[block]
    high = np.stack([np.asarray(limits[f"max_{kind}{axis}"], np.float32) for axis in axes], axis=1)[block]
    with np.errstate(invalid="ignore", over="ignore"):
        return (low * (1 - share) + high * share).astype(np.float32)


def _pack_11_10_11(values: np.ndarray) -> np.ndarray:
    return (to_unorm(values[:, 0], 11) << 21) | (to_unorm(values[:, 1], 10) << 11) | to_unorm(values[:, 2], 11)


def _unpack_11_10_11(words: np.ndarray) -> np.ndarray:
    parts = [(words >> 21) / 2047.0, ((words >> 11) & 1023) / 1023.0, (words & 2047) / 2047.0]
    return np.stack(parts, axis=1).astype(np.float32)
