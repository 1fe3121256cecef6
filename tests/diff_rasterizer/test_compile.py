"""torch.compile of a whole training step gives what eager gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent


def run(*cases: str) -> dict[str, Any]:
    """Returns what `compiled_step.py` prints in a fresh interpreter."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, str(HERE / "compiled_step.py"), *cases], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.rsplit("RESULT ", 1)[1])


@pytest.fixture(scope="module")
def results(cpu_backend: Any) -> dict[str, Any]:
    return run("plain", "sh", "packed", "absgrad", "refusal", "export")


@pytest.mark.parametrize("case", ["plain", "sh", "packed", "absgrad"])
def test_a_compiled_step_equals_the_eager_one(results: dict[str, Any], case: str) -> None:
    result = results[case]
    assert len(result["differences"]) == (14 if case in ("plain", "sh") else 7) and min(result["norms"]) > 0
    assert max(result["differences"]) == 0.0


def test_a_non_finite_camera_is_refused_when_the_compiled_step_runs(results: dict[str, Any]) -> None:
    assert "viewmats must be finite" in results["refusal"]


def test_an_exported_renderer_takes_any_number_of_gaussians(results: dict[str, Any]) -> None:
    assert results["export"] == [0.0] * 4


@pytest.mark.slow
def test_inductor(cpu_backend: Any) -> None:
    result = run("inductor")["inductor"]
    assert min(result["norms"]) > 0
    # It fuses the arithmetic around the operators, which rounds differently.
    assert max(result["differences"]) < 1e-5
