"""Gaussians fitted to a few posed views alone: what the reconstructor's single pass is measured against."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diff_rasterizer import FusedAdam
from gaussian4d.cameras import Camera
from gaussian4d.gaussians import Gaussians

from ..views import render_rgba

_POINTS = 4000


def fit_views(
    views: Float[Tensor, "V 4 H W"], cameras: Sequence[Camera], seconds: float, seed: int = 0
) -> tuple[Gaussians, float]:
    """Returns Gaussians fitted to premultiplied `views` for so many seconds, and the seconds it took.

    They start as random points inside the visual hull; colour, alpha and size are what the views say.
    """
    generator = torch.Generator().manual_seed(seed)
    began = time.monotonic()
    means = _hull_points(views, cameras, generator)
    n = len(means)
    params = {
        "means": means,
        "scales": torch.full((n, 3), 0.03).log(),
        "quats": torch.randn(n, 4, generator=generator),
        "opacities": torch.full((n,), -1.0),
        "colors": torch.zeros(n, 1, 3),
    }
    rates = {"means": 2e-3, "scales": 1e-2, "quats": 5e-3, "opacities": 3e-2, "colors": 1e-2}
    params = {name: torch.nn.Parameter(value) for name, value in params.items()}
    optimizer = FusedAdam([{"params": [value], "lr": rates[name], "name": name} for name, value in params.items()])
    while (spent := time.monotonic() - began) < seconds:
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]] * 0.05 ** (spent / seconds)
        rendered = render_rgba(_gaussians(params), cameras)
        # Long thin Gaussians hide between the views.
        spread = (params["scales"].amax(1) - params["scales"].amin(1) - 1.5).clamp_min(0).mean()
        loss = (rendered - views).abs().mean() + (rendered - views).square().mean() + 0.01 * spread
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        return _gaussians({name: value.detach() for name, value in params.items()}), time.monotonic() - began


def _gaussians(params: dict) -> Gaussians:
    return Gaussians(
        params["means"], params["quats"], params["scales"].exp(), torch.sigmoid(params["opacities"]), params["colors"]
    )


def _hull_points(views: Tensor, cameras: Sequence[Camera], generator: torch.Generator) -> Float[Tensor, "N 3"]:
    points = torch.rand(60 * _POINTS, 3, generator=generator) * 2 - 1
    for view, camera in zip(views, cameras):
        seen = (
            points @ torch.from_numpy(camera.viewmat[:3, :3]).float().T
            + torch.from_numpy(camera.viewmat[:3, 3]).float()
        )
        pixels = seen @ torch.from_numpy(camera.K).float().T
        places = (pixels[:, :2] / pixels[:, 2:]).floor().long()
        inside = ((places >= 0) & (places < view.shape[-1])).all(dim=1)
        places = places.clamp(0, view.shape[-1] - 1)
        points = points[inside & (view[3, places[:, 1], places[:, 0]] > 0.3)]
    return points[:_POINTS]
