"""The part of USD's text format that describes Gaussians: attributes of prims, arrays of numbers, time samples.

Pixar, "Usda File Format". Not read: references, payloads, variants and relationships, which are stepped over, and
binary `.usdc`, which `usdcat FILE -o FILE.usda` turns into text.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np

from .packed import broken

_SPACE = re.compile(r"(?:\s+|#[^\n]*)*")
_PRIM = re.compile(r"(def|over|class)\b\s*([A-Za-z_]\w*)?\s*\"([^\"\n]*)\"\s*")
_ATTRIBUTE = re.compile(
    r"(?:(?:custom|uniform|varying|config|prepend|append|delete|add|reorder)\s+)*"
    r"([A-Za-z_]\w*(?:\[\])?)\s+([A-Za-z_][\w:]*)(\.[A-Za-z]+)?\s*"
)
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}
_BRACKET_OR_STRING = re.compile(r"[\"'#()\[\]{}@]")
_PARENTHESES = str.maketrans("(),", "   ")
_MOST_NESTING = 64


@dataclasses.dataclass
class Prim:
    """One prim and the text of its attributes' values, not yet converted."""

    type: str
    path: str
    values: dict[str, str]
    samples: dict[str, str]
    """Text between the braces of `NAME.timeSamples`."""
    turned: bool
    """Whether it has a transform other than `moved`, or a prim above it has one."""
    moved: bool = False
    """Whether it is only translated."""


class Reader:
    """Walks through the text of a `.usda` file."""

    def __init__(self, source: Path, text: str) -> None:
        self.source, self.text, self.at = source, text, 0
        self.metadata = ""
        self.prims: list[Prim] = []
        if not text.startswith("#usda 1."):
            raise broken(source, ".usda", "it does not start with '#usda 1.0'")
        self._space()
        if self._next("("):
            self.metadata = self._enclosed()
        while self._space() < len(text):
            self._prim("", False, 0)

    def metadata_value(self, name: str) -> str | None:
        """Returns the value of a stage's metadatum as text without quotes, or None."""
        match = re.search(rf"^\s*{name}\s*=\s*\"?([^\"\n]*)\"?\s*$", self.metadata, re.MULTILINE)
        return match[1].strip() if match else None

    def _prim(self, above: str, turned: bool, depth: int) -> None:
        match = _PRIM.match(self.text, self.at)
        if match is None or depth > _MOST_NESTING:
            raise self._unexpected("a prim")
        self.at = match.end()
        prim = Prim(match[2] or "", f"{above}/{match[3]}", {}, {}, turned)
        if self._next("("):
            self._enclosed()
            self._space()
        if not self._next("{"):
            raise self._unexpected("'{'")
        self.at += 1
        self.prims.append(prim)
        while True:
            self._space()
            if self._next("}"):
                self.at += 1
                return
            if _PRIM.match(self.text, self.at):
                self._prim(prim.path, prim.turned or prim.moved, depth + 1)
            else:
                self._attribute(prim)

    def _attribute(self, prim: Prim) -> None:
        match = _ATTRIBUTE.match(self.text, self.at)
        if match is None:
            raise self._unexpected("an attribute")
        self.at = match.end()
        name, kind = match[2], match[3] or ""
        if self._next("="):
            self.at += 1
            self._space()
            value = self._value()
            if kind == ".timeSamples":
                prim.samples[name] = value
            elif not kind:
                prim.values[name] = value
            if name == "xformOpOrder" and value.strip("[] \n"):
                prim.moved = re.findall(r"[\"']([^\"']*)[\"']", value) == ["xformOp:translate"]
                prim.turned = prim.turned or not prim.moved
            self._space()
        if self._next("("):
            self._enclosed()

    def _value(self) -> str:
        """Returns the text of a value: what a bracket encloses, or up to the end of the line."""
        start = self.at
        if self.text[start : start + 1] in _BRACKETS:
            return self._enclosed()
        end = self.text.find("\n", start)
        self.at = len(self.text) if end < 0 else end
        return self.text[start : self.at].partition(" (")[0].strip()

    def _enclosed(self) -> str:
        """Returns the text between the bracket here and its partner, and steps behind that."""
        start, stack = self.at + 1, []
        position = self.at
        while True:
            # Arrays of numbers hold parentheses only: their end is found at once.
            if self.text[position : position + 1] == "[" and not stack:
                end = self.text.find("]", position)
                if end >= 0 and not re.search(r"[\"'@\[]", self.text[position + 1 : end]):
                    self.at = end + 1
                    return self.text[start:end]
            match = _BRACKET_OR_STRING.search(self.text, position)
            if match is None:
                raise self._unexpected("a closing bracket")
            mark, position = match[0], match.end()
            if mark in "\"'@#":
                closing = "\n" if mark == "#" else mark
                if self.text.startswith(mark * 3, match.start()):
                    closing, position = mark * 3, match.start() + 3
                end = self.text.find(closing, position)
                if end < 0:
                    raise self._unexpected("the end of a string")
                position = end + len(closing)
            elif mark in _BRACKETS:
                stack.append(_BRACKETS[mark])
            elif not stack or stack.pop() != mark:
                raise self._unexpected("matching brackets")
            if not stack:
                self.at = position
                return self.text[start : position - 1]

    def _space(self) -> int:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def _next(self, mark: str) -> bool:
        return self.text.startswith(mark, self.at)

    def _unexpected(self, wanted: str) -> Exception:
        line = self.text.count("\n", 0, self.at) + 1
        return broken(
            self.source, ".usda", f"line {line}: expected {wanted}, got {self.text[self.at : self.at + 30]!r}"
        )


def numbers(source: Path, text: str, width: int) -> np.ndarray:
    """Returns the numbers of an array's text as float32 [N, width]."""
    plain = text.translate(_PARENTHESES).strip().strip("[]")
    words = plain.split()
    try:
        values = np.array(words, np.float64)
    except ValueError:
        raise broken(source, ".usda", f"an array holds {plain[:40]!r}, expected numbers") from None
    if len(values) % width:
        raise broken(source, ".usda", f"an array of {len(values)} numbers is not made of groups of {width}")
    with np.errstate(over="ignore"):
        return values.astype(np.float32).reshape(-1, width)


def time_samples(source: Path, text: str) -> dict[float, str]:
    """Returns the text of each value of a `timeSamples` block by its time code."""
    found: dict[float, str] = {}
    position = 0
    while True:
        match = _NUMBER.search(text, position)
        if match is None:
            return found
        start = text.find("[", match.end())
        if text[match.end() : start].strip() != ":" or start < 0:
            raise broken(source, ".usda", f"time samples hold {text[match.start() : match.start() + 30]!r}")
        end = text.find("]", start)
        if end < 0:
            raise broken(source, ".usda", "a time sample has no end")
        found[float(match[0])] = text[start + 1 : end]
        position = end + 1


def array_text(values: np.ndarray) -> str:
    """Returns values [N] or [N, W] as a USD array that reads back as the same float32 numbers."""
    table = np.asarray(values, np.float32).astype(np.float64)
    if table.ndim == 1:
        return "[" + ", ".join(["%.9g"] * len(table)) % tuple(table.tolist()) + "]"
    row = "(" + ", ".join(["%.9g"] * table.shape[1]) + ")"
    return "[" + ", ".join([row] * len(table)) % tuple(table.reshape(-1).tolist()) + "]"
