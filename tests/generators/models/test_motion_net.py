"""The motion network's frame, anchors and sampling at tiny size."""

from __future__ import annotations

import pytest
import torch

from generators.cameras import orbit_camera, rays_of
from generators.models import moving
from generators.models.motion import (
    STEPS,
    MotionConfig,
    MotionNet,
    _anchors,
    _tokens,
    anchor_pixels,
    facing_rays,
    from_network,
    lifted,
    to_network,
)
from generators.models.moving import sample_moves
from generators.models.noise import fresh_step, scheduler
from generators.models.surface import SurfaceNet
from generators.models.view_transformer import ViewTransformerConfig


def _pose(azimuth: float) -> tuple[torch.Tensor, torch.Tensor]:
    camera = orbit_camera(azimuth, 20.0)
    return torch.from_numpy(camera.viewmat).float()[None], torch.from_numpy(camera.K).float()[None]


def test_anchors_are_the_same_after_tokens():
    moves = torch.randn(2, 256, STEPS, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(_anchors(_tokens(moves)), moves)


def test_a_block_is_represented_by_its_solid_pixel_nearest_to_the_middle():
    solid = torch.zeros(1, 64, 64, dtype=torch.bool)
    solid[0, 4:8, 8:12] = True
    solid[0, 20, 31] = True
    pixels, there = anchor_pixels(solid)
    assert there.sum() == 2
    assert int(pixels[0, 1 * 16 + 2]) in [r * 64 + c for r in (5, 6) for c in (9, 10)]
    assert int(pixels[0, 5 * 16 + 7]) == 20 * 64 + 31


def test_the_frame_turns_with_the_camera():
    """The same toy seen from the same side of itself looks the same to the network at every azimuth."""
    displacement = torch.tensor([0.3, -0.2, 0.5])
    for azimuth in (0.0, 70.0, 200.0):
        viewmats, Ks = _pose(azimuth)
        angle = torch.tensor(azimuth).deg2rad()
        turn = torch.tensor([[angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1]])
        there = (turn @ displacement).expand(1, 256, STEPS, 3)
        seen = to_network(there, viewmats)
        straight = (displacement / displacement.norm()).expand_as(seen)
        torch.testing.assert_close(seen / seen.norm(dim=-1, keepdim=True), straight, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(from_network(seen, viewmats), there, atol=1e-6, rtol=1e-5)
        rays = facing_rays(rays_of(viewmats, Ks), viewmats)
        torch.testing.assert_close(rays, rays_of(*_pose(0.0)), atol=2e-5, rtol=1e-4)


def test_lifted_pixels_project_to_where_they_were():
    viewmats, Ks = _pose(30.0)
    depth = 3.0 + torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(0))
    points = lifted(depth, viewmats, Ks)
    local = points @ viewmats[0, :3, :3].T + viewmats[0, :3, 3]
    seen = local[0] @ Ks[0].T
    torch.testing.assert_close(seen[64 * 5 + 9, :2] / seen[64 * 5 + 9, 2], torch.tensor([9.5, 5.5]), atol=1e-3, rtol=0)
    torch.testing.assert_close(local[0, :, 2], depth.flatten(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("clip", [True, False])
def test_fresh_steps_are_finite_for_any_number_of_steps(clip):
    """Rounding of the schedule at pure noise made some numbers of steps, 3 among them, end in NaN."""
    generator = torch.Generator().manual_seed(0)
    for steps in range(1, 101):
        ddim = scheduler(clip)
        ddim.set_timesteps(steps)
        x = torch.randn(64, generator=generator)
        for t in ddim.timesteps:
            x = fresh_step(ddim, torch.full((64,), 0.5), int(t), x, generator)
        # Where the steps do not divide the schedule, a hundredth of the noise is left.
        torch.testing.assert_close(x, torch.full((64,), 0.5), atol=0.05, rtol=0)


def test_sampled_moves_are_rigid_and_begin_at_rest():
    torch.manual_seed(0)
    motion = MotionNet(MotionConfig(width=32, layers=1, heads=2)).eval()
    torch.nn.init.normal_(motion.out.weight, std=0.1)
    surface = SurfaceNet(ViewTransformerConfig(width=32, layers=1, heads=2)).eval()
    picture = torch.zeros(4, 64, 64)
    picture[:, 16:50, 20:44] = 0.8
    picture[3, 16:50, 20:44] = 1.0
    words = torch.zeros(1, 20, dtype=torch.long)
    args = (motion, surface, picture, orbit_camera(0.0, 15.0), words, torch.linspace(0, 1, 5))
    moves = sample_moves(*args, steps=3, guidance=1.0, seed=4)
    assert moves.owner.shape == (64, 64) and len(moves.transforms) == 5
    torch.testing.assert_close(moves.transforms[0], torch.eye(4)[:3].expand_as(moves.transforms[0]), atol=1e-4, rtol=0)
    R = moves.transforms[..., :3]
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand_as(R), atol=1e-4, rtol=0)
    again = sample_moves(*args, steps=3, guidance=1.0, seed=4)
    other = sample_moves(*args, steps=3, guidance=1.0, seed=5)
    assert torch.equal(again.transforms, moves.transforms)
    assert other.transforms.shape != moves.transforms.shape or not torch.equal(other.transforms, moves.transforms)
    # A picture that shows nothing moves nothing.
    nothing = sample_moves(motion, surface, torch.zeros(4, 64, 64), *args[3:], steps=2, guidance=1.0, seed=0)
    assert torch.equal(nothing.transforms, torch.eye(4)[:3].expand(5, 1, 3, 4))


def test_a_piece_that_hardly_moves_is_at_rest_and_the_others_are_not():
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * 0.3
    owner = torch.arange(40) // 20
    transforms = torch.eye(4)[:3].repeat(2, STEPS, 1, 1)
    # The error of a network, and a small but real motion.
    transforms[0, :, :, 3] = 0.03
    transforms[1, :, 0, 3] = 0.1
    calm = moving._at_rest(points, owner, transforms)
    assert torch.equal(calm[0], torch.eye(4)[:3].expand(STEPS, -1, -1)) and torch.equal(calm[1], transforms[1])
