"""What the viewer draws of a model on the pretend accelerator is what it draws of it on the CPU."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from moving_models import CAMERA, model_of

from gaussian4d import UserError
from gaussian4d.crop import CropBox
from gaussian4d.io.pictures import PICTURE_BUFFERS
from viewer.painter import Painter
from viewer.render_loop import View

VIEW = View(wxyz=(1.0, 0.0, 0.0, 0.0), position=(0.0, 0.0, -3.0), fov=0.8, width=48, height=36, time=0.4)


@pytest.mark.parametrize("output", PICTURE_BUFFERS)
def test_pictures_are_the_same(pretend: torch.device, output: str) -> None:
    cameras = [CAMERA, dataclasses.replace(CAMERA, id="b", viewmat=CAMERA.viewmat.copy())]
    here = Painter(model_of("free-time"), cameras)
    there = Painter(model_of("free-time"), cameras, device=pretend)
    assert there.model.params["means"].device == pretend and there.backend == "pretend"
    box = CropBox((0.0, 0.0, 0.0), (0.8, 0.8, 2.0))
    for view in (VIEW, dataclasses.replace(VIEW, background=(0.2, 0.1, 0.0)), dataclasses.replace(VIEW, crop=box)):
        view = dataclasses.replace(view, output=output)
        picture, wanted = there(view, 0.5), here(view, 0.5)
        assert picture is not None and picture.std() > 5 and np.array_equal(picture, wanted)  # type: ignore[arg-type]
        assert here.behind(view) == there.behind(view)


def test_a_new_model_goes_to_the_device_too(pretend: torch.device) -> None:
    painter = Painter(model_of("free-time"), [CAMERA], device=pretend)
    painter.show(model_of("spacetime"))
    assert painter.model.params["means"].device == pretend
    # Without a device it draws where the model is.
    painter = Painter(model_of("free-time").to(pretend), [CAMERA])
    assert painter.model.params["means"].device == pretend and painter(VIEW, 0.5) is not None


def test_a_backend_of_another_device_is_refused_at_once(pretend: torch.device) -> None:
    with pytest.raises(UserError, match="the backend pretend and the device cpu do not go together"):
        Painter(model_of("static"), [CAMERA], device="cpu", backend="pretend")


def test_splats_for_the_browser_are_the_same(pretend: torch.device) -> None:
    pytest.importorskip("viser")
    from viewer.splats import splat_arrays

    states = [model.at(0.4) for model in (model_of("free-time"), model_of("free-time").to(pretend))]
    arrays = [
        splat_arrays(state, torch.tensor([0.0, -3.0, 0.0]).to(state.means.device), np.zeros(3), 2.0) for state in states
    ]
    for here, there in zip(*arrays, strict=True):
        assert np.array_equal(here, there)
