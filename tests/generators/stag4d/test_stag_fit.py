"""The whole fit on an unseen toy with a prior that knows it, at a tiny size."""

from __future__ import annotations

import json

import pytest
import torch
from stag_oracle import INPUT, TIMES, toy_input, truth

from gaussian4d.errors import UserError
from gaussian4d.model import load_model
from gaussian4d.run_folder import RunFolder
from gaussian4d.scene import load_scene
from gaussian4d.view_block import ViewBlock
from generators.cameras import orbit_cameras
from generators.stag4d import Interrupted, fit_asset, quick
from generators.stag4d.drawing import Cameras, draw
from generators.stag4d.trainer import StagTrainer

TINY = {
    "motion": "hexplane", "max_steps": 60, "max_minutes": None, "init_points": 400, "sizes": ((0.0, 48),),
    "anchor_views": 4,
    "densify_every": 10, "sds_every": 5, "sds_views": 2, "log_every": 20, "checkpoint_every": 1000,
    "motion_config": {"space_resolution": 8, "features": 4, "width": 8, "levels": (1,)},
}  # fmt: skip


def _error(model, world, time=1.0):
    cameras = orbit_cameras(3, elevation=30.0, start=90.0, size=32)
    with torch.no_grad():
        rgba = draw(model.at(time), Cameras.of(cameras)).rgba
    return float((rgba - truth(world, cameras, [time] * 3)).square().mean())


@pytest.mark.usefixtures("cpu_backend")
def test_an_unseen_toy_becomes_a_run_folder_that_other_commands_read(tmp_path, monkeypatch):
    frames, prior = toy_input()
    out = tmp_path / "run"
    seen = []
    original = StagTrainer._report

    def reporting(self, progress):
        if (out / "model.g4d").exists():
            seen.append(load_model(out))
        original(self, progress)

    monkeypatch.setattr(StagTrainer, "_report", reporting)
    model = fit_asset(frames, TIMES, INPUT, prior, out, quick(**TINY), fps=8.0)
    assert seen and {model.motion.name for model in seen} == {"static"}
    assert load_model(out).motion.name == "hexplane" and len(prior.levels) > 5
    empty = float(truth(prior.world, orbit_cameras(3, elevation=30.0, start=90.0, size=32), [1.0] * 3).square().mean())
    assert _error(model, prior.world) < min(0.5 * empty, 0.9 * _error(seen[0], prior.world))
    scene = load_scene(out / "scene")
    assert len(scene.times) == len(TIMES) and scene.has_alpha and scene.duration == pytest.approx(3 / 8)
    # The file alone knows how to be looked at, and the run that it is finished.
    view = ViewBlock.of(load_model(out / "model.g4d"))
    assert view is not None and view.up == pytest.approx([0, 0, 1], abs=1e-6) and view.seconds == pytest.approx(3 / 8)
    assert {camera.id for camera in view.cameras} <= set(scene.cameras) and RunFolder(out).finished
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60] and lines[-1]["progress"] == 1.0
    with pytest.raises(UserError, match="already holds a fit"):
        fit_asset(frames, TIMES, INPUT, prior, out, quick(**TINY))


@pytest.mark.usefixtures("cpu_backend")
def test_a_stopped_fit_goes_on_as_if_it_had_not_stopped(tmp_path, monkeypatch):
    frames, prior = toy_input()
    config = quick(**{**TINY, "max_steps": 30})
    whole = fit_asset(frames, TIMES, INPUT, prior, tmp_path / "whole", config)
    original = StagTrainer.take_step

    def stopping(self, progress):
        self.stop_requested = self.step + 1 == 13
        return original(self, progress)

    with monkeypatch.context() as patched:
        patched.setattr(StagTrainer, "take_step", stopping)
        with pytest.raises(Interrupted):
            fit_asset(frames, TIMES, INPUT, prior, tmp_path / "parts", config, resume_line="again")
    assert "again" in (tmp_path / "parts" / "log.txt").read_text()
    parts = fit_asset(frames, TIMES, INPUT, prior, tmp_path / "parts", config, resume=True)
    assert all(torch.equal(whole.params[name], parts.params[name]) for name in whole.params)


@pytest.mark.usefixtures("cpu_backend")
@pytest.mark.parametrize(
    "settings",
    [{"motion": "free-time"}, {"motion": "spacetime"}, {"motion": "dual-domain"}, {"anchors": False}, {"sds": False}],
)
def test_each_part_can_be_switched_off(tmp_path, settings):
    frames, prior = toy_input()
    config = quick(**{**TINY, "max_steps": 12, "motion_config": {}, **settings})
    model = fit_asset(frames, TIMES, INPUT, prior, tmp_path / "run", config)
    assert len(model) > 50 and model.motion.name == config.motion
    assert bool(prior.asked) == config.anchors and bool(prior.levels) == config.sds


@pytest.mark.usefixtures("cpu_backend")
def test_one_picture_gives_a_static_asset(tmp_path):
    frames, prior = toy_input()
    config = quick(**{**TINY, "max_steps": 12})
    assert fit_asset(frames[:1], [0.0], INPUT, prior, tmp_path / "run", config).motion.name == "static"


def test_wrong_inputs_are_refused_before_anything_is_written(tmp_path):
    frames, prior = toy_input()
    for pictures, times, camera, teacher, message in (
        (frames[:, :3], TIMES, INPUT, prior, "with alpha"),
        (frames, TIMES[:2], INPUT, prior, "a time, and anchors"),
        (frames, TIMES, INPUT.resized(64, 64), prior, "resize the camera"),
        (frames * 0, TIMES, INPUT, prior, "nothing is opaque"),
        (frames, TIMES, INPUT, None, "anchors need a prior"),
    ):
        with pytest.raises(UserError, match=message):
            fit_asset(pictures, times, camera, teacher, tmp_path / "run", quick(**TINY))
    assert not (tmp_path / "run").exists()
