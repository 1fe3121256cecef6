"""Rows, moments and statistics stay together when Gaussians are cloned, split, pruned and relocated."""

from __future__ import annotations

import math

import pytest
import torch

from gaussian4d.fitting.config import FitConfig
from gaussian4d.fitting.densify import Densify, Refinement, Relocate, relocated
from gaussian4d.fitting.drawing import Drawing
from gaussian4d.fitting.strategies import StrategySetup
from gaussian4d.fitting.table import ParameterTable
from gaussian4d.motion import FreeTime

RATES = {
    name: (1e-3, 1e-4)
    for name in ("means", "quats", "scales", "opacities", "sh0", "shN", "velocities", "times", "durations")
}

pytestmark = pytest.mark.usefixtures("cpu_backend")


def make_table(n: int = 6, shared: dict[str, torch.Tensor] | None = None) -> ParameterTable:
    motion = FreeTime()
    marks = torch.arange(n, dtype=torch.float32)
    params = {
        "means": marks[:, None].repeat(1, 3),
        "quats": torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1),
        "scales": torch.full((n, 3), math.log(0.01)),
        "opacities": torch.zeros(n),
        "sh0": marks[:, None, None].repeat(1, 1, 3),
        "shN": torch.zeros(n, 0, 3),
        **motion.init(n),
    }
    shared = shared or {}
    table = ParameterTable({**params, **shared}, {**RATES, **dict.fromkeys(shared, (1e-3, 1e-4))})
    # One step with gradients that differ by row, so that every moment bears its row's mark.
    sum(
        ((value.flatten(1) if value.ndim > 1 else value[:, None]).sum(1) * (marks + 1)).sum()
        for value in (table.params[name] for name in params)
    ).backward()
    for name in shared:
        table.params[name].square().sum().backward()
    table.step()
    table.statistics = {"grad": marks.clone(), "count": torch.ones(n)}
    return table


def moments(table: ParameterTable, name: str) -> torch.Tensor:
    return table.optimizer.state[table.params[name]]["exp_avg"]


def test_rebuild_keeps_rows_together() -> None:
    table = make_table()
    before = {name: value.detach().clone() for name, value in table.params.items()}
    marks = moments(table, "means").clone()
    keep = torch.tensor([True, False, True, True, False, True])
    new = {name: value.detach()[:2] + 0.5 for name, value in table.params.items()}
    table.rebuild(keep, new)
    assert len(table) == 6
    for name, value in table.params.items():
        torch.testing.assert_close(value.detach()[:4], before[name][keep])
        torch.testing.assert_close(value.detach()[4:], new[name])
    for name in ("means", "times"):
        assert moments(table, name).shape == table.params[name].shape
    torch.testing.assert_close(moments(table, "means")[:4], marks[keep])
    assert torch.all(moments(table, "means")[4:] == 0) and torch.all(marks != 0)
    assert table.statistics["grad"].tolist() == [0.0, 2.0, 3.0, 5.0, 0.0, 0.0]
    # The optimiser steps the new tensors, not the old ones.
    at = table.params["means"].detach().clone()
    table.params["means"].sum().backward()
    table.step()
    assert torch.all(table.params["means"].detach() < at)


def test_overwrite_clears_moments_of_those_rows_only() -> None:
    table = make_table()
    table.overwrite(torch.tensor([1, 4]), {"opacities": torch.tensor([7.0, 8.0])})
    assert table.params["opacities"].detach()[[1, 4]].tolist() == [7.0, 8.0]
    cleared = (moments(table, "means") == 0).all(dim=1)
    assert cleared.tolist() == [False, True, False, False, True, False]


def test_state_survives_a_round_trip_with_another_number_of_rows() -> None:
    table = make_table(6)
    saved = {name: value.clone() for name, value in table.state().items()}
    other = make_table(3)
    other.load_state(saved)
    assert all(torch.equal(value, saved[name]) for name, value in other.state().items())
    for t in (table, other):
        (t.params["means"].square().sum()).backward()
        t.step()
    assert torch.equal(table.params["means"], other.params["means"])


def test_rates_follow_the_schedule() -> None:
    table = make_table()
    table.set_progress(0.5)
    assert table.optimizer.param_groups[0]["lr"] == pytest.approx(math.sqrt(1e-3 * 1e-4))


def densifier(made: type[Refinement] = Densify, **settings: object) -> Refinement:
    base = {"densify.fraction": 1.0, "densify.grad": 0.5, "densify.max_gaussians": 100}
    config = FitConfig(max_steps=10).replace({**base, **settings})
    worker = made()
    worker.start(StrategySetup(config, FreeTime(), torch.Generator().manual_seed(0)))
    return worker


def test_densify_clones_small_splits_large_prunes_faint() -> None:
    table = make_table()
    with torch.no_grad():
        table.params["scales"][5] = math.log(0.1)
        table.params["opacities"][1] = -10.0
        table.params["times"][2] = 3.0
        table.params["durations"][2] = math.log(0.1)
    means = table.params["means"].detach().clone()
    table.statistics["grad"] = torch.tensor([0.0, 9.0, 9.0, 1.0, 0.1, 1.0])
    densifier(split_scale=0.05).change(table)
    # Row 1 is faint, row 2 is never visible inside the clip; 3 and 5 are refined.
    assert len(table) == 6
    after = table.params["means"].detach()
    torch.testing.assert_close(after[[0, 1, 2]], means[[0, 3, 4]])
    torch.testing.assert_close(after[4], means[3])
    torch.testing.assert_close((after[3] + after[5]) / 2, means[5])
    assert not torch.allclose(after[3], after[5])
    opacities = torch.sigmoid(table.params["opacities"].detach())
    # Two copies together are as opaque as the one before.
    start = torch.sigmoid(torch.tensor(-1e-3))
    torch.testing.assert_close(1 - (1 - opacities[1]) * (1 - opacities[4]), start, rtol=1e-3, atol=1e-4)
    assert torch.exp(table.params["scales"].detach()[3, 0]) == pytest.approx(0.1 / 1.6, rel=1e-2)
    assert table.statistics["grad"].tolist() == [0.0] * 6


def test_growth_stops_at_the_limit_and_takes_the_largest_gradients() -> None:
    table = make_table()
    table.statistics["grad"] = torch.tensor([5.0, 1.0, 4.0, 3.0, 2.0, 0.0])
    worker = densifier()
    worker.settings.max_gaussians = 8
    marks = table.params["sh0"].detach()[:, 0, 0].round().clone()
    worker.change(table)
    assert len(table) == 8
    assert table.params["sh0"].detach()[6:, 0, 0].round().tolist() == [marks[0], marks[2]]


def test_relocate_moves_the_dead_and_grows() -> None:
    table = make_table()
    with torch.no_grad():
        table.params["opacities"][:2] = -10.0
    worker = densifier(Relocate)
    worker.settings.fraction = 0.5
    worker.change(table)
    assert len(table) == 9
    assert torch.all(torch.sigmoid(table.params["opacities"]) > 0.01)
    # Dead rows took the colour marks of living ones.
    assert torch.all(table.params["sh0"].detach()[:2, 0, 0].round() >= 2)


def test_the_relocated_live_when_and_move_as_those_they_copy() -> None:
    table = make_table()
    marks = torch.arange(6, dtype=torch.float32)
    with torch.no_grad():
        table.params["opacities"][:3] = -10.0
        for name in ("times", "durations"):
            table.params[name].copy_(0.1 * marks)
        table.params["velocities"].copy_(marks[:, None].expand(6, 3))
        table.params["sh0"].copy_(marks[:, None, None].expand(6, 1, 3))
    worker = densifier(Relocate)
    worker.settings.fraction = 0.5
    worker.change(table)
    params = {name: value.detach() for name, value in table.params.items()}
    sources = params["sh0"][:, 0, 0]
    assert len(table) == 9 and torch.all(sources >= 3)
    torch.testing.assert_close(params["times"], 0.1 * sources)
    torch.testing.assert_close(params["durations"], 0.1 * sources)
    torch.testing.assert_close(params["velocities"], sources[:, None].expand(9, 3))


@pytest.mark.parametrize("strategy", [Densify, Relocate])
def test_shared_tensors_are_stepped_and_saved_but_never_refined(strategy: type[Refinement]) -> None:
    # As many rows as there are Gaussians: only the name tells it apart.
    weights = torch.arange(1.0, 7.0)[:, None].repeat(1, 3)
    table = make_table(shared={"shared.weights": weights.clone()})
    assert "shared.weights" not in table.columns and "shared.weights" not in table.rows(torch.tensor([0]))
    assert torch.all(table.params["shared.weights"] < weights)
    before = {name: value.clone() for name, value in table.state().items() if "shared.weights" in name}
    assert len(before) == 4
    with torch.no_grad():
        table.params["opacities"][1] = -10.0
    worker = densifier(strategy)
    worker.change(table)
    assert len(table) != 6
    after = {name: value for name, value in table.state().items() if "shared.weights" in name}
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    # It goes on from its own moments in a table with another number of rows.
    other = make_table(3, shared={"shared.weights": torch.zeros(6, 3)})
    other.load_state({name: value.clone() for name, value in table.state().items()})
    for t in (table, other):
        t.params["shared.weights"].sum().backward()
        t.step()
    assert torch.equal(table.params["shared.weights"], other.params["shared.weights"])


def test_long_lived_gaussians_freeze_when_others_are_refined() -> None:
    table = make_table()
    with torch.no_grad():
        table.params["durations"].fill_(math.log(0.3))
        table.params["durations"][2] = math.log(3.0)
        table.params["velocities"].fill_(1.0)
        table.params["times"].fill_(0.25)
    table.statistics["grad"].zero_()
    worker = densifier(static_after=2.0)
    worker.change(table)
    assert torch.isposinf(table.params["durations"].detach()).tolist() == [False, False, True, False, False, False]
    assert table.params["velocities"].detach()[:, 0].tolist() == [1.0, 1.0, 0.0, 1.0, 1.0, 1.0]
    # Half the clip is 0.25 after its instant.
    torch.testing.assert_close(table.params["means"].detach()[2], torch.full((3,), 2.25), rtol=0, atol=1e-2)
    worker.settings.static_after = None
    with torch.no_grad():
        table.params["durations"][0] = math.log(3.0)
    worker.change(table)
    assert not torch.isposinf(table.params["durations"][0])


def test_relocated_opacities_compose_and_one_copy_changes_nothing() -> None:
    rows = {"opacities": torch.tensor([0.4, -1.0, 2.0]), "scales": torch.zeros(3, 3)}
    after = relocated(rows, torch.tensor([1, 2, 5]))
    o, new = torch.sigmoid(rows["opacities"]), torch.sigmoid(after["opacities"])
    torch.testing.assert_close(1 - (1 - new) ** torch.tensor([1.0, 2.0, 5.0]), o, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after["scales"][0], torch.zeros(3), rtol=0, atol=1e-5)
    assert torch.all(after["scales"][1:] < 0)


def test_gradients_count_only_while_drawn() -> None:
    table = make_table(2)
    table.statistics = {}
    worker = densifier()
    for drawn in ([True, True], [True, False]):
        means2d = torch.zeros(1, 2, 2, requires_grad=True)
        means2d.grad = torch.tensor([[[3.0, 4.0], [3.0, 4.0]]])
        blank = torch.zeros(1, 2, 2, 1)
        worker.observe(table, Drawing(blank, blank, means2d, torch.tensor([drawn]), {}, 2, 2))
        worker.after_backward(table, lambda tensors: None)
    assert table.statistics["grad"].tolist() == [10.0, 5.0]
    assert table.statistics["count"].tolist() == [2.0, 1.0]
