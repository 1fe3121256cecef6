"""What OpenCV's FileStorage wrote, XML or YAML, as plain Python values.

Only the part of YAML that OpenCV writes is understood: maps by indentation, scalars, `[ ... ]` and `- ` lists,
`!!opencv-matrix`. Nothing in a file can name code to run.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import decoded

_MAX_BYTES = 16 << 20
_MAX_VALUES = 1 << 22


def read_storage(path: Path) -> dict[str, Any]:
    """Returns the file's top-level map; matrices are float64 arrays. Raises `UserError` naming the file."""
    text = read_text(path)
    try:
        if text.lstrip().startswith("<"):
            value = _from_element(parse_xml(text))
        else:
            value = _Yaml(text).read()
    except (ValueError, ET.ParseError) as error:
        raise UserError(f"{path}: cannot be read as an OpenCV FileStorage ({error}); restore the calibration") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected named values as OpenCV's FileStorage writes them; restore the calibration")
    return value


def is_storage(text: str) -> bool:
    """Tells whether a file's beginning looks like OpenCV's FileStorage."""
    return "<opencv_storage" in text or "opencv-matrix" in text or text.lstrip().startswith("%YAML:1.0")


def read_text(path: Path) -> str:
    """Returns the text of a calibration file; raises `UserError` when it is missing, huge or no text."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: {path.stat().st_size} bytes are too many for a calibration; remove or replace it")
        text = decoded(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore the calibration") from None
    if "\0" in text:
        raise UserError(f"{path}: expected a text file, got binary data; restore the calibration")
    # Bytes that are no UTF-8, as in comments of old systems, are no part of a number.
    return text.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n")


def parse_xml(text: str) -> ET.Element:
    """Returns the root element; raises `ValueError` for files that declare entities, which calibrations never do."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares entities")
    # An encoding declaration is refused for text that is decoded already.
    return ET.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", text))


def _from_element(element: ET.Element) -> Any:
    kind = element.get("type_id", "")
    if kind in ("opencv-matrix", "opencv-nd-matrix"):
        fields = {child.tag: (child.text or "").strip() for child in element}
        return _matrix(fields, (fields.get("data", "")).split())
    children = list(element)
    if not children:
        words = _words(element.text or "")
        return words[0] if len(words) == 1 else words
    if all(child.tag == "_" for child in children):
        return [_from_element(child) for child in children]
    tags = [child.tag for child in children]
    if len(set(tags)) < len(tags):
        raise ValueError(f"{next(tag for tag in tags if tags.count(tag) > 1)} is stated twice")
    return {child.tag: _from_element(child) for child in children}


def _words(text: str) -> list[Any]:
    return [_scalar(word) for word in re.findall(r'"[^"]*"|\S+', text)]


def _matrix(fields: dict[str, Any], data: list[Any]) -> np.ndarray:
    if "sizes" in fields:
        sizes = fields["sizes"]
        shape = tuple(int(n) for n in (sizes.split() if isinstance(sizes, str) else np.atleast_1d(sizes)))
    else:
        shape = (int(fields.get("rows", 0)), int(fields.get("cols", 0)))
    # "3d" is three doubles per element.
    channels = re.match(r"\d+", str(fields.get("dt", "d")))
    if channels:
        shape += (int(channels.group()),)
    count = int(np.prod(shape)) if min(shape) > 0 else 0
    if count > _MAX_VALUES:
        raise ValueError(f"a matrix of shape {shape} is too large for a calibration")
    if len(data) != count:
        raise ValueError(f"a matrix states the shape {'x'.join(map(str, shape))} but holds {len(data)} numbers")
    return np.array([_real(word) for word in data], dtype=np.float64).reshape(shape)


def _real(word: Any) -> float:
    if isinstance(word, int | float):
        return float(word)
    return float(str(word).replace(".Nan", "nan").replace(".Inf", "inf").replace(".nan", "nan").replace(".inf", "inf"))


def _scalar(word: str) -> Any:
    word = word.strip()
    if len(word) >= 2 and word[0] == word[-1] and word[0] in "\"'":
        return word[1:-1]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


class _Yaml:
    """A reader of the YAML subset above: lines with their indentation, consumed top down."""

    def __init__(self, text: str) -> None:
        self._lines: list[tuple[int, str]] = []
        for raw in text.splitlines():
            line = raw.rstrip()
            stripped = line.lstrip(" ")
            if not stripped or stripped.startswith(("#", "%")) or stripped in ("---", "..."):
                continue
            if "\t" in line[: len(line) - len(stripped) + 1]:
                raise ValueError("tabs indent a line")
            self._lines.append((len(line) - len(stripped), stripped))
        self._at = 0

    def read(self) -> Any:
        value = self._block(0, depth=0) if self._lines else {}
        if self._at < len(self._lines):
            raise ValueError(f"cannot make sense of {self._lines[self._at][1]!r}")
        return value

    def _block(self, indent: int, depth: int) -> Any:
        if depth > 32:
            raise ValueError("it is nested too deeply")
        if self._lines[self._at][1].startswith("-") and ":" not in self._lines[self._at][1].split('"')[0]:
            return self._list(self._lines[self._at][0], depth)
        result: dict[str, Any] = {}
        start = self._lines[self._at][0]
        if start < indent:
            return result
        while self._at < len(self._lines) and self._lines[self._at][0] == start:
            key, rest = self._key(self._lines[self._at][1])
            self._at += 1
            if key in result:
                raise ValueError(f"{key} is stated twice")
            result[key] = self._value(rest, start, depth)
        return result

    def _list(self, indent: int, depth: int) -> list[Any]:
        result = []
        while self._at < len(self._lines) and self._lines[self._at][0] == indent:
            text = self._lines[self._at][1]
            if not text.startswith("-"):
                break
            self._at += 1
            result.append(self._value(text[1:].strip(), indent, depth))
        return result

    @staticmethod
    def _key(text: str) -> tuple[str, str]:
        match = re.match(r'("[^"]*"|[^\s:"\[\]{}]+)\s*:(?:\s+|$)(.*)', text) or re.match(r"([^\s:]+):(\S.*)", text)
        if not match:
            raise ValueError(f"expected NAME: VALUE, found {text[:60]!r}")
        return str(match.group(1)).strip('"'), match.group(2).strip()

    def _value(self, rest: str, indent: int, depth: int) -> Any:
        tag = ""
        if rest.startswith("!"):
            tag, _, rest = rest.partition(" ")
            rest = rest.strip()
            if tag not in ("!!opencv-matrix", "!!opencv-nd-matrix", "!!float", "!!int", "!!str", "!!map", "!!seq"):
                raise ValueError(f"the tag {tag} is not one OpenCV writes")
        if rest.startswith("["):
            return self._flow(rest)
        if rest:
            return _scalar(rest)
        deeper = self._at < len(self._lines) and (
            self._lines[self._at][0] > indent
            or (self._lines[self._at][0] == indent and self._lines[self._at][1].startswith("- "))
        )
        value = self._block(indent, depth + 1) if deeper else ""
        if tag in ("!!opencv-matrix", "!!opencv-nd-matrix"):
            if not isinstance(value, dict):
                raise ValueError("a matrix has no rows, cols and data")
            data = value.get("data", [])
            return _matrix(value, data if isinstance(data, list) else [data])
        return value

    def _flow(self, text: str) -> list[Any]:
        """Returns a `[ ... ]` list, which may run over several lines; nested lists are flattened by their brackets."""
        parts = [text]
        while parts[-1].count("]") + sum(p.count("]") for p in parts[:-1]) < sum(p.count("[") for p in parts):
            if self._at >= len(self._lines):
                raise ValueError("a list is not closed by ]")
            parts.append(self._lines[self._at][1])
            self._at += 1
        body = " ".join(parts).replace("[", " ").replace("]", " ")
        return [_scalar(word) for word in re.findall(r'"[^"]*"|[^\s,]+', body)]
