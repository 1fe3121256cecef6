"""Points found at successive instants start with the velocity of the place they lie on."""

from __future__ import annotations

import math

import numpy as np
import torch

from gaussian4d.fitting.config import FitConfig
from gaussian4d.fitting.initialise import InitialPoints, initial_params
from gaussian4d.fitting.velocities import neighbour_velocities
from gaussian4d.motion import make_motion

VELOCITY = np.array([0.3, -0.2, 0.1])


def clouds(
    instants: int = 4, count: int = 400, resampled: bool = False, velocity: np.ndarray = VELOCITY
) -> tuple[np.ndarray, np.ndarray]:
    """Returns points of a sphere that moves at `velocity`, and their times; other points each time if `resampled`."""
    rng = np.random.default_rng(0)
    parts, times = [], np.linspace(0.0, 1.0, instants)
    for time in times:
        if resampled or not parts:
            sphere = rng.normal(size=(count, 3))
            sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
        parts.append(sphere + velocity * time)
    return np.concatenate(parts), np.repeat(times, count)


def test_points_that_stay_themselves_have_their_velocity() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(5.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    times = np.linspace(0.0, 1.0, 4)
    xyz = np.concatenate([grid + VELOCITY * time for time in times])
    np.testing.assert_allclose(neighbour_velocities(xyz, np.repeat(times, len(grid))), np.tile(VELOCITY, (500, 1)))


def test_other_points_of_the_same_surface_have_about_its_velocity() -> None:
    for velocity in (VELOCITY, -VELOCITY):
        xyz, times = clouds(resampled=True, velocity=velocity)
        found = neighbour_velocities(xyz, times)
        # The nearest point of a surface hides motion along it: over a sphere a third of the motion is left.
        mean = found.mean(axis=0)
        assert 0.28 < mean @ velocity / (velocity @ velocity) < 0.4
        assert np.linalg.norm(np.cross(mean, velocity)) < 0.2 * velocity @ velocity


def test_what_has_no_counterpart_and_what_stands_still_has_no_velocity() -> None:
    xyz, times = clouds()
    lonely = np.array([[30.0, 0.0, 0.0]])
    still = np.array([[0.0, 0.0, 0.0]])
    xyz = np.concatenate([xyz, np.repeat(lonely, 9, axis=0) + 0.01 * np.arange(9)[:, None], still])
    times = np.concatenate([times, np.full(9, times[0]), [math.nan]])
    found = neighbour_velocities(xyz, times)
    assert np.all(found[-10:] == 0.0) and np.all(np.abs(found[:-10]).sum(axis=1) > 0.0)
    assert np.all(neighbour_velocities(xyz[:1], times[:1]) == 0.0)


def test_gaussians_start_moving_and_are_where_they_were_found() -> None:
    xyz, times = clouds()
    points = InitialPoints(xyz, np.zeros_like(xyz), times, 1 / 3)
    expected = torch.tensor(neighbour_velocities(xyz, times), dtype=torch.float32)
    for name in ("free-time", "spacetime"):
        motion = make_motion(name)
        params = initial_params(points, motion, FitConfig(max_steps=1, motion=name).replace({"init.velocities": True}))
        assert {key: value.shape for key, value in params.items() if key in motion.columns()} == {
            key: (len(xyz), *shape) for key, shape in motion.columns().items()
        }
        means = [motion.at(params, time).means for time in (times[0], times[0] + 0.01)]
        first = slice(0, 400)
        torch.testing.assert_close(means[0][first], torch.tensor(xyz[first], dtype=torch.float32))
        torch.testing.assert_close((means[1] - means[0])[first] / 0.01, expected[first], rtol=1e-3, atol=1e-4)
        still = initial_params(points, motion, FitConfig(max_steps=1, motion=name))
        torch.testing.assert_close(motion.at(still, 0.0).means, motion.at(still, 1.0).means)
