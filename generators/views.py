"""Gaussians through many cameras at once, as the pictures that priors speak: premultiplied RGBA, channels first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diff_rasterizer import rasterization
from gaussian4d.cameras import Camera
from gaussian4d.devices import uploaded
from gaussian4d.gaussians import Gaussians

NEAR = 0.05


def render_rgba(
    gaussians: Gaussians, cameras: Sequence[Camera], size: int | None = None, backend: str = "auto"
) -> Float[Tensor, "V 4 H W"]:
    """Returns what `cameras`, all of one picture size, see; differentiable. `size` resizes square cameras first."""
    return _draw(gaussians, cameras, gaussians.to_rasterizer(), size, backend)


def render_xyz(
    gaussians: Gaussians, cameras: Sequence[Camera], size: int | None = None, backend: str = "auto"
) -> Float[Tensor, "V 4 H W"]:
    """Returns canonical coordinate maps: (position + 1) / 2 of what is seen, times alpha, and alpha.

    Li et al., "SweetDreamer", 2024, and Wen et al., "Ouroboros3D", 2025: one global frame for all views, unlike depth.
    Positions outside the cube of half edge 1 are cut off at it.
    """
    places = {**gaussians.to_rasterizer(), "colors": (gaussians.means * 0.5 + 0.5).clamp(0, 1), "sh_degree": None}
    return _draw(gaussians, cameras, places, size, backend)


def _draw(
    gaussians: Gaussians, cameras: Sequence[Camera], arguments: dict, size: int | None, backend: str
) -> Float[Tensor, "V 4 H W"]:
    views = [camera if size is None else camera.resized(size, size) for camera in cameras]
    assert len({(view.width, view.height) for view in views}) == 1, "cameras of one picture size"
    device = gaussians.means.device
    colors, alphas, _ = rasterization(
        **arguments,
        viewmats=uploaded(np.stack([view.viewmat for view in views]), device),
        Ks=uploaded(np.stack([view.K for view in views]), device),
        width=views[0].width,
        height=views[0].height,
        near_plane=NEAR,
        packed=False,
        backend=backend,  # type: ignore[arg-type]
    )
    return torch.cat([colors, alphas], dim=-1).permute(0, 3, 1, 2)
