"""Buffers of a single opaque Gaussian disc, whose geometry and motion are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import FreeTime
from gaussian4d.rendering import BUFFERS, render

CAMERA = Camera.look_at(
    np.array([0.0, -4.0, 0.0]), np.zeros(3), np.array([0.0, 0.0, 1.0]), width=33, height=33, focal=40.0
)


def disc(velocity: tuple[float, float, float] = (0.5, 0.0, 0.0)) -> DynamicGaussians:
    """A wide flat Gaussian across the view axis at the origin, moving."""
    params = {
        "means": torch.zeros(1, 3),
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        "scales": torch.tensor([[0.5, 0.01, 0.5]]).log(),
        "opacities": torch.tensor([8.0]),
        "sh0": torch.full((1, 1, 3), 0.5),
        "shN": torch.zeros(1, 0, 3),
        "velocities": torch.tensor([velocity]),
        "times": torch.zeros(1),
        "durations": torch.tensor([math.log(100.0)]),
    }
    return DynamicGaussians(params, FreeTime(), background=torch.tensor([0.0, 0.0, 1.0]), times=np.linspace(0, 1, 11))


def test_geometry_in_the_middle() -> None:
    output = render(disc(), CAMERA, 0.0, BUFFERS)
    shapes = {"rgb": 3, "depth": 1, "normal": 3, "flow": 2, "alpha": 1, "uncertainty": 1, "xyz": 3}
    for name, channels in shapes.items():
        value = getattr(output, name)
        assert value.shape == (33, 33, channels) and torch.isfinite(value).all()

    def middle(name: str) -> torch.Tensor:
        return getattr(output, name)[16, 16]

    assert float(middle("alpha")) > 0.99
    torch.testing.assert_close(middle("depth"), torch.tensor([4.0]))
    torch.testing.assert_close(middle("xyz"), torch.zeros(3), atol=1e-5, rtol=0)
    # The disc's axis is y; its normal points back at the camera, which stands at negative y.
    torch.testing.assert_close(middle("normal"), torch.tensor([0.0, -1.0, 0.0]))
    # One frame is a tenth of the clip: 0.05 units at depth 4 and focal 40. The camera's right is world +x.
    torch.testing.assert_close(middle("flow"), torch.tensor([0.5, 0.0]), atol=1e-5, rtol=0)
    assert float(middle("uncertainty")) < 0.01
    assert float(output.uncertainty[0, 0]) > 0.9
    # Nothing but the background in the corner.
    torch.testing.assert_close(output.rgb[0, 0], torch.tensor([0.0, 0.0, 1.0]), atol=0.02, rtol=0)


def test_flow_leads_to_the_time_asked_for() -> None:
    flow = render(disc((0.0, 0.0, 0.4)), CAMERA, 0.2, ["flow"], flow_to=0.7).flow
    # Up in the world is up in the picture: negative y.
    torch.testing.assert_close(flow[16, 16], torch.tensor([0.0, -2.0]), atol=1e-4, rtol=0)


def test_background_can_be_chosen() -> None:
    rgb = render(disc(), CAMERA, background=(1.0, 0.0, 0.0)).rgb
    torch.testing.assert_close(rgb[0, 0], torch.tensor([1.0, 0.0, 0.0]), atol=0.02, rtol=0)


def test_only_what_was_asked_for_is_made() -> None:
    output = render(disc(), CAMERA, buffers=["alpha"])
    assert output.alpha is not None
    assert all(getattr(output, name) is None for name in BUFFERS if name != "alpha")
    with pytest.raises(UserError, match="xyz"):
        render(disc(), CAMERA, buffers=["rgb", "color"])


def test_velocity() -> None:
    torch.testing.assert_close(disc().velocity(0.3), torch.tensor([[0.5, 0.0, 0.0]]), atol=1e-5, rtol=1e-4)
