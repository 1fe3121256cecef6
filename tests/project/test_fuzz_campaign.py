"""The fuzz campaign finds what it is there for: crashes, hangs, exceptions and silent NaN are told from refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FUZZ = Path(__file__).resolve().parents[2] / "scripts" / "fuzz"


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FUZZ))
    monkeypatch.setattr(sys, "path", list(sys.path))
    import run

    yield run
    for name in ("run", "mutations", "targets", "kills"):
        sys.modules.pop(name, None)


WORKER = """
import json, sys, time
name, first, count, seed, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
for number in range(first, first + count):
    open(folder + "/current", "w").write(str(number))
    if number == 1:
        import os; os.abort()
    if number == 3:
        time.sleep(100)
    line = json.dumps({"number": number, "outcome": "read", "grown_kb": 0})
    open(folder + "/outcomes.jsonl", "a").write(line + chr(10))
import os; os.remove(folder + "/current")
"""


def test_crashes_and_hangs_are_outcomes_of_their_files(
    campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(campaign, "HERE", tmp_path)
    monkeypatch.setattr(campaign, "HANG", 1.0)
    lines, _ = campaign.one_target("format/x", 5, 0, tmp_path / "out")
    found = {line["number"]: line["outcome"] for line in lines}
    assert found.keys() == set(range(5))
    assert "crash, exit code -6" in found[1] and "hang" in found[3]
    assert [found[k] for k in (0, 2, 4)] == ["read"] * 3


PLANT = """
import sys
sys.path[:0] = [{fuzz!r}]
import targets
def plants():
    def read(path):
        from gaussian4d.errors import UserError, unforeseen
        text = path.read_text()
        kind = plants.count % 5
        plants.count += 1
        if kind == 1: raise UserError(f"{{path}}: refused")
        if kind == 2: raise KeyError("x")
        if kind == 3: raise targets.Wrong("NaN")
        if kind == 4: raise unforeseen(path, "a file", KeyError("x"))
    plants.count = 0
    def write(folder):
        (folder / "a.txt").write_text("some text of a file")
        return folder / "a.txt"
    return {{"format/plant": targets.Target("format/plant", write, read)}}
targets.targets = plants
import runpy
sys.argv = ["worker.py", "format/plant", "0", "10", "0", {out!r}]
runpy.run_path({worker!r}, run_name="__main__")
"""


def test_exceptions_and_silent_lies_are_failures_and_refusals_are_not(tmp_path: Path) -> None:
    code = PLANT.format(fuzz=str(FUZZ), out=str(tmp_path), worker=str(FUZZ / "worker.py"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "outcomes.jsonl").read_text().splitlines()]
    # The sample itself was the first to be read.
    kinds = [line["outcome"].split(":")[0] for line in lines]
    assert kinds == ["refused", "failed", "failed", "failed", "read"] * 2


def test_a_seed_gives_the_same_files_again(campaign) -> None:
    from mutations import mutated

    content = {
        "a.json": b'{"count": 3, "list": [1, 2, {"x": "y"}]}',
        "a.txt": b"1 2 3\n4 5 6\n",
        "a.bin": bytes(range(256)),
    }
    for name, data in content.items():
        first, again = (
            [mutated(data, Path(name).suffix, np.random.default_rng(k)) for k in range(40)] for _ in range(2)
        )
        assert first == again and len({changed for _, changed in first}) > 20


@pytest.mark.parametrize("only", ["format/ply", "reader/dnerf"])
def test_a_short_campaign(only: str, tmp_path: Path) -> None:
    command = [sys.executable, str(FUZZ / "run.py"), f"{only.split('/')[0]}s", "--only", only, "--count", "12"]
    done = subprocess.run(
        [*command, "--jobs", "1", "--keep", str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and "nothing failed" in done.stdout, done.stdout + done.stderr
    assert any(line.split()[:2] == [only, "12"] for line in done.stdout.splitlines())
