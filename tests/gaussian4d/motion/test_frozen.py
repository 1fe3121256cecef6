"""Gaussians that outlast the clip are stopped for good: where they are, always there, and not optimised."""

from __future__ import annotations

import math

import pytest
import torch

from diff_rasterizer import FusedAdam
from gaussian4d.motion import MOTIONS, make_motion

FREEZABLE = [name for name in MOTIONS.choices() if MOTIONS.get(name).can_freeze]


def table(name: str, n: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (0, 3)}
    shapes |= make_motion(name).columns()
    params = {key: torch.randn(n, *shape, generator=generator) for key, shape in shapes.items()}
    return {**params, "times": torch.linspace(0.1, 0.9, n)}


def test_which_models_can() -> None:
    assert FREEZABLE == ["free-time", "spacetime"]


@pytest.mark.parametrize(("name", "factor"), [("free-time", 1.0), ("spacetime", math.sqrt(2.0))])
def test_durations_are_compared_as_standard_deviations(name: str, factor: float) -> None:
    params = table(name)
    params["durations"] = torch.log(torch.tensor([1.9, 2.1, 9.0, math.inf]) * factor)
    assert make_motion(name).outlasting(params, 2.0).tolist() == [False, True, True, False]


def test_others_have_none_that_outlast() -> None:
    params = {"means": torch.zeros(3, 3)}
    assert not make_motion("static").outlasting(params, 0.1).any()


@pytest.mark.parametrize("name", FREEZABLE)
def test_frozen_gaussians_stay_where_they_are_at_half_the_clip(name: str) -> None:
    motion, params = make_motion(name), table(name)
    middle = motion.at(params, 0.5)
    frozen = {**params, **motion.frozen(params)}
    for time in (0.0, 0.5, 1.0):
        state = motion.at(frozen, time)
        torch.testing.assert_close(state.means, middle.means)
        torch.testing.assert_close(state.quats, middle.quats)
        torch.testing.assert_close(state.opacities, torch.sigmoid(params["opacities"]))
    torch.testing.assert_close(motion.peak_opacities(frozen), torch.sigmoid(params["opacities"]))
    assert not torch.allclose(motion.at(params, 1.0).means, middle.means)


@pytest.mark.parametrize("name", FREEZABLE)
@pytest.mark.usefixtures("cpu_backend")
def test_the_optimiser_leaves_frozen_motion_alone(name: str) -> None:
    motion, params = make_motion(name), table(name)
    stopped = {key: value.clone() for key, value in params.items()}
    for key, value in motion.frozen({key: value[:2] for key, value in params.items()}).items():
        stopped[key][:2] = value
    leaves = {key: torch.nn.Parameter(value.clone()) for key, value in stopped.items() if value.numel()}
    optimizer = FusedAdam(list(leaves.values()), lr=1e-2)
    for time in (0.1, 0.8, 0.3):
        state = motion.at({**stopped, **leaves}, time)
        (state.means.square().sum() + state.quats.square().sum() + state.opacities.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    for key in motion.columns():
        assert torch.equal(leaves[key][:2], stopped[key][:2]), key
        assert not torch.equal(leaves[key][2:], stopped[key][2:]), key
    # Where they are is still learnt.
    assert not torch.equal(leaves["means"][:2], stopped["means"][:2])
