"""Frames an object as the priors know it: in the middle of a square, filling a set share of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from gaussian4d.errors import UserError

MAX_SIZE = 512
"""Largest edge of a framed picture, in pixels: what the fit sees."""
MIN_SIZE = 64
"""Smallest edge, the embedded priors' own; smaller objects are enlarged to it."""
_STEP = 64
# Alpha from which a pixel belongs to the object.
_SEEN = 0.05
_TINY = 8
_SMALL = 32
# Share of a side's pixels that the object may touch before it counts as cut off there.
_CUT_SHARE = 0.02


@dataclasses.dataclass(frozen=True)
class Framed:
    """Pictures of one object, framed alike."""

    frames: Float[np.ndarray, "T 4 S S"]
    """float32, premultiplied RGBA, 0..1."""
    box: tuple[float, float, float]
    """Left, top and edge of the square in pixels of the source; it may reach beyond the picture."""
    notes: tuple[str, ...] = ()
    """What a user should know, one sentence each."""


def recentre(frames: Sequence[Float[np.ndarray, "H W 4"]], *, share: float = 0.8, size: int | None = None) -> Framed:
    """Returns the frames cut to one square around everything that the object covers in any of them.

    Args:
        frames: Premultiplied RGBA of one size.
        share: Part of the square's edge that the longer side of the object's box fills, over 0 to 1.
        size: Edge of the result in pixels; None takes the square's own, rounded to a multiple of 64 in 64..512.

    Raises:
        UserError: an object too small to see.
    """
    if not 0.0 < share <= 1.0:
        raise UserError(f"expected a share over 0 and at most 1, got {share:g}")
    seen = np.max([frame[..., 3] for frame in frames], axis=0) > _SEEN
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if len(rows) == 0:
        raise UserError("nothing can be seen: every pixel is transparent; check the alpha or the mask")
    left, right = float(columns[0]), float(columns[-1] + 1)
    top, bottom = float(rows[0]), float(rows[-1] + 1)
    extent = max(right - left, bottom - top)
    if extent < _TINY:
        raise UserError(
            f"the object is only {extent:.0f} pixels across, expected at least {_TINY}; give a larger picture"
        )
    notes = _cut_off(frames)
    if extent < _SMALL:
        notes.append(f"the object is only {extent:.0f} pixels across; what is made of it will be blurred")
    edge = extent / share
    box = ((left + right - edge) / 2, (top + bottom - edge) / 2, edge)
    target = size or int(min(max(round(edge / _STEP) * _STEP, MIN_SIZE), MAX_SIZE))
    return Framed(np.stack([_crop(frame, box, target) for frame in frames]), box, tuple(notes))


def _crop(frame: np.ndarray, box: tuple[float, float, float], size: int) -> Float[np.ndarray, "4 S S"]:
    """Returns the square `box` of a frame at `size` pixels, transparent beyond the frame, without aliasing."""
    from PIL import Image

    left, top, edge = box
    height, width = frame.shape[:2]
    margin = int(np.ceil(max(-left, -top, left + edge - width, top + edge - height, 0.0))) + 4
    padded = np.pad(frame, ((margin, margin), (margin, margin), (0, 0)))
    region = (left + margin, top + margin, left + margin + edge, top + margin + edge)
    # Enlarging wants a smooth filter, making smaller one that averages without ringing.
    kind = Image.Resampling.BICUBIC if edge < size else Image.Resampling.HAMMING
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(padded[..., c])).resize((size, size), kind, box=region))
        for c in range(4)
    ]
    alpha = np.clip(planes[3], 0.0, 1.0)
    return np.stack([*(np.clip(plane, 0.0, alpha) for plane in planes[:3]), alpha]).astype(np.float32)


def _cut_off(frames: Sequence[np.ndarray]) -> list[str]:
    """Returns a sentence naming the sides of the picture at which the object is cut off, none when it is whole."""
    alpha = np.max([frame[..., 3] for frame in frames], axis=0)
    sides = {"top": alpha[0], "bottom": alpha[-1], "left": alpha[:, 0], "right": alpha[:, -1]}
    cut = [side for side, values in sides.items() if (values > 0.5).mean() > _CUT_SHARE]
    if not cut:
        return []
    return [f"the object is cut off at the {' and '.join(cut)} of the picture; what is missing will be missing"]
