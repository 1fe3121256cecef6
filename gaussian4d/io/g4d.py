"""The `.g4d` file: named arrays and a manifest in one uncompressed, memory-mappable zip. Documented in docs/g4d.md.

A reader must survive a stranger's file: nothing in it is believed before it was compared with the size of the file,
names are matched against a pattern, element types come from a fixed list, and no name ever becomes a path.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import numpy as np

from ..errors import UserError
from ..files import atomic_write

SCHEMA_VERSION = 1
ALIGNMENT = 64

_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in (
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
    )
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")
_MANIFEST = "manifest.json"
_MAX_MANIFEST_BYTES = 16 << 20
_MAX_DIMENSIONS = 8
_MAX_ARRAYS = 1024
# A private extra-field id used by zip aligners: its payload is padding that every other reader skips.
_PADDING_ID = 0xD935
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_ZIP64_EXTRA = 20


def save_g4d(path: str | os.PathLike[str], arrays: dict[str, np.ndarray], manifest: dict[str, Any]) -> None:
    """Writes `arrays` and the JSON-able `manifest` to `path`, atomically and without loss.

    The same input gives the same bytes: entries carry no date. Raises `UserError` for a name, an element type or a
    manifest value the format does not hold.
    """
    table: dict[str, Any] = {}
    stored: dict[str, np.ndarray] = {}
    for name, value in arrays.items():
        if not _NAME.fullmatch(name):
            raise UserError(f"array names of a .g4d file match {_NAME.pattern}, got {name!r}; rename the array")
        array = np.asarray(value)
        if array.dtype.name not in _DTYPES:
            raise UserError(
                f"array {name!r} has the element type {array.dtype}; a .g4d file holds {', '.join(_DTYPES)}; convert it"
            )
        if array.ndim > _MAX_DIMENSIONS:
            raise UserError(f"array {name!r} has {array.ndim} dimensions; a .g4d file holds at most {_MAX_DIMENSIONS}")
        stored[name] = np.ascontiguousarray(array, dtype=_DTYPES[array.dtype.name]).reshape(array.shape)
        table[name] = {"file": f"arrays/{name}", "dtype": array.dtype.name, "shape": list(array.shape)}
    if len(stored) > _MAX_ARRAYS:
        raise UserError(f"a .g4d file holds at most {_MAX_ARRAYS} arrays, got {len(stored)}")
    try:
        header = {"format": "g4d", "schema_version": SCHEMA_VERSION, "arrays": table, "model": manifest}
        text = json.dumps(header, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"the manifest of {path} must be plain finite JSON values: {error}") from None
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        write_stored(archive, _MANIFEST, text.encode("utf-8"))
        for name, array in stored.items():
            write_stored(archive, f"arrays/{name}", array.reshape(-1).view(np.uint8).data)


def load_g4d(path: str | os.PathLike[str], *, verify: bool = True) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Returns (arrays, manifest) of a `.g4d` file.

    Args:
        path: the file.
        verify: read every byte once and compare checksums. Without it only the pages that are used are ever read.

    The arrays are memory maps, copy-on-write: changing one never changes the file. Raises `UserError` naming the file
    and what is wrong with it when it is missing, cut short, of another format or of a newer schema.
    """
    source = Path(path)
    try:
        total = source.stat().st_size
        with zipfile.ZipFile(source) as archive:
            entries = _entries(source, archive)
        with source.open("rb") as file:
            container = _Container(source, file, total, entries)
            header = _read_header(container)
            arrays = {name: _map_array(container, name, spec, verify) for name, spec in header["arrays"].items()}
    except FileNotFoundError:
        raise UserError(f"expected the file {source}, found none; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{source} is a folder; expected a .g4d file") from None
    except (zipfile.BadZipFile, NotImplementedError, struct.error, UnicodeDecodeError) as error:
        raise _broken(source, f"not a readable zip file ({error})") from None
    return arrays, header["model"]


def read_manifest(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (array table, manifest) of a `.g4d` file, maps nothing. The table gives `dtype` and `shape` by name."""
    arrays, manifest = load_g4d(path, verify=False)
    return {name: {"dtype": a.dtype.name, "shape": a.shape} for name, a in arrays.items()}, manifest


def write_stored(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """Appends one stored entry whose data starts at a multiple of `ALIGNMENT` bytes from the start of the file."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.file_size = len(data)
    info.external_attr = 0o644 << 16
    large = len(data) >= 1 << 31
    assert archive.fp is not None
    unpadded = archive.fp.tell() + _LOCAL_HEADER.size + len(name) + 4 + (_ZIP64_EXTRA if large else 0)
    padding = -unpadded % ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=large) as entry:
        entry.write(data)


def _entries(source: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Returns the directory of the archive by name; refuses names that occur twice, which readers would disagree on."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.filename in entries:
            raise _broken(source, f"the entry {info.filename!r} occurs twice")
        entries[info.filename] = info
    return entries


@dataclasses.dataclass
class _Container:
    """An open `.g4d` file and the directory at its end."""

    source: Path
    file: BinaryIO
    total: int
    """Size of the file in bytes."""
    entries: dict[str, zipfile.ZipInfo]

    def locate(self, name: str) -> tuple[int, int, int]:
        """Returns (offset, length, checksum) of the bytes of an entry, once they are known to lie within the file."""
        info = self.entries.get(name)
        if info is None:
            raise _broken(self.source, f"the entry {name!r} is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1 or info.compress_size != info.file_size:
            raise _broken(self.source, f"the entry {name!r} is compressed or encrypted; entries are stored as they are")
        # A damaged directory can point before the file as well as behind it.
        if not 0 <= info.header_offset <= self.total - _LOCAL_HEADER.size:
            raise _broken(self.source, f"the entry {name!r} reaches past the end of the file; it was cut short")
        self.file.seek(info.header_offset)
        fields = _LOCAL_HEADER.unpack(self.file.read(_LOCAL_HEADER.size))
        if fields[0] != b"PK\x03\x04":
            raise _broken(self.source, f"the entry {name!r} has no local header where the directory says")
        offset = info.header_offset + _LOCAL_HEADER.size + fields[-2] + fields[-1]
        if offset + info.file_size > self.total:
            raise _broken(self.source, f"the entry {name!r} reaches past the end of the file; it was cut short")
        return offset, info.file_size, info.CRC


def _read_header(container: _Container) -> dict[str, Any]:
    """Returns the checked content of manifest.json."""
    source = container.source
    if _MANIFEST not in container.entries:
        raise _broken(source, f"it has no {_MANIFEST}; expected a file written by gaussian4d")
    offset, length, checksum = container.locate(_MANIFEST)
    if length > _MAX_MANIFEST_BYTES:
        raise _broken(source, f"{_MANIFEST} is larger than {_MAX_MANIFEST_BYTES} bytes")
    container.file.seek(offset)
    content = container.file.read(length)
    if zlib.crc32(content) != checksum:
        raise _broken(source, f"the checksum of {_MANIFEST} does not match its bytes")
    try:
        header = json.loads(content.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _broken(source, f"{_MANIFEST} is not valid JSON ({error})") from None
    if not isinstance(header, dict) or header.get("format") != "g4d":
        raise _broken(source, f"{_MANIFEST} does not say that it is of the format g4d")
    version = header.get("schema_version")
    if not _is_count(version):
        raise _broken(source, f"schema_version must be a whole number, got {version!r}")
    if version > SCHEMA_VERSION:
        raise UserError(
            f"{source} has schema version {version}, this gaussian4d reads up to {SCHEMA_VERSION}; update gaussian4d"
        )
    if not isinstance(header.get("arrays"), dict) or not isinstance(header.get("model"), dict):
        raise _broken(source, f"{_MANIFEST} lacks the tables 'arrays' and 'model'")
    if len(header["arrays"]) > _MAX_ARRAYS:
        raise _broken(source, f"it names {len(header['arrays'])} arrays, at most {_MAX_ARRAYS} are allowed")
    return header


def _map_array(container: _Container, name: str, spec: Any, verify: bool) -> np.ndarray:
    """Returns one array as a copy-on-write memory map, after its claims were compared with the file."""
    source = container.source
    if not _NAME.fullmatch(name):
        raise _broken(source, f"the array name {name!r} is not allowed")
    if not isinstance(spec, dict) or spec.get("file") != f"arrays/{name}":
        raise _broken(source, f"array {name!r} must lie in the entry 'arrays/{name}'")
    dtype = _DTYPES.get(spec["dtype"]) if isinstance(spec.get("dtype"), str) else None
    if dtype is None:
        raise _broken(source, f"array {name!r} has the element type {spec.get('dtype')!r}, which is not allowed")
    shape = spec.get("shape")
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or not all(_is_count(n) for n in shape):
        raise _broken(source, f"array {name!r} has the impossible shape {shape!r}")
    nbytes = math.prod(shape) * dtype.itemsize
    offset, length, checksum = container.locate(f"arrays/{name}")
    if length != nbytes:
        raise _broken(source, f"array {name!r} of shape {shape} needs {nbytes} bytes, its entry has {length}")
    if nbytes == 0:
        return np.zeros(shape, dtype)
    array = np.memmap(source, dtype=dtype, mode="c", offset=offset, shape=tuple(shape))
    if verify and zlib.crc32(array.reshape(-1).view(np.uint8).data) != checksum:
        raise _broken(source, f"the checksum of array {name!r} does not match its bytes")
    return array


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 48


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _broken(source: Path, reason: str) -> UserError:
    return UserError(f"{source} is damaged or not a .g4d file: {reason}; write or copy it again")
