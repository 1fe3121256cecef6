"""Views of the browser as pictures of our renderer: the right colours in the right places, in any units."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from viewer_helpers import coloured_blobs, ring

from gaussian4d.rendering import render
from viewer.painter import Painter, rotation_from_wxyz
from viewer.render_loop import View

viser_transforms = pytest.importorskip("viser.transforms")


def view_through(painter: Painter, camera, **changes) -> View:
    """Returns the view of a browser that looks through `camera`."""
    wxyz = viser_transforms.SO3.from_matrix(camera.viewmat[:3, :3].T).wxyz
    position = painter.units.viewer_from_world(camera.position)
    fov = 2 * math.atan(0.5 * camera.height / camera.K[1, 1])
    values = dict(wxyz=tuple(wxyz), position=tuple(position), fov=fov, width=64, height=48, time=0.0)
    return View(**(values | changes))


@pytest.mark.parametrize(("scale", "center"), [(1.0, (0.0, 0.0, 0.0)), (1000.0, (500.0, -2000.0, 30.0))])
def test_a_view_through_a_camera_is_that_cameras_picture(scale: float, center: tuple) -> None:
    model = coloured_blobs()
    model.params["means"] = model.params["means"] * scale + torch.tensor(center)
    model.params["scales"] = model.params["scales"] + math.log(scale)
    cameras = ring(6, scale, center)
    painter = Painter(model, cameras, backend="reference")
    # Browsers clip and dolly in fixed units, so the cameras stand 3 away whatever the scene's unit is.
    assert np.linalg.norm(painter.units.viewer_from_world(cameras[2].position)) == pytest.approx(3.0)
    for camera in (cameras[0], cameras[2]):
        expected = render(model, camera, 0.0, backend="reference").rgb
        assert expected is not None and expected.max() > 0.5
        picture = painter(view_through(painter, camera), 1.0)
        assert np.abs(picture / 255.0 - expected.clamp(0, 1).numpy()).max() < 0.02


def test_smaller_pictures_show_the_same_view() -> None:
    painter = Painter(coloured_blobs(), ring(), backend="reference")
    view = view_through(painter, ring()[0])
    full, half = painter(view, 1.0), painter(view, 0.5)
    assert full.shape == (48, 64, 3) and half.shape == (24, 32, 3)
    averaged = full.reshape(24, 2, 32, 2, 3).mean(axis=(1, 3))
    assert np.abs(averaged - half).mean() < 4.0


@pytest.mark.parametrize("output", ["rgb", "depth", "alpha"])
def test_outputs(output: str) -> None:
    painter = Painter(coloured_blobs(), ring(), background=(1.0, 1.0, 1.0), backend="reference")
    picture = painter(view_through(painter, ring()[0], output=output), 1.0)
    assert picture.dtype == np.uint8 and picture.shape == (48, 64, 3)
    corner, middle = picture[0, 0].astype(int), picture[24, 32].astype(int)
    if output == "rgb":
        assert corner.tolist() == [255, 255, 255] and middle[0] > 200 and middle[1] < 60
    else:
        assert corner.tolist() == [0, 0, 0] and middle.sum() > 300


def test_rotation_from_wxyz_matches_viser() -> None:
    rng = np.random.default_rng(0)
    for wxyz in rng.normal(size=(20, 4)):
        expected = viser_transforms.SO3(wxyz / np.linalg.norm(wxyz)).as_matrix()
        assert np.allclose(rotation_from_wxyz(wxyz), expected)
