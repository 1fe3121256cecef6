"""Spacetime Gaussians against their formulas, written out Gaussian by Gaussian in float64."""

from __future__ import annotations

import math

import pytest
import torch

from gaussian4d.errors import UserError
from gaussian4d.motion import Spacetime, SpacetimeConfig, make_motion


def table(n: int = 4, degree: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    params = {
        "means": normal(n, 3),
        "quats": normal(n, 4),
        "scales": normal(n, 3),
        "opacities": normal(n),
        "sh0": normal(n, 1, 3),
        "shN": normal(n, 3, 3),
    }
    columns = Spacetime(SpacetimeConfig(degree=degree)).columns()
    return {**params, **{name: 0.5 * normal(n, *shape) for name, shape in columns.items()}}


@pytest.mark.parametrize("degree", [1, 3])
@pytest.mark.parametrize("time", [0.0, 0.37, 1.0])
def test_values_follow_the_formula(time: float, degree: int) -> None:
    params = table(degree=degree)
    state = Spacetime(SpacetimeConfig(degree=degree)).at(params, time)
    for row in range(4):
        since = time - float(params["times"][row])
        mean = params["means"][row].clone()
        for k in range(1, degree + 1):
            mean += params["trajectories"][row, k - 1] * since**k
        torch.testing.assert_close(state.means[row], mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(state.quats[row], params["quats"][row] + params["spins"][row] * since)
        base = 1.0 / (1.0 + math.exp(-float(params["opacities"][row])))
        window = math.exp(-((since / math.exp(float(params["durations"][row]))) ** 2))
        assert float(state.opacities[row]) == pytest.approx(base * window, rel=1e-12)
    torch.testing.assert_close(state.scales, params["scales"].exp())
    assert state.colors.shape == (4, 4, 3)
    assert Spacetime(SpacetimeConfig(degree=degree)).at(params, time, sh_degree=0).colors.shape == (4, 1, 3)


def test_gradients_by_finite_differences() -> None:
    params = table()
    moving = ["means", "quats", "trajectories", "spins"]
    fading = ["opacities", "times", "durations"]

    def drawn(*values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        state = Spacetime().at({**params, **dict(zip(moving, values))}, 0.6)
        return state.means, state.quats

    def visible(*values: torch.Tensor) -> torch.Tensor:
        return Spacetime().at({**params, **dict(zip(fading, values))}, 0.6).opacities

    assert torch.autograd.gradcheck(drawn, tuple(params[name].clone().requires_grad_() for name in moving))
    assert torch.autograd.gradcheck(visible, tuple(params[name].clone().requires_grad_() for name in fading))


def test_the_motion_sends_no_gradient_to_the_instants() -> None:
    params = table()
    params["times"].requires_grad_()
    params["means"].requires_grad_()
    state = Spacetime().at(params, 0.9)
    (state.means.sum() + state.quats.sum()).backward()
    assert params["times"].grad is None


def test_peak_opacity_is_the_largest_inside_the_clip() -> None:
    params = table()
    params["times"] = torch.tensor([0.3, 1.4, -0.2, 0.9], dtype=torch.float64)
    drawn = torch.stack([Spacetime().at(params, k / 1000).opacities for k in range(1001)]).amax(dim=0)
    torch.testing.assert_close(Spacetime().peak_opacities(params), drawn)


def test_a_motion_without_degree_is_explained() -> None:
    with pytest.raises(UserError, match="degree"):
        make_motion("spacetime", {"degree": 0})


def test_found_at_an_instant_it_has_the_window_of_free_time() -> None:
    motion = Spacetime()
    params = {**table(2), **{k: v.double() for k, v in motion.init_at(torch.tensor([0.25, math.nan]), 0.1).items()}}
    base = torch.sigmoid(params["opacities"])
    # A standard deviation of 0.1 clips: exp(-1/2) after it. The other is there all the time.
    for time in (0.15, 0.35):
        assert float(motion.at(params, time).opacities[0] / base[0]) == pytest.approx(math.exp(-0.5), rel=1e-6)
    for time in (0.0, 1.0):
        assert float(motion.at(params, time).opacities[1] / base[1]) > 0.98
        torch.testing.assert_close(motion.at(params, time).means, params["means"])
