"""What compact formats share: whole files read within bounds, quaternions by their smallest three, Morton order."""

from __future__ import annotations

import os
import warnings
import zlib
from pathlib import Path

import numpy as np

from ..errors import UserError
from .splats import unit

_SQRT2 = float(np.sqrt(2.0))

_LONGEST_REASON = 400

# A Gaussian that stands this many times as far out as the middle half of them is wide is no part of the scene.
_STRAY = 64.0
# Steps across the middle half of a scene; fewer show.
_VISIBLE_STEPS = 250.0


def read_whole(path: str | os.PathLike[str], ending: str) -> bytes:
    """Returns the bytes of a file; raises `UserError` when there is none."""
    source = Path(path)
    try:
        return source.read_bytes()
    except FileNotFoundError:
        raise UserError(f"expected the file {source}, found none; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{source} is a folder; expected a {ending} file") from None


def broken(source: object, ending: str, reason: str) -> UserError:
    """Returns the one message for a damaged or foreign file; a `reason` that quotes the file at length is cut."""
    reason = reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]} ..."
    return UserError(f"{source} is damaged or not a {ending} file: {reason}; copy it again from its source")


def inflate(data: bytes, limit: int) -> bytes:
    """Returns gzip data unpacked, at most `limit` bytes of it; raises `zlib.error` or `EOFError` when it is damaged.

    Memory grows with what is really there, never with what a header claims.
    """
    unpacker = zlib.decompressobj(wbits=31)
    content = unpacker.decompress(data, limit)
    if len(content) < limit and not unpacker.eof:
        raise EOFError("the compressed data ends too early")
    return content


def smallest_three(quats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (index of the largest component [N], the other three [N, 3] in order) of quaternions, largest positive.

    The three lie within +-1/sqrt(2).
    """
    turned = unit(quats).astype(np.float64)
    largest = np.abs(turned).argmax(axis=1)
    sign = np.where(np.take_along_axis(turned, largest[:, None], axis=1) < 0, -1.0, 1.0)
    others = (turned * sign)[_others(largest)].reshape(len(turned), 3)
    return largest, others


def from_smallest_three(largest: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns unit quaternions float32 [N, 4] from what `smallest_three` gives."""
    quats = np.empty((len(others), 4), np.float64)
    quats[_others(largest)] = others.reshape(-1)
    rest = np.sqrt(np.maximum(0.0, 1.0 - np.square(others).sum(axis=1)))
    np.put_along_axis(quats, largest[:, None].astype(np.int64), rest[:, None], axis=1)
    return unit(quats.astype(np.float32))


def _others(largest: np.ndarray) -> np.ndarray:
    """Returns the mask [N, 4] of the components that are not the largest."""
    return np.arange(4)[None] != largest[:, None]


def to_unorm(values: np.ndarray, bits: int) -> np.ndarray:
    """Returns values in 0..1 as whole numbers of `bits` bits, uint32."""
    top = (1 << bits) - 1
    return np.clip(np.floor(values.astype(np.float64) * top + 0.5), 0, top).astype(np.uint32)


def morton_order(points: np.ndarray) -> np.ndarray:
    """Returns the order [N] of points [N, 3] along a space-filling curve: neighbours in it are near each other.

    What stands far outside of all others comes last, so that it takes no precision from them.
    """
    if len(points) == 0:
        return np.zeros(0, np.int64)
    points = points.astype(np.float64)
    middle, width = _middle(points)
    stray = (np.abs(points - middle) > _STRAY * width).any(axis=1)
    near = points if stray.all() else points[~stray]
    low, high = near.min(axis=0), near.max(axis=0)
    cells = (np.clip((points - low) / np.maximum(high - low, 1e-12), 0.0, 1.0) * 1023.0).astype(np.uint64)
    code = np.zeros(len(points), np.uint64)
    for axis in range(3):
        spread = cells[:, axis]
        for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
            spread = (spread | (spread << np.uint64(shift))) & np.uint64(mask)
        code |= spread << np.uint64(axis)
    return np.lexsort((code, stray))


def check_reach(title: str, means: np.ndarray, most: float) -> None:
    """Raises `UserError` with the row of the first Gaussian that stands farther out than a format can say."""
    far = (np.abs(means) > most).any(axis=1)
    if far.any():
        row = int(far.argmax())
        place = " ".join(f"{x:.6g}" for x in means[row])
        more = f", {int(far.sum()) - 1:,} more likewise" if far.sum() > 1 else ""
        raise UserError(
            f"{title} holds positions up to {most:,.0f}: the Gaussian of row {row} stands at {place}{more}; leave it"
            " out, scale the scene down, or choose another format"
        )


def warn_if_coarse(path: object, means: np.ndarray, steps: np.ndarray | float) -> None:
    """Warns where strays make a format keep the positions [N, 3] of ordinary Gaussians in `steps` [N, 3] that show."""
    if len(means) == 0:
        return
    middle, width = _middle(means)
    away = np.abs(means - middle).max(axis=1)
    coarse = (away <= width) & (np.broadcast_to(steps, means.shape).max(axis=1) > width / _VISIBLE_STEPS)
    if coarse.any() and away.max() > _STRAY * width:
        step = float(np.broadcast_to(steps, means.shape)[coarse].max())
        warnings.warn(
            f"{path}: {int(coarse.sum()):,} Gaussians are placed in steps of {step:.2g} only, because others stand as"
            f" far out as {np.abs(means).max():.3g}; leave those out, or choose another format",
            stacklevel=4,
        )


def _middle(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the middle [3] and the width of the middle half of points, of all where most coincide."""
    low, high = np.percentile(points, [25.0, 75.0], axis=0)
    if not (high > low).any():
        low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    return (low + high) / 2.0, max(float((high - low).max()), 1e-12)
