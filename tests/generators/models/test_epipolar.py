"""Epipolar samples: what is seen along a ray is what projection says, and the hull holds the object."""

from __future__ import annotations

import numpy as np
import torch

from gaussian4d.toys import make_toy, render_views
from generators.cameras import orbit_camera, orbit_cameras, pluecker_rays
from generators.models.epipolar import DEPTHS, epipolar_samples, hull


def _projection(camera) -> torch.Tensor:
    return torch.from_numpy(camera.K @ camera.viewmat[:3]).float()[None]


def test_the_same_camera_sees_its_own_picture_at_every_depth():
    camera = orbit_camera(0.0, 10.0)
    rgba = render_views(make_toy(2).world, [camera], [0.0]).rgba
    picture = torch.from_numpy(rgba).permute(0, 3, 1, 2)
    samples = epipolar_samples(picture, _projection(camera), pluecker_rays([camera])[None], pool=1)
    assert samples.shape == (1, 1, DEPTHS, 4, 64, 64)
    assert (samples - picture[:, None, None]).abs().max() < 2e-2


def test_points_on_the_rays_project_to_where_they_are_sampled():
    # A picture that says where its pixels are: red rises to the right, green downwards.
    grid = (torch.arange(64) + 0.5) / 64
    picture = torch.stack([grid.expand(64, 64), grid[:, None].expand(64, 64), torch.zeros(64, 64), torch.ones(64, 64)])
    source, target = orbit_camera(0.0, 15.0), orbit_camera(60.0, 0.0)
    samples = epipolar_samples(picture[None], _projection(source), pluecker_rays([target])[None], pool=1)[0, 0]
    # The middle ray goes through the origin, which every camera sees in its middle; depths lie evenly around it.
    middle = samples[:, :2, 31:33, 31:33].mean(dim=(2, 3))
    direction = np.array(target.forward)
    for k, s in enumerate((np.arange(DEPTHS) + 0.5) / DEPTHS * 2 - 1):
        point = source.K @ (source.viewmat[:3, :3] @ (s * direction) + source.viewmat[:3, 3])
        expected = torch.tensor(point[:2] / point[2] / 64).float()
        torch.testing.assert_close(middle[k], expected, atol=5e-3, rtol=0)


def test_the_object_lies_within_the_hull_of_its_picture():
    cameras = orbit_cameras(6)
    for seed in range(4):
        views = torch.from_numpy(render_views(make_toy(seed).world, cameras, [0.0] * 6).rgba).permute(0, 3, 1, 2)
        samples = epipolar_samples(views[:1], _projection(cameras[0]), pluecker_rays(cameras)[None])
        shape = hull(samples)[0, :, 0]
        alpha = torch.nn.functional.avg_pool2d(views[:, 3], 2)
        # Twelve depths may step over a thin edge.
        assert (shape[alpha > 0.95] > 0.1).float().mean() > 0.97
        assert shape.mean() > alpha.mean()
