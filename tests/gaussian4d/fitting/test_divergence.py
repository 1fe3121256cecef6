"""Fits that leave what numbers can hold: rare steps are dropped, the rest stops at the last good checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gaussian4d import fit
from gaussian4d.cli.app import main
from gaussian4d.errors import UserError
from gaussian4d.fitting.checkpoint import list_checkpoints, load_checkpoint
from gaussian4d.fitting.divergence import PATIENCE, unsound
from gaussian4d.fitting.step import Step
from gaussian4d.fitting.terms import WeightedTerm, photometric
from gaussian4d.fitting.trainer import Trainer
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.run_folder import RunFolder
from gaussian4d.scene import load_scene

SETTINGS = {
    "motion": "free-time",
    "max_steps": 40,
    "evaluate": False,
    "init_points": 150,
    "max_gaussians": 200,
    "init_instants": 3,
    "densify_every": 7,
    "checkpoint_every": 10,
    "log_every": 5,
    "resolutions": ((0.0, 1.0),),
}

MAKE_TERMS = Trainer.make_terms

pytestmark = pytest.mark.usefixtures("cpu_backend")


def poison(at: int, column: str = "means", rows: slice = slice(3)) -> Callable[[Trainer, str], None]:
    def hook(trainer: Trainer, event: str) -> None:
        if event == "after_step" and trainer.step == at:
            with torch.no_grad():
                trainer.table.params[column][rows] = float("nan")

    return hook


def replace_photometric(monkeypatch: pytest.MonkeyPatch, term: Callable[[Step], torch.Tensor]) -> None:
    """Puts `term` in the place of the term that every fit has."""

    def made(trainer: Trainer) -> list[WeightedTerm]:
        terms = MAKE_TERMS(trainer)
        return [dataclasses.replace(item, term=term) if item.name == "photometric" else item for item in terms]

    monkeypatch.setattr(Trainer, "make_terms", made)


def same(a: DynamicGaussians, b: DynamicGaussians) -> bool:
    return a.params.keys() == b.params.keys() and all(torch.equal(a.params[name], b.params[name]) for name in a.params)


def finite(out: Path) -> bool:
    tables = [load_checkpoint(path)[0] for path in list_checkpoints(out / "checkpoints")]
    tables += [load_model(out).params] if (out / "model.g4d").exists() else []
    return not any(unsound(table) for table in tables)


# Of 23 steps the last checkpoint is that of step 20; at 28 Gaussians would be refined, at 25 figures be told.
@pytest.mark.parametrize(("at", "every"), [(23, {"log_every": 1000}), (23, {"densify_stop": 0.0}), (39, {})])
def test_a_parameter_that_is_not_finite_stops_the_fit(
    ball_scene: Path, tmp_path: Path, at: int, every: dict[str, object]
) -> None:
    scene, out = load_scene(ball_scene), tmp_path / "run"
    with pytest.raises(UserError, match=r"diverged.*means.*not finite.*checkpoint of step \d+.*--resume"):
        fit(scene, "quick", out, callbacks=[poison(at)], **{**SETTINGS, **every})  # type: ignore[arg-type]
    kept = list_checkpoints(out / "checkpoints")
    assert kept[-1].stem == f"step_{at // 10 * 10:09d}" and finite(out)
    model = load_model(out)
    assert model.meta["fit"]["steps"] == at // 10 * 10
    assert len(model) == len(load_checkpoint(kept[-1])[0]["params/means"])
    # The same settings would lead to the same end.
    assert RunFolder(out).config().optim.factor == 0.5
    result = fit(scene, "quick", out, resume=True, evaluate=False)
    assert not result.interrupted and result.model.meta["fit"]["steps"] == 40 and finite(out)


def test_steps_without_a_finite_loss_are_dropped_until_they_are_the_rule(
    ball_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = load_scene(ball_scene)
    real = photometric
    lost: set[int] = set()

    def loss(step: Step) -> torch.Tensor:
        return real(step) * (float("nan") if step.number in lost else 1.0)

    replace_photometric(monkeypatch, loss)
    # Step 20 is due for a checkpoint, amid lost steps.
    lost.update([3, *range(15, 15 + PATIENCE - 1)])
    result = fit(scene, "quick", tmp_path / "rare", keep_checkpoints=9, **SETTINGS)  # type: ignore[arg-type]
    assert result.model.meta["fit"]["steps"] == 40 and finite(tmp_path / "rare")
    steps = [int(path.stem[5:]) for path in list_checkpoints(tmp_path / "rare" / "checkpoints")]
    assert steps == [10, 30, 40]
    assert f"{PATIENCE} of 40 steps had no finite loss" in (tmp_path / "rare" / "log.txt").read_text()
    lost.update(range(15, 15 + PATIENCE))
    with pytest.raises(UserError, match=f"loss of the {PATIENCE} steps up to step {15 + PATIENCE} is not finite"):
        fit(scene, "quick", tmp_path / "rule", **SETTINGS)  # type: ignore[arg-type]
    assert [int(p.stem[5:]) for p in list_checkpoints(tmp_path / "rule" / "checkpoints")] == [10]
    replace_photometric(monkeypatch, real)
    fit(scene, "quick", tmp_path / "rule", resume=True, evaluate=False)
    assert load_model(tmp_path / "rule").meta["fit"]["steps"] == 40


def test_a_poisoned_learning_rate_leaves_no_model_and_begins_again_with_half(ball_scene: Path, tmp_path: Path) -> None:
    scene, out = load_scene(ball_scene), tmp_path / "run"
    with pytest.raises(UserError, match=r"diverged.*no checkpoint yet, so no model"):
        fit(scene, "quick", out, **{**SETTINGS, "lr_scales": (1e38, 1e38), "checkpoint_every": 30})  # type: ignore[arg-type]
    assert not (out / "model.g4d").exists() and not list_checkpoints(out / "checkpoints")
    assert RunFolder(out).config().optim.factor == 0.5


def test_half_the_learning_rate_moves_half_as_far(ball_scene: Path, tmp_path: Path) -> None:
    # Adam's first step is as long as the learning rate.
    scene, moved = load_scene(ball_scene), []
    for factor in (1.0, 0.5):
        starts: list[torch.Tensor] = []

        def note(trainer: Trainer, event: str, starts: list[torch.Tensor] = starts) -> None:
            if event in ("start", "end"):
                starts.append(trainer.table.params["means"].detach().clone())

        settings = {**SETTINGS, "max_steps": 1, "lr_factor": factor, "densify_stop": 0.0}
        fit(scene, "quick", tmp_path / str(factor), callbacks=[note], **settings)  # type: ignore[arg-type]
        moved.append((starts[1] - starts[0]).abs().max())
    assert moved[1] == pytest.approx(0.5 * float(moved[0]), rel=1e-2)


def test_a_diverging_instant_of_the_baseline_keeps_those_before(ball_scene: Path, tmp_path: Path) -> None:
    scene, out = load_scene(ball_scene), tmp_path / "run"
    settings = {**SETTINGS, "motion": "per-frame", "max_steps": 48, "checkpoint_every": 5, "log_every": 3}

    def hook(trainer, event: str) -> None:
        if event == "after_step" and trainer.step == 20:
            with torch.no_grad():
                trainer.current.table.params["means"][0] = float("nan")

    with pytest.raises(UserError, match="diverged"):
        fit(scene, "quick", out, callbacks=[hook], **settings)  # type: ignore[arg-type]
    # 12 steps each: the second instant goes back from its 8th step to its 5th.
    assert load_model(out).meta["fit"]["steps"] == 17 and finite(out)
    fit(scene, "quick", out, resume=True, evaluate=False)
    assert load_model(out).meta["fit"]["steps"] == 48


def test_frozen_gaussians_are_sound_and_others_without_end_are_not() -> None:
    infinite = torch.tensor([0.0, float("inf")])
    assert unsound({"params/durations": infinite, "durations": infinite}) == []
    assert unsound({"durations": -infinite, "means": infinite, "optimizer/durations/exp_avg": infinite}) == [
        "durations",
        "means",
        "optimizer/durations/exp_avg",
    ]


def test_the_command_says_so_and_fails(
    ball_scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace_photometric(monkeypatch, lambda step: photometric(step) * float("nan"))
    out = tmp_path / "run"
    assert main(["fit", str(ball_scene), "--out", str(out), "--max-steps", "30"]) == 2
    message = capsys.readouterr().err
    assert "error: the fit diverged and was stopped" in message and f"--out {out} --resume" in message
    assert "Traceback" not in message
