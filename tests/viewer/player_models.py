"""Small moving models for the player's tests, with every kind of column in use."""

from __future__ import annotations

import numpy as np
import torch

from gaussian4d.cameras import Camera
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import make_motion


def moving_cloud(motion: str, count: int = 300, *, seed: int = 0, sh_degree: int = 1, **config) -> DynamicGaussians:
    """Returns `count` needles, discs and blobs within 1 of the origin that move by up to 1 during the clip."""
    g = torch.Generator().manual_seed(seed)
    model = make_motion(motion, config)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g)

    params = {
        "means": 0.4 * normal(count, 3),
        "quats": normal(count, 4),
        "scales": -2.8 + 0.7 * normal(count, 3),
        "opacities": 1.5 * normal(count),
        "sh0": 0.9 * normal(count, 1, 3),
        "shN": 0.25 * normal(count, (sh_degree + 1) ** 2 - 1, 3),
        **model.init(count),
    }
    sizes = {"velocities": 0.5, "trajectories": 0.3, "spins": 0.8, "means_series": 0.2, "quats_series": 0.4}
    for name, size in sizes.items():
        if name in params:
            params[name] = size * normal(*params[name].shape)
    if model.windowed:
        # A third lasts a few frames, a third half the clip, a third for ever.
        params["times"] = torch.rand(count, generator=g)
        spans = torch.tensor([0.05, 0.5, torch.inf])[torch.arange(count) % 3]
        params["durations"] = spans.log()
    return DynamicGaussians(
        params, model, background=torch.tensor([0.9, 0.8, 0.7]), fps=10.0, times=np.linspace(0.0, 1.0, 13)
    )


def looking(index: int = 0, width: int = 96, height: int = 72) -> Camera:
    """Returns a camera near the cloud, at another place for every index; its principal point is off the middle."""
    angle = 1.1 * index
    place = np.array([2.6 * np.cos(angle), 2.6 * np.sin(angle), 0.5 + 0.3 * index])
    camera = Camera.look_at(
        place, np.zeros(3), np.array([0.0, 0.0, 1.0]), width=width, height=height, focal=0.9 * width, id=f"cam{index}"
    )
    K = camera.K.copy()
    K[:2, 2] += [3.0, -2.0]
    return Camera(camera.id, camera.viewmat, K, width, height)
