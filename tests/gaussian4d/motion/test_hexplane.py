"""The HexPlane field against a bilinear lookup written out by hand, at rest, and its gradients and penalties."""

from __future__ import annotations

import pytest
import torch

from gaussian4d.errors import UserError
from gaussian4d.motion import HexPlane, HexPlaneConfig, Static, make_motion
from gaussian4d.motion.hexplane import plane_features, plane_variation, time_activity, time_roughness

SMALL = HexPlaneConfig(space_resolution=4, time_resolution=3, levels=(1, 2), features=2, width=5, deform_opacities=True)


def table(config: HexPlaneConfig = SMALL, n: int = 6, random: bool = True) -> dict[str, torch.Tensor]:
    """Returns Gaussians and shared tensors in float64; `random` fills what starts at zero or one."""
    generator = torch.Generator().manual_seed(2)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    params = {
        "means": normal(n, 3),
        "quats": normal(n, 4),
        "scales": normal(n, 3),
        "opacities": normal(n),
        "sh0": normal(n, 1, 3),
        "shN": normal(n, 0, 3),
    }
    shared = HexPlane(config).init_shared(params["means"], generator)
    shared = {name: value.double() for name, value in shared.items()}
    if random:
        shared |= {name: normal(*value.shape) for name, value in shared.items() if name != "shared.bounds"}
    return {**params, **shared}


def bilinear(plane: torch.Tensor, across: float, down: float) -> torch.Tensor:
    """`plane` [F, rows, columns] at the places -1..1 `across` the columns and `down` the rows; borders continue."""
    rows, columns = plane.shape[1:]
    x = min(max((across + 1) / 2 * (columns - 1), 0.0), columns - 1.0)
    y = min(max((down + 1) / 2 * (rows - 1), 0.0), rows - 1.0)
    i, j = min(int(x), columns - 2), min(int(y), rows - 2)
    a, b = x - i, y - j
    top = (1 - a) * plane[:, j, i] + a * plane[:, j, i + 1]
    return (1 - b) * top + b * ((1 - a) * plane[:, j + 1, i] + a * plane[:, j + 1, i + 1])


@pytest.mark.parametrize("time", [0.0, 0.3, 1.0, 1.2])
def test_features_are_the_product_of_six_bilinear_lookups(time: float) -> None:
    params = table()
    # The last one lies outside the box.
    params["means"][-1] = 9.0
    features = plane_features(params, 2, time)
    low, high = params["shared.bounds"]
    assert torch.all(low < params["means"][:-1].amin(0)) and torch.all(high > params["means"][:-1].amax(0))
    for row in range(6):
        x, y, z = ((params["means"][row] - low) / (high - low) * 2 - 1).tolist()
        t = 2 * time - 1
        for level in range(2):
            space, over_time = params[f"shared.space.{level}"], params[f"shared.time.{level}"]
            expected = torch.ones(2, dtype=torch.float64)
            for plane, across, down in zip(space, (x, x, y), (y, z, z)):
                expected = expected * bilinear(plane, across, down)
            for plane, across in zip(over_time, (x, y, z)):
                expected = expected * bilinear(plane, across, t)
            torch.testing.assert_close(features[row, 2 * level : 2 * level + 2], expected, rtol=1e-9, atol=1e-12)


def test_deltas_follow_the_network() -> None:
    params = table()
    features = plane_features(params, 2, 0.3)
    trunk = torch.relu(features @ params["shared.trunk.weight"].T + params["shared.trunk.bias"])

    def delta(name: str) -> torch.Tensor:
        hidden = torch.relu(trunk @ params[f"shared.{name}.hidden.weight"].T + params[f"shared.{name}.hidden.bias"])
        return hidden @ params[f"shared.{name}.out.weight"].T + params[f"shared.{name}.out.bias"]

    state = HexPlane(SMALL).at(params, 0.3)
    torch.testing.assert_close(state.means, params["means"] + delta("means"))
    torch.testing.assert_close(state.quats, params["quats"] + delta("quats"))
    torch.testing.assert_close(state.scales, torch.exp(params["scales"] + delta("scales")))
    torch.testing.assert_close(state.opacities, torch.sigmoid(params["opacities"] + delta("opacities")[:, 0]))
    assert not torch.allclose(state.means, HexPlane(SMALL).at(params, 0.8).means)


@pytest.mark.parametrize("config", [SMALL, HexPlaneConfig(), HexPlaneConfig(deform_scales=False, deform_quats=False)])
def test_nothing_moves_at_first(config: HexPlaneConfig) -> None:
    params = table(config, random=False)
    for time in (0.0, 0.7):
        state, rest = HexPlane(config).at(params, time), Static().at(params, time)
        for name in ("means", "quats", "scales", "opacities", "colors"):
            assert torch.equal(getattr(state, name), getattr(rest, name)), name


def test_the_field_can_learn_from_its_start() -> None:
    params = {name: value.requires_grad_() for name, value in table(random=False).items()}
    optimizer = torch.optim.Adam([value for name, value in params.items() if name.startswith("shared.")], lr=1e-2)
    target = params["means"].detach() + torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
    losses = []
    for _ in range(60):
        loss = (HexPlane(SMALL).at(params, 0.8).means - target).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.05 * losses[0]
    assert params["shared.bounds"].grad is None


def test_gradients_by_finite_differences() -> None:
    params = table(n=3)
    names = [
        "means",
        "quats",
        "scales",
        "opacities",
        *(n for n in params if n.startswith("shared.") and "bounds" not in n),
    ]

    def drawn(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        state = HexPlane(SMALL).at({**params, **dict(zip(names, values))}, 0.3)
        return state.means, state.quats, state.scales, state.opacities

    assert torch.autograd.gradcheck(drawn, tuple(params[name].clone().requires_grad_() for name in names))


def test_peak_opacities_see_the_whole_clip() -> None:
    params = table()
    drawn = torch.stack([HexPlane(SMALL).at(params, k / 8).opacities for k in range(9)])
    torch.testing.assert_close(HexPlane(SMALL).peak_opacities(params), drawn.amax(dim=0))
    assert not torch.allclose(drawn.amax(dim=0), drawn[0])
    still = HexPlane(HexPlaneConfig(deform_opacities=False))
    torch.testing.assert_close(still.peak_opacities(params), torch.sigmoid(params["opacities"]))


def test_penalties_follow_their_formulas() -> None:
    params = table()
    variation = roughness = activity = 0.0
    for level in range(2):
        space, over_time = params[f"shared.space.{level}"].tolist(), params[f"shared.time.{level}"].tolist()
        size, instants = len(space[0][0]), len(over_time[0][0])
        down = across = second = rest = 0.0
        for p in range(3):
            for f in range(2):
                s, t = space[p][f], over_time[p][f]
                down += sum((s[i + 1][j] - s[i][j]) ** 2 for i in range(size - 1) for j in range(size))
                across += sum((s[i][j + 1] - s[i][j]) ** 2 for i in range(size) for j in range(size - 1))
                second += sum(
                    (t[i + 2][j] - 2 * t[i + 1][j] + t[i][j]) ** 2 for i in range(instants - 2) for j in range(size)
                )
                rest += sum(abs(t[i][j] - 1) for i in range(instants) for j in range(size))
        variation += (down + across) / (6 * size * (size - 1))
        roughness += second / (6 * size * (instants - 2))
        activity += rest / (6 * size * instants)
    assert float(plane_variation(params)) == pytest.approx(variation)
    assert float(time_roughness(params)) == pytest.approx(roughness)
    assert float(time_activity(params)) == pytest.approx(activity)
    assert float(time_activity(table(random=False))) == 0.0


def test_sizes_that_hold_no_field_are_explained() -> None:
    for settings, word in (
        ({"time_resolution": 2}, "time_resolution"),
        ({"space_resolution": 1}, "space_resolution"),
        ({"levels": []}, "levels"),
        ({"width": 0}, "width"),
    ):
        with pytest.raises(UserError, match=word):
            make_motion("hexplane", settings)
