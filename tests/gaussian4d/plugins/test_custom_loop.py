"""The training loop of the documentation: short, made of public names only, and it learns."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import diff_rasterizer
import gaussian4d as g4
from gaussian4d.toys import write_scene

FILE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "custom_loop.py"
PUBLIC = {"gaussian4d": g4, "diff_rasterizer": diff_rasterizer}


def test_it_imports_public_names_only() -> None:
    tree = ast.parse(FILE.read_text(encoding="ascii"))
    modules, aliases = set(), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
            aliases |= {alias.asname or alias.name: alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.module in PUBLIC and node.level == 0
            assert {alias.name for alias in node.names} <= set(PUBLIC[node.module].__all__)
    assert modules <= {"gaussian4d", "torch", *sys.stdlib_module_names}
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    ours = {node.attr for node in used if aliases.get(node.value.id) == "gaussian4d"}  # type: ignore[attr-defined]
    assert {"initial_model", "load_scene", "evaluate"} <= ours <= set(g4.__all__)
    assert not [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("_")]


def test_it_is_short() -> None:
    (train,) = [node for node in ast.parse(FILE.read_text()).body if isinstance(node, ast.FunctionDef)]
    assert train.end_lineno - train.lineno < 36  # type: ignore[operator]


@pytest.mark.usefixtures("cpu_backend")
def test_it_learns_and_saves(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("custom_loop", FILE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scene = g4.load_scene(write_scene(tmp_path / "toy", 0, 6, 1, 3, width=24, height=24, samples=1, threads=1))
    start = g4.evaluate(module.train(scene, 0, points=400), scene)["psnr"]
    model = module.train(scene, 150, points=400)
    reached = g4.evaluate(model, scene)["psnr"]
    assert reached > start + 2.0
    model.save(tmp_path / "a.g4d")
    assert torch.equal(g4.load_model(tmp_path / "a.g4d").at(0.5).means, model.at(0.5).means)


def test_a_start_is_the_start_of_a_fit(tmp_path: Path) -> None:
    scene = g4.load_scene(write_scene(tmp_path / "toy", 0, 6, 1, 3, width=24, height=24, samples=1, threads=1))
    model = g4.initial_model(scene, "dual-domain", points=200, seed=3)
    fitted = {}

    def look(trainer: object, event: str) -> None:
        if event == "start":
            fitted["model"] = trainer.model()  # type: ignore[attr-defined]
            trainer.stop_requested = True  # type: ignore[attr-defined]

    g4.fit(scene, out=tmp_path / "run", motion="dual-domain", seed=3, callbacks=[look], settings={"init.points": 200})
    assert model.params.keys() == fitted["model"].params.keys()
    for name, value in fitted["model"].params.items():
        assert torch.equal(model.params[name], value), name
    assert model.near == pytest.approx(fitted["model"].near) and model.motion.config == fitted["model"].motion.config


@pytest.mark.parametrize("motion", ["static", "dual-domain", "free-time", "spacetime", "hexplane"])
def test_a_start_stands_still(tmp_path: Path, motion: str) -> None:
    scene = g4.load_scene(write_scene(tmp_path / "toy", 0, 6, 1, 1, width=24, height=24, samples=1, threads=1))
    model = g4.initial_model(scene, g4.make_motion(motion), points=100, sh_degree=2)
    rest = g4.canonical_gaussians(model.params)
    assert model.motion.name == motion and model.sh_degree == rest.sh_degree == 2
    assert torch.allclose(model.at(0.0).means, rest.means, atol=1e-5)
