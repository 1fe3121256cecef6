"""Stages: what runs after training, sends the fit on with extra frames, and is not run twice."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gaussian4d import fit
from gaussian4d.errors import UserError
from gaussian4d.fitting.checkpoint import list_checkpoints, load_checkpoint
from gaussian4d.fitting.sampler import FrameSampler, MixedSampler
from gaussian4d.fitting.stages import Stage, finished_stages
from gaussian4d.fitting.step import Step
from gaussian4d.fitting.trainer import Trainer
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.plugins import TERMS
from gaussian4d.run_folder import RunFolder
from gaussian4d.scene import Scene, load_scene

SETTINGS: dict[str, Any] = {
    "motion": "free-time",
    "max_steps": 20,
    "evaluate": False,
    "init_points": 120,
    "init_instants": 3,
    "max_gaussians": 200,
    "densify_every": 6,
    "densify_grad": 0.0,
    "checkpoint_every": 8,
    "log_every": 5,
    "exposure": True,
    "resolutions": ((0.0, 2.0), (0.3, 1.0)),
}
MORE = 20

pytestmark = pytest.mark.usefixtures("cpu_backend")


@pytest.fixture
def scene(ball_scene: Path) -> Scene:
    return load_scene(ball_scene)


@pytest.fixture(autouse=True)
def nothing_stays_registered() -> Iterator[None]:
    before = dict(TERMS._registered)
    yield
    TERMS._registered = before


class Repair:
    """A stage that writes frames and sends the fit on with them."""

    def __init__(self, write: Callable[..., Path], changed: dict[str, Any] | None = None) -> None:
        self.write, self.changed = write, {"max_steps": SETTINGS["max_steps"] + MORE, **(changed or {})}
        self.stages: list[Stage] = []
        self.__name__ = "repair"

    def __call__(self, stage: Stage) -> dict[str, Any]:
        self.stages.append(stage)
        # In the world of the scene: the same ball, seen by other cameras.
        folder = self.write(stage.folder / "repaired", cameras=9, instants=2, test=(0, 1, 2, 3, 4, 5))
        return {"extra.frames": str(folder), **self.changed}


def nothing(stage: Stage) -> None:
    """A stage that only looks."""


def press_ctrl_c_at(step: int) -> Callable[[Trainer, str], None]:
    def hook(trainer: Trainer, event: str) -> None:
        if event == "after_step" and trainer.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return hook


def tensors_of(out: Path) -> dict[str, Tensor]:
    return load_checkpoint(list_checkpoints(out / "checkpoints")[-1])[0]


def equal(a: Path, b: Path) -> bool:
    one, other = tensors_of(a), tensors_of(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def same(a: DynamicGaussians, b: DynamicGaussians) -> bool:
    return a.params.keys() == b.params.keys() and all(torch.equal(a.params[name], b.params[name]) for name in a.params)


def test_a_stage_sends_the_fit_on_with_extra_frames(
    scene: Scene, write_ball: Callable[..., Path], tmp_path: Path
) -> None:
    drawn: list[tuple[int, int, int]] = []

    def look(step: Step) -> None:
        drawn.append((step.number, step.target.index, step.target.camera_index))

    plain = fit(scene, "quick", tmp_path / "plain", **SETTINGS)
    out, repair = tmp_path / "run", Repair(write_ball)
    result = fit(scene, "quick", out, stages=[repair], terms=[look], settings={"extra.share": 0.4}, **SETTINGS)
    assert not result.interrupted and result.model.meta["fit"]["steps"] == 40
    assert same(load_model(out), result.model) and not same(result.model, plain.model)
    # What the stage was given: the model as trained so far, in a folder of its own.
    (stage,) = repair.stages
    assert same(stage.model, plain.model) and stage.model.meta["fit"]["steps"] == 20
    assert stage.folder == out / "stages" / "repair" and stage.run.path == out and stage.scene is scene
    assert stage.config.max_steps == 20 and stage.config.stages == ["repair"]
    # What it returned is kept with the run, and the figures go on.
    config = RunFolder(out).config()
    assert config.max_steps == 40 and config.extra.frames == str(stage.folder / "repaired")
    assert finished_stages(RunFolder(out)) == {"repair": {"extra.frames": config.extra.frames, "max_steps": 40}}
    assert [line["step"] for line in RunFolder(out).metrics()] == list(range(5, 41, 5))
    log = (out / "log.txt").read_text()
    assert "stage repair" in log and log.count("fitted in") == 1
    # Extra frames come after it only, at most their share of the pictures, and are no camera's of the scene.
    train = len(scene.frames("train"))
    assert [number for number, _, _ in drawn] == list(range(40))
    assert all(index < train and camera >= 0 for _, index, camera in drawn[:20])
    extra = [index >= train for _, index, _ in drawn[20:]]
    assert all((camera == -1) == (index >= train) for _, index, camera in drawn)
    assert all(sum(extra[:k]) <= 0.4 * k for k in range(1, 21)) and sum(extra) == 8
    assert {index for _, index, _ in drawn[20:]} - set(range(train)) == set(range(train, train + 6))


def test_a_finished_stage_is_not_run_again(scene: Scene, write_ball: Callable[..., Path], tmp_path: Path) -> None:
    out, repair = tmp_path / "run", Repair(write_ball)
    first = fit(scene, "quick", out, stages=[repair], **SETTINGS)
    again = fit(scene, "quick", out, stages=[repair], resume=True, evaluate=False)
    assert len(repair.stages) == 1 and same(first.model, again.model)
    assert "stage repair: done before" in (out / "log.txt").read_text()
    # Nobody needs its function any more.
    assert same(fit(scene, "quick", out, resume=True, evaluate=False).model, first.model)


@pytest.mark.parametrize("at", [13, 29])
def test_a_run_stopped_before_or_after_a_stage_ends_at_the_same_model(
    scene: Scene, write_ball: Callable[..., Path], tmp_path: Path, at: int
) -> None:
    # The folder of the extra frames has the same content in both runs.
    whole, cut = Repair(write_ball), Repair(write_ball)
    fit(scene, "quick", tmp_path / "whole", stages=[whole], **SETTINGS)
    hooks = [press_ctrl_c_at(at)]
    assert fit(scene, "quick", tmp_path / "cut", stages=[cut], callbacks=hooks, **SETTINGS).interrupted
    assert len(cut.stages) == (at > 20)
    assert not fit(scene, "quick", tmp_path / "cut", stages=[cut], resume=True, evaluate=False).interrupted
    assert len(cut.stages) == 1 and equal(tmp_path / "cut", tmp_path / "whole")


def test_a_stage_that_was_stopped_is_run_again(scene: Scene, write_ball: Callable[..., Path], tmp_path: Path) -> None:
    class Stopped(Repair):
        def __call__(self, stage: Stage) -> dict[str, Any]:
            if not self.stages:
                self.stages.append(stage)
                (stage.folder / "half").write_text("written so far")
                raise KeyboardInterrupt
            assert (stage.folder / "half").exists()
            return super().__call__(stage)

    fit(scene, "quick", tmp_path / "whole", stages=[Repair(write_ball)], **SETTINGS)
    stopped = Stopped(write_ball)
    with pytest.raises(KeyboardInterrupt):
        fit(scene, "quick", tmp_path / "cut", stages=[stopped], **SETTINGS)
    assert finished_stages(RunFolder(tmp_path / "cut")) == {} and (tmp_path / "cut" / "model.g4d").exists()
    fit(scene, "quick", tmp_path / "cut", stages=[stopped], resume=True, evaluate=False)
    assert len(stopped.stages) == 2 and equal(tmp_path / "cut", tmp_path / "whole")


def test_stages_follow_each_other(scene: Scene, write_ball: Callable[..., Path], tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def first(stage: Stage) -> dict[str, Any]:
        seen.append(("first", stage.model.meta["fit"]["steps"]))
        return {"max_steps": 24, "loss.scale": 0.1}

    def second(stage: Stage) -> None:
        seen.append(("second", stage.model.meta["fit"]["steps"]))
        assert stage.config.get("loss.scale") == 0.1

    def third(stage: Stage) -> dict[str, Any]:
        seen.append(("third", stage.model.meta["fit"]["steps"]))
        return {"max_steps": stage.config.max_steps + 4}

    result = fit(scene, "quick", tmp_path / "run", stages=[first, second, third], **SETTINGS)
    assert seen == [("first", 20), ("second", 24), ("third", 24)]
    assert result.model.meta["fit"]["steps"] == 28
    assert finished_stages(RunFolder(tmp_path / "run")) == {
        "first": {"max_steps": 24, "loss.scale": 0.1},
        "second": {},
        "third": {"max_steps": 28},
    }
    # A term that a stage has switched on is there from then on.
    assert ["scale" in line["terms"] for line in RunFolder(tmp_path / "run").metrics()] == [False] * 4 + [True] * 3


def test_a_stage_that_only_looks_and_extra_frames_that_are_never_drawn_change_nothing(
    scene: Scene, write_ball: Callable[..., Path], tmp_path: Path
) -> None:
    more = write_ball(tmp_path / "more", cameras=3, instants=1, test=())
    fit(scene, "quick", tmp_path / "plain", **SETTINGS)
    fit(scene, "quick", tmp_path / "looked", stages=[nothing], **SETTINGS)
    never = {"extra.frames": str(more), "extra.share": 0.0}
    fit(scene, "quick", tmp_path / "never", settings=never, **SETTINGS)
    assert equal(tmp_path / "looked", tmp_path / "plain")
    plain, never_ = tensors_of(tmp_path / "plain"), tensors_of(tmp_path / "never")
    assert all(torch.equal(value, never_[name]) for name, value in plain.items())
    fit(scene, "quick", tmp_path / "drawn", settings={**never, "extra.share": 0.25}, **SETTINGS)
    assert not torch.equal(tensors_of(tmp_path / "drawn")["params/means"], plain["params/means"])


def test_extra_frames_may_be_there_from_the_start_and_resume(
    scene: Scene, write_ball: Callable[..., Path], tmp_path: Path
) -> None:
    more = write_ball(tmp_path / "more", cameras=3, instants=3, test=())
    told = {"extra.frames": str(more), "extra.share": 0.5}
    fit(scene, "quick", tmp_path / "whole", settings=told, **SETTINGS)
    hooks = [press_ctrl_c_at(11)]
    assert fit(scene, "quick", tmp_path / "cut", settings=told, callbacks=hooks, **SETTINGS).interrupted
    fit(scene, "quick", tmp_path / "cut", resume=True, evaluate=False)
    assert equal(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (lambda stage: 3, "must return settings by path or None, got 3"),
        (lambda stage: {"densify.gard": 1.0}, r"unknown fit setting densify\.gard"),
        (lambda stage: {"max_steps": "more"}, "max_steps: expected a whole number, got 'more'"),
    ],
)
def test_what_a_stage_must_not_return(scene: Scene, tmp_path: Path, stage: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        fit(scene, "quick", tmp_path / "run", stages=[stage], **SETTINGS)
    # What was trained is kept.
    assert load_model(tmp_path / "run").meta["fit"]["steps"] == 20
    assert finished_stages(RunFolder(tmp_path / "run")) == {} and RunFolder(tmp_path / "run").config().max_steps == 20


def test_what_cannot_be_is_refused_before_training(
    scene: Scene, write_ball: Callable[..., Path], tmp_path: Path
) -> None:
    began: list[str] = []
    hook = [lambda trainer, event: began.append(event)]
    long = load_scene(write_ball(tmp_path / "long", instants=9))
    for where, settings, words in (
        (scene, {"stages": ["no-such"]}, "expected a fit stage out of .*got 'no-such'"),
        (scene, {"stages": [nothing], "motion": "per-frame"}, "stages are for a fit in one piece"),
        (long, {"stages": [nothing], "window": 6, "overlap": 2}, "stages are for a fit in one piece"),
        (scene, {"settings": {"extra.frames": str(tmp_path / "gone")}}, "gone"),
    ):
        with pytest.raises(UserError, match=words):
            fit(where, "quick", tmp_path / "run", callbacks=hook, **{**SETTINGS, **settings})
        assert began == [] and not (tmp_path / "run").exists()


def test_a_registered_stage_goes_by_its_name(
    scene: Scene, tmp_path: Path, plugin: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = 'def run(stage):\n    (stage.folder / "done").write_text("x")\n    return {"max_steps": 22}\n'
    plugin(source, fit_stages={"touch": "swings:run"})
    out = tmp_path / "run"
    result = fit(scene, "quick", out, stages=["touch"], **SETTINGS)
    assert (out / "stages" / "touch" / "done").exists() and result.model.meta["fit"]["steps"] == 22
    recorded = json.loads((out / "config.json").read_text())["fit"]["plugins"]
    assert recorded == [{"group": "gaussian4d.fit_stages", "name": "touch", "package": "swings", "version": "1.2"}]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_at_most_a_share_of_what_is_drawn_is_extra(share: float) -> None:
    def samplers() -> MixedSampler:
        frames = FrameSampler(7, torch.Generator().manual_seed(0))
        return MixedSampler(frames, 3, share, torch.Generator().manual_seed(1))

    mixed, alone = samplers(), FrameSampler(7, torch.Generator().manual_seed(0))
    drawn = [mixed.next() for _ in range(100)]
    extra = [index >= 7 for index in drawn]
    assert all(sum(extra[:k]) <= share * k for k in range(1, 101)) and sum(extra) == 100 * share
    assert max(drawn) <= 9
    # The scene's own frames come as they would without.
    ours = [index for index in drawn if index < 7]
    assert ours == [alone.next() for _ in ours]
    if share:
        chosen = [index for index in drawn if index >= 7]
        assert set(chosen[:3]) == {7, 8, 9}
    # It goes on from its state; a state without extra frames leaves these at their start.
    first, again = samplers(), samplers()
    for _ in range(10):
        first.next()
    tensors, values = first.state()
    states = [first.frames.generator.get_state(), first.extra.generator.get_state()]
    again.load_state({name: value.clone() for name, value in tensors.items()}, json.loads(json.dumps(values)))
    again.frames.generator.set_state(states[0])
    again.extra.generator.set_state(states[1])
    assert [again.next() for _ in range(50)] == drawn[10:60]
    later = samplers()
    later.load_state(*first.frames.state())
    assert later.drawn == later.drawn_extra == 0
