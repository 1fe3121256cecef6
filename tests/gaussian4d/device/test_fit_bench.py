"""The script that fits on a GPU, tried on the CPU: what it writes, and what it says of what is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "bench" / "fit_gpu.py"


@pytest.mark.usefixtures("cpu_backend")
def test_the_script_writes_the_figures_of_its_fits(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "runs"), "--json", str(tmp_path / "fits.json")]
    small = ["--device", "cpu", "--backends", "cpu", "cuda", "--steps", "6", "--warm-up", "2", "--size", "16"]
    done = subprocess.run(
        [*command, *small, "--basketball", str(tmp_path / "nowhere")], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert "left out: the backend cuda and the device cpu do not go together" in done.stdout
    assert "left out: basketball: there is no folder" in done.stdout
    scenes = json.loads((tmp_path / "fits.json").read_text())["scenes"]
    (row,) = scenes["toy"]
    assert row["backend"] == "cpu" and row["steps"] == 6 and not row["stopped_early"]
    assert row["psnr"] > 5 and row["steps_per_second"] > 0 and row["gaussians"] > 100
    assert row["waits_per_step"] is None and row["peak_bytes"] is None
