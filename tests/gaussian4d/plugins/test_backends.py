"""Rasterizers of other packages on the command line: names without imports, a fit with one of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from diff_rasterizer import backends
from gaussian4d.plugins import OWN_BACKENDS, backend_choices, listed
from gaussian4d.toys import write_scene

SOURCE = """
from diff_rasterizer import Backend, reference

class Operations:
    project, view_colors = staticmethod(reference.project), staticmethod(reference.view_colors)

    @staticmethod
    def blend(*args, **settings):
        Operations.used = True
        return reference.blend(*args, **settings)

SWING = Backend("swing", Operations, False, lambda: "", lambda device, dtype: "", "cpu")
"""


def test_our_names_are_those_of_the_rasterizer() -> None:
    assert sorted(OWN_BACKENDS) == sorted(backends._BACKENDS)


def test_names_are_known_without_an_import(plugin: Callable[..., Path]) -> None:
    plugin("raise RuntimeError('imported')", backends={"swing": "swings:SWING", "cpu": "swings:CPU"})
    assert backend_choices() == [*OWN_BACKENDS, "swing"]


def test_a_fit_with_the_backend_of_another_package(plugin: Callable[..., Path], tmp_path: Path) -> None:
    plugin(SOURCE, backends={"swing": "swings:SWING"})
    assert [row.package for row in listed() if (row.kind, row.name) == ("backend", "swing")] == ["swings"]
    write_scene(tmp_path / "scene", 0, 3, 1, 2, width=16, height=16)
    command = [sys.executable, "-m", "gaussian4d", "fit", str(tmp_path / "scene"), "--out", str(tmp_path / "run")]
    small = ["--max-steps", "2", "--set", "init.points=30", "--motion", "static", "--backend"]
    done = subprocess.run([*command, *small, "swing"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "with the backend swing" in done.stderr + done.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["fit"]["backend"] == "swing"
    refused = subprocess.run([*command, *small, "sling"], capture_output=True, text=True)
    assert refused.returncode == 2 and "swing" in refused.stderr
