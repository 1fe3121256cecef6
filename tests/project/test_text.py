"""What no file of the project may hold: non-ASCII text, paths of one machine."""

from __future__ import annotations

import re

from project_files import ROOT, project_files

# Put together here, so that this file does not trip over itself.
_FOLDERS = "|".join(("work", "root", "tmp", "home", "Users"))
MACHINE_PATH = re.compile(rf"(?<![\w.:/~-])/(?:{_FOLDERS})/[A-Za-z0-9_.-]+")


def test_the_pattern_finds_machine_paths_and_only_those() -> None:
    slash = "/"
    assert MACHINE_PATH.search(f"see {slash}work{slash}main for it")
    assert MACHINE_PATH.search(f'"{slash}root{slash}.cache"')
    assert not MACHINE_PATH.search(f"https://example.org{slash}work{slash}main")
    assert not MACHINE_PATH.search(f"frames{slash}tmp{slash}a.png")


def test_text_is_ascii() -> None:
    wrong = []
    for path in project_files():
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if not line.isascii():
                wrong.append(f"{path.relative_to(ROOT)}:{number}")
    assert not wrong, wrong


def test_no_paths_of_one_machine() -> None:
    wrong = []
    for path in project_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if MACHINE_PATH.search(line):
                wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert not wrong, wrong
