"""The plane sweep finds a textured wall whose distance is known."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from gaussian4d.cameras import Camera
from gaussian4d.fitting.stereo import sweep_points
from gaussian4d.fitting.views import View

WALL = 1.5


def wall_view(x: float, z: float) -> View:
    """Returns a camera near the origin that looks along +y at a wall, and its picture."""
    camera = Camera.look_at(
        np.array([x, 0.0, z]),
        np.array([0.3 * x, WALL, 0.3 * z]),
        np.array([0.0, 0.0, 1.0]),
        width=88,
        height=60,
        focal=80,
    )
    texture = ndimage.gaussian_filter(np.random.default_rng(0).random((300, 300, 3)), (3, 3, 0), mode="wrap")
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    u, v = np.meshgrid(np.arange(88) + 0.5, np.arange(60) + 0.5)
    rays = (
        np.stack([(u - camera.K[0, 2]) / 80, (v - camera.K[1, 2]) / 80, np.ones_like(u)], -1) @ camera.viewmat[:3, :3]
    )
    hit = camera.position + rays * ((WALL - camera.position[1]) / rays[..., 1])[..., None]
    rgb = texture[(hit[..., 2] * 60).astype(int) % 300, (hit[..., 0] * 60).astype(int) % 300]
    return View(camera, rgb.astype(np.float32), None, 0.5, f"{x} {z}")


def test_points_lie_on_the_wall_and_bear_its_colour() -> None:
    views = [wall_view(x, z) for x in (-0.3, 0.0, 0.3) for z in (-0.2, 0.2)]
    xyz, rgb, votes = sweep_points(views, (0.5, 4.0))
    assert len(xyz) == 6 * 88 * 60 == len(rgb) == len(votes)
    agreed = votes >= 3
    assert agreed.mean() > 0.5
    assert np.median(np.abs(xyz[agreed, 1] - WALL)) < 0.05
    # Where neighbours disagree the depth is worse: the votes say something.
    assert np.mean(np.abs(xyz[agreed, 1] - WALL)) < 0.5 * np.mean(np.abs(xyz[votes == 0, 1] - WALL))
    assert rgb.min() >= 0.0 and rgb.max() <= 1.0 and rgb[agreed].std() > 0.1


def test_a_view_alone_gives_nothing() -> None:
    xyz, rgb, votes = sweep_points([wall_view(0.0, 0.0)], (0.5, 4.0))
    assert len(xyz) == len(rgb) == len(votes) == 0
