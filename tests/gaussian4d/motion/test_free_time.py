"""Free-time Gaussians: straight motion, a Gaussian window of opacity, and the registry of models."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from gaussian4d.errors import UserError
from gaussian4d.motion import MOTIONS, FreeTime, is_shared, make_motion


def table() -> dict[str, torch.Tensor]:
    return {
        "means": torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], dtype=torch.float64),
        "quats": torch.eye(4, dtype=torch.float64)[:2],
        "scales": torch.zeros(2, 3, dtype=torch.float64),
        "opacities": torch.tensor([0.0, math.log(3.0)], dtype=torch.float64),
        "sh0": torch.zeros(2, 1, 3, dtype=torch.float64),
        "shN": torch.zeros(2, 0, 3, dtype=torch.float64),
        "velocities": torch.tensor([[2.0, 0.0, -4.0], [0.0, 1.0, 0.0]], dtype=torch.float64),
        "times": torch.tensor([0.25, 1.5], dtype=torch.float64),
        "durations": torch.tensor([math.log(0.5), math.log(0.25)], dtype=torch.float64),
    }


def test_value() -> None:
    state = FreeTime().at(table(), 0.75)
    torch.testing.assert_close(state.means[0], torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64))
    # One duration after its instant: exp(-1/2) of sigmoid(0).
    assert float(state.opacities[0]) == pytest.approx(0.5 * math.exp(-0.5))
    assert float(state.opacities[1]) == pytest.approx(0.75 * math.exp(-0.5 * 9.0))


def test_gradients_by_finite_differences() -> None:
    params = table()
    names = ["means", "opacities", "velocities", "times", "durations"]

    def drawn(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state = FreeTime().at({**params, **dict(zip(names, values))}, 0.6)
        return state.means, state.opacities

    assert torch.autograd.gradcheck(drawn, tuple(params[name].clone().requires_grad_() for name in names))


def test_peak_opacity_is_the_largest_inside_the_clip() -> None:
    params = table()
    peaks = FreeTime().peak_opacities(params)
    drawn = torch.stack([FreeTime().at(params, k / 1000).opacities for k in range(1001)]).amax(dim=0)
    torch.testing.assert_close(peaks, drawn)


def test_new_gaussians_are_visible_all_the_time() -> None:
    params = {**table(), **{k: v.double() for k, v in FreeTime().init(2).items()}}
    base = torch.sigmoid(params["opacities"])
    for time in (0.0, 1.0):
        assert torch.all(FreeTime().at(params, time).opacities > 0.98 * base)


@pytest.mark.parametrize("name", [*MOTIONS.choices(), "windows"])
def test_columns_and_rates_agree(name: str) -> None:
    motion = make_motion(name)
    columns = motion.columns()
    assert {key: tuple(value.shape[1:]) for key, value in motion.init(3).items()} == columns
    shared = motion.init_shared(torch.rand(3, 3), torch.Generator())
    assert {key: tuple(value.shape) for key, value in shared.items()} == motion.shared_shapes()
    assert all(is_shared(key) for key in shared) and not any(is_shared(key) for key in columns)
    assert set(motion.learning_rates()) == set(columns) | set(shared)
    assert set(motion.length_columns) | set(motion.position_columns) <= set(columns) | set(shared)
    assert make_motion(name, motion.config_dict()).config == motion.config


def test_unknown_names_are_explained() -> None:
    with pytest.raises(UserError, match="free-time"):
        make_motion("freetime")
    with pytest.raises(UserError, match="static_duration"):
        make_motion("free-time", {"duration": 1.0})


def test_the_page_on_motion_models_counts_their_parameters() -> None:
    page = (Path(__file__).parents[3] / "docs" / "motion.md").read_text(encoding="utf-8")
    rows = {name: (int(own), row) for row, name, own in re.findall(r"^(\| `([a-z-]+)` \| (\d+) \|.*)$", page, re.M)}
    # What windows hold depends on the model inside.
    assert list(rows) == MOTIONS.choices()
    assert "| `windows` |" in page and "\n## Long clips\n" in page
    for name, (own, row) in rows.items():
        motion = make_motion(name)
        assert own == sum(math.prod(shape) for shape in motion.columns().values()), name
        shared = sum(math.prod(shape) for shape in motion.shared_shapes().values())
        assert (f"{shared:,} floats" in row) == (shared > 0), (name, shared)
        assert f"\n## {name}\n" in page
    appearing = make_motion("dual-domain", {"temporal_opacity": True}).columns()
    assert f"({sum(math.prod(shape) for shape in appearing.values())})" in rows["dual-domain"][1]
