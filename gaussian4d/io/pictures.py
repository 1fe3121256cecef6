"""Rendered buffers as pictures: uint8 [H, W, 3] for videos, the viewer and contact sheets."""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from ..rendering import RenderOutput

PICTURE_BUFFERS = ("rgb", "depth", "normal", "alpha", "flow", "velocity", "lifetime")
"""Buffers that `buffer_picture` draws."""

# A ramp from near (bright) to far (dark) that stays readable in grey: lightness falls all the way.
_RAMP = np.array(
    [[253, 246, 178], [250, 190, 88], [226, 116, 74], [168, 62, 96], [98, 36, 104], [40, 20, 70], [6, 6, 20]],
    dtype=np.float64,
)


# Hues around the circle at equal angles, from 0 (to the right) on clockwise (y is down in pictures).
_WHEEL = np.array([colorsys.hsv_to_rgb(k / 12, 1.0, 1.0) for k in range(12)] + [(1.0, 0.0, 0.0)]) * 255.0


@dataclasses.dataclass(frozen=True)
class Scales:
    """What the colours of pictures stand for; one for all frames of a video, or the colours flicker."""

    depth: tuple[float, float] | None = None
    """(near, far) at the ends of the ramp; None: nothing is seen."""
    flow: float = 1.0
    """Pixels of displacement drawn in full colour."""
    speed: float = 1.0
    """World units per clip drawn in full colour."""

    @classmethod
    def measured(cls, outputs: Iterable[RenderOutput]) -> Scales:
        """Returns scales that suit renderings together; what they do not hold keeps its default."""
        spans, flows, speeds = [], [], []
        for output in outputs:
            if output.depth is not None and output.alpha is not None:
                spans.append(depth_range(_array(output.depth), _array(output.alpha)))
            if output.flow is not None:
                flows.append(_large(_array(output.flow)))
            if output.velocity is not None:
                speeds.append(_large(_array(output.velocity)))
        seen = [span for span in spans if span is not None]
        return cls(
            (min(near for near, _ in seen), max(far for _, far in seen)) if seen else None,
            max([*flows, 1e-3]),
            max([*speeds, 1e-6]),
        )


def buffer_picture(output: RenderOutput, name: str, scales: Scales | None = None) -> np.ndarray:
    """Returns the buffer `name` of a rendering as uint8 [H, W, 3]; some also need alpha, see `buffers_for`.

    Depth is drawn bright where near; normals and velocities with x, y, z of the world as red, green, blue around grey;
    flow as hue (direction) that fades to white where nothing moves; lifetime bright where long.

    Args:
        output: from `render`.
        name: one of `PICTURE_BUFFERS`.
        scales: of the colours; None takes this picture's own.
    """
    if name == "rgb":
        return rgb_picture(_array(output.rgb))
    alpha = _array(output.alpha)
    if name == "alpha":
        return alpha_picture(alpha)
    scales = scales or Scales.measured([output])
    if name == "depth":
        return depth_picture(_array(output.depth), alpha, scales.depth)
    if name == "flow":
        colours = _flow_colours(_array(output.flow) / scales.flow)
    elif name == "lifetime":
        colours = _ramp(0.9 * (1.0 - _array(output.lifetime)[..., 0]))
    else:
        vectors = _array(output.normal) if name == "normal" else _array(output.velocity) / scales.speed
        colours = 255.0 * np.clip(0.5 + 0.5 * vectors.astype(np.float64), 0.0, 1.0)
    return (colours * np.clip(alpha, 0.0, 1.0) + 0.5).astype(np.uint8)


def buffers_for(names: Sequence[str]) -> tuple[str, ...]:
    """Returns what `render` must be asked for to draw the pictures `names`."""
    return tuple(dict.fromkeys([*names, *(["alpha"] if set(names) - {"rgb"} else [])]))


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
    colours = _ramp((1.0 / near - inverse) / (1.0 / near - 1.0 / far))
    return (colours * np.clip(alpha, 0.0, 1.0) + 0.5).astype(np.uint8)


def _ramp(place: np.ndarray) -> np.ndarray:
    """Returns the colours float64 [H, W, 3], 0..255, at places [H, W] of the ramp, 0 (bright) to 1 (dark)."""
    at = np.clip(place.astype(np.float64), 0.0, 1.0) * (len(_RAMP) - 1)
    knots = np.arange(len(_RAMP))
    return np.stack([np.interp(at, knots, _RAMP[:, channel]) for channel in range(3)], axis=2)


def _flow_colours(flow: np.ndarray) -> np.ndarray:
    """Returns colours float64 [H, W, 3], 0..255, of displacements [H, W, 2]; length 1 is full colour."""
    flow = flow.astype(np.float64)
    turns = (np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi)) % 1.0 * (len(_WHEEL) - 1)
    knots = np.arange(len(_WHEEL))
    hue = np.stack([np.interp(turns, knots, _WHEEL[:, channel]) for channel in range(3)], axis=2)
    strength = np.clip(np.linalg.norm(flow, axis=2, keepdims=True), 0.0, 1.0)
    return 255.0 * (1.0 - strength) + hue * strength


def _large(vectors: np.ndarray) -> float:
    """Returns the length that few of the vectors [H, W, C] that move at all exceed."""
    lengths = np.linalg.norm(vectors, axis=2)
    moving = lengths[lengths > 1e-3 * max(float(lengths.max()), 1e-12)]
    return float(np.percentile(moving, 98)) if moving.size else 0.0


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Returns pictures of one size [H, W, C] in one row."""
    return pictures[0] if len(pictures) == 1 else np.concatenate(pictures, axis=1)


def grid(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Returns pictures of one size [H, W, C] in rows and columns, about as many of both; empty places are black."""
    columns = int(np.ceil(np.sqrt(len(pictures))))
    places = [*pictures, *[np.zeros_like(pictures[0])] * (-len(pictures) % columns)]
    return np.concatenate([side_by_side(places[k : k + columns]) for k in range(0, len(places), columns)])


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
