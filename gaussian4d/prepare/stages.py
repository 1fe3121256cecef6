"""Stages of a preparation: each keeps its result as JSON, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json, write_json

FOLDER = ".prepare"

# What a finished or interrupted preparation leaves in its folder; anything else is a user's.
OURS = {FOLDER, "videos", "images", "masks", "transforms.json", "points.ply", "report.md", "contact_sheet.png"}


class Stages:
    """Results of stages in `out/.prepare`, each bound to what it was made from."""

    def __init__(self, out: Path, say: Callable[[str], None]) -> None:
        """Raises `UserError` when `out` is a file, or holds anything that a preparation did not write."""
        if out.is_file():
            raise UserError(f"{out} is a file; expected a folder to write the scene to; name another")
        strange = sorted(path.name for path in out.iterdir() if path.name not in OURS) if out.is_dir() else []
        if strange or (out.is_dir() and any(out.iterdir()) and not (out / FOLDER).is_dir()):
            held = strange[0] if strange else next(out.iterdir()).name
            raise UserError(f"{out} holds {held!r}, which no preparation wrote; name a new folder, or empty this one")
        self._folder = out / FOLDER
        self._say = say

    @property
    def folder(self) -> Path:
        """Folder for what stages keep besides their JSON."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def run(self, name: str, made_from: Any, compute: Callable[[], Any], *, needs: Path | None = None) -> Any:
        """Returns the stage's JSON value: the kept one when it was made from the same, else computed and kept.

        `needs` is a file that belongs to the result: without it the stage is not done.
        """
        key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        path = self.folder / f"{name}.json"
        if path.exists() and (needs is None or needs.exists()):
            try:
                kept = read_json(path)
                if kept["key"] == key:
                    self._say(f"{name}: kept from an earlier run")
                    return kept["value"]
            except (UserError, KeyError, TypeError):
                # A damaged result is only a cache: it is made again.
                self._say(f"{name}: the kept result cannot be read, it is made again")
        value = compute()
        write_json(path, {"key": key, "value": value})
        return value


def fingerprint(paths: list[Path]) -> list[list[Any]]:
    """Returns what tells whether the files changed: names, sizes, times of change."""
    return [[str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
