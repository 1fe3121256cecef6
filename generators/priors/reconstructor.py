"""The embedded reconstructor: four to eight posed views to Gaussians in one pass, on toys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.gaussians import Gaussians

from ..cameras import pluecker_rays
from ..models.reconstructor import Reconstructor, gaussians_of
from .base import PriorInfo
from .embedded import WEIGHTS, load_network, resized

_VIEWS = (2, 8)


class EmbeddedReconstructor:
    """Implements `GaussianReconstructor`; see `priors.base`."""

    def __init__(self, model: Reconstructor, source: str = "embedded") -> None:
        self.model = model.eval().requires_grad_(False)
        self.info = PriorInfo("toy reconstructor", source, "Apache-2.0", size=model.trunk.config.size)

    @classmethod
    def load(cls, path: Path | None = None) -> EmbeddedReconstructor:
        """Returns the reconstructor with the weights that came with the package, or those in `path`."""
        file = WEIGHTS / "reconstructor.safetensors" if path is None else Path(path)
        return cls(load_network(file, Reconstructor), "embedded" if path is None else str(path))

    @torch.no_grad()
    def reconstruct(self, views: Float[Tensor, "V 4 H W"], cameras: Sequence[Camera]) -> Gaussians:
        if not _VIEWS[0] <= len(views) <= _VIEWS[1] or len(views) != len(cameras):
            raise UserError(
                f"expected {_VIEWS[0]} to {_VIEWS[1]} views with a camera each, got {len(views)} views and"
                f" {len(cameras)} cameras"
            )
        size = self.info.size
        sized = [camera.resized(size, size) for camera in cameras]
        rows = self.model(
            resized(views, size)[None],
            pluecker_rays(sized)[None],
            torch.stack([torch.from_numpy(camera.viewmat).float() for camera in sized])[None],
            torch.stack([torch.from_numpy(camera.K).float() for camera in sized])[None],
        )
        return gaussians_of(rows)
