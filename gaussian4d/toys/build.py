"""A world from a seed: a hero in the middle of a round table, smaller parts around it, each with its own motion."""

from __future__ import annotations

import numpy as np

from ..errors import UserError
from . import shapes
from .motions import Hop, Motion, Orbit, Slide, Spin, Swing, rotation
from .shapes import Shape
from .textures import Texture
from .world import Part, ToyWorld

RADIUS = 1.3
"""The sphere around the origin that holds every world at every time in [0, 1]."""

_FLOOR = -0.5
_RING = 0.8
_KINDS = ("box", "superquadric", "cylinder", "cone", "torus", "capsule", "sphere")
# Names this family of worlds: another number is another, unrelated sequence of worlds.
_FAMILY = 10
_VIVID = ("red", "orange", "yellow", "green", "teal", "blue", "purple", "pink")
_MARKS = {
    "red": ("white", "yellow"),
    "orange": ("white", "blue", "purple"),
    "yellow": ("red", "blue", "teal", "purple"),
    "green": ("white", "yellow"),
    "teal": ("white", "yellow", "orange"),
    "blue": ("white", "yellow", "orange"),
    "purple": ("white", "yellow", "pink"),
    "pink": ("white", "purple", "blue"),
}


def make_world(seed: int = 0, *, parts: int | None = None, ground: bool = True, instants: int = 24) -> ToyWorld:
    """Returns the toy world of a seed; the same on every machine.

    Args:
        seed: Any non-negative integer.
        parts: Moving parts, 1 to 4; None draws 3 or 4.
        ground: Whether a round table stands under them (it is the last part and does not move).
        instants: Frames of the clip; they set what "one frame later" means, not the motion.
    """
    if parts is not None and not 1 <= parts <= 4:
        raise UserError(f"expected 1 to 4 parts, got {parts}")
    if seed < 0:
        raise UserError(f"expected a seed of 0 or above, got {seed}")
    rng = np.random.default_rng([_FAMILY, seed])
    drawn = int(rng.integers(3, 5))
    count = drawn if parts is None else parts
    kinds = [_KINDS[k] for k in rng.permutation(len(_KINDS))]
    colors = [_VIVID[k] for k in rng.permutation(len(_VIVID))]
    carousel = rng.random() < 0.5
    turn = float(rng.choice([-1.0, 1.0])) * float(rng.choice([0.5, 0.75]))
    start = rng.random() * 2 * np.pi

    made = [_hero(rng, kinds[0], colors[0])]
    styles = rng.permutation(4)
    for k in range(count - 1):
        angle = start + 2 * np.pi * k / max(count - 1, 1)
        made.append(_neighbour(rng, kinds[k + 1], colors[k + 1], angle, turn if carousel else 0.0, int(styles[k])))
    if ground:
        made.append(_table())
    return ToyWorld(tuple(made), instants=instants)


def _hero(rng: np.random.Generator, kind: str, color: str) -> Part:
    """Returns the large part in the middle: it spins, hops, or floats and tumbles."""
    shape, rest = _shape(rng, kind, 0.5)
    texture = _texture(rng, shape, color)
    bottom = _reach_down(shape, rest)
    sense = float(rng.choice([-1.0, 1.0]))
    style = int(rng.integers(3))
    if style == 0:
        motions: list[Motion] = [Spin((0.0, 0.0, 1.0), 0.75 * sense)]
        height = _FLOOR + bottom
    elif style == 1:
        motions = [Hop(0.42, 2.0), Spin((0.0, 0.0, 1.0), 0.5 * sense)]
        height = _FLOOR + bottom
    else:
        tilt = rng.uniform(-0.5, 0.5, 2)
        motions = [Slide((0.0, 0.0, 0.1), 1.0), Spin((float(tilt[0]), float(tilt[1]), 1.0), 0.75 * sense)]
        height = _FLOOR + shape.radius + 0.2
    return Part(f"{color} {shape.kind}", shape, texture, (0.0, 0.0, height), rest, motions)


def _neighbour(rng: np.random.Generator, kind: str, color: str, angle: float, turns: float, style: int) -> Part:
    """Returns a small part on the ring at `angle`: all orbit alike when `turns` is not 0, or each keeps its place."""
    shape, rest = _shape(rng, kind, 0.26)
    texture = _texture(rng, shape, color)
    position = np.array([_RING * np.cos(angle), _RING * np.sin(angle), _FLOOR + _reach_down(shape, rest)])
    rest = rotation((0.0, 0.0, 1.0), angle) @ rest
    sense = float(rng.choice([-1.0, 1.0]))
    phase = float(rng.random())
    tangent = np.array([-np.sin(angle), np.cos(angle), 0.0])
    outward = np.array([np.cos(angle), np.sin(angle), 0.0])
    hop = Hop(float(rng.uniform(0.25, 0.4)), 2.0, phase)
    spin = Spin((0.0, 0.0, 1.0), sense)
    if turns:
        orbit = Orbit((-position[0], -position[1], 0.0), turns)
        motions: list[Motion] = [orbit, hop] if style < 2 else [orbit, spin]
    elif style == 0:
        motions = [hop, Spin((0.0, 0.0, 1.0), 0.5 * sense)]
    elif style == 1:
        motions = [Slide(tuple(0.28 * tangent), 1.0, phase), spin]
    elif style == 2:
        # A pendulum: it hangs free, so it is lifted by what the swing needs.
        position[2] += 0.25
        motions = [Swing(tuple(outward), 0.5 * sense, 1.5, phase, (0.0, 0.0, 0.5))]
    else:
        motions = [spin, Hop(0.12, 1.0, phase)]
    return Part(f"{color} {shape.kind}", shape, texture, tuple(position), rest, motions)


def _table() -> Part:
    """Returns the round table; its top is where parts stand."""
    shape = shapes.disc(1.1, 0.05, 0.03)
    texture = Texture("checker", ("cream", "sand"), "solid", (0.275, 0.275, 10.0), (0.0, 0.0, 0.5), softness=0.1)
    return Part("sand table", shape, texture, (0.0, 0.0, _FLOOR - 0.05))


def _shape(rng: np.random.Generator, kind: str, size: float) -> tuple[Shape, np.ndarray]:
    """Returns a shape that fits a ball of radius about 1.2 `size`, and how it stands."""
    a, b = rng.uniform(0.85, 1.0, 2) * size
    upright = np.eye(4)
    if kind == "box":
        return shapes.box((0.72 * a, 0.72 * b, 0.72 * size)), upright
    if kind == "superquadric":
        e1, e2 = rng.uniform(0.3, 0.7, 2)
        return shapes.superquadric((0.8 * a, 0.8 * b, 0.85 * size), float(e1), float(e2)), upright
    if kind == "cylinder":
        return shapes.cylinder(0.75 * a, 0.8 * b), upright
    if kind == "cone":
        return shapes.cone(0.85 * a, b), upright
    if kind == "torus":
        # Standing on its rim, the hole facing sideways.
        return shapes.torus(0.72 * size, 0.3 * a), rotation((1.0, 0.0, 0.0), np.pi / 2)
    if kind == "capsule":
        return shapes.capsule(0.52 * a, 0.55 * b), upright
    return shapes.sphere(a), rotation((1.0, 0.3, 0.0), 0.5)


def _texture(rng: np.random.Generator, shape: Shape, color: str) -> Texture:
    """Returns a texture that suits the shape: carved cells for boxes, cells around the axis for the round ones."""
    colors = (color, str(rng.choice(_MARKS[color])))
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


def _reach_down(shape: Shape, rest: np.ndarray) -> float:
    """Returns how far below its centre a shape at rest reaches."""
    return float(-(shape.vertices @ rest[:3, :3].T)[:, 2].min())
