"""Rendered buffers as pictures: uint8 [H, W, 3] for videos, the viewer and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from ..rendering import RenderOutput

PICTURE_BUFFERS = ("rgb", "depth", "alpha")
"""Buffers that `buffer_picture` draws."""

# A ramp from near (bright) to far (dark) that stays readable in grey: lightness falls all the way.
_RAMP = np.array(
    [[253, 246, 178], [250, 190, 88], [226, 116, 74], [168, 62, 96], [98, 36, 104], [40, 20, 70], [6, 6, 20]],
    dtype=np.float64,
)


def buffer_picture(output: RenderOutput, name: str, span: tuple[float, float] | None = None) -> np.ndarray:
    """Returns the buffer `name` of a rendering as uint8 [H, W, 3]; depth also needs alpha, see `buffers_for`.

    Args:
        output: from `render`.
        name: one of `PICTURE_BUFFERS`.
        span: for depth, the (near, far) of the colour scale; None takes this picture's own.
    """
    if name == "rgb":
        return rgb_picture(_array(output.rgb))
    if name == "alpha":
        return alpha_picture(_array(output.alpha))
    depth, alpha = _array(output.depth), _array(output.alpha)
    return depth_picture(depth, alpha, span or depth_range(depth, alpha))


def output_depth_range(output: RenderOutput) -> tuple[float, float] | None:
    """Returns `depth_range` of a rendering with depth and alpha."""
    return depth_range(_array(output.depth), _array(output.alpha))


def buffers_for(names: Sequence[str]) -> tuple[str, ...]:
    """Returns what `render` must be asked for to draw the pictures `names`."""
    return tuple(dict.fromkeys([*names, *(["alpha"] if "depth" in names else [])]))


def rgb_picture(rgb: np.ndarray) -> np.ndarray:
    """Returns colours [H, W, 3] in [0, 1], clamped, as bytes."""
    return (np.clip(rgb, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def alpha_picture(alpha: np.ndarray) -> np.ndarray:
    """Returns opacity [H, W, 1] in [0, 1] as a grey picture."""
    return np.repeat(rgb_picture(alpha), 3, axis=2)


def depth_range(depth: np.ndarray, alpha: np.ndarray) -> tuple[float, float] | None:
    """Returns the (near, far) that `depth_picture` should span, from pixels [H, W, 1] that show something, or None."""
    shown = depth[(alpha > 0.5) & np.isfinite(depth) & (depth > 0)]
    if shown.size == 0:
        return None
    near, far = np.percentile(shown, [1, 99])
    return float(near), float(max(far, near * 1.001))


def depth_picture(depth: np.ndarray, alpha: np.ndarray, span: tuple[float, float] | None) -> np.ndarray:
    """Returns depth [H, W, 1] as colours, bright is near; equal steps of inverse depth get equal steps of the ramp.

    Args:
        depth: distance along the viewing axis.
        alpha: [H, W, 1]; what is transparent turns black.
        span: (near, far) at the ends of the ramp; keep one for all frames of a video. None gives black.
    """
    if span is None:
        return np.zeros((*depth.shape[:2], 3), np.uint8)
    near, far = span
    inverse = 1.0 / np.maximum(depth[..., 0].astype(np.float64), 1e-12)
    place = np.clip((1.0 / near - inverse) / (1.0 / near - 1.0 / far), 0.0, 1.0) * (len(_RAMP) - 1)
    knots = np.arange(len(_RAMP))
    colours = np.stack([np.interp(place, knots, _RAMP[:, channel]) for channel in range(3)], axis=2)
    return (colours * np.clip(alpha, 0.0, 1.0) + 0.5).astype(np.uint8)


def side_by_side(pictures: list[np.ndarray]) -> np.ndarray:
    """Returns pictures of one size [H, W, 3] in one row."""
    return pictures[0] if len(pictures) == 1 else np.concatenate(pictures, axis=1)


def contact_sheet(rows: list[list[np.ndarray]], gap: int = 4) -> np.ndarray:
    """Returns rows of pictures [H, W, 3] on one white sheet; pictures of one sheet have one size."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    sheet = np.full((len(rows) * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = gap + i * (height + gap), gap + j * (width + gap)
            sheet[top : top + height, left : left + width] = picture
    return sheet


def _array(buffer: Tensor | None) -> np.ndarray:
    assert buffer is not None, "the buffer was not rendered"
    return buffer.detach().cpu().numpy()
