"""The per-frame baseline: one still fit per instant in one model, resumed by instant."""

from __future__ import annotations

import itertools
import json
import os
import runpy
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gaussian4d import fit
from gaussian4d.errors import UserError
from gaussian4d.evaluation import evaluate
from gaussian4d.fitting.checkpoint import list_checkpoints, load_checkpoint
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.motion import PerFrame, PerFrameConfig
from gaussian4d.rendering import render
from gaussian4d.scene import Scene, load_scene

SETTINGS = {
    "init_points": 150,
    "max_gaussians": 220,
    "densify_every": 5,
    "densify_grad": 0.0,
    "checkpoint_every": 4,
    "log_every": 2,
    "resolutions": ((0.0, 1.0),),
}

pytestmark = pytest.mark.usefixtures("cpu_backend")


def per_frame_fit(scene: Scene, out: Path, steps: int = 42, **settings: object):
    given = {"motion": "per-frame", "max_steps": steps, "evaluate": False, **SETTINGS, **settings}
    return fit(scene, "quick", out, **given)  # type: ignore[arg-type]


def same(a: DynamicGaussians, b: DynamicGaussians) -> bool:
    return a.params.keys() == b.params.keys() and all(torch.equal(a.params[name], b.params[name]) for name in a.params)


def numbered(counts: list[int], times: tuple[float, ...]) -> tuple[PerFrame, dict[str, torch.Tensor]]:
    """Returns a model whose rows of instant k have k as every mean."""
    marks = torch.cat([torch.full((n,), float(k)) for k, n in enumerate(counts)])
    n = len(marks)
    params = {
        "means": marks[:, None].repeat(1, 3),
        "quats": torch.ones(n, 4),
        "scales": torch.zeros(n, 3),
        "opacities": torch.zeros(n),
        "sh0": torch.zeros(n, 1, 3),
        "shN": torch.zeros(n, 3, 3),
        "instants": marks,
    }
    return PerFrame(PerFrameConfig(times=times)), params


@pytest.mark.parametrize(("time", "instant"), [(0.0, 0), (0.09, 0), (0.11, 1), (0.55, 1), (0.65, 2), (5.0, 2)])
def test_the_nearest_instant_is_shown(time: float, instant: int) -> None:
    motion, params = numbered([2, 3, 4], (0.0, 0.2, 1.0))
    state = motion.at(params, time, 0)
    assert len(state) == (2, 3, 4)[instant] and state.colors.shape[1] == 1
    assert torch.all(state.means == instant)


def test_gradients_reach_only_the_rows_of_the_instant() -> None:
    motion, params = numbered([2, 3, 4], (0.0, 0.2, 1.0))
    params["means"].requires_grad_()
    motion.at(params, 0.2).means.sum().backward()
    assert params["means"].grad is not None
    assert params["means"].grad.sum(dim=1).tolist() == [0.0] * 2 + [3.0] * 3 + [0.0] * 4


def test_each_instant_is_fitted_to_its_own_pictures(write_ball: Callable[..., Path], tmp_path: Path) -> None:
    scene = load_scene(write_ball(tmp_path / "ball", cameras=8))
    result = per_frame_fit(scene, tmp_path / "run", steps=362, init_points=400, densify_stop=0.0)
    model = load_model(tmp_path / "run")
    assert same(model, result.model)
    assert model.motion.config == result.model.motion.config
    assert model.motion.config.times == pytest.approx((0.0, 1 / 3, 2 / 3, 1.0))
    # The ball moves by half a unit along x, and every instant's Gaussians with it.
    centres = [float(model.at(time).means[:, 0].median()) for time in scene.times]
    assert all(later - earlier > 0.08 for earlier, later in itertools.pairwise(centres))
    for time, frame in zip(scene.times, scene.frames("test")):
        # The nearest instant is shown between instants too.
        a, b = (render(model, frame.camera, t).rgb for t in (float(time), float(time) + 0.1))
        assert a is not None and b is not None and torch.equal(a, b)
    # One still scene for all instants cannot show where the ball is.
    still = fit(scene, "quick", tmp_path / "still", motion="static", max_steps=90, evaluate=False, **SETTINGS).model
    assert evaluate(model, scene)["psnr_moving"] > evaluate(still, scene)["psnr_moving"] + 2.0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["instant"] for line in lines] == sorted(line["instant"] for line in lines)
    # 362 steps on four instants: two of them get one step more.
    assert lines[-1]["step"] == 362 and lines[-1]["progress"] == 1.0
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert result.model.meta["fit"]["steps"] == 362


@pytest.mark.parametrize("at", [7, 27])
def test_a_stopped_fit_keeps_its_instants_and_goes_on_to_the_same_model(
    ball_scene: Path, tmp_path: Path, at: int
) -> None:
    scene = load_scene(ball_scene)

    def press_ctrl_c(trainer: object, event: str) -> None:
        if event == "after_step" and trainer.step == at:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGINT)

    result = per_frame_fit(scene, tmp_path / "a", callbacks=[press_ctrl_c])
    assert result.interrupted
    # 42 steps on four instants: 11, 11, 10, 10.
    finished = at // 11
    assert len(list_checkpoints(tmp_path / "a" / "instants")) == finished
    assert len(load_model(tmp_path / "a").motion.config.times) == finished + 1
    events: list[tuple[str, int]] = []
    per_frame_fit(scene, tmp_path / "a", resume=True, callbacks=[lambda t, event: events.append((event, t.step))])
    assert events[0] == ("start", at) and events[-1] == ("end", 42)
    assert [step for event, step in events if event == "after_step"] == list(range(at + 1, 43))
    whole = per_frame_fit(scene, tmp_path / "b")
    assert same(load_model(tmp_path / "a"), whole.model)
    steps = [
        [json.loads(line)["step"] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("a", "b")
    ]
    assert steps[0] == steps[1]
    assert not list((tmp_path / "a" / "instants").glob("instant_*"))


def test_warm_start_begins_where_the_instant_before_ended(ball_scene: Path, tmp_path: Path) -> None:
    scene = load_scene(ball_scene)
    settings = {"steps": 8, "densify_stop": 0.0, "lr_means": (1e-9, 1e-9)}
    warm = per_frame_fit(scene, tmp_path / "warm", motion_config={"warm_start": True}, **settings).model
    cold = per_frame_fit(scene, tmp_path / "cold", **settings).model
    for model, equal in ((warm, True), (cold, False)):
        first, second = model.at(0.0).means, model.at(1 / 3).means
        assert (first.shape == second.shape and torch.allclose(first, second, atol=1e-5)) == equal


def test_one_background_lies_behind_all_instants(ball_scene: Path, tmp_path: Path) -> None:
    scene = load_scene(ball_scene)
    model = per_frame_fit(scene, tmp_path / "run", background="model", lr_background=(0.05, 0.05)).model
    behind = [load_checkpoint(path)[0]["background"] for path in list_checkpoints(tmp_path / "run" / "instants")]
    assert len(behind) == 4 and not torch.allclose(behind[0], torch.full((3,), 0.5))
    assert model.background is not None
    for color in [*behind, load_model(tmp_path / "run").background]:
        assert color is not None and torch.equal(color, model.background)


def test_what_cannot_be_fitted_or_drawn_is_refused(
    ball_scene: Path, write_ball: Callable[..., Path], tmp_path: Path
) -> None:
    scene = load_scene(ball_scene)
    with pytest.raises(UserError, match="at least one step for each of 4 instants"):
        per_frame_fit(scene, tmp_path / "few", steps=3)
    lone = load_scene(write_ball(tmp_path / "lone", cameras=1, test=()), test_every=0)
    with pytest.raises(UserError, match="at least 2 training pictures"):
        per_frame_fit(lone, tmp_path / "mono")
    assert not (tmp_path / "few").exists() and not (tmp_path / "mono").exists()
    motion, params = numbered([2, 3], (0.0, 1.0))
    model = DynamicGaussians(params, motion)
    with pytest.raises(UserError, match="velocities"):
        model.velocity(0.5)
    with pytest.raises(UserError, match="flow"):
        render(model, scene.frames("test")[0].camera, 0.0, buffers=("flow",))


def test_the_ratio_is_taken_at_the_highest_quality_both_reach() -> None:
    script = runpy.run_path(str(Path(__file__).parents[3] / "scripts" / "bench" / "per_frame.py"))

    def curve(motion: str, *figures: tuple[float, float]) -> list:
        return [
            script["Point"](motion, int(seconds), seconds, 2 * seconds, psnr, None, 1, 1.0) for seconds, psnr in figures
        ]

    fast = curve("free-time", (10.0, 20.0), (20.0, 24.0))
    # Reached between two fits: half-way in PSNR is half-way in the logarithm of the time.
    slow = curve("per-frame", (40.0, 22.0), (160.0, 26.0))
    assert "at 24.00 dB, full frame: per-frame 80.0 s, free-time 20.0 s, ratio 4.00" in script["summary"](slow, fast)
    assert "at 24.00 dB, full frame: per-frame 160.0 CPU s, free-time 40.0 CPU s, ratio 4.00" in script["summary"](
        slow, fast
    )
    # Never reached: compared where the slower one ends, and said so.
    lines = script["summary"](curve("per-frame", (40.0, 20.0), (80.0, 22.0)), fast)
    assert "at 22.00 dB, full frame: per-frame 80.0 s, free-time 14.1 s, ratio 5.66" in lines
    assert "did not reach the 24.00 dB" in lines[-1]
    # Better from the first fit on: no ratio can be read off.
    assert script["summary"](curve("per-frame", (40.0, 30.0)), fast)[-1].startswith("no ratio")
