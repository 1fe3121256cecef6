"""Rigid pieces out of noisy trajectories, and what they carry."""

from __future__ import annotations

import math

import numpy as np
import torch

from gaussian4d.toys import make_toy, render_views
from gaussian4d.toys.motions import rotation
from generators.cameras import orbit_camera
from generators.models.pieces import Moves, apply, at_times, pieces_of, rigid_fit
from generators.models.surface import moved, surface_conditions, surfels_of


def _spin(turns: float, count: int, shift: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> torch.Tensor:
    """Returns [count, 3, 4] of an even turn about Z that ends after `turns`, sliding to `shift`."""
    rows = []
    for k in range(count):
        share = k / (count - 1)
        T = rotation((0, 0, 1), 2 * math.pi * turns * share)[:3]
        T[:, 3] += share * np.array(shift)
        rows.append(torch.from_numpy(T).float())
    return torch.stack(rows)


def test_a_rigid_fit_finds_the_motion_through_noise():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(80, 3, generator=generator) * 0.4
    truth = _spin(0.75, 8, (0.2, 0.0, 0.3))
    noisy = apply(truth, points) + 0.05 * torch.randn(8, 80, 3, generator=generator)
    found = rigid_fit(points, noisy)
    assert (apply(found, points) - apply(truth, points)).norm(dim=-1).mean() < 0.03
    torch.testing.assert_close(found[:, :, :3] @ found[:, :, :3].mT, torch.eye(3).expand(8, 3, 3), atol=1e-4, rtol=0)


def test_a_point_and_a_line_do_not_spin_freely():
    line = torch.stack([torch.linspace(-1, 1, 9), torch.zeros(9), torch.zeros(9)], dim=1)
    for points in (line, line[:1]):
        found = rigid_fit(points, points[None] + torch.tensor([0.0, 0.5, 0.0]))
        torch.testing.assert_close(found[0, :, :3], torch.eye(3), atol=1e-3, rtol=0)


def test_pieces_are_told_apart_and_one_body_stays_one():
    generator = torch.Generator().manual_seed(1)
    body = torch.randn(90, 3, generator=generator) * 0.25
    arm = torch.randn(30, 3, generator=generator) * 0.1 + torch.tensor([0.8, 0.0, 0.2])
    points, truth = torch.cat([body, arm]), torch.cat([torch.zeros(90), torch.ones(30)]).long()
    swing = _spin(0.25, 7)
    moved_points = torch.cat([body.expand(7, -1, -1), apply(swing, arm)], dim=1)
    noisy = moved_points + 0.03 * torch.randn(moved_points.shape, generator=generator)
    owner, transforms = pieces_of(points, noisy)
    assert len(transforms) == 2
    agree = (owner == truth).float().mean()
    assert max(agree, 1 - agree) > 0.97
    carried = apply(transforms, points).gather(0, owner.expand(1, 7, -1)[..., None].expand(1, 7, -1, 3))[0]
    assert (carried - moved_points).norm(dim=-1).mean() < 0.03
    alone, one = pieces_of(body, apply(swing, body) + 0.05 * torch.randn(7, 90, 3, generator=generator))
    assert len(one) == 1 and (alone == 0).all()


def test_motion_between_the_times_is_smooth_and_rigid():
    knots = _spin(1.0, 8, (0.4, 0.0, 0.0))[None]
    middles = torch.tensor([[0.3, 0.0, 0.0]])
    torch.testing.assert_close(
        at_times(knots, middles, torch.linspace(0, 1, 8)).transpose(0, 1), knots, atol=1e-4, rtol=1e-4
    )
    times = torch.linspace(0, 1, 31)
    between = at_times(knots, middles, times)[:, 0]
    exact = _spin(1.0, 31, (0.4, 0.0, 0.0))
    points = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    assert (apply(between, points) - apply(exact, points)).norm(dim=-1).max() < 0.06
    torch.testing.assert_close(torch.linalg.det(between[:, :, :3]), torch.ones(31), atol=1e-4, rtol=0)


def test_moved_surfels_are_where_a_later_frame_shows_them():
    """With the true depth, pieces and poses, what faces the camera still is the later picture."""
    camera = orbit_camera(0.0, 15.0)
    viewmat, K = torch.from_numpy(camera.viewmat).float(), torch.from_numpy(camera.K).float()
    compared = []
    for seed in range(6):
        parts = make_toy(seed, "test").world
        times = [0.0, 0.2, 0.6]
        views = render_views(parts, [camera] * 3, times)
        truth = torch.from_numpy(views.rgba).permute(0, 3, 1, 2)
        surfels = surfels_of(truth[0], torch.from_numpy(views.depth[0]), viewmat, K)
        transforms = np.stack(
            [[(p.T_world_part(t) @ np.linalg.inv(p.T_world_part(0.0)))[:3] for p in parts.parts] for t in times]
        )
        moves = Moves(torch.from_numpy(views.owner[0]), torch.from_numpy(transforms).float())
        drawn = surface_conditions(moved(surfels, moves), viewmat.expand(3, -1, -1), K.expand(3, -1, -1), 64)
        for k in range(3):
            # Not at the rim, where half-covered pixels are lit differently.
            sure = (drawn[k, 3] > 0.9) & (truth[k, 3] > 0.99) & (drawn[k, 7] > 0.3)
            if sure.sum() < 50:
                continue  # turned away
            error = (drawn[k, :3] - truth[k, :3])[:, sure].square().mean()
            still = (truth[0, :3] - truth[k, :3])[:, sure].square().mean()
            compared.append([-10 * math.log10(float(x) + 1e-9) for x in (error, still)])
    assert len(compared) >= 12
    drawn_well, not_moved = np.array(compared).T
    assert drawn_well.min() > 14 and drawn_well.mean() > 20
    # It is the motion that does it.
    later = not_moved < 30
    assert later.sum() >= 5 and (drawn_well - not_moved)[later].mean() > 3
