"""What each stage of a run made, kept under RUN/stages and used again as long as nothing it was made from changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from gaussian4d.errors import UserError
from gaussian4d.files import read_json, write_json

T = TypeVar("T")

FOLDER = "stages"
_RECORD = "stage.json"


class Stages:
    """The stages of one run folder.

    A stage is bound to a key: a hash of its own settings and the keys of the stages it follows. A stage whose key is
    another than before is emptied and made anew; one with the same key that was interrupted keeps what it has, so that
    it can go on from there.
    """

    def __init__(self, run: Path, say: Callable[[str], None] = print) -> None:
        self.folder = run / FOLDER
        self.keys: dict[str, str] = {}
        self._say = say

    def plan(self, name: str, settings: Any, after: Sequence[str] = ()) -> str:
        """Returns the key of a stage made from `settings` (JSON) and the planned stages `after`; notes it."""
        text = json.dumps([name, settings, [self.keys[other] for other in after]], sort_keys=True)
        self.keys[name] = hashlib.sha256(text.encode()).hexdigest()[:20]
        return self.keys[name]

    def kept(self, name: str) -> bool:
        """Returns whether a planned stage is there, whole, and made from the same."""
        record = self._record(name)
        return record.get("key") == self.keys[name] and record.get("done") is True

    def begun(self, name: str) -> bool:
        """Returns whether a planned stage was begun from the same and did not come to its end."""
        record = self._record(name)
        return record.get("key") == self.keys[name] and record.get("done") is not True

    def run(self, name: str, compute: Callable[[Path], T], load: Callable[[Path], T]) -> T:
        """Returns what a planned stage gives: `load(folder)` when it is kept, else `compute(folder)`, which fills it.

        A kept result that cannot be read is a damaged cache: it is said, and made again.
        """
        folder = self.folder / name
        if self.kept(name):
            try:
                value = load(folder)
                self._say(f"{name}: kept from an earlier run")
                return value
            except (UserError, OSError, ValueError, KeyError) as error:
                self._say(f"{name}: what was kept cannot be read ({error}); it is made again")
                shutil.rmtree(folder)
        if not self.begun(name):
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _RECORD, {"key": self.keys[name], "done": False})
        start = time.monotonic()
        value = compute(folder)
        write_json(
            folder / _RECORD,
            {"key": self.keys[name], "done": True, "seconds": round(time.monotonic() - start, 2)},
        )
        return value

    def _record(self, name: str) -> dict[str, Any]:
        try:
            record = read_json(self.folder / name / _RECORD)
        except UserError:
            return {}
        return record if isinstance(record, dict) else {}
