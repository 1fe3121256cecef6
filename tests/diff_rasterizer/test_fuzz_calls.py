"""Whatever the arguments: no crash, no hang, no silent NaN, and an error that says what was wrong.

The calls run in a program of their own (`fuzz_calls.py`, `fuzz_extension.py`), which notes the number of each call
before making it; so a crash is reported with the call that did it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def run(program: str, count: int, tmp_path: Path) -> str:
    """Returns what the program prints; fails with the last call's number when it crashes, hangs or complains."""
    progress = tmp_path / "progress"
    command = [sys.executable, str(HERE / program), "0", str(count), str(progress)]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    # Only a hang takes this long.
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    last = progress.read_text().splitlines()[:1] if progress.exists() else []
    assert done.returncode == 0, (
        f"exit code {done.returncode} at call {last}\n{done.stdout[-6000:]}{done.stderr[-4000:]}"
    )
    return done.stdout


def test_ten_thousand_calls(cpu_backend: Any, tmp_path: Path) -> None:
    assert "10000 calls, 0 failures" in run("fuzz_calls.py", 10_000, tmp_path)


def test_the_extension_by_itself(cpu_backend: Any, tmp_path: Path) -> None:
    assert "2000 calls" in run("fuzz_extension.py", 2_000, tmp_path)


def test_the_judge_sees_bad_endings() -> None:
    """The fuzz program itself: a NaN, a strange exception and a bare message are all failures."""
    import torch
    from fuzz_calls import problem

    import diff_rasterizer

    def bare(x: Any) -> None:
        raise ValueError("bad shape")

    def silent(x: Any) -> None:
        raise ValueError("x must be a tensor")

    def strange(x: Any) -> None:
        raise RuntimeError("x must be a tensor, got None")

    def good(x: Any) -> None:
        raise ValueError("x must be a tensor, got None")

    assert "no argument is named" in problem(bare, {"x": None})
    assert "what came is not said" in problem(silent, {"x": None})
    assert "RuntimeError" in problem(strange, {"x": None})
    assert problem(good, {"x": None}) == ""

    original = diff_rasterizer.rasterization
    with pytest.MonkeyPatch.context() as patch:
        nan = lambda x: (torch.full((1,), float("nan")),)  # noqa: E731
        patch.setattr(diff_rasterizer, "rasterization", nan)
        assert problem(nan, {"x": None}) == "NaN in the output"
    assert diff_rasterizer.rasterization is original
