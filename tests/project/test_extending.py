"""docs/extending.md shows the files of the example package as they are, and code that runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from project_files import ROOT

import gaussian4d as g4
from gaussian4d.plugins import STRATEGIES, TERMS
from gaussian4d.toys import write_scene

PAGE = ROOT / "docs" / "extending.md"
PACKAGE = ROOT / "docs" / "examples" / "plugin"
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", PAGE.read_text(encoding="ascii"), re.DOTALL | re.MULTILINE)
SHOWN = [(file, code) for _, file, code in BLOCKS if file]
RUN = [code for language, file, code in BLOCKS if language == "python" and not file]


@pytest.mark.parametrize("file, code", SHOWN, ids=[file for file, _ in SHOWN])
def test_a_block_is_that_part_of_its_file(file: str, code: str) -> None:
    assert code.strip() and code in (PACKAGE / file).read_text(encoding="ascii")


def test_every_file_is_shown() -> None:
    files = {str(path.relative_to(PACKAGE)) for path in PACKAGE.glob("gaussian4d_oscillator/*.py")}
    assert {file for file, _ in SHOWN} == files - {"gaussian4d_oscillator/__init__.py"} | {"pyproject.toml"}


def test_every_group_is_in_the_table() -> None:
    from gaussian4d.plugins import BACKENDS_GROUP, registries

    named = set(re.findall(r"^\| [^|]+ \| `(gaussian4d\.\w+)` \|", PAGE.read_text(encoding="ascii"), re.MULTILINE))
    assert named == {*registries(), BACKENDS_GROUP}


@pytest.mark.usefixtures("cpu_backend")
def test_objects_take_the_place_of_a_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toy = write_scene(tmp_path / "toy", 0, 4, 1, 3, width=24, height=24, samples=1, threads=1)
    code = RUN[0].replace('"SCENE"', repr(str(toy))).replace('"runs/a"', repr(str(tmp_path / "run")))
    code = code.replace("step % 500", "step % 5").replace("max_steps=2000", "max_steps=10").replace("+ 100", "+ 5")
    code = code.replace("settings={", 'settings={"init.points": 100, ')
    names: dict[str, Any] = {}
    try:
        exec(compile(code, "extending.md", "exec"), names)
    finally:
        TERMS.unregister("centred")
        STRATEGIES.unregister("PruneOnly")
    run: g4.FitResult = names["run"]
    assert run.model.motion.name == "spacetime" and run.model.motion.config.degree == 2
    assert run.metrics is not None and run.metrics["metrics"]["largest_error"] > 0
    assert "step 15: " in capsys.readouterr().out
    assert run.model.meta["fit"]["steps"] == 15
    assert all(line["terms"]["centred"] > 0 for line in g4.RunFolder(run.path).metrics())


def test_frames_from_anywhere() -> None:
    camera = g4.Camera.look_at(np.array([3.0, 0, 0]), np.zeros(3), np.array([0, 0, 1.0]), width=8, height=6, focal=9.0)
    names: dict[str, Any] = {
        "g4": g4,
        "images": np.zeros((9, 6, 8, 3), np.uint8),
        "cameras": camera,
        "times": np.linspace(0.0, 1.0, 9),
        "weights": np.full((9, 6, 8), 0.5, np.float32),
        "shares": np.arange(9.0),
        "depths": np.ones((9, 6, 8), np.float32),
    }
    exec(compile(RUN[1], "extending.md", "exec"), names)
    scene: g4.Scene = names["scene"]
    frame = scene.frames("train")[-1]
    assert (
        len(scene.frames("test")) == 1 and frame.share == 8.0 and frame.weight is not None and frame.depth is not None
    )
