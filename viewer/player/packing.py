"""The 64 bytes of a row: sixteen little-endian words. Documented in docs/player.md; the page's `rows.ts` is the reader.

0-2   means - origin                  float32 each
3-7   motion c_1, c_2, c_3 (9), sharpness    float16 each; motion in units of `motion_unit`
8     quaternion                      2 bits: which component is left out; three of 10 bits
9-10  spins                           float16 each, for the unit quaternion
11    scales                          11, 11, 10 bits over `scale_range`
12    sh0                             11, 11, 10 bits over `color_range`
13    center                          14 bits over `center_range`; opacity, 10 bits; last byte of sh1
14-15 sh1, the first eight bytes      signed bytes around 128, in units of `sh1_range` / 127
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from gaussian4d.io.segments import Group, Segments

WORDS = 16
ROW_BYTES = 4 * WORDS

_HALF_MAX = 32768.0
_SH0_LIMIT = 8.0
_QUAT_RANGE = math.sqrt(0.5)
# exp(-16) of the largest scale is below every pixel.
_SCALE_SPAN = 16.0


@dataclasses.dataclass(frozen=True)
class Packed:
    """Rows [N, 16] of uint32 and the ranges they refer to."""

    words: np.ndarray
    origin: tuple[float, float, float]
    motion_unit: float
    scale_range: tuple[float, float]
    color_range: tuple[float, float]
    center_range: tuple[float, float]
    sh1_range: float
    groups: tuple[Group, ...]

    def header(self, count: int) -> dict[str, Any]:
        """Returns the ranges of all rows and the groups of the first `count`, under the names the page reads."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in ("words", "groups")}
        groups = [[g.start, g.end, g.first, g.count] for g in self.groups if g.first < count]
        return {"count": count, **values, "groups": groups}


def pack(segments: Segments) -> Packed:
    """Returns the rows of `segments`, quantised. What a coarser `center` shifts, the motion makes good."""
    count = len(segments)
    words = np.zeros((count, WORDS), np.uint32)
    centers, center_range = _levels(segments.centers, 14)
    shift = _values(centers, center_range, 14) - segments.centers
    means, motion, quats = _recentred(segments, shift)
    origin = np.median(means, axis=0) if count else np.zeros(3)
    words[:, 0:3] = (means - origin).astype("<f4").view("<u4")

    unit = _power_of_two(float(np.abs(motion).max(initial=0.0)) / _HALF_MAX)
    halves = np.concatenate([motion.reshape(count, 9) / unit, segments.sharpness[:, None]], axis=1)
    words[:, 3:8] = _half_pairs(halves)

    length = np.linalg.norm(quats, axis=1, keepdims=True)
    words[:, 8], sign = _pack_quats(quats / length)
    words[:, 9:11] = _half_pairs(sign[:, None] * segments.spins / length)

    top = float(segments.scales.max(initial=-30.0))
    scales = np.maximum(segments.scales, top - _SCALE_SPAN)
    words[:, 11], scale_range = _pack_three(scales)
    words[:, 12], color_range = _pack_three(np.clip(segments.sh0, -_SH0_LIMIT, _SH0_LIMIT))

    sh1 = segments.sh1.reshape(count, 9)
    sh1_range = min(float(np.abs(sh1).max(initial=0.0)), _SH0_LIMIT)
    signed = np.round(np.clip(sh1 / (sh1_range or 1.0), -1.0, 1.0) * 127.0) + 128.0
    sh1_bytes = signed.astype(np.uint32)
    opacities = np.round(np.clip(segments.opacities, 0.0, 1.0) * 1023.0).astype(np.uint32)
    words[:, 13] = centers | opacities << 14 | sh1_bytes[:, 8] << 24
    for word in range(2):
        for byte in range(4):
            words[:, 14 + word] |= sh1_bytes[:, 4 * word + byte] << (8 * byte)
    return Packed(
        words=words,
        origin=(float(origin[0]), float(origin[1]), float(origin[2])),
        motion_unit=unit,
        scale_range=scale_range,
        color_range=color_range,
        center_range=center_range,
        sh1_range=sh1_range,
        groups=segments.groups,
    )


def unpack(packed: Packed) -> Segments:
    """Returns the rows as the page reads them."""
    words = packed.words
    count = len(words)
    halves = _from_half_pairs(words[:, 3:8])
    sh1 = np.empty((count, 9))
    for index in range(8):
        sh1[:, index] = words[:, 14 + index // 4] >> (8 * (index % 4)) & 255
    sh1[:, 8] = words[:, 13] >> 24
    return Segments(
        means=np.ascontiguousarray(words[:, 0:3]).view("<f4").astype(np.float64) + np.array(packed.origin),
        motion=(halves[:, :9] * packed.motion_unit).reshape(count, 3, 3),
        quats=_unpack_quats(words[:, 8]),
        spins=_from_half_pairs(words[:, 9:11]),
        scales=_unpack_three(words[:, 11], packed.scale_range),
        opacities=(words[:, 13] >> 14 & 1023) / 1023.0,
        centers=_values(words[:, 13] & 0x3FFF, packed.center_range, 14),
        sharpness=halves[:, 9],
        sh0=_unpack_three(words[:, 12], packed.color_range),
        sh1=((sh1 - 128.0) / 127.0 * packed.sh1_range).reshape(count, 3, 3),
        sources=np.full(count, -1),
        groups=packed.groups,
    )


def _recentred(segments: Segments, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns (means, motion, quats) of the same curves around centres that lie `shift` [N] later."""
    s = shift[:, None]
    c1, c2, c3 = segments.motion[:, 0], segments.motion[:, 1], segments.motion[:, 2]
    means = segments.means + s * (c1 + s * (c2 + s * c3))
    motion = np.stack([c1 + s * (2 * c2 + 3 * s * c3), c2 + 3 * s * c3, c3], axis=1)
    return means, motion, segments.quats + s * segments.spins


def _power_of_two(value: float) -> float:
    return 2.0 ** math.ceil(math.log2(value)) if value > 0 else 1.0


def _half_pairs(values: np.ndarray) -> np.ndarray:
    """Returns words [N, K/2] of float16 values [N, K], the first in the low half."""
    limited = np.clip(values, -65504.0, 65504.0).astype("<f2").view("<u2").astype(np.uint32)
    return limited[:, 0::2] | limited[:, 1::2] << 16


def _from_half_pairs(words: np.ndarray) -> np.ndarray:
    pairs = np.stack([words & 0xFFFF, words >> 16], axis=2).astype("<u2").view("<f2")
    return pairs.reshape(len(words), 2 * words.shape[1]).astype(np.float64)


def _levels(values: np.ndarray, bits: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Returns whole numbers below 2^bits for `values`, and the range (low, high) they span."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    if not high > low:
        high = low + 1.0
    levels = np.round((values - low) / (high - low) * (2**bits - 1)).astype(np.uint32)
    return levels, (low, high)


def _values(levels: np.ndarray, span: tuple[float, float], bits: int) -> np.ndarray:
    return span[0] + levels / (2**bits - 1) * (span[1] - span[0])


def _pack_three(values: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Returns one word for each row of `values` [N, 3], with 11, 11 and 10 bits, and the range."""
    fine, span = _levels(values, 11)
    coarse = np.round((values[:, 2] - span[0]) / (span[1] - span[0]) * 1023.0).astype(np.uint32)
    return fine[:, 0] | fine[:, 1] << 11 | coarse << 22, span


def _unpack_three(words: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    columns = (_values(words & 2047, span, 11), _values(words >> 11 & 2047, span, 11), _values(words >> 22, span, 10))
    return np.stack(columns, axis=1)


def _pack_quats(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns words [N] of unit quaternions, and the sign [N] by which each was multiplied.

    The component of largest size is made positive and left out; the others are at most sqrt(1/2).
    """
    count = len(quats)
    left_out = np.abs(quats).argmax(axis=1)
    sign = np.where(quats[np.arange(count), left_out] < 0, -1.0, 1.0)
    signed = quats * sign[:, None]
    words = left_out.astype(np.uint32)
    for place in range(3):
        component = place + (place >= left_out)
        value = signed[np.arange(count), component] / _QUAT_RANGE
        # 0 is a level of its own, so that unturned Gaussians stay so.
        level = (np.round(np.clip(value, -1.0, 1.0) * 511.0) + 512.0).astype(np.uint32)
        words |= level << np.uint32(2 + 10 * place)
    return words, sign


def _unpack_quats(words: np.ndarray) -> np.ndarray:
    count = len(words)
    left_out = (words & 3).astype(np.int64)
    quats = np.zeros((count, 4))
    for place in range(3):
        component = place + (place >= left_out)
        level = (words >> np.uint32(2 + 10 * place) & 1023).astype(np.float64)
        quats[np.arange(count), component] = (level - 512.0) / 511.0 * _QUAT_RANGE
    rest = 1.0 - (quats**2).sum(axis=1)
    quats[np.arange(count), left_out] = np.sqrt(np.maximum(rest, 0.0))
    return quats
