"""The reconstructor: Gaussians on the rays of their pixels, whatever the weights."""

from __future__ import annotations

import torch

from gaussian4d.toys import make_toy, render_views
from generators.cameras import orbit_cameras, pluecker_rays
from generators.models.reconstructor import Reconstructor, gaussians_of
from generators.models.view_transformer import ViewTransformerConfig
from generators.priors.reconstructor import EmbeddedReconstructor
from generators.views import render_rgba


def _given(size: int = 32):
    cameras = orbit_cameras(4, size=size)
    views = torch.from_numpy(render_views(make_toy(6).world, cameras, [0.0] * 4).rgba).permute(0, 3, 1, 2)
    return views, cameras


def _model() -> Reconstructor:
    torch.manual_seed(0)
    return Reconstructor(ViewTransformerConfig(size=32, width=32, layers=1, heads=2))


def test_gaussians_project_next_to_their_pixels_with_their_colours():
    views, cameras = _given()
    viewmats = torch.stack([torch.from_numpy(c.viewmat).float() for c in cameras])[None]
    Ks = torch.stack([torch.from_numpy(c.K).float() for c in cameras])[None]
    with torch.no_grad():
        rows = _model()(views[None], pluecker_rays(cameras)[None], viewmats, Ks)
    means = rows["means"].view(4, 16, 16, 3)
    assert (means.norm(dim=-1) < 2.5).all()
    for v in range(4):
        seen = means[v] @ viewmats[0, v, :3, :3].T + viewmats[0, v, :3, 3]
        pixels = seen @ Ks[0, v].T
        places = pixels[..., :2] / pixels[..., 2:]
        grid = torch.arange(16) * 2 + 1.0
        assert (places[..., 0] - grid).abs().max() < 2.1 and (places[..., 1] - grid[:, None]).abs().max() < 2.1
    empty = torch.nn.functional.avg_pool2d(views[:, 3], 2).flatten() <= 0.02
    assert (rows["opacities"][0][empty] == 0).all() and (rows["opacities"][0][~empty] > 0).all()


def test_reconstructions_look_roughly_like_their_views_before_any_training():
    views, cameras = _given()
    found = EmbeddedReconstructor(_model()).reconstruct(views, cameras)
    assert found.colors.shape == (len(found), 1, 3)
    seen = render_rgba(found, cameras)
    inside = views[:, 3] > 0.99
    assert seen[:, 3][inside].mean() > 0.6


def test_only_what_is_seen_is_kept():
    rows = {
        "means": torch.zeros(1, 3, 3),
        "quats": torch.ones(1, 3, 4),
        "scales": torch.ones(1, 3, 3),
        "opacities": torch.tensor([[0.5, 0.001, 0.9]]),
        "rgb": torch.full((1, 3, 3), 0.5),
    }
    kept = gaussians_of(rows)
    assert len(kept) == 2 and kept.colors.abs().max() == 0
