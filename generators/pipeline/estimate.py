"""How long a generation will take: this machine's speed, measured for a moment, times what is to be done."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from gaussian4d.devices import uploaded

if TYPE_CHECKING:
    from gaussian4d.cameras import Camera
    from gaussian4d.devices import Placement

    from ..priors.base import StepCallback

# A picture of this many Gaussians at this size is what a fit of the preset quick draws at each step.
GAUSSIANS = 5000
SIZE = 128
REFERENCE_STEP = 0.012
"""Seconds that drawing that picture and its gradients took on the machine for which the presets' times are stated."""


class _Enough(Exception):
    """Ends a sampling that was begun only to see how fast it goes."""


@dataclasses.dataclass(frozen=True)
class Speed:
    """Seconds on this machine."""

    step: float
    """Drawing `GAUSSIANS` at `SIZE` pixels, with gradients."""
    draw: float
    """Drawing them without."""

    @property
    def factor(self) -> float:
        """How many times slower than the machine for which the presets' times are stated."""
        return self.step / REFERENCE_STEP


def sampling_seconds(sample: Callable[[StepCallback], object]) -> float:
    """Returns the seconds that a sampling takes, from its second step alone.

    Args:
        sample: Samples with the callback it is given; it is stopped after two steps.
    """
    began = time.monotonic()
    stamps: list[float] = []
    total = 1

    def note(done: int, steps: int) -> None:
        nonlocal total
        total = steps
        stamps.append(time.monotonic())
        # The first step pays for what is made only once, such as buffers.
        if len(stamps) >= 2:
            raise _Enough

    try:
        sample(note)
    except _Enough:
        return (stamps[1] - stamps[0]) * total
    return time.monotonic() - began


def drawing_speed(camera: Camera, placement: Placement) -> Speed:
    """Returns how fast a cloud of Gaussians is drawn as `camera` sees it; takes a fraction of a second."""
    from diff_rasterizer import rasterization

    generator = torch.Generator().manual_seed(0)
    view = camera.resized(SIZE, SIZE)
    device = placement.device
    viewmats, Ks = uploaded(view.viewmat, device)[None], uploaded(view.K, device)[None]
    means = torch.nn.functional.normalize(torch.randn(GAUSSIANS, 3, generator=generator), dim=-1) * 0.7
    quats = torch.randn(GAUSSIANS, 4, generator=generator)
    scales = torch.full((GAUSSIANS, 3), 0.02)
    opacities = torch.full((GAUSSIANS,), 0.6)
    colors = torch.rand(GAUSSIANS, 3, generator=generator)
    cloud = [value.to(device) for value in (means, quats, scales, opacities, colors)]

    def once(learn: bool) -> float:
        inputs = [value.clone().requires_grad_(learn) for value in cloud]
        began = time.monotonic()
        image, _, _ = rasterization(*inputs, viewmats, Ks, SIZE, SIZE, packed=False, backend=placement.backend)  # type: ignore[arg-type]
        if learn:
            image.sum().backward()
        # A device has not drawn anything until something of it is read.
        (inputs[0].grad if learn else image).flatten()[0].item()  # type: ignore[union-attr]
        return time.monotonic() - began

    once(True)
    return Speed(min(once(True) for _ in range(3)), min(once(False) for _ in range(3)))


def spoken(seconds: float) -> str:
    """Returns a length of time as people say it."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min" if seconds >= 600 else f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
