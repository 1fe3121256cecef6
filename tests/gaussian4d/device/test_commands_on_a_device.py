"""Commands and exports on the pretend accelerator: the files of the CPU, and what is said of the device."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moving_models import CAMERA, model_of
from PIL import Image
from pretend_device import count_syncs
from pretend_kernels import PAIRS

from diff_rasterizer import backends
from gaussian4d import fit
from gaussian4d.cli import main
from gaussian4d.io.difference import difference_db
from gaussian4d.mesh import fuse
from gaussian4d.report import write_report
from gaussian4d.scene import load_scene
from gaussian4d.toys import write_scene


@pytest.fixture(scope="module")
def fitted(cpu_backend: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps on a toy scene, made on the CPU."""
    folder = tmp_path_factory.mktemp("toy")
    write_scene(folder / "scene", 0, 3, 1, 3, width=32, height=32)
    fit(load_scene(folder / "scene"), preset="quick", out=folder / "run", max_steps=8)
    return folder / "run"


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {file.name: np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))}


Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command, which must succeed; returns what it printed."""

    def go(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return go


def test_render(pretend: torch.device, fitted: Path, tmp_path: Path, run: Run) -> None:
    shape = ["--fps", "2", "--seconds", "2", "--buffers", "rgb", "depth", "flow"]
    said = run("render", fitted, "--out", tmp_path / "here", *shape, "--device", "cpu")
    assert "device   on the CPU, with the backend cpu\n" in said
    said = run("render", fitted, "--out", tmp_path / "there", *shape, "--device", "pretend")
    assert "device   on pretend:0 (a pretend accelerator), with the backend pretend\n" in said
    here, there = pictures(tmp_path / "here"), pictures(tmp_path / "there")
    assert len(here) == 4 and here.keys() == there.keys()
    assert all(np.array_equal(here[name], there[name]) for name in here)


def test_eval_and_report(pretend: torch.device, fitted: Path, tmp_path: Path, run: Run) -> None:
    figures = []
    for device in ("cpu", "pretend", "auto"):
        copy = tmp_path / device
        shutil.copytree(fitted, copy)
        said = run("eval", copy, "--device", device)
        assert said.count("device   ") == 1 and ("pretend:0" in said) == (device != "cpu")
        metrics = json.loads((copy / "eval" / "metrics.json").read_text())
        metrics.pop("render_fps")
        figures.append(metrics)
        assert run("report", copy, "--device", device).count("device   ") == 1
        assert (copy / "report.html").stat().st_size > 10_000
    assert figures[0] == figures[1] == figures[2] and figures[0]["psnr"] > 5


def test_demo(pretend: torch.device, tmp_path: Path, run: Run) -> None:
    for device in ("cpu", "pretend"):
        run("demo", "--out", tmp_path / device, "--size", 20, "--max-steps", 2, "--device", device)
        log = (tmp_path / device / "run" / "log.txt").read_text()
        assert ("on pretend:0" in log) == (device == "pretend")
    here, there = pictures(tmp_path / "cpu"), pictures(tmp_path / "pretend")
    assert list(here) == ["sheet.png"] and np.array_equal(here["sheet.png"], there["sheet.png"])


def test_exports(pretend: torch.device, fitted: Path, tmp_path: Path, run: Run) -> None:
    for name in ("a.ply", "a.splat", "a.mesh.glb", "a.npz"):
        said = []
        for device in ("cpu", "pretend"):
            (tmp_path / device).mkdir(exist_ok=True)
            target = tmp_path / device / name
            arguments = ["--points", "5"] if name == "a.npz" else ["--mesh-detail", "16"]
            said.append(run("export", fitted, "--to", target, *arguments, "--device", device))
        assert (tmp_path / "cpu" / name).read_bytes() == (tmp_path / "pretend" / name).read_bytes(), name
        drawn = name in ("a.splat", "a.mesh.glb")
        assert [text.count("device   ") for text in said] == [drawn, drawn], name
    assert "device   on pretend:0" in run("convert", fitted / "model.g4d", tmp_path / "b.splat", "--device", "pretend")


def test_functions_behind_the_commands(pretend: torch.device, fitted: Path, tmp_path: Path) -> None:
    model = model_of("static", 60)
    solid = dataclasses.replace(model, params={**model.params, "opacities": torch.full((60,), 6.0)})
    here = fuse(solid, 0.4, [CAMERA], detail=16, device="cpu")
    with count_syncs() as syncs:
        there = fuse(solid, 0.4, [CAMERA], detail=16, device=pretend)
    assert syncs.names.count(PAIRS) == 2, "drawn there, colours and features"
    assert np.array_equal(here.vertices, there.vertices) and len(here.faces) > 0
    other = model_of("free-time", 60)
    drawn = difference_db(model, other, [CAMERA], [(0.0, 0.4)])
    with count_syncs() as syncs:
        assert drawn == difference_db(model, other, [CAMERA], [(0.0, 0.4)], device=pretend)
    assert syncs.names.count(PAIRS) == 2, "both models were drawn there"
    written = write_report(fitted, tmp_path / "report.html", model=model_of("static").to(pretend))
    assert written.stat().st_size > 10_000


def test_auto_is_the_cpu_again_without_the_backend(
    pretend: torch.device, fitted: Path, tmp_path: Path, run: Run, monkeypatch: Any
) -> None:
    monkeypatch.setattr(backends, "_registered", {})
    said = run("render", fitted, "--out", tmp_path / "here", "--fps", "1", "--seconds", "1")
    assert "device   on the CPU, with the backend cpu" in said
