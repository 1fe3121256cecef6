"""Every published layout: the same point lands on the same pixel, frames are in order, splits are the papers'."""

from __future__ import annotations

import numpy as np
import pytest
from layouts import FRAMES, LAYOUTS, POINT, Layout
from tiny_scenes import HEIGHT, WIDTH, assert_dots, pixel, poses

from gaussian4d.scene import Scene, load_scene


@pytest.fixture(scope="module", params=LAYOUTS, ids=lambda layout: layout.name)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Layout, Scene]:
    folder = tmp_path_factory.mktemp(request.param.name)
    request.param.write(folder)
    return request.param, load_scene(folder)


def camera_of(layout: Layout, camera_id: str) -> int:
    """Returns the number of the camera in `poses()`."""
    return next(c for c, name in enumerate(layout.cameras) if camera_id == name or camera_id.startswith(f"{name}_"))


def test_the_point_lands_on_the_same_pixel(loaded: tuple[Layout, Scene]) -> None:
    layout, scene = loaded
    assert scene.format == layout.format and scene.downscale == layout.downscale
    assert {camera_of(layout, id) for id in scene.cameras} == {0, 1, 2}
    for id, camera in scene.cameras.items():
        x, y, z = camera.viewmat[:3, :3] @ POINT + camera.viewmat[:3, 3]
        found = [camera.K[0, 0] * x / z + camera.K[0, 2], camera.K[1, 1] * y / z + camera.K[1, 2]]
        wanted = np.array(pixel(poses()[camera_of(layout, id)], POINT)) / layout.downscale
        assert z > 0
        np.testing.assert_allclose(found, wanted, atol=1e-3)
        assert (camera.width, camera.height) == (WIDTH // layout.downscale, HEIGHT // layout.downscale)


def test_frames_are_in_numeric_order_and_show_the_dot(loaded: tuple[Layout, Scene]) -> None:
    layout, scene = loaded
    np.testing.assert_allclose(scene.times, np.arange(FRAMES) / (FRAMES - 1))
    assert len(scene.frames("all")) == 3 * FRAMES
    for c in range(3):
        own = {
            split: [frame.time_index for frame in scene.frames(split) if camera_of(layout, frame.camera_id) == c]
            for split in ("train", "test")
        }
        assert sorted(own["train"] + own["test"]) == list(range(FRAMES))
        assert all(order == sorted(order) for order in own.values())
    assert_dots(scene, layout.tolerance)


def test_splits_and_clip(loaded: tuple[Layout, Scene]) -> None:
    layout, scene = loaded
    test = {(camera_of(layout, frame.camera_id), frame.time_index) for frame in scene.frames("test")}
    if layout.test:
        held = {layout.cameras.index(name) for name in layout.test}
        assert test == {(c, k) for c in held for k in range(FRAMES)}
        assert "as stated by the data" in scene.split_note
    else:
        assert test == {(c, k) for c in range(3) for k in (4,)} and "held out" in scene.split_note
    assert len(scene.frames("train")) == 3 * FRAMES - len(test)
    assert scene.fps == layout.fps
    if layout.fps:
        assert scene.duration == pytest.approx((FRAMES - 1) / layout.fps)
