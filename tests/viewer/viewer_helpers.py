"""A small moving model and its cameras, for the viewer's tests."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from gaussian4d.cameras import Camera
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import make_motion


def coloured_blobs() -> DynamicGaussians:
    """Returns four blobs: red at +x, green at +y, blue at -x, white on top of the middle; z is up."""
    means = torch.tensor([[0.6, 0.0, 0.0], [0.0, 0.6, 0.0], [-0.6, 0.0, 0.0], [0.0, 0.0, 0.6]])
    colours = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 1.0]])
    params = {
        "means": means,
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(4, 1),
        "scales": torch.full((4, 3), 0.12).log(),
        "opacities": torch.full((4,), 5.0),
        "sh0": ((colours - 0.5) / 0.28209479177387814)[:, None],
        "shN": torch.zeros(4, 0, 3),
    }
    return DynamicGaussians(params, make_motion("static"), times=np.linspace(0, 1, 5), fps=4.0)


def ring(count: int = 6, scale: float = 1.0, center: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> list[Camera]:
    """Returns level cameras all the way round, at distance 3 `scale`."""
    middle = np.array(center)
    return [
        Camera.look_at(
            middle + scale * np.array([3 * np.cos(a), 3 * np.sin(a), 0.0]),
            middle,
            np.array([0.0, 0.0, 1.0]),
            width=64,
            height=48,
            focal=60.0,
            id=f"cam{k}",
        )
        for k, a in enumerate(2 * np.pi * np.arange(count) / count)
    ]


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    """Returns True once `condition` holds; False after `seconds`, generous because machines can be busy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False
