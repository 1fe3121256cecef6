"""Whole fits of a tiny scene: same seed, resume after SIGKILL, Ctrl-C, time limit, what lies in the run folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gaussian4d import fit
from gaussian4d.errors import UserError
from gaussian4d.fitting.checkpoint import list_checkpoints, load_checkpoint
from gaussian4d.fitting.trainer import Trainer
from gaussian4d.model import load_model
from gaussian4d.motion import MOTIONS
from gaussian4d.rendering import render
from gaussian4d.scene import Scene, load_scene

SETTINGS = {
    "init_points": 150,
    "max_gaussians": 220,
    "densify_every": 10,
    "densify_grad": 0.0,
    "checkpoint_every": 10,
    "log_every": 5,
    "init_instants": 2,
    "resolutions": ((0.0, 2.0), (0.3, 1.0)),
}

pytestmark = pytest.mark.usefixtures("cpu_backend")


def small_fit(scene: Scene, out: Path, **settings: object):
    return fit(scene, "quick", out, evaluate=False, **{"max_steps": 40, **SETTINGS, **settings})  # type: ignore[arg-type]


def same(a: Path, b: Path) -> bool:
    one, other = load_model(a).params, load_model(b).params
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("motion", [*MOTIONS.choices(), "windows"])
def test_same_seed_same_model_other_seed_other_model(ball_scene: Path, tmp_path: Path, motion: str) -> None:
    scene = load_scene(ball_scene)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        small_fit(scene, tmp_path / name, seed=seed, motion=motion, max_steps=25)
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", tmp_path / "c")


def test_fit_learns_and_leaves_a_whole_run_folder(write_ball: Callable[..., Path], tmp_path: Path) -> None:
    scene = load_scene(write_ball(tmp_path / "ball", cameras=10))
    events: list[str] = []
    out = tmp_path / "run"
    result = fit(
        scene,
        "quick",
        out,
        callbacks=[lambda trainer, event: events.append(event)],
        **{
            **SETTINGS,
            "max_steps": 200,
            "motion": "dual-domain",
            "checkpoint_every": 100,
            "init_points": 400,
            "max_gaussians": 600,
            "init_instants": 4,
        },
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(5, 201, 5))
    assert lines[-1]["psnr"] > lines[0]["psnr"] + 3
    assert [path.name for path in list_checkpoints(out / "checkpoints")] == [
        "step_000000100.safetensors",
        "step_000000200.safetensors",
    ]
    assert events[0] == "start" and events[-2:] == ["end", "evaluated"]
    assert events.count("after_step") == events.count("before_step") == events.count("after_backward") == 200
    assert events.count("saved") == 2 and events.count("after_densify") > 0
    assert result.metrics == json.loads((out / "eval" / "metrics.json").read_text())
    baselines = result.metrics["baselines"]
    assert result.metrics["psnr"] > max(baselines["nearest_view"]["psnr"], baselines["static"]["psnr"])
    assert "fitted in" in (out / "log.txt").read_text()
    # The saved model draws what the returned one draws: names, units and normalisation survive the file.
    camera = scene.frames("test")[0].camera
    torch.testing.assert_close(render(load_model(out), camera, 0.3).rgb, render(result.model, camera, 0.3).rgb)


def test_the_model_is_in_world_coordinates(ball_scene: Path, tmp_path: Path) -> None:
    result = small_fit(load_scene(ball_scene), tmp_path / "run", max_steps=60, init_instants=4)
    state = result.model.at(0.0)
    # The ball's radius is 0.5 in the world, 0.16 in the fit's frame.
    assert 0.3 < float((state.means - state.means.mean(0)).norm(dim=1).median()) < 0.8
    assert result.model.meta["normalisation"]["scale"] == pytest.approx(1 / 10**0.5, rel=1e-3)


_CHILD = """
import sys
from gaussian4d.scene import load_scene
sys.path.insert(0, sys.argv[3])
from test_fit import small_fit
small_fit(load_scene(sys.argv[1]), sys.argv[2], seed=5, resume=len(sys.argv) > 4)
"""


def run_child(scene: Path, out: Path, *extra: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _CHILD, str(scene), str(out), str(Path(__file__).parent), *extra]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for_step(out: Path, step: int, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        metrics = out / "metrics.jsonl"
        if metrics.exists() and f'"step": {step},' in metrics.read_text():
            return
        time.sleep(0.005)
    raise AssertionError(f"the fit did not reach step {step}")


def test_resume_after_sigkill_is_exact(ball_scene: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_child(ball_scene, whole).wait(240) == 0
    child = run_child(ball_scene, killed)
    wait_for_step(killed, 25, child)
    child.send_signal(signal.SIGKILL)
    child.wait(60)
    assert not (killed / "model.g4d").exists()
    # A line that was being written when the process died.
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2')
    assert run_child(ball_scene, killed, "--resume").wait(240) == 0
    assert same(whole, killed)
    steps = [
        [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (whole, killed)
    ]
    assert steps[0] == steps[1]
    last = [load_checkpoint(list_checkpoints(run / "checkpoints")[-1])[0] for run in (whole, killed)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_interrupt_saves_and_resume_ends_at_the_same_model(ball_scene: Path, tmp_path: Path) -> None:
    scene = load_scene(ball_scene)

    def press_ctrl_c(trainer: Trainer, event: str) -> None:
        if event == "after_step" and trainer.step == 17:
            os.kill(os.getpid(), signal.SIGINT)

    result = small_fit(scene, tmp_path / "a", callbacks=[press_ctrl_c])
    assert result.interrupted and result.metrics is None
    assert list_checkpoints(tmp_path / "a" / "checkpoints")[-1].name == "step_000000017.safetensors"
    assert "--resume" in (tmp_path / "a" / "log.txt").read_text()
    assert len(load_model(tmp_path / "a")) > 0
    small_fit(scene, tmp_path / "a", resume=True)
    small_fit(scene, tmp_path / "b")
    assert same(tmp_path / "a", tmp_path / "b")


def test_time_limit_ends_the_fit(ball_scene: Path, tmp_path: Path) -> None:
    result = small_fit(load_scene(ball_scene), tmp_path / "run", max_steps=None, max_minutes=0.05)
    assert not result.interrupted
    assert result.model.meta["fit"]["steps"] > 0
    assert "two runs differ" in (tmp_path / "run" / "log.txt").read_text()


def test_run_folders_are_protected(ball_scene: Path, tmp_path: Path) -> None:
    scene = load_scene(ball_scene)
    small_fit(scene, tmp_path / "run", max_steps=2)
    with pytest.raises(UserError, match="--resume"):
        small_fit(scene, tmp_path / "run")
    with pytest.raises(UserError, match=r"config\.json"):
        small_fit(scene, tmp_path / "other", resume=True)
    with pytest.raises(UserError, match="quick, balanced, best"):
        fit(scene, "fast", tmp_path / "third")
    with pytest.raises(UserError, match="fit hook"):
        fit(scene, "quick", tmp_path / "third", callbacks=["no such hook"])
    assert not (tmp_path / "third").exists()


def test_a_fit_that_cannot_begin_leaves_nothing(ball_scene: Path, tmp_path: Path) -> None:
    scene = load_scene(ball_scene)
    for frame in scene.frames("train"):
        frame.image[...] = 0
    with pytest.raises(UserError, match="point cloud"):
        small_fit(scene, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_checkpoint_is_named(ball_scene: Path, tmp_path: Path) -> None:
    scene = load_scene(ball_scene)
    small_fit(scene, tmp_path / "run", max_steps=20)
    path = list_checkpoints(tmp_path / "run" / "checkpoints")[-1]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=path.name):
        small_fit(scene, tmp_path / "run", resume=True)
