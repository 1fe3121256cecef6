"""The numbered examples of the documentation are lines that the program takes."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path

import pytest

from gaussian4d.cli.app import load_commands, parse

EXAMPLES = sorted((Path(__file__).parents[2] / "docs" / "examples").glob("[0-9]*"))


@pytest.mark.parametrize("file", EXAMPLES, ids=[file.name for file in EXAMPLES])
def test_an_example_parses(file: Path) -> None:
    text = file.read_text()
    if file.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
        text = text.splitlines()[-1].split("&&")[-1]
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line)
        assert program == "gaussian4d"
        assert parse(arguments, load_commands()) is not None


def test_examples_are_numbered_without_gaps() -> None:
    assert [int(file.name[:2]) for file in EXAMPLES] == list(range(1, len(EXAMPLES) + 1))
