"""Runs tests of the pretend accelerator in a process of their own; see `pytest_collection_modifyitems`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def passed(files: Sequence[Path]) -> int:
    """Returns how many tests of `files` on the pretend accelerator passed; fails with their output otherwise."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", *map(str, files)]
    done = subprocess.run(
        command, cwd=ROOT, env={**kept, "GAUSSIAN4D_PRETEND": "1"}, capture_output=True, text=True, check=False
    )
    found = re.findall(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and found, f"exit code {done.returncode}\n{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    return int(found[-1])


def files_of(folder: str) -> list[Path]:
    """Returns the test files under `tests/FOLDER` that ask for the pretend accelerator."""
    words = re.compile(r"\b(pretend|emulated)\b")
    return [
        path
        for path in sorted((ROOT / "tests" / folder).rglob("test_*.py"))
        if path.parent.name == "device" or words.search(path.read_text(encoding="utf-8"))
    ]
