"""A world from a seed: a hero in the middle of a round table, smaller parts around it, each with its own motion."""

from __future__ import annotations

import numpy as np

from ..errors import UserError
from . import shapes
from .motions import Hop, Motion, Orbit, Slide, Spin, Swing, rotation
from .pieces import KINDS, VIVID, draw_shape, draw_texture, reach_down
from .textures import Texture
from .world import Part, ToyWorld

RADIUS = 1.3
"""The sphere around the origin that holds every world at every time in [0, 1]."""

_FLOOR = -0.5
_RING = 0.8
# Names this family of worlds: another number is another, unrelated sequence of worlds.
_FAMILY = 10


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
    kinds = [KINDS[k] for k in rng.permutation(len(KINDS))]
    colors = [VIVID[k] for k in rng.permutation(len(VIVID))]
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
    shape, rest = draw_shape(rng, kind, 0.5)
    texture = draw_texture(rng, shape, color)
    bottom = reach_down(shape, rest)
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
    shape, rest = draw_shape(rng, kind, 0.26)
    texture = draw_texture(rng, shape, color)
    position = np.array([_RING * np.cos(angle), _RING * np.sin(angle), _FLOOR + reach_down(shape, rest)])
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
