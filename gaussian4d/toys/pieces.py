"""What toys are put together from: shapes of random proportions, and textures that suit them."""

from __future__ import annotations

import numpy as np

from . import shapes
from .motions import rotation
from .shapes import Shape
from .textures import Texture

KINDS = ("box", "superquadric", "cylinder", "cone", "torus", "capsule", "sphere")
VIVID = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
MARKS = {
    "red": ("white", "yellow"),
    "orange": ("white", "blue", "purple"),
    "yellow": ("red", "blue", "teal", "purple"),
    "green": ("white", "yellow"),
    "teal": ("white", "yellow", "orange"),
    "blue": ("white", "yellow", "orange"),
    "purple": ("white", "yellow", "pink"),
    "pink": ("white", "purple", "blue"),
}


def draw_shape(rng: np.random.Generator, kind: str, size: float, detail: int = 64) -> tuple[Shape, np.ndarray]:
    """Returns a shape that fits a ball of radius about 1.2 `size`, and how it stands.

    `detail` is the number of segments around round shapes; below 64 a superquadric's mesh is coarser too.
    """
    a, b = rng.uniform(0.85, 1.0, 2) * size
    upright = np.eye(4)
    if kind == "box":
        return shapes.box((0.72 * a, 0.72 * b, 0.72 * size)), upright
    if kind == "superquadric":
        e1, e2 = rng.uniform(0.3, 0.7, 2)
        return shapes.superquadric(
            (0.8 * a, 0.8 * b, 0.85 * size), float(e1), float(e2), 4 if detail >= 64 else 3
        ), upright
    if kind == "cylinder":
        return shapes.cylinder(0.75 * a, 0.8 * b, detail), upright
    if kind == "cone":
        return shapes.cone(0.85 * a, b, detail), upright
    if kind == "torus":
        # Standing on its rim, the hole facing sideways.
        return shapes.torus(0.72 * size, 0.3 * a, detail), rotation((1.0, 0.0, 0.0), np.pi / 2)
    if kind == "capsule":
        return shapes.capsule(0.52 * a, 0.55 * b, detail), upright
    return shapes.sphere(a, detail), rotation((1.0, 0.3, 0.0), 0.5)


def draw_texture(rng: np.random.Generator, shape: Shape, color: str) -> Texture:
    """Returns a texture that suits the shape: carved cells for boxes, cells around the axis for the round ones."""
    colors = (color, str(rng.choice(MARKS[color])))
    pattern = str(rng.choice(("checker", "stripes", "dots", "gradient"), p=(0.3, 0.35, 0.25, 0.1)))
    half = shape.half_size
    if pattern == "gradient":
        return Texture(pattern, colors, "solid", (1.0, 1.0, 2 * half[2]))
    if shape.kind in ("box", "superquadric"):
        cells = int(rng.integers(2, 4))
        cell = tuple(2 * half / cells)
        # Faces lie in the middle of a cell, so no pattern edge runs along them.
        shift = 0.5 if cells % 2 == 0 else 0.0
        return Texture(pattern, colors, "solid", cell, (shift, shift, shift), axis=int(rng.integers(3)))
    if pattern == "dots" and shape.kind == "sphere":
        return Texture(pattern, colors, "ball", (float(rng.choice([14, 20, 26])), 1.0, 1.0))
    around = int(rng.choice([6, 8]))
    # Cells about as high as they are wide.
    height = 2 * np.pi * half[0] / around
    rows = max(round(2 * half[2] / height), 1)
    # A little beyond the ends, which would otherwise lie on a pattern edge and show a mix of both colours.
    cell = 2 * half[2] / rows * (1 + 0.16 / rows)
    axis = int(rng.integers(2)) if pattern == "stripes" and shape.kind != "torus" else 0
    return Texture(pattern, colors, "wrap", (float(around), cell, 1.0), (0.0, rows / 2, 0.0), axis=axis)


def reach_down(shape: Shape, rest: np.ndarray) -> float:
    """Returns how far below its centre a shape at rest reaches."""
    return float(-(shape.vertices @ rest[:3, :3].T)[:, 2].min())
