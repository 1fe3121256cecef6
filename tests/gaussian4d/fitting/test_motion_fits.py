"""Whole fits with the models of motion that have windows, shared tensors, a first stage at rest or frozen Gaussians."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gaussian4d import fit
from gaussian4d.errors import UserError
from gaussian4d.fitting.checkpoint import list_checkpoints, load_checkpoint
from gaussian4d.fitting.config import FitConfig
from gaussian4d.fitting.presets import preset_config
from gaussian4d.fitting.terms import penalties
from gaussian4d.fitting.trainer import Trainer
from gaussian4d.gaussians import Gaussians
from gaussian4d.model import load_model
from gaussian4d.motion import make_motion
from gaussian4d.motion.hexplane import plane_variation, time_activity, time_roughness
from gaussian4d.rendering import render
from gaussian4d.scene import load_scene

SMALL_PLANES = {"space_resolution": 8, "time_resolution": 3, "features": 4, "width": 16}
KINDS: dict[str, dict[str, Any]] = {
    "spacetime": {"motion": "spacetime", "rigidity_weight": 0.01, "smoothness_weight": 1e-5},
    "hexplane": {"motion": "hexplane", "motion_config": SMALL_PLANES, "coarse": 0.1},
    "appearing dual-domain": {"motion": "dual-domain", "motion_config": {"temporal_opacity": True}},
    "half frozen": {"motion": "free-time", "static_after": 0.505},
}
SETTINGS = {
    "evaluate": False,
    "init_points": 200,
    "max_gaussians": 300,
    "init_instants": 4,
    "densify_every": 10,
    "densify_grad": 0.0,
    "checkpoint_every": 15,
    "log_every": 5,
}

pytestmark = pytest.mark.usefixtures("cpu_backend")


def tensors_of(out: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(list_checkpoints(out / "checkpoints")[-1])[0]


@pytest.mark.parametrize("kind", list(KINDS))
def test_resume_is_exact(ball_scene: Path, tmp_path: Path, kind: str) -> None:
    scene = load_scene(ball_scene)

    def press_ctrl_c(trainer: Trainer, event: str) -> None:
        if event == "after_step" and trainer.step == 17:
            os.kill(os.getpid(), signal.SIGINT)

    settings: dict[str, Any] = {"max_steps": 40, **SETTINGS, **KINDS[kind]}
    whole = fit(scene, "quick", tmp_path / "whole", **settings)
    cut = fit(scene, "quick", tmp_path / "cut", callbacks=[press_ctrl_c], **settings)
    assert cut.interrupted and not whole.interrupted
    before = tensors_of(tmp_path / "cut")
    fit(scene, "quick", tmp_path / "cut", resume=True, evaluate=False)
    first, second = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "cut")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    for name in whole.model.motion.learning_rates():
        moved = name != "shared.bounds"
        same = before[f"params/{name}"].shape == first[f"params/{name}"].shape
        assert moved != (same and torch.equal(before[f"params/{name}"], first[f"params/{name}"])), name
    # Refined in between: the columns have other rows, and what is shared has not.
    assert len(first["params/means"]) != len(before["params/means"])
    again, model = load_model(tmp_path / "cut"), whole.model
    for time in (0.0, 0.6):
        assert torch.equal(again.at(time).means, model.at(time).means)
        assert torch.equal(again.at(time).opacities, model.at(time).opacities)
    frozen = torch.isposinf(model.params["durations"]) if "durations" in model.params else torch.zeros(1)
    assert bool(frozen.any()) == (kind == "half frozen")
    # The restart also goes on where the metrics ended.
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(5, 41, 5))


def test_moving_models_beat_the_static_one_on_moving_pixels(write_ball: Callable[..., Path], tmp_path: Path) -> None:
    scene = load_scene(write_ball(tmp_path / "ball", cameras=8))
    settings = {**SETTINGS, "evaluate": True, "max_steps": 200, "init_points": 400, "max_gaussians": 600}
    figures = {}
    # What is frozen cannot win: everything moves here.
    for kind, changes in {"static": {"motion": "static"}, **KINDS}.items():
        if kind == "half frozen":
            continue
        result = fit(scene, "quick", tmp_path / kind, **{**settings, **changes, "checkpoint_every": 500})
        assert result.metrics is not None
        figures[kind] = result.metrics["psnr_moving"]
    still = figures.pop("static")
    assert all(figure > still + 1.0 for figure in figures.values()), (still, figures)


def test_what_appears_half_way_leaves_no_ghost_before(write_ball: Callable[..., Path], tmp_path: Path) -> None:
    scene = load_scene(write_ball(tmp_path / "ball", cameras=8, instants=6, appears=0.5))
    camera = scene.frames("test")[0].camera
    kinds = {name: KINDS[name] for name in ("spacetime", "appearing dual-domain")}
    settings = {**SETTINGS, "max_steps": 150, "init_points": 300, "init_instants": 6, "checkpoint_every": 500}
    for kind, changes in {**kinds, "permanent": {"motion": "dual-domain"}}.items():
        model = fit(scene, "quick", tmp_path / kind, **{**settings, **changes}).model
        alphas = [render(model, camera, time, ("alpha",)).alpha for time in (0.0, 0.2, 0.8, 1.0)]
        before_0, before_1, after_0, after_1 = (float(alpha.mean()) for alpha in alphas if alpha is not None)
        ghost = (before_0 + before_1) / (after_0 + after_1)
        # Without a window a particle is seen all the time, however it moves: what the switch is for.
        assert ghost > 0.6 if kind == "permanent" else ghost < 0.15, (kind, ghost)
        assert after_1 > 0.05, kind


def test_the_first_stage_is_at_rest(ball_scene: Path, tmp_path: Path) -> None:
    seen: list[float] = []

    def look(trainer: Trainer, event: str) -> None:
        if event == "after_step":
            seen.append(trainer.table.params["shared.means.out.weight"].detach().abs().max().item())

    settings: dict[str, Any] = {"max_steps": 20, **SETTINGS, **KINDS["hexplane"], "coarse": 0.5}
    fit(load_scene(ball_scene), "quick", tmp_path / "run", callbacks=[look], **settings)
    assert seen[9] == 0.0 < seen[10]


def test_hexplane_gets_its_published_settings_unless_told_otherwise(ball_scene: Path) -> None:
    scene = load_scene(ball_scene)
    chosen = preset_config("balanced", scene, {"motion": "hexplane", "max_steps": 9})
    assert chosen.get("loss.plane-variation") == 2e-4 and chosen.get("loss.time-roughness") == 1e-3
    assert chosen.get("loss.time-activity") == 1e-4 and chosen.optim.coarse == 0.0
    assert chosen.motion_config == {"time_resolution": 3, "deform_opacities": False} and chosen.max_steps == 9
    scene.has_alpha = False
    whole = preset_config("balanced", scene, {"motion": "hexplane"})
    assert whole.optim.coarse == 0.17 and whole.motion_config["deform_opacities"]
    scene.has_alpha = True
    told = preset_config("balanced", scene, {"motion": "hexplane", "coarse": 0.0, "motion_config": SMALL_PLANES})
    assert told.optim.coarse == 0.0 and told.motion_config == SMALL_PLANES
    assert told.get("loss.plane-variation") == 2e-4
    assert preset_config("balanced", scene, {"motion": "free-time"}).optim.coarse == 0.0


def test_settings_that_fit_no_model_are_explained() -> None:
    for settings, word in (
        ({"motion": "hexplane", "static_after": 2.0}, "static_after"),
        ({"motion": "free-time", "static_after": 0.0}, "static_after"),
        ({"coarse": 1.0}, "coarse"),
        ({"motion": "dual-domain", "init_velocities": True}, "init.velocities"),
        ({"rigidity_neighbours": 1}, "rigidity_neighbours"),
        ({"smoothness_step": 0.0}, "smoothness_step"),
    ):
        with pytest.raises(UserError, match=word):
            FitConfig(max_steps=1).replace(**settings)


def test_each_weight_adds_its_penalty_on_the_planes() -> None:
    generator = torch.Generator().manual_seed(0)
    motion = make_motion("hexplane", SMALL_PLANES)
    params = motion.init_shared(torch.rand(5, 3, generator=generator), generator)
    params["shared.time.0"] += torch.rand(params["shared.time.0"].shape, generator=generator)
    others = FitConfig(max_steps=1, motion="hexplane").replace({"loss.opacity": 0.0, "loss.anisotropy": 0.0})
    state = Gaussians(*(torch.zeros(0, 3) for _ in range(5)))
    assert penalties(others, motion, params, state) == 0.0
    for name, penalty in (
        ("loss.plane-variation", plane_variation),
        ("loss.time-roughness", time_roughness),
        ("loss.time-activity", time_activity),
    ):
        value = float(penalties(others.replace({name: 0.5}), motion, params, state))
        assert value == pytest.approx(0.5 * float(penalty(params))) and value > 0
    # Other models have no planes to penalise.
    with pytest.raises(UserError, match="time-activity"):
        others.replace({"motion": "static", "loss.time-activity": 1.0})
