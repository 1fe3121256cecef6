"""`import gaussian4d` and `gaussian4d --help` bring in neither torch, diffusers nor viser."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from project_files import ROOT

HEAVY = ("torch", "diffusers", "viser", "transformers", "scipy", "av", "PIL", "trimesh")

REPORT = "import json, sys; sys.stderr.write('LOADED ' + json.dumps([m for m in {heavy} if m in sys.modules]))"


def loaded_by(code: str) -> list[str]:
    """Returns which heavy modules a fresh interpreter has loaded after running `code`."""
    program = f"{code}\n{REPORT.format(heavy=HEAVY)}"
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stderr.rsplit("LOADED ", 1)[1])


def test_the_probe_sees_a_heavy_import() -> None:
    assert loaded_by("import PIL") == ["PIL"]


def test_import_gaussian4d() -> None:
    assert loaded_by("import gaussian4d; dir(gaussian4d); gaussian4d.__version__") == []


@pytest.mark.parametrize(
    "arguments", [["--help"], ["fit", "--help"], ["view", "--help"], ["generate", "--help"], ["--version"], []]
)
def test_help(arguments: list[str]) -> None:
    assert loaded_by(f"from gaussian4d.cli import main; assert main({arguments!r}) == 0") == []


def test_a_wrong_flag_is_answered_without_torch() -> None:
    assert loaded_by("from gaussian4d.cli import main; assert main(['fit', '--nonsense']) == 2") == []
