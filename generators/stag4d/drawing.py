"""Several cameras at once, as the rasterizer takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera
from gaussian4d.devices import uploaded
from gaussian4d.fitting import drawing
from gaussian4d.fitting.drawing import Drawing
from gaussian4d.fitting.step import Step
from gaussian4d.gaussians import Gaussians

NEAR = 0.2
"""Nothing nearer to a camera is drawn; `generators.cameras` stand at least 1.1 from the origin."""


@dataclasses.dataclass
class Cameras:
    """Cameras of one picture size."""

    viewmats: Float[Tensor, "C 4 4"]
    Ks: Float[Tensor, "C 3 3"]
    width: int
    height: int

    @classmethod
    def of(cls, cameras: Sequence[Camera], device: torch.device | str = "cpu") -> Cameras:
        """Returns `cameras`, which must agree in size."""
        assert len({(camera.width, camera.height) for camera in cameras}) == 1
        viewmats, Ks = (
            uploaded(np.stack([getattr(camera, name) for camera in cameras]), torch.device(device))
            for name in ("viewmat", "K")
        )
        return cls(viewmats, Ks, cameras[0].width, cameras[0].height)

    def rows(self, indices: Tensor) -> Cameras:
        """Returns the cameras at `indices`."""
        return Cameras(self.viewmats[indices], self.Ks[indices], self.width, self.height)

    def draw(self, step: Step, state: Gaussians | None = None) -> Drawing:
        """Returns what the cameras see of the Gaussians of a step, or of `state`."""
        return step.draw(self.viewmats, self.Ks, self.width, self.height, state=state)


def draw(state: Gaussians, cameras: Cameras, backend: str = "auto") -> Drawing:
    """Returns what `cameras` see of `state`, over black."""
    return drawing.draw(state, cameras.viewmats, cameras.Ks, cameras.width, cameras.height, near=NEAR, backend=backend)
