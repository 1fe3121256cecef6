"""Followed points stay on what moves: a rigid body of Gaussians, permanent ones and ones that hand points on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import gaussian4d as g4
from gaussian4d.errors import UserError
from gaussian4d.motion import MotionModel, Params, make_motion
from gaussian4d.toys.motions import rotation

DRIFT = np.array([0.5, -0.2, 0.3])
TURN = 0.6


def pose(time: float) -> np.ndarray:
    T = rotation((0.2, 0.1, 1.0), TURN * time)
    T[:3, 3] = DRIFT * time
    return T


def carried(points: np.ndarray, time: float) -> np.ndarray:
    T = pose(time)
    return points @ T[:3, :3].T + T[:3, 3]


def ball(n: int, seed: int = 0) -> np.ndarray:
    directions = np.random.default_rng(seed).normal(size=(n, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def table(means: np.ndarray, own: Params) -> Params:
    n = len(means)
    return {
        "means": torch.tensor(means, dtype=torch.float32),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(n, 4).clone(),
        "scales": torch.full((n, 3), -3.0),
        "opacities": torch.full((n,), 3.0),
        "sh0": torch.zeros(n, 1, 3),
        "shN": torch.zeros(n, 0, 3),
        **own,
    }


def model_of(motion: MotionModel, params: Params) -> g4.DynamicGaussians:
    return g4.DynamicGaussians(params, motion, times=np.linspace(0, 1, 13))


def short_lived() -> g4.DynamicGaussians:
    """Free-time Gaussians, those of each instant two frames long, on a ball that drifts and turns."""
    times = np.linspace(0, 1, 13)
    means, velocities, births = [], [], []
    for k, time in enumerate(times):
        rest = ball(800, seed=k)
        means.append(carried(rest, time))
        velocities.append((carried(rest, time + 1e-4) - carried(rest, time - 1e-4)) / 2e-4)
        births.append(np.full(800, time))
    n = 800 * len(times)
    own = {
        "velocities": torch.tensor(np.concatenate(velocities), dtype=torch.float32),
        "times": torch.tensor(np.concatenate(births), dtype=torch.float32),
        "durations": torch.full((n,), math.log(2.0 / 12.0)),
    }
    return model_of(make_motion("free-time"), table(np.concatenate(means), own))


def riding() -> g4.DynamicGaussians:
    """Dual-domain Gaussians that drift and turn about their own centre, all alike, by one polynomial term."""
    motion = make_motion("dual-domain", {"time_factor": 1.0, "time_offset": 0.0})
    rest = ball(1500)
    params = table(rest, motion.init(len(rest)))
    params["means_series"][:, 0] = torch.tensor(DRIFT, dtype=torch.float32) * 5.0
    params["quats_series"][:, 0] = torch.tensor([0.0, 0.0, 0.0, 0.5]) * 4.0
    return model_of(motion, params)


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_short_lived_gaussians_hand_points_on(start: float) -> None:
    model, points = short_lived(), ball(200, seed=99)
    times = np.linspace(0, 1, 13)
    truth = np.stack([carried(points, time) for time in times])
    row = int(np.argmin(np.abs(times - start)))
    tracks = g4.track_points(model, truth[row], start).numpy()
    size = np.linalg.norm([2.0, 2.0, 2.0])
    errors = np.linalg.norm(tracks - truth, axis=-1) / size
    assert errors.max(axis=1)[row] == 0.0
    assert errors.max() < 0.01
    assert np.linalg.norm(truth - truth[row], axis=-1).max() / size > 0.1


def test_points_ride_on_permanent_gaussians_and_turn_with_them() -> None:
    model = riding()
    point = np.array([[1.05, 0.0, 0.0]])
    there = g4.track_points(model, point, 0.0, [0.7], neighbours=1)[0, 0].numpy()
    before, after = model.at(0.0), model.at(0.7)
    nearest = int(((before.means - torch.tensor(point, dtype=torch.float32)) ** 2).sum(dim=1).argmin())
    angle = 2.0 * math.atan(0.5 * 0.7)
    offset = rotation((0.0, 0.0, 1.0), angle)[:3, :3] @ (point[0] - before.means[nearest].double().numpy())
    np.testing.assert_allclose(there, after.means[nearest].double().numpy() + offset, atol=1e-5)


def test_times_in_any_order_give_the_same_positions() -> None:
    model, points = short_lived(), ball(20, seed=5)
    forward = g4.track_points(model, points, 0.5, [0.0, 0.25, 0.5, 1.0])
    mixed = g4.track_points(model, points, 0.5, [1.0, 0.25, 0.0, 0.5])
    torch.testing.assert_close(mixed, forward[[3, 1, 0, 2]])


def test_what_cannot_be_followed_is_explained() -> None:
    model = riding()
    with pytest.raises(UserError, match=r"shape \(P, 3\), got \(3,\)"):
        g4.track_points(model, np.zeros(3))
    with pytest.raises(UserError, match="nothing connects"):
        g4.track_points(model_of(make_motion("per-frame", {"times": [0.0]}), table(ball(3), {})), np.zeros((1, 3)))
    gone = short_lived()
    gone.params["opacities"] = torch.full_like(gone.params["opacities"], -12.0)
    with pytest.raises(UserError, match="no Gaussian is visible"):
        g4.track_points(gone, np.zeros((1, 3)))
