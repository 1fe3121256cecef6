"""Models for the tests of what other packages add."""

from __future__ import annotations

import numpy as np
import torch

from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import make_motion


def swinging_model(motion: str = "oscillator", count: int = 40) -> DynamicGaussians:
    """Returns blobs around the origin that swing."""
    g = torch.Generator().manual_seed(0)
    params = {
        "means": 0.4 * torch.randn(count, 3, generator=g),
        "quats": torch.randn(count, 4, generator=g),
        "scales": -2.5 + 0.3 * torch.randn(count, 3, generator=g),
        "opacities": 2.0 + torch.rand(count, generator=g),
        "sh0": torch.randn(count, 1, 3, generator=g),
        "shN": 0.1 * torch.randn(count, 3, 3, generator=g),
        "swings": 0.2 * torch.randn(count, 3, generator=g),
    }
    if motion == "static":
        del params["swings"]
    return DynamicGaussians(params, make_motion(motion), torch.ones(3), 10.0, np.linspace(0.0, 1.0, 9))
