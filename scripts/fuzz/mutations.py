"""Mutations of files: bytes changed, cut or repeated; JSON, text, zip and numpy files changed within their structure.

Every mutation is a function of the data and a random generator, so that a seed gives the same file again.
"""

from __future__ import annotations

import copy
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = [0, -1, 1, 2, 3, 1.5, -0.5, 1e-30, 1e9, 1e30, 1e308, 2**31, 2**63, 10**30, 65536, float("nan"), float("inf")]
"""What a number is replaced by; `json` writes NaN and Infinity, which some programs do too."""
OTHERS: list[Any] = [
    None,
    True,
    "",
    "x",
    "../../etc/passwd",
    "/etc/passwd",
    "\u00e9\u4e16",
    [],
    {},
    [[]],
    [1, 2, 3],
    "nan",
]
"""Values of another type."""
WORDS = [b"nan", b"inf", b"-1", b"0", b"1e40", b"99999999999", b"x", b"", b"1.5", b"-0", b"2147483648", b"\xff\xfe"]
"""What a word of a text file is replaced by."""


def mutate_file(path: Path, rng: np.random.Generator) -> str:
    """Changes the file in place; returns what was done."""
    data = path.read_bytes()
    name, changed = mutated(data, path.suffix.lower(), rng)
    path.write_bytes(changed)
    return f"{name} of {path.name}"


def mutated(data: bytes, ending: str, rng: np.random.Generator) -> tuple[str, bytes]:
    """Returns (what was done, changed data). Structure is changed two times in three where there is any."""
    structured: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
        ".json": change_json, ".gltf": change_json, ".npy": change_npy, ".glb": change_glb,
    }  # fmt: skip
    change = structured.get(ending)
    if change is None and data[:2] == b"PK":
        change = change_zip
    if change is None and is_text(data):
        change = change_text
    if change is None and is_text(data[:64]):
        change = change_head
    if change is not None and rng.random() < 0.67:
        try:
            return change.__name__, change(data, rng)
        except (ValueError, KeyError, IndexError, zipfile.BadZipFile):
            pass
    return "change_bytes", change_bytes(data, rng)


def is_text(data: bytes) -> bool:
    """Returns whether the data is text without control characters."""
    return bool(data) and not re.search(rb"[\x00-\x08\x0e-\x1f\x80-\xff]", data[:4096])


def change_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns the data with bits turned, bytes replaced, cut off, repeated, or set to the largest integer."""
    changed = bytearray(data)
    kind = rng.integers(7)
    if not changed or kind == 0:
        return bytes(changed[: rng.integers(len(changed) + 1)])
    if kind == 1:
        return bytes(changed) + rng.bytes(int(rng.integers(1, 300)))
    # Headers are where lies are told, so half of the changes are there.
    reach = len(changed) if rng.random() < 0.5 else min(len(changed), 400)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(reach))
        if kind == 2:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 3:
            changed[at] = int(rng.integers(256))
        elif kind == 4:
            changed[at : at + 4] = b"\xff\xff\xff\x7f"
        elif kind == 5:
            del changed[at : at + int(rng.integers(1, 64))]
            reach = max(min(reach, len(changed)), 1)
        else:
            changed[at:at] = changed[at : at + int(rng.integers(1, 64))]
    return bytes(changed)


def change_json(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns JSON with keys dropped, repeated, renamed, values typed wrong or out of range, lists cut or repeated."""
    document = json.loads(data)
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(document, 4000))
        if not places:
            break
        holder, key = places[int(rng.integers(len(places)))]
        kind = rng.integers(8)
        value = holder[key]
        if kind == 0:
            del holder[key]
        elif kind == 1:
            holder[key] = OTHERS[int(rng.integers(len(OTHERS)))]
        elif kind in (2, 3):
            holder[key] = NUMBERS[int(rng.integers(len(NUMBERS)))]
        elif kind == 4:
            holder[key] = str(value) if not isinstance(value, str) else [value]
        elif kind == 5 and isinstance(holder, list):
            holder.insert(int(rng.integers(len(holder) + 1)), copy.deepcopy(value))
        elif kind == 5:
            holder[f"{key}{rng.choice(['', ' ', 's', '_'])}"] = holder.pop(key)
        elif kind == 6:
            other, name = places[int(rng.integers(len(places)))]
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = copy.deepcopy(other[name])
        elif isinstance(value, list | str):
            holder[key] = value[: int(rng.integers(len(value) + 1))]
        else:
            holder[key] = {"value": value}
    text = json.dumps(document)
    if rng.random() < 0.1:
        # A key that occurs twice: the last one counts for most programs, the first for some.
        text = re.sub(r'("\w+": )([^,{}\[\]]+)', r"\1\2, \1null", text, count=1)
    return text.encode()


def _places(value: Any, most: int) -> list[tuple[Any, Any]]:
    """Returns (holder, key) of the values in a document, at most so many, breadth first."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo and len(found) < most:
        holder = todo.pop(0)
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else []
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                todo.append(holder[key])
    return found


def change_text(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns text with lines dropped, repeated, exchanged, or words replaced."""
    lines = data.split(b"\n")
    for _ in range(int(rng.integers(1, 4))):
        kind, at = rng.integers(6), int(rng.integers(len(lines)))
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(at, lines[at])
        elif kind == 2:
            other = int(rng.integers(len(lines)))
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            lines = lines[: at + 1]
        else:
            words = lines[at].split(b" ")
            word = int(rng.integers(len(words)))
            if kind == 4:
                words[word] = WORDS[int(rng.integers(len(WORDS)))]
            elif rng.random() < 0.5:
                del words[word]
            else:
                words.insert(word, words[word])
            lines[at] = b" ".join(words)
    return b"\n".join(lines)


def change_head(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a file whose text head (as PLY's) is changed as text, and the binary rest kept."""
    end = data.find(b"end_header\n")
    end = end + 11 if end >= 0 else next((k for k, byte in enumerate(data) if byte > 126), len(data))
    return change_text(data[:end], rng) + data[end:]


def change_zip(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a zip with an entry changed, dropped, renamed, repeated or exchanged; sums and sizes are right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(info.filename, archive.read(info), info.compress_type) for info in archive.infolist()]
    at, kind = int(rng.integers(len(entries))), rng.integers(8)
    texts = [k for k, (name, _, _) in enumerate(entries) if name.endswith(".json")]
    if texts and rng.random() < 0.5:
        at, kind = texts[int(rng.integers(len(texts)))], 7
    name, content, method = entries[at]
    if kind == 0:
        del entries[at]
    elif kind == 1:
        entries[at] = (str(rng.choice(["../x", "/x", "x", name.upper(), f"a/{name}"])), content, method)
    elif kind == 2:
        entries.append(entries[at])
    elif kind == 3:
        other = int(rng.integers(len(entries)))
        entries[at] = (name, entries[other][1], method)
    elif kind == 4:
        entries[at] = (name, content, zipfile.ZIP_STORED if method else zipfile.ZIP_DEFLATED)
    else:
        entries[at] = (name, mutated(content, Path(name).suffix, rng)[1], method)
    written = io.BytesIO()
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(written, "w") as archive:
        warnings.simplefilter("ignore")
        for name, content, method in entries:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return written.getvalue()


def change_npy(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns an array file with other values, another shape or another element type; sometimes of objects."""
    array = np.load(io.BytesIO(data))
    kind = rng.integers(7)
    if kind == 0 and array.size:
        array = array.copy()
        array.flat[int(rng.integers(array.size))] = [np.nan, np.inf, 0, -1, 1e30][int(rng.integers(5))]
    elif kind == 1:
        array = array[: int(rng.integers(len(array) + 1))] if array.ndim else array[None]
    elif kind == 2:
        array = array.reshape(-1)
    elif kind == 3:
        array = array.astype([np.float16, np.int8, np.complex64, np.bool_, ">f8", "U8"][int(rng.integers(6))])
    elif kind == 4:
        array = np.concatenate([array, array]) if array.ndim else array
    elif kind == 5:
        head = data.index(b"'shape': (")
        return data[: head + 10] + b"99999999, " + data[head + 20 :]
    else:
        array = np.zeros((0, *array.shape[1:]))
    written = io.BytesIO()
    np.save(written, array, allow_pickle=False)
    return written.getvalue()


def change_glb(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns a binary glTF whose JSON part is changed, with right lengths."""
    length = int.from_bytes(data[12:16], "little")
    text = change_json(data[20 : 20 + length], rng)
    text += b" " * (-len(text) % 4)
    body = len(text).to_bytes(4, "little") + b"JSON" + text + data[20 + length :]
    return data[:8] + (12 + len(body)).to_bytes(4, "little") + body


def mutate_folder(folder: Path, rng: np.random.Generator) -> str:
    """Changes one file of a folder, or which files there are; returns what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    kind = rng.integers(10)
    small = [path for path in files if path.suffix.lower() not in PICTURES]
    # What says where cameras stand is one file among many pictures.
    chosen = small if small and rng.random() < 0.75 else files
    path = chosen[int(rng.integers(len(chosen)))]
    if kind < 7:
        return mutate_file(path, rng)
    said = f"{path.relative_to(folder)}"
    if kind == 7:
        path.unlink()
        if rng.random() < 0.3:
            path.mkdir()
            return f"folder in place of {said}"
        return f"without {said}"
    if kind == 8:
        other = files[int(rng.integers(len(files)))]
        data, more = path.read_bytes(), other.read_bytes()
        path.write_bytes(more)
        other.write_bytes(data)
        return f"{said} and {other.name} exchanged"
    name = path.with_name(
        str(rng.choice([f"._{path.name}", path.name.upper(), f"{path.stem} (1){path.suffix}", "new"]))
    )
    if not name.exists():
        shutil.copyfile(path, name)
    if rng.random() < 0.5:
        path.unlink(missing_ok=True)
    return f"{said} as {name.name}"


PICTURES = {".png", ".jpg", ".mp4"}
