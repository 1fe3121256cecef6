"""Neighbours that move as one body cost nothing, others do; straight motion has no acceleration."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gaussian4d.fitting.coherence import isometry, patches, relative_rotation, rigidity
from gaussian4d.fitting.config import FitConfig
from gaussian4d.fitting.densify import rotate
from gaussian4d.fitting.step import Step
from gaussian4d.fitting.targets import Target
from gaussian4d.fitting.terms import terms_of
from gaussian4d.gaussians import Gaussians
from gaussian4d.motion import MotionModel, Params, make_motion

COUNT = 60


def config(**settings: Any) -> FitConfig:
    """Returns settings without terms but those given."""
    return FitConfig(max_steps=1).replace({"loss.weights": {}, **settings})


def coherence(settings: FitConfig, motion: MotionModel, params: Params, time: float, number: int, seed: int) -> Tensor:
    """Returns the sum of the terms in step `number`; the camera's index makes the seed."""
    nothing: Any = None
    target = Target(torch.zeros(0), None, torch.eye(4), torch.eye(3), 1, 1, time, seed, nothing, 0)
    state = motion.at(params, time)
    more: dict[str, Any] = {"near": 0.1, "backend": "auto", "background": torch.zeros(3), "frame_interval": 0.1}
    step = Step(settings, number, 0.5, target, state, motion, params, **more)
    values = [value for term in terms_of(settings, motion) if (value := term(step)) is not None]
    return sum(values, torch.zeros(()))


def at_rest(motion: MotionModel, n: int = COUNT) -> Params:
    generator = torch.Generator().manual_seed(1)
    means = torch.rand(n, 3, generator=generator)
    return {
        "means": means,
        "quats": torch.randn(n, 4, generator=generator),
        "scales": torch.full((n, 3), math.log(0.02)),
        "opacities": torch.zeros(n),
        "sh0": torch.zeros(n, 1, 3),
        "shN": torch.zeros(n, 3, 3),
        **motion.init(n),
        **motion.init_shared(means, generator),
    }


def penalty(motion: MotionModel, params: Params, time: float = 0.4, seed: int = 3, **settings: Any) -> float:
    """Returns the penalty as it is on the mean over steps, of which one in four looks."""
    steps = [float(coherence(config(**settings), motion, params, time, step, seed)) for step in range(4)]
    assert steps[1:] == [0.0] * 3
    return sum(steps) / len(steps)


class Turning(MotionModel):
    """Everything turns about the z axis at `speed` radians per clip and grows by `growth` per clip."""

    name = "turning"

    def __init__(self, speed: float, growth: float = 0.0, turns_quats: bool = True) -> None:
        super().__init__(None)
        self.speed, self.growth, self.turns_quats = speed, growth, turns_quats

    def at(self, params: Params, time: float, sh_degree: int | None = None) -> Gaussians:
        half = 0.5 * self.speed * time
        quat = torch.tensor([math.cos(half), 0.0, 0.0, math.sin(half)]).expand(len(params["means"]), 4)
        means = rotate(quat, params["means"]) * (1.0 + self.growth * time)
        quats = product(quat, params["quats"]) if self.turns_quats else params["quats"]
        return Gaussians(means, quats, params["scales"].exp(), torch.sigmoid(params["opacities"]), params["sh0"])


def product(a: Tensor, b: Tensor) -> Tensor:
    """Returns the product of quaternions wxyz."""
    w = a[..., :1] * b[..., :1] - (a[..., 1:] * b[..., 1:]).sum(-1, keepdim=True)
    return torch.cat(
        [w, a[..., :1] * b[..., 1:] + b[..., :1] * a[..., 1:] + torch.linalg.cross(a[..., 1:], b[..., 1:])], -1
    )


def test_relative_rotation_takes_there_to_here() -> None:
    generator = torch.Generator().manual_seed(0)
    here, there = torch.randn(5, 4, generator=generator), 3.0 * torch.randn(5, 4, generator=generator)
    vectors = torch.randn(5, 3, generator=generator)
    turned = torch.einsum("nab,nb->na", relative_rotation(here, there), rotate(there, vectors))
    torch.testing.assert_close(turned, rotate(here, vectors))


def test_a_body_that_turns_is_rigid_when_its_gaussians_turn_with_it() -> None:
    settings: dict[str, Any] = {"rigidity_weight": 1.0, "rigidity_span": 0.5}
    rigid, sliding = Turning(2.0), Turning(2.0, turns_quats=False)
    params = at_rest(rigid)
    assert penalty(rigid, params, **settings) < 1e-6
    assert penalty(sliding, params, **settings) > 1e-2
    # Distances stay the same either way, and change when the body grows.
    distances: dict[str, Any] = {"isometry_weight": 1.0, "rigidity_span": 0.5}
    assert penalty(sliding, params, **distances) < 1e-6
    assert penalty(Turning(2.0, growth=1.0), params, **distances) > 1e-2


def test_rigidity_and_isometry_by_hand() -> None:
    here = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0], [0.0, 2.0, 0]]])
    there = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0], [0.0, 5.0, 0]]])
    turn = torch.eye(3).expand(1, 3, 3, 3)
    weights = torch.zeros(1, 3, 3)
    weights[0, 0, 1], weights[0, 0, 2] = 3.0, 1.0
    assert float(rigidity(here, there, turn, weights)) == pytest.approx((3.0 * 0.0 + 1.0 * 3.0) / 4.0)
    assert float(isometry(here, there, weights)) == pytest.approx((3.0 * 0.0 + 1.0 * 3.0) / 4.0)
    # i's own rotation turns the offsets that start at i.
    quarter = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    one = turn.clone()
    one[0, 0] = quarter
    assert float(rigidity(here, there, one, weights)) == pytest.approx((3.0 * 2.0**0.5 + 29.0**0.5) / 4.0)


def test_patches_are_the_nearest_of_those_that_are_there() -> None:
    motion = make_motion("free-time", {})
    params = at_rest(motion)
    params["opacities"][::2] = -9.0
    state = motion.at(params, 0.5)
    rows = patches(state, 7, torch.Generator().manual_seed(2))
    assert rows.shape[1] == 7 and bool((rows % 2 == 1).all())
    odd = torch.arange(1, COUNT, 2)
    for patch in rows:
        distances = (params["means"][odd] - params["means"][patch[0]]).norm(dim=1)
        assert set(patch.tolist()) == set(odd[distances.argsort()[:7]].tolist())
    # Too few for one patch: none, and no penalty.
    assert patches(state, COUNT // 2 + 1, torch.Generator()).shape == (0, COUNT // 2 + 1)
    assert penalty(motion, params, rigidity_weight=1.0, rigidity_neighbours=COUNT) == 0.0


def test_who_is_gone_at_the_other_time_does_not_count() -> None:
    motion = make_motion("free-time", {})
    params = at_rest(motion)
    params["velocities"] = torch.randn(COUNT, 3, generator=torch.Generator().manual_seed(5))
    settings: dict[str, Any] = {"rigidity_weight": 1.0, "rigidity_span": 0.5}
    assert penalty(motion, params, **settings) > 0.01
    params["times"][:], params["durations"][:] = 0.4, math.log(1e-4)
    assert penalty(motion, params, **settings) == 0.0


def test_acceleration_is_what_a_cubic_has() -> None:
    motion = make_motion("spacetime", {})
    params = at_rest(motion)
    params["trajectories"][:, 0] = 3.0
    settings: dict[str, Any] = {"smoothness_weight": 2.0, "smoothness_step": 0.05}
    assert penalty(motion, params, **settings) < 1e-2
    params["trajectories"][:, 1, 0], params["trajectories"][:, 2, 0] = 0.5, 2.0
    expected = abs(2.0 * 0.5 + 6.0 * 2.0 * (0.4 - 0.5))
    assert penalty(motion, params, **settings) == pytest.approx(2.0 * expected, rel=0.05)


@pytest.mark.parametrize("name", ["dual-domain", "spacetime", "free-time", "hexplane"])
def test_the_penalties_pull_scattered_motion_together(name: str) -> None:
    motion = make_motion(name, {"space_resolution": 8, "features": 4, "width": 16} if name == "hexplane" else {})
    params: Params = {key: torch.nn.Parameter(value) for key, value in at_rest(motion).items()}
    moving = [key for key in motion.learning_rates() if key != "shared.bounds"]
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for key in moving:
            params[key].add_(0.3 * torch.randn(params[key].shape, generator=generator))
    settings: dict[str, Any] = {"rigidity_weight": 1.0, "isometry_weight": 1.0, "smoothness_weight": 1e-3}
    optimizer = torch.optim.Adam([params[key] for key in moving], lr=0.02)
    costs = []
    for step in range(30):
        total = torch.zeros(())
        for k, time in enumerate((0.2, 0.5, 0.8)):
            total = total + coherence(config(**settings), motion, params, time, 0, 10 * step + k)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        assert all(bool(torch.isfinite(value).all()) for value in params.values())
        costs.append(float(total.detach()))
    assert sum(costs[-3:]) < 0.6 * sum(costs[:3]), costs


def test_a_seed_repeats_and_weights_of_zero_cost_nothing() -> None:
    motion = make_motion("dual-domain", {})
    params = at_rest(motion)
    params["means_series"] += torch.randn(params["means_series"].shape, generator=torch.Generator().manual_seed(4))
    first, again, other = (penalty(motion, params, seed=seed, rigidity_weight=1.0) for seed in (1, 1, 2))
    assert first == again != other
    assert coherence(config(rigidity_weight=0.0), motion, params, 0.4, 0, 1) == 0.0
    assert terms_of(config(rigidity_weight=0.0), motion) == []
    still = make_motion("static", {})
    assert coherence(config(rigidity_weight=1.0), still, params, 0.4, 0, 1) == 0.0
