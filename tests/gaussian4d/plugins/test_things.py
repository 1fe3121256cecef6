"""What a package of other people brings, of every other kind: used from the command line and from Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch
from PIL import Image
from swings_models import swinging_model
from swings_package import GROUPS, SOURCE

from gaussian4d.cli import main
from gaussian4d.data.recognise import in_order
from gaussian4d.errors import UserError
from gaussian4d.evaluation import evaluate
from gaussian4d.figures import report_lines
from gaussian4d.io.registry import format_of
from gaussian4d.metrics import metric, psnr
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.scene import load_scene
from gaussian4d.toys import write_scene

pytestmark = pytest.mark.usefixtures("cpu_backend")

ROOT = Path(__file__).resolve().parents[3]


def write_swing(folder: Path, instants: int = 3) -> Path:
    """Returns a scene folder that only the package reads."""
    folder.mkdir()
    names = [f"{index}.png" for index in range(instants)]
    for index, name in enumerate(names):
        Image.new("RGB", (16, 16), (40 * index, 0, 0)).save(folder / name)
    (folder / "swing.txt").write_text("\n".join(names), encoding="ascii")
    return folder


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("data") / "toy", 0, 3, 1, 2, width=24, height=24, samples=1, threads=1)


def test_a_reader_reads(swings: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = load_scene(write_swing(tmp_path / "scene"))
    assert scene.format == "swing" and len(scene.frames("all")) == 3
    assert scene.frames("all")[1].image[0, 0, 0] == 40
    assert main(["info", str(tmp_path / "scene")]) == 0
    assert "format     swing" in capsys.readouterr().out


def test_what_the_reader_goes_by_is_listed(swings: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        UserError, match=r"looked for transforms_train.json .*, swing.txt \(swings\), sparse/0 \(COLMAP\)"
    ):
        load_scene(tmp_path / "empty")


def test_readers_are_asked_in_order(plugin: Callable[..., Path]) -> None:
    source = """
from types import SimpleNamespace
def reader(**extra): return SimpleNamespace(recognises=lambda folder: False, read=None or print, **extra)
early, usual, late = reader(first=True), reader(), reader(last=True)
"""
    points = {name: f"swings:{name}" for name in ("early", "usual", "late")}
    plugin(source, readers=points)
    names = list(in_order())
    assert names[0] == "early" and names[1] == "dnerf"
    assert names[-5:] == ["usual", "colmap", "llff", "videos", "late"]


def test_a_reader_that_fails_to_look_is_left_out(plugin: Callable[..., Path], toy: Path, tmp_path: Path) -> None:
    source = "first = True\ndef recognises(folder): return {}['nothing']\ndef read(folder, problems): ...\n"
    plugin(source, readers={"swing": "swings"})
    with pytest.warns(UserWarning, match="the reader 'swing' of the package swings is skipped: .* KeyError: 'nothing'"):
        assert load_scene(toy).format == "dnerf"


def test_a_reader_that_does_not_load_is_left_out(plugin: Callable[..., Path], toy: Path) -> None:
    plugin("import no_such_module", readers={"swing": "swings"})
    with pytest.warns(UserWarning, match="the reader 'swing' .* No module named 'no_such_module'"):
        assert load_scene(toy).format == "dnerf"


def test_a_format_is_written_and_read(swings: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = swinging_model("static")
    model.save(tmp_path / "a.swing")
    back = load_model(tmp_path / "a.swing")
    assert torch.allclose(back.params["means"], model.params["means"]) and back.motion.name == "static"
    assert main(["convert", str(tmp_path / "a.swing"), str(tmp_path / "b.g4d")]) == 0
    assert main(["info", str(tmp_path / "a.swing")]) == 0
    assert "a file of swings" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "b.g4d"), str(tmp_path / "frames"), "--format", "swing-sequence"]) == 0
    assert [path.name for path in (tmp_path / "frames").iterdir()] == ["frame_0000.swing"]


def test_the_longest_ending_wins(swings: ModuleType) -> None:
    assert format_of("a.swing.ply") is swings.SWING and format_of("a.ply").name == "ply"
    with pytest.raises(UserError, match=r"expected one of \.g4d, .*\.ckpt, \.swing"):
        format_of("a.swong")


def test_an_exporter_writes(swinging: DynamicGaussians, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swinging.save(tmp_path / "a.g4d")
    assert main(["export", str(tmp_path / "a.g4d"), "--to", str(tmp_path / "a.swing.txt")]) == 0
    assert (tmp_path / "a.swing.txt").read_text() == "40 Gaussians\n"
    assert main(["convert", str(tmp_path / "a.swing.txt"), str(tmp_path / "b.g4d")]) == 2
    assert ".swing.txt cannot be read back" in capsys.readouterr().err


def test_metrics_stand_beside_our_figures(swings: ModuleType, toy: Path) -> None:
    scene, model = load_scene(toy), swinging_model("static")
    usual = evaluate(model, scene, metrics=[])
    assert "metrics" not in usual and "metric_info" not in usual
    result = evaluate(model, scene)
    assert {key: result[key] for key in ("psnr", "ssim")} == {key: usual[key] for key in ("psnr", "ssim")}
    # Of the two that the package brings one is on by default.
    values = [view["metrics"]["largest-error"] for view in result["views"]]
    assert list(result["metrics"]) == ["largest-error"] and result["metrics"]["largest-error"] == np.mean(values)
    assert result["baselines"]["static"]["metrics"]["largest-error"] > 0
    assert result["metric_info"] == {
        "largest-error": {
            "unit": "levels",
            "higher_is_better": False,
            "region": "all",
            "package": "swings",
            "version": "1.2",
        }
    }
    (line,) = [line for line in report_lines(result) if line.startswith("largest-error")]
    assert f"{result['metrics']['largest-error']:.2f}" in line


def test_a_metric_gets_the_mask_of_its_region(swings: ModuleType, toy: Path) -> None:
    result = evaluate(swinging_model("static"), load_scene(toy), metrics=["foreground-error", "psnr"])
    assert result["metrics"]["foreground-error"] > 0 and result["metrics"]["psnr"] == pytest.approx(result["psnr"])
    covered = metric(region="covisible")(lambda prediction, truth, mask: 1.0)
    covered.__name__ = "covered"
    assert evaluate(swinging_model("static"), load_scene(toy), metrics=[covered])["metrics"] == {"covered": None}


def test_metrics_as_functions_and_their_mistakes(toy: Path) -> None:
    scene, model = load_scene(toy), swinging_model("static")

    def brightness(prediction, truth, mask):
        assert prediction.shape == truth.shape == (24, 24, 3) and float(prediction.min()) >= 0.0
        return prediction.mean()

    def not_finite(prediction, truth, mask):
        return float("nan")

    assert 0.0 < evaluate(model, scene, metrics=[brightness])["metrics"]["brightness"] < 1.0
    assert evaluate(model, scene, metrics=[not_finite])["metrics"] == {"not_finite": None}
    with pytest.raises(UserError, match="expected a metric out of psnr, ssim, got 'lpips'"):
        evaluate(model, scene, metrics=["lpips"])
    with pytest.raises(UserError, match="wants the region 'left'"):
        evaluate(model, scene, metrics=[metric(region="left")(lambda *a: 0.0)])  # type: ignore[arg-type]


def test_a_default_metric_that_fails_takes_no_evaluation_down(plugin: Callable[..., Path], toy: Path) -> None:
    source = "def drift(prediction, truth, mask): raise ValueError('no drift')\ndrift.default = True\n"
    plugin(source, metrics={"drift": "swings:drift"})
    with pytest.warns(UserWarning, match="the metric 'drift' is left out: ValueError: no drift"):
        result = evaluate(swinging_model("static"), load_scene(toy))
    assert result["metrics"] == {"drift": None} and result["psnr"] is not None
    with pytest.raises(ValueError, match="no drift"):
        evaluate(swinging_model("static"), load_scene(toy), metrics=["drift"])


def test_ours_take_masks_like_any_metric() -> None:
    truth, image = torch.zeros(8, 8, 3), torch.full((8, 8, 3), 0.1)
    assert psnr.unit == "dB" and psnr.higher_is_better  # type: ignore[attr-defined]
    assert psnr(image, truth, torch.ones(8, 8, dtype=torch.bool)) == psnr(image, truth, None)


def test_a_path_is_rendered(swinging: DynamicGaussians, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    swinging.save(tmp_path / "a.g4d")
    render = ["render", str(tmp_path / "a.g4d"), "--width", "32", "--height", "24", "--fps", "3", "--seconds", "1"]
    assert main([*render, "--out", str(tmp_path / "a.mp4"), "--path", "pendulum"]) == 0
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3
    assert main([*render, "--out", str(tmp_path / "b"), "--path", "standing", "--camera", "around_2"]) == 0
    capsys.readouterr()
    assert main([*render, "--out", str(tmp_path / "c"), "--path", "pendulum", "--camera", "around_2"]) == 2
    assert "--camera is for the paths dataset and still and standing, not for pendulum" in capsys.readouterr().err
    assert main([*render, "--out", str(tmp_path / "c"), "--path", "pendelum"]) == 2
    assert "dataset, still, pendulum, standing or a .json file, got 'pendelum'" in capsys.readouterr().err


def test_a_path_that_does_not_load_is_named(
    plugin: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin("import no_such_module", paths={"swing": "swings:swing"})
    swinging_model("static").save(tmp_path / "a.g4d")
    render = ["render", str(tmp_path / "a.g4d"), "--out", str(tmp_path / "b"), "--fps", "1", "--seconds", "1"]
    assert main([*render, "--path", "swing"]) == 2
    assert "the camera path 'swing' of the package swings 1.2 does not load" in capsys.readouterr().err
    assert main([*render, "--width", "16", "--height", "12"]) == 0


def test_a_command_runs_in_a_fresh_process(
    plugin: Callable[..., Path], toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin(SOURCE, **GROUPS)
    plugin("import no_such_module", name="broken", commands={"fall": "broken:Fall"})
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([os.environ["PYTHONPATH"], str(ROOT)]))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gaussian4d", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    pushed = run("push", "--force", "2.5")
    assert pushed.stdout == "pushed with 2.5\n" and pushed.returncode == 0
    assert "'fall' of the package broken 1.2 does not load" in pushed.stderr and "no_such_module" in pushed.stderr

    table = run("doctor", "--plugins")
    rows = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in table.stdout.splitlines()]
    states = {(row[0], row[1]): row[2:] for row in rows if len(row) == 4}
    for kind, name in (
        ("motion model", "oscillator"),
        ("reader", "swing"),
        ("format", "swing"),
        ("exporter", "swing.txt"),
        ("metric", "largest-error"),
        ("camera path", "pendulum"),
        ("command", "push"),
    ):
        assert states[kind, name] == ["swings 1.2", "ok"]
    assert states["command", "fall"][0] == "broken 1.2" and "no_such_module" in states["command", "fall"][1]
    assert states["format", "ply"] == ["gaussian4d 0.1.0", "ok"] and ("backend", "reference") in states

    out = tmp_path / "run"
    assert main(["fit", str(toy), "--out", str(out), "--max-steps", "3", "--motion", "static"]) == 0
    judged = run("eval", str(out), "--metrics", "foreground-error", "largest-error")
    assert judged.returncode == 0 and "foreground-error" in judged.stdout
    metrics = json.loads((out / "eval" / "metrics.json").read_text())
    assert list(metrics["metrics"]) == ["foreground-error", "largest-error"]
    assert run("eval", str(out), "--metrics", "fore").returncode == 2
