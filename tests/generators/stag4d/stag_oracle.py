"""A toy world, and a prior that knows it: the truth, blurred a little. The whole fit runs on it without weights."""

from __future__ import annotations

import numpy as np
import torch

from gaussian4d.toys import make_toy, render_views
from generators.cameras import orbit_camera
from generators.priors.base import PriorInfo

FRAMES = 4
TIMES = np.linspace(0.0, 1.0, FRAMES).tolist()
INPUT = orbit_camera(0.0, 15.0, size=48, id="input")


def truth(world, cameras, times):
    """Returns premultiplied pictures [V, 4, H, W]."""
    pictures = render_views(world, cameras, times, samples=1).rgba
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().contiguous()


class OraclePrior:
    """Implements `MultiViewPrior` and `DistillationPrior` for one world, and notes what it was asked."""

    def __init__(self, world, size=32):
        self.world = world
        self.info = PriorInfo("oracle", "test", "none", size=size)
        self.asked: list[list[float]] = []
        self.levels: list[float] = []
        self.references: list[int] = []

    def sample_views(self, images, input_camera, cameras, *, caption=None, times=None, seed=0, steps=None,
                     guidance=None, fusion=None, hook=None, progress=None):  # fmt: skip
        self.asked.append(list(times))
        if progress is not None:
            progress(1, 1)
        return torch.stack([truth(self.world, cameras, [t] * len(cameras)) for t in times])

    def predict_clean(self, images, cameras, reference, reference_cameras, *, noise_level, noise=None, times=None,
                      reference_times=None, caption=None, guidance=None, generator=None):  # fmt: skip
        self.levels.append(noise_level)
        self.references.append(len(reference_cameras))
        assert len(reference) == len(reference_cameras) == len(reference_times)
        return truth(self.world, cameras, times)


def toy_input(seed=3):
    """Returns the frames [T, 4, 48, 48] of an unseen toy and the prior that knows it."""
    world = make_toy(seed, split="test", instants=FRAMES).world
    return truth(world, [INPUT] * FRAMES, TIMES), OraclePrior(world)
