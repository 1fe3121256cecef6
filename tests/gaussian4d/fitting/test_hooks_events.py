"""What hooks hear of a fit, and in which order: functions, objects with methods, hooks of other packages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gaussian4d import fit
from gaussian4d.fitting.hooks import EVENTS, tell_hooks
from gaussian4d.fitting.step import Step
from gaussian4d.fitting.trainer import Trainer
from gaussian4d.plugins import TERMS
from gaussian4d.scene import Scene, load_scene

SETTINGS: dict[str, Any] = {
    "motion": "static",
    "max_steps": 4,
    "init_points": 100,
    "init_instants": 2,
    "densify_start": 0.0,
    "densify_stop": 1.0,
    "densify_every": 2,
    "checkpoint_every": 3,
    "log_every": 2,
    "resolutions": ((0.0, 1.0),),
}

pytestmark = pytest.mark.usefixtures("cpu_backend")


@pytest.fixture
def scene(ball_scene: Path) -> Scene:
    return load_scene(ball_scene)


class Ear:
    """Writes down what it hears, with the step at which it does."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def __call__(self, trainer: Trainer, event: str) -> None:
        self.heard.append((event, trainer.step))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.heard]


def test_a_fit_tells_of_everything_in_order(scene: Scene, tmp_path: Path) -> None:
    ear, states = Ear(), {}

    def look(trainer: Trainer, event: str) -> None:
        means = trainer.table.params["means"]
        if event == "start":
            assert trainer.metrics is None and trainer.progress == 0.0
        if event == "before_step":
            states["before"] = means.detach().clone()
        if event == "after_backward":
            # There is a gradient, and no step was taken yet.
            assert means.grad is not None and bool(means.grad.any())
            assert torch.equal(means.detach(), states["before"])
        if event == "after_densify":
            states["count"] = len(trainer.table)
        if event == "after_step":
            assert means.grad is None
            assert len(means) != len(states["before"]) or not torch.equal(means.detach(), states["before"])
        if event == "saved":
            newest = max(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
            assert newest == f"step_{trainer.step:09d}.safetensors"
        if event == "evaluated":
            written = json.loads((tmp_path / "run" / "eval" / "metrics.json").read_text())
            assert trainer.metrics is not None and trainer.metrics == written

    fit(scene, "quick", tmp_path / "run", callbacks=[ear, look], **SETTINGS)
    assert ear.heard == [
        ("start", 0),
        ("before_step", 0), ("after_backward", 0), ("after_step", 1),
        ("before_step", 1), ("after_backward", 1), ("after_densify", 2), ("after_step", 2),
        ("before_step", 2), ("after_backward", 2), ("saved", 3), ("after_step", 3),
        ("before_step", 3), ("after_backward", 3), ("after_step", 4),
        ("saved", 4), ("end", 4), ("evaluated", 4),
    ]  # fmt: skip
    assert set(ear.events) == set(EVENTS) and states["count"] > 0


def test_an_object_hears_what_it_has_methods_for(scene: Scene, tmp_path: Path) -> None:
    class Listener:
        after_densify = None
        """Not every attribute is a wish."""

        def __init__(self) -> None:
            self.steps: list[int] = []
            self.metrics: Any = None

        def after_step(self, trainer: Trainer) -> None:
            self.steps.append(trainer.step)

        def evaluated(self, trainer: Trainer) -> None:
            self.metrics = trainer.metrics

    listener = Listener()
    result = fit(scene, "quick", tmp_path / "run", callbacks=[listener], **SETTINGS)
    assert listener.steps == [1, 2, 3, 4]
    assert listener.metrics is not None and listener.metrics == result.metrics


def test_what_can_be_called_is_called() -> None:
    class Both(Ear):
        def after_step(self, trainer: Any) -> None:
            raise AssertionError("asked twice")

    class Silent:
        pass

    class Fake:
        step = 7

    both = Both()
    tell_hooks([both, Silent()], Fake(), "after_step")
    assert both.heard == [("after_step", 7)]


def test_a_dropped_step_has_no_backward(scene: Scene, tmp_path: Path) -> None:
    def broken(step: Step) -> torch.Tensor:
        return step.state.means.sum() * (float("nan") if step.number == 1 else 0.0)

    ear = Ear()
    try:
        fit(scene, "quick", tmp_path / "run", terms=[broken], callbacks=[ear], evaluate=False, **SETTINGS)
    finally:
        TERMS.unregister("broken")
    assert [step for event, step in ear.heard if event == "after_backward"] == [0, 2, 3]
    assert [step for event, step in ear.heard if event == "after_step"] == [1, 2, 3, 4]
    assert "evaluated" not in ear.events


@pytest.mark.parametrize(("event", "steps"), [("start", 0), ("before_step", 1), ("after_backward", 1), ("saved", 3)])
def test_a_stop_is_asked_for_at_any_event(scene: Scene, tmp_path: Path, event: str, steps: int) -> None:
    ear = Ear()

    def stop(trainer: Trainer, now: str) -> None:
        trainer.stop_requested = trainer.stop_requested or now == event

    result = fit(scene, "quick", tmp_path / "run", callbacks=[stop, ear], **SETTINGS)
    assert result.interrupted and result.metrics is None and ear.heard[-1] == ("end", steps)
    assert "evaluated" not in ear.events and (tmp_path / "run" / "model.g4d").exists()
    fit(scene, "quick", tmp_path / "run", resume=True, callbacks=[again := Ear()])
    assert again.heard[0] == ("start", steps) and again.events[-2:] == ["end", "evaluated"]
    assert [step for name, step in again.heard if name == "after_step"] == list(range(steps + 1, 5))


@pytest.mark.parametrize(
    "parts", [{"motion": "per-frame", "max_steps": 12}, {"motion": "free-time", "window": 6, "overlap": 2}]
)
def test_a_fit_of_parts_tells_of_one_whole(
    write_ball: Callable[..., Path], tmp_path: Path, parts: dict[str, Any]
) -> None:
    instants = 4 if parts["motion"] == "per-frame" else 9
    scene = load_scene(write_ball(tmp_path / "ball", instants=instants))
    ear = Ear()
    settings = {**SETTINGS, "max_steps": 12, "checkpoint_every": 2, **parts}
    result = fit(scene, "quick", tmp_path / "run", callbacks=[ear], **settings)
    assert result.metrics is not None
    assert [ear.events.count(event) for event in ("start", "end", "evaluated")] == [1, 1, 1]
    assert ear.events[0] == "start" and ear.events[-2:] == ["end", "evaluated"]
    assert [step for event, step in ear.heard if event == "after_step"] == list(range(1, 13))
    assert {"before_step", "after_backward", "after_densify", "saved"} <= set(ear.events)


def test_a_registered_hook_is_made_for_each_fit(scene: Scene, tmp_path: Path, plugin: Callable[..., Path]) -> None:
    source = """
made = []
class Hook:
    def __init__(self):
        made.append(self)
        self.steps = 0
    def after_step(self, trainer):
        self.steps += 1
"""
    plugin(source, fit_hooks={"counting": "swings:Hook"})
    import swings  # type: ignore[import-not-found]

    for name in ("a", "b"):
        fit(scene, "quick", tmp_path / name, callbacks=["counting"], evaluate=False, **SETTINGS)
    assert [hook.steps for hook in swings.made] == [4, 4]
