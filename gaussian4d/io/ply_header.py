"""The header of a `.ply`, binary or text: its elements, their columns, where their rows lie, checked with the file."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np

from ..errors import UserError
from .contents import other_kind

_TYPES = {
    "char": "i1",
    "int8": "i1",
    "uchar": "u1",
    "uint8": "u1",
    "short": "i2",
    "int16": "i2",
    "ushort": "u2",
    "uint16": "u2",
    "int": "i4",
    "int32": "i4",
    "uint": "u4",
    "uint32": "u4",
    "float": "f4",
    "float32": "f4",
    "double": "f8",
    "float64": "f8",
}
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_MAX_HEADER_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class PlyElement:
    """One table of a `.ply` file, whose rows are known to lie within the file."""

    count: int
    dtype: np.dtype
    """Structured type of one row; doubles where the rows are text."""
    offset: int
    """Byte at which the first row starts, or of text the first line after the header."""
    skipped: int | None = None
    """Where the rows are text, the lines between the header and the first row."""

    def rows(self, source: Path) -> np.ndarray:
        """Returns the rows [count] of the structured type: a read-only memory map, or what the text says.

        Raises `UserError` when the text is no table of numbers of that size.
        """
        if self.count == 0 or self.dtype.itemsize == 0:
            return np.zeros(self.count, self.dtype)
        if self.skipped is not None:
            return self._parsed(source)
        return np.memmap(source, dtype=self.dtype, mode="r", offset=self.offset, shape=(self.count,))

    def _parsed(self, source: Path) -> np.ndarray:
        names = self.dtype.names or ()
        try:
            with source.open("rb") as file:
                file.seek(self.offset)
                for _ in range(self.skipped or 0):
                    file.readline()
                with warnings.catch_warnings():
                    # An empty table is an error here, not a warning.
                    warnings.simplefilter("ignore")
                    values = np.loadtxt(file, np.float64, comments=None, max_rows=self.count, ndmin=2)
        except (ValueError, UnicodeDecodeError) as error:
            raise UserError(
                f"{source}: its rows are not a table of numbers ({str(error)[:120]}); export it again"
            ) from None
        if values.shape != (self.count, len(names)):
            raise UserError(
                f"{source} promises {self.count} rows of {len(names)} numbers, its text holds {values.shape[0]} of"
                f" {values.shape[1]}; it is truncated or its header is wrong; copy it again"
            )
        return np.ascontiguousarray(values).view(self.dtype)[:, 0]


@dataclasses.dataclass(frozen=True)
class PlyHeader:
    """What the text at the start of a `.ply` file says."""

    elements: dict[str, PlyElement]
    """The tables before the first one with list columns, in file order."""
    comments: tuple[str, ...]
    stray_bytes: int
    """Bytes after the last element, 0 where one with lists follows the vertices."""

    @property
    def count(self) -> int:
        """Number of vertices, which are the Gaussians."""
        return self.elements["vertex"].count

    @property
    def dtype(self) -> np.dtype:
        """Structured type of one vertex row."""
        return self.elements["vertex"].dtype

    def comment(self, key: str) -> str | None:
        """Returns the value of the comment `key: value`, or None."""
        for line in self.comments:
            name, separator, value = line.partition(":")
            if separator and name.strip().lower() == key.lower():
                return value.strip()
        return None


def read_header(source: Path) -> PlyHeader:
    """Returns the parsed header of a `.ply` with an element `vertex`.

    Raises `UserError` when the file is missing, is no `.ply`, or is shorter than it says.
    """
    try:
        total = source.stat().st_size
        with source.open("rb") as file:
            head = file.read(min(total, _MAX_HEADER_BYTES))
    except FileNotFoundError:
        raise UserError(f"expected the file {source}, found none; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{source} is a folder; expected a .ply file") from None
    marked = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    if not head[marked:].startswith((b"ply\n", b"ply\r\n", b"ply \n")):
        raise UserError(
            f"{source} is not a .ply file: {other_kind(source, head) or f'it starts with {head[:8]!r}; expected ply'}"
        )
    end = head.find(b"\nend_header")
    newline = head.find(b"\n", end + 1) if end >= 0 else -1
    if newline < 0:
        raise UserError(f"{source}: the header has no end_header line in its first {len(head)} bytes; it is truncated")
    lines = [line.strip().decode("utf-8", "replace") for line in head[:newline].split(b"\n")]
    return _parse(source, lines, newline + 1, total)


def _parse(source: Path, lines: list[str], data_start: int, total: int) -> PlyHeader:
    """Returns the header from its lines; every count is compared with the bytes that are there."""
    tables: list[tuple[str, int, list[tuple[str, str]]]] = []
    comments: list[str] = []
    layout = None
    for line in lines[1:-1]:
        words = line.split()
        if not words:
            continue
        if words[0] == "comment":
            comments.append(line[len("comment") :].strip())
        elif words[0] == "format" and len(words) >= 2:
            layout = words[1]
        elif words[0] == "element" and len(words) == 3 and words[2].isascii() and words[2].isdigit():
            tables.append((words[1], int(words[2][:20]), []))
        elif words[0] == "property" and len(words) == 3 and words[1] in _TYPES and tables:
            tables[-1][2].append((words[2], _TYPES[words[1]]))
        elif words[0] == "property" and len(words) == 5 and words[1] == "list" and tables:
            tables[-1][2].append((words[4], "list"))
        elif words[0] != "obj_info":
            raise UserError(f"{source}: the header line {line[:80]!r} is invalid; expected a .ply header")
    if layout not in _ORDERS:
        raise UserError(f"{source} is in the format {layout}; expected one of {', '.join(_ORDERS)}; export it again")
    order, text = _ORDERS[layout], layout == "ascii"
    elements: dict[str, PlyElement] = {}
    offset, skipped = data_start, 0
    for name, count, columns in tables:
        if any(kind == "list" for _, kind in columns):
            # Rows of unequal length: what lies behind them cannot be found, so it is not looked for.
            if "vertex" not in elements:
                raise UserError(
                    f"{source}: the element {name} has list columns before the Gaussians; expected plain rows"
                )
            return PlyHeader(elements, tuple(comments), 0)
        if name in elements or len({column for column, _ in columns}) != len(columns):
            raise UserError(f"{source}: the element {name} or one of its columns is listed twice")
        # As text a number is a digit and what parts it from the next, at least.
        size = 2 * len(columns) if text else sum(np.dtype(kind).itemsize for _, kind in columns)
        available = max(total - offset + text, 0)
        if count * size > available or (size == 0 and count > total):
            raise UserError(
                f"{source} promises {count} {'Gaussians' if name == 'vertex' else name + ' rows'} of {size} bytes, but "
                f"only {available} bytes follow: room for {available // max(size, 1)}; it was cut short or its header "
                "is wrong; copy it again"
            )
        types = [(column, "<f8" if text else order + kind) for column, kind in columns]
        elements[name] = PlyElement(count, np.dtype(types), data_start if text else offset, skipped if text else None)
        offset += 0 if text else count * size
        skipped += count
    if "vertex" not in elements:
        raise UserError(f"{source} has no element 'vertex'; expected a 3D Gaussian splatting .ply")
    return PlyHeader(elements, tuple(comments), 0 if text else total - offset)
