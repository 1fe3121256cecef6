"""Strategies given in Python: what they are told and may change, gsplat's own objects, and that all of them resume."""

from __future__ import annotations

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
from gaussian4d.fitting.drawing import Drawing
from gaussian4d.fitting.step import Step
from gaussian4d.fitting.strategies import Strategy, StrategySetup
from gaussian4d.fitting.table import ParameterTable
from gaussian4d.fitting.trainer import Trainer
from gaussian4d.plugins import STRATEGIES, TERMS
from gaussian4d.run_folder import RunFolder
from gaussian4d.scene import Scene, load_scene

SETTINGS: dict[str, Any] = {
    "motion": "free-time",
    "max_steps": 20,
    "evaluate": False,
    "init_points": 120,
    "init_instants": 3,
    "densify_every": 6,
    "densify_grad": 0.0,
    "checkpoint_every": 10,
    "log_every": 5,
    "resolutions": ((0.0, 1.0),),
}

pytestmark = pytest.mark.usefixtures("cpu_backend")


@pytest.fixture(autouse=True)
def nothing_stays_registered() -> Iterator[None]:
    before = [(registry, dict(registry._registered)) for registry in (STRATEGIES, TERMS)]
    yield
    for registry, entries in before:
        registry._registered = entries


@pytest.fixture
def scene(ball_scene: Path) -> Scene:
    return load_scene(ball_scene)


def tensors_of(out: Path) -> dict[str, Tensor]:
    return load_checkpoint(list_checkpoints(out / "checkpoints")[-1])[0]


def equal(a: Path, b: Path) -> bool:
    one, other = tensors_of(a), tensors_of(b)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def counts_of(out: Path) -> list[int]:
    return [line["gaussians"] for line in RunFolder(out).metrics()]


def press_ctrl_c_at(step: int) -> Callable[[Trainer, str], None]:
    def hook(trainer: Trainer, event: str) -> None:
        if event == "after_step" and trainer.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return hook


class Copies(Strategy):
    """Adds copies of random rows, beside a statistic per row and a tensor of its own."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self, setup: StrategySetup) -> None:
        super().start(setup)
        assert setup.config.max_steps == 20 and setup.motion.name == "free-time" and setup.processes == 1
        self.calls.append("start")
        self.added = torch.zeros(1, dtype=torch.int64)

    def observing(self, progress: float) -> bool:
        return progress < 0.5

    def observe(self, table: ParameterTable, drawing: Drawing) -> None:
        self.calls.append("observe")
        grad = drawing.means2d.grad
        assert grad is not None and grad.shape == (1, len(table), 2) and bool(drawing.drawn.any())
        table.statistics.setdefault("seen", torch.zeros(len(table)))
        table.statistics["seen"] += drawing.drawn[0]

    def after_backward(self, table: ParameterTable, total: Callable[[list[Tensor]], None]) -> None:
        self.calls.append("after_backward")
        assert table.params["means"].grad is not None

    def dropped(self) -> None:
        self.calls.append("dropped")

    def after_step(self, table: ParameterTable, step: int, progress: float) -> bool:
        self.calls.append(f"after_step {step} {progress:g}")
        if step % 4:
            return False
        rows = torch.randint(len(table), (5,), generator=self.generator)
        table.rebuild(torch.arange(len(table)), table.rows(rows))
        self.added += 5
        return True

    def state(self) -> dict[str, Tensor]:
        return {"added": self.added}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.added = tensors["added"]


def test_a_strategy_is_told_of_every_step_and_changes_the_rows(scene: Scene, tmp_path: Path) -> None:
    events: list[tuple[str, int]] = []
    mine = Copies()
    fit(
        scene,
        "quick",
        tmp_path / "run",
        strategy=mine,
        callbacks=[lambda trainer, event: events.append((event, trainer.step))],
        **SETTINGS,
    )
    counts = counts_of(tmp_path / "run")
    assert [count - counts[0] for count in counts] == [0, 5, 10, 20] and int(mine.added) == 25
    assert [step for event, step in events if event == "after_densify"] == [4, 8, 12, 16, 20]
    assert mine.calls[:7] == [
        "start", "observe", "after_backward", "after_step 1 0.05", "observe", "after_backward", "after_step 2 0.1",
    ]  # fmt: skip
    # From half of the fit on it has asked not to look.
    assert mine.calls.count("observe") == mine.calls.count("after_backward") == 10
    assert mine.calls[-1] == "after_step 20 1" and "dropped" not in mine.calls
    assert RunFolder(tmp_path / "run").config().densify.strategy == "Copies"
    tensors = tensors_of(tmp_path / "run")
    assert int(tensors["strategy/added"]) == 25
    assert len(tensors["statistics/seen"]) == len(tensors["params/means"]) == counts[-1]
    assert 0 < float(tensors["statistics/seen"].max()) <= 10 and float(tensors["statistics/seen"][-5:].max()) == 0.0


def test_a_strategy_hears_of_dropped_steps(scene: Scene, tmp_path: Path) -> None:
    def broken(step: Step) -> Tensor:
        return step.state.means.sum() * (float("nan") if step.number == 2 else 0.0)

    mine = Copies()
    fit(scene, "quick", tmp_path / "run", strategy=mine, terms=[broken], **SETTINGS)
    at = mine.calls.index("dropped")
    assert mine.calls[at - 1 : at + 2] == ["observe", "dropped", "after_step 3 0.15"]
    assert mine.calls.count("dropped") == 1 and mine.calls.count("after_backward") == 9


@pytest.mark.parametrize("given", [Copies, "object"])
def test_a_strategy_of_ones_own_resumes_exactly(scene: Scene, tmp_path: Path, given: Any) -> None:
    def make() -> Any:
        return Copies() if given == "object" else given

    fit(scene, "quick", tmp_path / "whole", strategy=make(), **SETTINGS)
    hooks = [press_ctrl_c_at(10)]
    assert fit(scene, "quick", tmp_path / "cut", strategy=make(), callbacks=hooks, **SETTINGS).interrupted
    assert int(tensors_of(tmp_path / "cut")["strategy/added"]) == 10
    fit(scene, "quick", tmp_path / "cut", strategy=make(), resume=True, evaluate=False)
    assert equal(tmp_path / "cut", tmp_path / "whole")
    STRATEGIES.unregister("Copies")
    with pytest.raises(UserError, match=f"needs the strategy 'Copies' from the package {__name__}"):
        fit(scene, "quick", tmp_path / "cut", resume=True, evaluate=False)


def test_none_keeps_every_gaussian(scene: Scene, tmp_path: Path) -> None:
    events: list[str] = []
    told = [lambda trainer, event: events.append(event)]
    fit(scene, "quick", tmp_path / "none", strategy="none", callbacks=told, **SETTINGS)
    fit(scene, "quick", tmp_path / "densify", strategy="densify", **SETTINGS)
    assert len(set(counts_of(tmp_path / "none"))) == 1 and len(set(counts_of(tmp_path / "densify"))) > 1
    assert "after_densify" not in events
    assert not any(name.startswith("statistics/") for name in tensors_of(tmp_path / "none"))


def test_what_is_no_strategy_is_refused_and_leaves_nothing(scene: Scene, tmp_path: Path) -> None:
    for strategy, words in (
        (object(), "expected a strategy: a gaussian4d.Strategy or one of gsplat's, got <object"),
        ("grow", "expected a strategy out of densify, relocate, none"),
        (lambda: 3, "expected a strategy: .*"),
    ):
        with pytest.raises(UserError, match=words):
            fit(scene, "quick", tmp_path / "run", strategy=strategy, **SETTINGS)
        assert not (tmp_path / "run").exists()


def default(**settings: Any) -> Any:
    gsplat = pytest.importorskip("gsplat")
    often = {"refine_start_iter": 2, "refine_every": 5, "pause_refine_after_reset": 0, "grow_grad2d": 1e-9}
    return gsplat.DefaultStrategy(**{**often, **settings})


def mcmc(**settings: Any) -> Any:
    gsplat = pytest.importorskip("gsplat")
    often = {"refine_start_iter": 2, "refine_every": 5, "cap_max": 200, "noise_lr": 1e3}
    return gsplat.MCMCStrategy(**{**often, **settings})


@pytest.mark.parametrize("make", [default, mcmc])
def test_an_object_of_gsplat_drives_a_fit_that_resumes_exactly(
    scene: Scene, tmp_path: Path, make: Callable[..., Any]
) -> None:
    drawn: list[bool] = []

    def look(trainer: Trainer, event: str, before: list[Tensor] = []) -> None:  # noqa: B006 - one list for all calls
        if event == "after_backward":
            before[:] = [torch.get_rng_state()]
        if event == "after_step":
            drawn.append(not torch.equal(before[0], torch.get_rng_state()))

    fit(scene, "quick", tmp_path / "whole", strategy=make(), callbacks=[look], **SETTINGS)
    counts = counts_of(tmp_path / "whole")
    assert counts[0] < counts[1] < counts[-1], counts
    assert len(drawn) == 20 and not any(drawn), "gsplat's draws are its own"
    hooks = [press_ctrl_c_at(12)]
    assert fit(scene, "quick", tmp_path / "cut", strategy=make(), callbacks=hooks, **SETTINGS).interrupted
    fit(scene, "quick", tmp_path / "cut", strategy=make(), resume=True, evaluate=False)
    assert equal(tmp_path / "cut", tmp_path / "whole")
    # Another seed draws otherwise.
    fit(scene, "quick", tmp_path / "other", strategy=make(), seed=1, **SETTINGS)
    assert not torch.equal(
        tensors_of(tmp_path / "other")["strategy/random"], tensors_of(tmp_path / "whole")["strategy/random"]
    )


def test_the_settings_of_a_gsplat_object_count(scene: Scene, tmp_path: Path) -> None:
    fit(scene, "quick", tmp_path / "capped", strategy=mcmc(cap_max=125), **SETTINGS)
    assert counts_of(tmp_path / "capped")[-1] == 125
    # The same name once more: the object of this fit is meant.
    fit(scene, "quick", tmp_path / "still", strategy=default(refine_start_iter=100), **SETTINGS)
    fit(scene, "quick", tmp_path / "grown", strategy=default(), **SETTINGS)
    still, grown = counts_of(tmp_path / "still"), counts_of(tmp_path / "grown")
    assert len(set(still)) == 1 and grown[-1] > still[-1]
    fit(scene, "quick", tmp_path / "absolute", strategy=default(absgrad=True), **SETTINGS)
    assert counts_of(tmp_path / "absolute")[-1] > still[-1]
    sums = [tensors_of(tmp_path / run).get("strategy/grad2d") for run in ("still", "grown")]
    assert all(value is not None and bool(torch.isfinite(value).all()) for value in sums)


def test_every_column_follows_the_rows_of_gsplat(scene: Scene, tmp_path: Path) -> None:
    fit(scene, "quick", tmp_path / "run", strategy=default(), **SETTINGS)
    tensors = tensors_of(tmp_path / "run")
    n = counts_of(tmp_path / "run")[-1]
    rows = {name: len(value) for name, value in tensors.items() if name.startswith("params/")}
    assert set(rows.values()) == {n} and {"params/times", "params/velocities", "params/shN"} <= set(rows)
    moments = {name: len(value) for name, value in tensors.items() if name.endswith(("exp_avg", "exp_avg_sq"))}
    own = {name: rows_ for name, rows_ in moments.items() if name.startswith("optimizer/")}
    assert set(own.values()) == {n} and {"optimizer/times/exp_avg", "optimizer/means/exp_avg_sq"} <= set(own)
    assert len(tensors["strategy/grad2d"]) == n


@pytest.mark.parametrize("name", ["gsplat-default", "gsplat-mcmc"])
def test_gsplat_by_name(scene: Scene, tmp_path: Path, name: str) -> None:
    pytest.importorskip("gsplat")
    result = fit(scene, "quick", tmp_path / "run", strategy=name, **SETTINGS)
    assert RunFolder(tmp_path / "run").config().densify.strategy == name and len(result.model) > 100
    fit(scene, "quick", tmp_path / "run", resume=True, evaluate=False)


def test_gsplat_takes_one_picture_per_step(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="gsplat takes one picture per step in one process, got batch 2 in 1 processes"):
        fit(scene, "quick", tmp_path / "run", strategy=default(), batch=2, **SETTINGS)
    assert not (tmp_path / "run").exists()
