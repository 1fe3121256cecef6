"""The dual-domain series against its formula, written out with loops in float64."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from gaussian4d.motion import DualDomain, DualDomainConfig
from gaussian4d.motion.dual_domain import series_basis

CONFIG = DualDomainConfig(
    means_poly=3,
    means_fourier=2,
    quats_poly=1,
    quats_fourier=3,
    sh0_poly=2,
    sh0_fourier=0,
    time_factor=0.7,
    time_offset=0.15,
)


def table(n: int = 5) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

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
    return {**params, **{name: normal(n, *shape) for name, shape in DualDomain(CONFIG).columns().items()}}


def series(coefficients: torch.Tensor, tau: float, poly: int, fourier: int) -> list[float]:
    """D(tau) of one Gaussian, channel by channel."""
    degree = max(poly, fourier) + 1
    values = []
    for channel in range(coefficients.shape[1]):
        total = 0.0
        for n in range(1, degree):
            if n <= poly:
                total += float(coefficients[n - 1, channel]) * tau**n
            if n <= fourier:
                total += float(coefficients[poly + n - 1, channel]) * math.sin(2 * math.pi * n * tau)
                total += float(coefficients[poly + fourier + n - 1, channel]) * math.cos(2 * math.pi * n * tau)
        values.append(total / degree)
    return values


@pytest.mark.parametrize("time", [0.0, 0.37, 1.0])
def test_values_follow_the_formula(time: float) -> None:
    params = table()
    state = DualDomain(CONFIG).at(params, time)
    for row in range(5):
        tau = 0.7 * time + 0.15 - float(params["time_centers"][row])
        for value, base, name, poly, fourier in (
            (state.means[row], params["means"][row], "means_series", 3, 2),
            (state.quats[row], params["quats"][row], "quats_series", 1, 3),
            (state.colors[row, 0], params["sh0"][row, 0], "sh0_series", 2, 0),
        ):
            expected = base + torch.tensor(series(params[name][row], tau, poly, fourier), dtype=torch.float64)
            torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state.scales, params["scales"].exp())
    torch.testing.assert_close(state.opacities, torch.sigmoid(params["opacities"]))
    torch.testing.assert_close(state.colors[:, 1:], params["shN"])


def test_gradients_by_finite_differences() -> None:
    params = table(2)
    names = ["means_series", "quats_series", "sh0_series", "time_centers", "means"]

    def positions(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        state = DualDomain(CONFIG).at({**params, **dict(zip(names, values))}, 0.4)
        return state.means, state.quats, state.colors

    inputs = tuple(params[name].clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(positions, inputs)


def test_gradient_is_finite_where_the_argument_is_zero() -> None:
    motion = DualDomain(CONFIG)
    params = {**table(3), "time_centers": torch.full((3,), 0.15, dtype=torch.float64, requires_grad=True)}
    motion.at(params, 0.0).means.sum().backward()
    grad = params["time_centers"].grad
    assert grad is not None
    # At tau = 0 only tau^1 and the sines have a slope; N is 4, and tau falls as the centre rises.
    theta = params["means_series"]
    slope = theta[:, 0] + 2 * math.pi * (theta[:, 3] + 2 * theta[:, 4])
    torch.testing.assert_close(grad, -slope.sum(dim=1) / 4)


def test_slopes_of_the_basis() -> None:
    tau = torch.linspace(-0.3, 0.9, 5, dtype=torch.float64)
    step = 1e-6
    basis, slopes = series_basis(tau, 3, 2)
    ahead, behind = series_basis(tau + step, 3, 2)[0], series_basis(tau - step, 3, 2)[0]
    assert basis.shape == (5, 7)
    torch.testing.assert_close(slopes, (ahead - behind) / (2 * step), rtol=1e-7, atol=1e-7)


def test_new_gaussians_rest() -> None:
    motion = DualDomain()
    params = {**table(4), **{k: v.double() for k, v in motion.init(4).items()}}
    first, last = motion.at(params, 0.0), motion.at(params, 1.0)
    assert torch.equal(first.means, last.means) and torch.equal(first.means, params["means"])


def test_an_attribute_without_terms_has_no_column_and_rests() -> None:
    motion = DualDomain(DualDomainConfig(sh0_poly=0, sh0_fourier=0))
    assert "sh0_series" not in motion.columns()
    params = {name: table(3)[name] for name in ("means", "quats", "scales", "opacities", "sh0", "shN")}
    params |= {name: torch.randn(3, *shape, dtype=torch.float64) for name, shape in motion.columns().items()}
    torch.testing.assert_close(motion.at(params, 0.8).colors[:, :1], params["sh0"])


def test_sh_degree_limits_the_coefficients() -> None:
    state = DualDomain(CONFIG).at(table(), 0.2, sh_degree=0)
    assert state.colors.shape == (5, 1, 3)


def test_with_temporal_opacity_particles_appear_and_vanish() -> None:
    motion = DualDomain(dataclasses.replace(CONFIG, temporal_opacity=True))
    generator = torch.Generator().manual_seed(4)
    params = table()
    params["times"] = torch.rand(5, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    params["durations"] = torch.randn(5, generator=generator, dtype=torch.float64) - 1.0
    state, permanent = motion.at(params, 0.37), DualDomain(CONFIG).at(params, 0.37)
    for row in range(5):
        since = 0.37 - float(params["times"][row])
        factor = math.exp(-0.5 * (since / math.exp(float(params["durations"][row]))) ** 2)
        assert float(state.opacities[row] / permanent.opacities[row]) == pytest.approx(factor, rel=1e-12)
    # The window changes nothing else.
    assert torch.equal(state.means, permanent.means) and torch.equal(state.quats, permanent.quats)
    drawn = torch.stack([motion.at(params, k / 1000).opacities for k in range(1001)]).amax(dim=0)
    torch.testing.assert_close(motion.peak_opacities(params), drawn, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(DualDomain(CONFIG).peak_opacities(params), torch.sigmoid(params["opacities"]))


def test_temporal_opacity_has_gradients_and_columns_of_its_own() -> None:
    motion = DualDomain(DualDomainConfig(temporal_opacity=True))
    assert motion.columns() == {**DualDomain().columns(), "times": (), "durations": ()}
    assert set(motion.learning_rates()) == set(motion.columns()) == set(motion.init(2))
    assert set(DualDomain().learning_rates()) == set(DualDomain().columns())
    names = ["opacities", "times", "durations"]
    params = {**table(2), **{k: v.double() for k, v in motion.init_at(torch.tensor([0.25, math.nan]), 0.2).items()}}

    def visible(*values: torch.Tensor) -> torch.Tensor:
        return motion.at({**params, **dict(zip(names, values))}, 0.4).opacities

    assert torch.autograd.gradcheck(visible, tuple(params[name].clone().requires_grad_() for name in names))
    assert float(params["times"][0]) == 0.25 and float(params["durations"][0]) == pytest.approx(math.log(0.2))
    base = torch.sigmoid(params["opacities"][1])
    assert all(float(motion.at(params, t).opacities[1] / base) > 0.98 for t in (0.0, 1.0))
