"""The comparison of two revisions' fits tells equal from different, and says which; `scripts/check_same_fit.py`."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from project_files import ROOT


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


check = _script("check_same_fit")
cases = _script("same_fit_cases")


def _table() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "params/means": rng.normal(size=(5, 3)).astype(np.float32),
        "params/instants": np.arange(5),
        "params/shN": np.zeros((5, 0, 3), np.float32),
        "background": np.array([0.5, np.nan, 0.0], np.float32),
    }


def _one_bit(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed.view(np.uint32).ravel()[-1] ^= 1
    return changed


def test_equal_tables_do_not_differ() -> None:
    assert check.difference(_table(), dict(reversed(_table().items()))) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"params/means": _one_bit(_table()["params/means"])}, r"^params/means by up to [1-9]\S*e-\d+$"),
        # Zero with a sign is another number to what is divided by it.
        ({"background": np.array([0.5, np.nan, -0.0], np.float32)}, "^background by up to"),
        ({"params/means": np.zeros((6, 3), np.float32)}, r"^params/means has shape \[5, 3\] before, \[6, 3\] after"),
        ({"params/shN": np.zeros((5, 3, 0), np.float32)}, "^params/shN has shape"),
        ({"params/instants": np.arange(5, dtype=np.int32)}, "^params/instants is int64 before, int32 after"),
        ({"params/more": np.zeros(1)}, "^params/more is only in the model after"),
    ],
)
def test_a_difference_is_named(change: dict[str, np.ndarray], message: str) -> None:
    found = check.difference(_table(), {**_table(), **change})
    assert found is not None and re.search(message, found)


def test_the_first_of_several_and_their_number_are_named() -> None:
    after = _table() | {"params/means": _table()["params/means"] + np.float32(0.25)}
    del after["params/shN"]
    text = check.difference(_table(), after)
    assert text == "params/means by up to 0.25; 2 of 4 tensors differ"
    assert check.difference({"a": np.zeros(1)}, {}) == "a is only in the model before"


def _result(name: str, before: float, after: float) -> Any:
    result = check.Result(name)
    for label, seconds in (("before", before), ("after", after)):
        # A repeat that something disturbed, and a step that was not measured in all of them.
        result.steps[label] = [
            {1: (seconds, 1.0), 2: (3 * seconds, 1.0)},
            {1: (9.0, 1.0), 2: (9.0, 1.0), 3: (9.0, 1.0)},
        ]
    return result


def test_the_table_has_verdicts_times_and_ratios() -> None:
    same, slow = _result("static", 0.004, 0.004), _result("hexplane", 0.004, 0.0042)
    other, broken = _result("windows", 0.004, 0.1), check.Result("per-frame", error="after: ValueError: no")
    other.difference = "params/means by up to 1e-07"
    lines = check.table_text([same, slow, other, broken]).splitlines()
    assert len({len(line) for line in lines}) == 1
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0] == ["case", "bit-equal", "before, ms/step", "after, ms/step", "ratio"]
    assert rows[2][:2] == ["static", "yes"] and rows[2][2].startswith("8.00 (") and rows[2][4] == "1.000"
    assert rows[3][4] == "1.050" and [result.slower for result in (same, slow, other, broken)] == [0, 1, 0, 0]
    assert rows[4][1] == "NO: params/means by up to 1e-07"
    assert rows[5][1:] == ["FAILED: after: ValueError: no", "-", "-", "-"]
    assert [result.failed for result in (same, slow, other, broken)] == [False, False, True, True]
    assert json.dumps([result.to_dict() for result in (same, slow, other, broken)])


def test_only_steps_right_after_steps_are_timed() -> None:
    pauses = []
    marks = cases.Marks(lambda: pauses.append(1))
    for event in ("start", "step", "step", "checkpoint", "step", "step", "end", "start", "step", "step"):
        marks(None, event)
    assert set(marks.steps()) == {1, 3, 5} and len(pauses) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--against", "HEAD", "--cases", "statik"], "expected cases out of static, .*, got statik"),
        (["--against", "HEAD", "--repeats", "0"], "at least 1 repeat"),
        (["--against", "HEAD", "--out", str(ROOT)], "expected a new or empty folder"),
        ([], "--against"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        check.parse(arguments)
    assert caught.value.code == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.slow
def test_a_revision_is_equal_to_itself(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("there are revisions in a git checkout only")
    command = [sys.executable, ROOT / "scripts" / "check_same_fit.py", "--against", "HEAD", "--cases", "static"]
    command += ["--steps", "20", "--repeats", "1", "--json", tmp_path / "result.json", "--out", tmp_path / "out"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| static | yes" in done.stdout
    (case,) = json.loads((tmp_path / "result.json").read_text())["cases"]
    assert case["equal"] and case["ratio"] > 0
    assert (tmp_path / "out" / "before" / "static" / "model.g4d").exists()
    listed = subprocess.run(["git", "-C", ROOT, "worktree", "list"], capture_output=True, text=True, check=True)
    assert "same_fit_" not in listed.stdout
