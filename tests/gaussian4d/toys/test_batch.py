"""Many views at once are the same pictures as one by one."""

from __future__ import annotations

import numpy as np
import pytest

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.toys import make_toy, make_world, render_views


def _camera(azimuth: float, size: int = 48) -> Camera:
    eye = 3.6 * np.array([np.cos(azimuth), np.sin(azimuth), 0.4])
    return Camera.look_at(eye, np.zeros(3), np.array([0.0, 0.0, 1.0]), width=size, height=size, focal=1.5 * size)


def test_views_agree_with_those_rendered_one_by_one():
    cameras, times = [_camera(a) for a in (0.0, 2.1, 4.4)], [0.0, 0.35, 1.0]
    for seed in range(6):
        toy = make_toy(seed, "test")
        views = render_views(toy.world, cameras, times)
        for k, (camera, time) in enumerate(zip(cameras, times)):
            one = toy.world.render(camera, time, ("rgb", "alpha", "depth"))
            assert one.rgb is not None and one.alpha is not None and one.depth is not None
            apart = np.abs(views.rgba[k] - np.concatenate([one.rgb * one.alpha, one.alpha], -1))
            assert apart.mean() < 1e-4
            # Float32 may put a ray on the other side of an edge now and then.
            assert (apart.max(axis=-1) > 2 / 255).sum() <= 3
            far = np.abs(views.depth[k] - one.depth[..., 0])
            assert (far > 1e-3).sum() <= 3


def test_parts_that_are_absent_are_not_drawn():
    world = make_world(3, parts=1, ground=False)
    brief = type(world)((world.parts[0].during(0.5, 0.8),))
    views = render_views(brief, [_camera(0.3)] * 3, [0.2, 0.6, 0.9])
    assert [bool(v.any()) for v in views.rgba] == [False, True, False]


def test_what_cannot_be_batched_is_refused():
    world = make_world(0)
    with pytest.raises(UserError, match="as many times"):
        render_views(world, [_camera(0.0)], [0.0, 1.0])
    with pytest.raises(UserError, match="one picture size"):
        render_views(world, [_camera(0.0), _camera(0.0, 32)], [0.0, 1.0])
