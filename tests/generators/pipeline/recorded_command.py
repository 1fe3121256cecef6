"""Runs the command line program as it is and notes what it reads: python recorded_command.py NOTES ARGUMENT...

NOTES becomes JSON: `tensors` has, for every safetensors file that was read, the names of what was taken from it;
`opened` the files that Python itself opened.
"""

from __future__ import annotations

import atexit
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors

NOTES = Path(sys.argv.pop(1))
TENSORS: dict[str, list[str]] = {}
OPENED: set[str] = set()
# The library opens its files itself, where no audit hook sees it.
_safe_open: Callable[..., Any] = safetensors.safe_open


class Recorded:
    """An open safetensors file that notes what is taken from it."""

    def __init__(self, path: Any, *arguments: Any, **options: Any) -> None:
        self._file, self._taken = _safe_open(path, *arguments, **options), TENSORS.setdefault(str(path), [])

    def __enter__(self) -> Recorded:
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def get_tensor(self, name: str) -> Any:
        self._taken.append(name)
        return self._file.get_tensor(name)


def _opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str):
        OPENED.add(arguments[0])


def _write() -> None:
    NOTES.write_text(json.dumps({"tensors": TENSORS, "opened": sorted(OPENED)}))


if __name__ == "__main__":
    safetensors.safe_open = Recorded  # type: ignore[misc, assignment]
    sys.addaudithook(_opened)
    atexit.register(_write)
    runpy.run_module("gaussian4d", run_name="__main__")
