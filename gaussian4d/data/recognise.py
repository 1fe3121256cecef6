"""Which format a folder holds: recognised by its files, never asked for.

Readers are asked one after the other, and the first that recognises a folder reads it: those with `first = True`, then
our own, then those of other packages, and at the end those with `last = True`, whose signs folders of other formats
bear too. Readers are in `gaussian4d.plugins.READERS`, the entry-point group `gaussian4d.readers`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Protocol

from ..errors import STUMBLES, UserError, unforeseen
from ..files import hidden
from ..plugins import OWN_PACKAGE, READERS
from .colmap import models_in
from .images import IMAGE_ENDINGS
from .problems import ProblemList
from .records import SceneRecord
from .video import VIDEO_ENDINGS

_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".xz", ".bz2", ".zst"}
_LISTS = ("transforms.json", "transforms_train.json", "train_meta.json", "dataset.json")

# What looks like a part of a scene, and why it is none, the most telling first.
_SIGNS = (
    ("transforms_*.json", "there is no transforms_train.json"),
    ("poses_bounds.npy", "poses_bounds.npy has neither cam00.mp4, cam01.mp4, ... nor images/ beside it"),
    ("[sS]parse/**/points3D.*", "the model in sparse/ lacks its cameras and images files; copy the whole model"),
    ("dataset.json", "dataset.json has no camera/ folder beside it"),
    ("camera/*.json", "camera/ has neither dataset.json nor splits/train.json beside it"),
    ("intri.yml", "intri.yml has neither images/ nor videos/ beside it"),
    ("database.db", "a COLMAP database, but no model; run `colmap mapper` to create sparse/0"),
)


class Reader(Protocol):
    """What reads one format: a module or an object.

    Optional attributes: `looked_for` (str), the files it goes by, for messages; `first` or `last` (bool), whether it is
    asked before or after all others.
    """

    def recognises(self, folder: Path) -> bool:
        """Returns whether `folder`, which exists, holds this format; opens as little as it can."""
        ...

    def read(self, folder: Path, problems: ProblemList) -> SceneRecord:
        """Returns the scene in `folder`.

        What is wrong with single files is noted in `problems`, so that all of it is seen at once. Raises `UserError`
        where nothing can be read.
        """
        ...


def read_scene(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`, read by the first reader that recognises it; raises `UserError` when none does."""
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; check the path")
    if not folder.is_dir():
        what = "unpack it and pass its folder" if folder.suffix.lower() in _ARCHIVES else f"pass {folder.parent}"
        raise UserError(f"{folder}: expected a scene folder, got a file; {what}")
    readers = in_order()
    if not any(folder.iterdir()):
        raise UserError(f"{folder}: the folder is empty; looked for {_looked_for(readers)}")
    for name, reader in readers.items():
        if _recognises(name, reader, folder):
            try:
                return reader.read(folder, problems)
            except UserError:
                raise
            except STUMBLES as error:
                raise unforeseen(folder, f"a scene of the format {name}", error) from error
    raise UserError(
        f"{folder}: no scene found{_seen(folder)}; looked for {_looked_for(readers)}; pass a folder with one of them"
    )


def _seen(folder: Path) -> str:
    """Returns what a folder without a scene holds, and what that suggests, as part of a sentence."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir() if not hidden(path.name))
    if not names:
        return " (it contains only hidden files)"
    listed = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
    inside = [path.name for path in folder.iterdir() if path.is_dir() and not hidden(path.name)]
    above = next((place for place in list(folder.absolute().parents)[:2] if _listed_in(place)), None)
    if above is not None:
        return f" (it contains {listed}), but {above} is a scene: pass that folder"
    deeper = [name for name in sorted(inside) if len(inside) < 50 and recognised(folder / name)]
    if deeper:
        many = f"there are {len(deeper)}: " if len(deeper) > 1 else "there is one in "
        return f" in it, but {many}{', '.join(deeper[:3])}{', ...' if len(deeper) > 3 else ''}"
    why = next((why for pattern, why in _SIGNS if any(folder.glob(pattern))), None) or _raw(folder, inside)
    return f" (it contains {listed}{': ' if why else ''}{why})"


def _raw(folder: Path, inside: list[str]) -> str:
    """Returns what recordings without cameras a folder, or one in it, holds; empty without any."""
    places = [folder, *(folder / name for name in inside[:50])]
    endings = {path.suffix.lower() for place in places for path in place.iterdir() if not hidden(path.name)}
    if endings & {*VIDEO_ENDINGS}:
        return f"videos but no calibration; `gaussian4d prepare {folder} --out SCENE` estimates the cameras"
    if endings & {*IMAGE_ENDINGS}:
        return "images but no cameras; estimate them with COLMAP, or for folders of frames with `gaussian4d prepare`"
    return ""


def _listed_in(folder: Path) -> bool:
    """Returns whether a folder holds one of the lists that make it a scene; looks at few names."""
    return any((folder / name).is_file() for name in _LISTS) or bool(models_in(folder))


def recognised(folder: Path) -> bool:
    """Returns whether a reader takes a folder, which exists, for a scene, though it may be a broken one."""
    try:
        return any(_recognises(name, reader, folder) for name, reader in in_order().items())
    except UserError:
        return True


def in_order() -> dict[str, Reader]:
    """Returns the readers by name, in the order in which they are asked; those that do not load are warned of."""
    readers = READERS.working()
    ranks = {
        name: 1 - getattr(reader, "first", False) + getattr(reader, "last", False) for name, reader in readers.items()
    }
    return {name: readers[name] for name in sorted(readers, key=ranks.__getitem__)}


def _recognises(name: str, reader: Reader, folder: Path) -> bool:
    try:
        return bool(reader.recognises(folder))
    except Exception as error:
        package = READERS.entries()[name].package
        if isinstance(error, UserError) or package == OWN_PACKAGE:
            raise
        warnings.warn(
            f"the reader {name!r} of the package {package} is skipped: while checking {folder} it raised"
            f" {type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False


def _looked_for(readers: dict[str, Reader]) -> str:
    """Returns the files that the readers go by, as words."""
    *most, last = (getattr(reader, "looked_for", f"what {name} reads") for name, reader in readers.items())
    return f"{', '.join(most)}, or {last}"
