"""What a toy is, in words: a small grammar, its vocabulary, and what other words come down to.

caption  = "a" thing ["with" addition] [motion]
thing    = color ["and" color pattern] shape            "red and white striped ball"
addition = "a" thing "on top" | "a" thing "beside it" | "two" thing "arms" | "a" color "lid"
motion   = "spinning" | "hopping" | "wobbling" | "swaying" | "bending" | "opening" | "orbited" | "standing still"
"""

from __future__ import annotations

import re

from .textures import COLORS

SHAPE_WORDS = {
    "box": "box",
    "superquadric": "block",
    "cylinder": "cylinder",
    "cone": "cone",
    "torus": "ring",
    "capsule": "capsule",
    "sphere": "ball",
    "letter": "letter",
    "chain": "snake",
    "chest": "chest",
}
"""By `Shape.kind`, and for toys made of several pieces."""
PATTERN_WORDS = {"checker": "checkered", "stripes": "striped", "dots": "dotted", "gradient": "shaded"}
MOTION_WORDS = ("spinning", "hopping", "wobbling", "swaying", "bending", "opening", "orbited", "standing")
LETTERS = ("L", "T", "H", "E", "F", "I")

_GLUE = ("a", "and", "with", "on", "top", "beside", "it", "two", "arms", "lid", "still")
VOCABULARY: tuple[str, ...] = (
    *_GLUE,
    *COLORS,
    *PATTERN_WORDS.values(),
    *SHAPE_WORDS.values(),
    *(letter.lower() + "-shape" for letter in LETTERS),
    *MOTION_WORDS,
)
"""Every word of the grammar. Embedded priors learn one vector per place in this list, so it only ever grows."""

_ALSO = {
    "a": "an the one",
    "box": "cube",
    "block": "brick",
    "ball": "sphere orb",
    "cylinder": "tube pillar can drum",
    "cone": "pyramid hat",
    "ring": "torus donut doughnut wheel",
    "capsule": "pill",
    "snake": "worm caterpillar",
    "chest": "crate",
    "gray": "grey",
    "purple": "violet",
    "teal": "turquoise cyan",
    "blue": "navy",
    "red": "crimson scarlet",
    "yellow": "golden",
    "sand": "beige",
    "striped": "stripes stripy",
    "checkered": "checked checker",
    "dotted": "spotted dots polka-dot",
    "shaded": "gradient",
    "spinning": "spins rotating turning rotates twirling",
    "hopping": "hops jumping jumps bouncing bounces",
    "wobbling": "wobbles shaking rocking",
    "swaying": "sways sliding slides",
    "bending": "bends wiggling wriggling",
    "opening": "opens closing",
    "orbited": "orbiting circled",
    "still": "static motionless",
    "standing": "stands",
    "beside": "next to",
    "top": "above atop",
}
_SYNONYMS = {synonym: word for word, synonyms in _ALSO.items() for synonym in synonyms.split()}
_IGNORED = frozenset(
    ["is", "that", "of", "in", "its", "which", "are", "has", "having", "by", "toy"]
    + ["small", "big", "little", "large", "pattern"]
)


def tokens_of(text: str) -> list[int]:
    """Returns places in `VOCABULARY` of the words of `text` that it knows, in order; synonyms are replaced."""
    return [VOCABULARY.index(word) for word in _words(text) if word in VOCABULARY]


def unknown_words(text: str) -> list[str]:
    """Returns the words of `text` that say nothing to the toy world, without repeats, in order."""
    return list(dict.fromkeys(word for word in _words(text) if word not in VOCABULARY and word not in _IGNORED))


def says_something(text: str) -> bool:
    """Returns whether `text` names a shape, a colour, a pattern or a motion that toys have."""
    known = {VOCABULARY[k] for k in tokens_of(text)}
    return bool(known - set(_GLUE))


def _words(text: str) -> list[str]:
    found: list[str] = re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower())
    return [_SYNONYMS.get(word, word) for word in found]
