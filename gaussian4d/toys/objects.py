"""An endless, seeded family of single toys: one to five rigid pieces, a motion, and a caption that says both.

    toy = make_toy(7, split="test")
    toy.caption                        # "a red and white striped ball with a blue cone on top hopping"
    toy.world.render(camera, time)     # inside the unit sphere at all times, Z up

Seeds of the two splits are disjoint by construction: the split is part of what seeds the generator. Priors are trained
on "train" only; every figure about them is measured on "test".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..errors import UserError
from .captions import LETTERS, PATTERN_WORDS, SHAPE_WORDS
from .motions import Hop, Motion, Orbit, Slide, Spin, Swing, rotation
from .pieces import KINDS, MARKS, VIVID, draw_shape, draw_texture, reach_down
from .shapes import Shape, box, capsule
from .textures import Texture
from .world import Part, ToyWorld

Split = Literal["train", "test"]

_FAMILY = 20
_SPLITS = {"train": 0, "test": 1}
_DETAIL = 40
_BOUND_TIMES = 17
# Strokes of the letters in the plane of X and Z, as (x, z, half x, half z) in a box of half size 1.
_STROKES = {
    "L": ((-0.45, 0.0, 0.2, 1.0), (0.2, -0.8, 0.45, 0.2)),
    "T": ((0.0, -0.2, 0.2, 0.8), (0.0, 0.8, 0.75, 0.2)),
    "H": ((-0.5, 0.0, 0.2, 1.0), (0.5, 0.0, 0.2, 1.0), (0.0, 0.0, 0.3, 0.2)),
    "E": ((-0.45, 0.0, 0.2, 1.0), (0.2, 0.8, 0.45, 0.2), (0.1, 0.0, 0.35, 0.2), (0.2, -0.8, 0.45, 0.2)),
    "F": ((-0.45, 0.0, 0.2, 1.0), (0.2, 0.8, 0.45, 0.2), (0.1, 0.1, 0.35, 0.2)),
    "I": ((0.0, 0.0, 0.2, 0.6), (0.0, 0.8, 0.5, 0.2), (0.0, -0.8, 0.5, 0.2)),
}


@dataclasses.dataclass(frozen=True)
class Toy:
    """A toy and what it is."""

    world: ToyWorld
    caption: str
    color: str
    """Of the main piece, a name in `textures.COLORS`."""
    pattern: str
    """Of the main piece, a name in `textures.PATTERNS`."""
    shape: str
    """What the main piece is called in captions."""
    motion: str
    """The caption's word for the motion, "standing" for none."""


@dataclasses.dataclass
class _Piece:
    """A part in the making: nothing is meshed for rays before its size is known."""

    shape: Shape
    texture: Texture
    position: np.ndarray
    rest: np.ndarray
    motions: list[Motion]


def make_toy(seed: int, split: Split = "train", *, instants: int = 16) -> Toy:
    """Returns the toy of a seed; the same on every machine.

    Args:
        seed: Any non-negative integer.
        split: "train" or "test"; the same seed gives unrelated toys in the two.
        instants: Frames of the clip; they set what "one frame later" means, not the motion.
    """
    if seed < 0:
        raise UserError(f"expected a seed of 0 or above, got {seed}")
    if split not in _SPLITS:
        raise UserError(f"expected a split of train or test, got {split!r}")
    rng = np.random.default_rng([_FAMILY, _SPLITS[split], seed])
    color = str(rng.choice(VIVID))
    style = str(rng.choice(["plain", "stacked", "armed", "beside", "letter", "chain", "chest"],
                           p=[0.3, 0.22, 0.12, 0.12, 0.08, 0.08, 0.08]))  # fmt: skip
    pieces, words, motion = _STYLES[style](rng, color)
    pieces, motion = _move(rng, pieces, motion)
    _turn(pieces, float(rng.uniform(0, 2 * np.pi)))
    main = pieces[0]
    parts = tuple(_parts(pieces, words))
    caption = f"a {words} {motion}{' still' if motion == 'standing' else ''}"
    shape_word = words.split(" with ")[0].split()[-1]
    return Toy(
        ToyWorld(parts, instants=instants),
        caption.replace("a orange", "an orange"),
        color,
        main.texture.pattern,
        shape_word,
        motion,
    )


def _plain(rng: np.random.Generator, color: str) -> tuple[list[_Piece], str, str]:
    piece = _piece(rng, str(rng.choice(KINDS)), color, 0.6)
    return [piece], _thing(piece), ""


def _stacked(rng: np.random.Generator, color: str) -> tuple[list[_Piece], str, str]:
    """A piece on top of another, which turns or hops with it."""
    below = _piece(rng, str(rng.choice(("box", "superquadric", "cylinder", "sphere", "capsule"))), color, 0.52)
    above = _piece(rng, str(rng.choice(KINDS)), _other(rng, color), float(rng.uniform(0.26, 0.38)))
    # A little sunk in, so that round pieces touch.
    top = reach_down(below.shape, np.diag([1.0, 1.0, -1.0, 1.0]) @ below.rest)
    above.position = np.array([0.0, 0.0, below.position[2] + top + reach_down(above.shape, above.rest) - 0.03])
    return [below, above], f"{_thing(below)} with a {_thing(above)} on top", ""


def _armed(rng: np.random.Generator, color: str) -> tuple[list[_Piece], str, str]:
    """A body with two like arms, one on each side."""
    body = _piece(rng, str(rng.choice(("box", "superquadric", "cylinder", "sphere", "cone"))), color, 0.5)
    arm = _piece(rng, str(rng.choice(("box", "capsule", "sphere", "cylinder"))), _other(rng, color), 0.22)
    side = body.shape.half_size[0] * 0.85 + arm.shape.half_size[0]
    lift = float(rng.uniform(-0.1, 0.2))
    angle = float(rng.uniform(0.4, 0.8))
    arms = []
    for sign in (-1.0, 1.0):
        twin = dataclasses.replace(arm, position=np.array([sign * side, 0.0, lift]), motions=[])
        shoulder = (-sign * arm.shape.half_size[0], 0.0, 0.0)
        twin.motions.append(Swing((0.0, sign, 0.0), angle, 1.0, 0.0, shoulder))
        arms.append(twin)
    return [body, *arms], f"{_thing(body)} with two {_thing(arm)} arms", ""


def _beside(rng: np.random.Generator, color: str) -> tuple[list[_Piece], str, str]:
    """A small companion on the ground beside the main piece; it may orbit it."""
    main = _piece(rng, str(rng.choice(KINDS)), color, 0.48)
    small = _piece(rng, str(rng.choice(KINDS)), _other(rng, color), float(rng.uniform(0.2, 0.28)))
    floor = main.position[2] - reach_down(main.shape, main.rest)
    distance = np.hypot(*main.shape.half_size[:2]) * 0.9 + small.shape.radius
    azimuth = float(rng.uniform(0, 2 * np.pi))
    small.position = np.array([distance * np.cos(azimuth), distance * np.sin(azimuth),
                               floor + reach_down(small.shape, small.rest)])  # fmt: skip
    words = f"{_thing(main)} with a {_thing(small)} beside it"
    if rng.random() < 0.6:
        turns = float(rng.choice([-1.0, 1.0]) * rng.choice([0.5, 0.75, 1.0]))
        small.motions.append(Orbit((-small.position[0], -small.position[1], 0.0), turns))
        return [main, small], words, "orbited"
    return [main, small], words, ""


def _letter(rng: np.random.Generator, color: str) -> tuple[list[_Piece], str, str]:
    """A letter of box strokes."""
    letter = str(rng.choice(LETTERS))
    size, depth = 0.6, float(rng.uniform(0.1, 0.16))
    pieces = []
    texture: Texture | None = None
    for x, z, half_x, half_z in _STROKES[letter]:
        shape = box((half_x * size, depth, half_z * size))
        texture = _plain_or_gradient(rng, color, size) if texture is None else texture
        pieces.append(_Piece(shape, texture, np.array([x * size, 0.0, z * size]), np.eye(4), []))
    return pieces, f"{_look(pieces[0].texture)} {letter.lower()}-shape letter", ""


def _chain(rng: np.random.Generator, color: str) -> tuple[list[_Piece], str, str]:
    """Three to five capsules end to end that bend at every joint."""
    count = int(rng.integers(3, 6))
    half, radius = 0.9 / count, float(rng.uniform(0.13, 0.2))
    other = _other(rng, color)
    angle, cycles = float(rng.uniform(0.25, 0.5)), float(rng.choice([1.0, 1.5]))
    joints = [np.array([0.0, 0.0, -0.9 + 2 * half * k]) for k in range(count)]
    pieces = []
    for k, joint in enumerate(joints):
        position = joint + np.array([0.0, 0.0, half])
        texture = Texture("solid", (color if k % 2 == 0 else other, other))
        # The outermost motion is that of the lowest joint: each piece is carried by all below it.
        motions: list[Motion] = [
            Swing((0.0, 1.0, 0.0), angle, cycles, 0.0, tuple(joints[j] - position)) for j in range(1, k + 1)
        ]
        pieces.append(_Piece(capsule(radius, half * 0.8, _DETAIL), texture, position, np.eye(4), motions))
    return pieces, f"{color} and {other} snake", "bending"


def _chest(rng: np.random.Generator, color: str) -> tuple[list[_Piece], str, str]:
    """A box whose lid opens and closes about its rear edge."""
    half = np.array([rng.uniform(0.4, 0.55), rng.uniform(0.35, 0.5), rng.uniform(0.28, 0.4)])
    base = _Piece(box(tuple(half)), draw_texture(rng, box(tuple(half)), color), np.zeros(3), np.eye(4), [])
    lid_half = np.array([half[0] * 1.04, half[1] * 1.04, 0.07])
    lid_color = _other(rng, color)
    hinge = (0.0, float(lid_half[1]), -0.07)
    opening = Swing((1.0, 0.0, 0.0), -float(rng.uniform(0.35, 0.6)), 1.0, -0.25, hinge)
    # From shut to wide open and back: a swing about a lid that stands half open.
    ajar = rotation((1.0, 0.0, 0.0), -abs(opening.angle), hinge)
    position = np.array([0.0, 0.0, half[2] + 0.07])
    lid = _Piece(box(tuple(lid_half)), Texture("solid", (lid_color, lid_color)), position, ajar, [opening])
    return [base, lid], f"{_look(base.texture)} chest with a {lid_color} lid", "opening"


_STYLES = {
    "plain": _plain,
    "stacked": _stacked,
    "armed": _armed,
    "beside": _beside,
    "letter": _letter,
    "chain": _chain,
    "chest": _chest,
}


def _piece(rng: np.random.Generator, kind: str, color: str, size: float) -> _Piece:
    shape, rest = draw_shape(rng, kind, size, _DETAIL)
    texture = Texture("solid", (color, color)) if rng.random() < 0.35 else draw_texture(rng, shape, color)
    return _Piece(shape, texture, np.zeros(3), rest, [])


def _plain_or_gradient(rng: np.random.Generator, color: str, size: float) -> Texture:
    if rng.random() < 0.6:
        return Texture("solid", (color, color))
    cell = size / 3
    return Texture(
        "stripes", (color, str(rng.choice(MARKS[color]))), "solid", (cell, cell, cell), (0.25, 0.25, 0.25), axis=2
    )


def _other(rng: np.random.Generator, color: str) -> str:
    return str(rng.choice([name for name in VIVID if name != color]))


def _look(texture: Texture) -> str:
    """Returns the caption's words for a texture."""
    base, mark = texture.colors
    return base if texture.pattern == "solid" else f"{base} and {mark} {PATTERN_WORDS[texture.pattern]}"


def _thing(piece: _Piece) -> str:
    return f"{_look(piece.texture)} {SHAPE_WORDS[piece.shape.kind]}"


def _move(rng: np.random.Generator, pieces: list[_Piece], motion: str) -> tuple[list[_Piece], str]:
    """Returns the pieces with a motion of the whole toy outside their own, and the word for what moves most."""
    if motion == "orbited":
        return pieces, motion
    if motion:
        style = "spinning" if rng.random() < 0.25 else "standing"
    else:
        style = str(rng.choice(["spinning", "hopping", "wobbling", "swaying", "standing"],
                               p=[0.3, 0.22, 0.18, 0.15, 0.15]))  # fmt: skip
    sense = float(rng.choice([-1.0, 1.0]))
    floor = min(piece.position[2] - reach_down(piece.shape, piece.rest) for piece in pieces)
    spin, height = sense * float(rng.choice([0.5, 0.75, 1.0])), float(rng.uniform(0.25, 0.5))
    cycles, angle = float(rng.choice([1.0, 1.5, 2.0])), float(rng.uniform(0.25, 0.45))
    azimuth = float(rng.uniform(0, 2 * np.pi))
    across = (float(np.cos(azimuth)), float(np.sin(azimuth)), 0.0)
    for piece in pieces:
        axis_foot = (-float(piece.position[0]), -float(piece.position[1]), float(floor - piece.position[2]))
        outer: list[Motion] = []
        if style == "spinning":
            outer = [Spin((0.0, 0.0, 1.0), spin, pivot=axis_foot)]
        elif style == "hopping":
            outer = [Hop(height, cycles)]
        elif style == "wobbling":
            outer = [Swing(across, angle, cycles, 0.0, axis_foot)]
        elif style == "swaying":
            outer = [Slide(tuple(0.3 * np.array(across)), 1.0)]
        piece.motions = outer + piece.motions
    return pieces, motion or style


def _turn(pieces: list[_Piece], yaw: float) -> None:
    """Turns everything about Z: no toy knows where the camera is."""
    T = rotation((0.0, 0.0, 1.0), yaw)
    for piece in pieces:
        piece.position = T[:3, :3] @ piece.position
        piece.rest = T @ piece.rest
        piece.motions = [_changed(motion, lambda v: T[:3, :3] @ v) for motion in piece.motions]


def _parts(pieces: Sequence[_Piece], words: str) -> list[Part]:
    """Returns the parts, moved and scaled together so that the unit sphere just holds them at all times."""
    corners = []
    for piece in pieces:
        local = piece.shape.vertices
        for time in np.linspace(0.0, 1.0, _BOUND_TIMES):
            T = piece.rest
            for motion in reversed(piece.motions):
                T = motion.T(float(time)) @ T
            corners.append(local @ T[:3, :3].T + T[:3, 3] + piece.position)
    cloud = np.concatenate(corners)
    centre = 0.5 * (cloud.min(axis=0) + cloud.max(axis=0))
    scale = 1.0 / float(np.linalg.norm(cloud - centre, axis=1).max())
    names = words.replace(" with ", ",").split(",")
    return [
        Part(
            names[min(k, len(names) - 1)],
            dataclasses.replace(piece.shape, vertices=piece.shape.vertices * scale),
            _scaled(piece.texture, scale),
            scale * (piece.position - centre),
            _scaled_rest(piece.rest, scale),
            [_changed(motion, lambda v: v * scale, lengths=True) for motion in piece.motions],
        )
        for k, piece in enumerate(pieces)
    ]


def _scaled(texture: Texture, scale: float) -> Texture:
    """Returns the texture for a shape `scale` times as large."""
    if texture.mapping == "solid":
        return dataclasses.replace(texture, cell=tuple(scale * c for c in texture.cell))
    if texture.mapping == "wrap":
        return dataclasses.replace(texture, cell=(texture.cell[0], scale * texture.cell[1], texture.cell[2]))
    return texture


def _scaled_rest(rest: np.ndarray, scale: float) -> np.ndarray:
    scaled = rest.copy()
    scaled[:3, 3] *= scale
    return scaled


def _changed(motion: Motion, change, lengths: bool = False) -> Motion:
    """Returns the motion with its vectors turned, or its lengths scaled, by `change`."""
    vectors = ("pivot", "offset") if lengths else ("axis", "pivot", "offset")
    values: dict[str, Any] = {
        name: tuple(float(x) for x in change(np.array(getattr(motion, name))))
        for name in vectors
        if hasattr(motion, name)
    }
    if lengths and isinstance(motion, Hop):
        values["height"] = float(change(motion.height))
    return dataclasses.replace(motion, **values)  # type: ignore[type-var]
