"""What the motion network learns from: toys at the start of their clip, and how each piece moves from there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..cameras import rays_of
from ..models.motion import anchor_pixels, facing_rays, lifted, relative_depth, to_network
from ..models.noise import noised
from .toy_bank import STARTS

_WORDLESS = 0.25
"""How often the words are left out: a picture alone moves somehow, too."""


def true_trajectories(batch: dict[str, Tensor], start: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the world displacements [B, M, S, 3] of the anchors of each toy's view `start` [B], and which exist."""
    row = torch.arange(len(start))
    owner = batch["start_owner"][row, start].long()
    pixels, there = anchor_pixels(owner >= 0)
    depth = batch["start_depth"][row, start].float()
    points = lifted(depth, batch["start_viewmats"][row, start], batch["start_Ks"][row, start])
    points = points.gather(1, pixels[..., None].expand(-1, -1, 3))
    piece = owner.flatten(1).gather(1, pixels).clamp_min(0)
    transforms = batch["moves"][row[:, None], piece, 1:]
    moved = torch.einsum("bmsij,bmj->bmsi", transforms[..., :3], points) + transforms[..., 3]
    return (moved - points[:, :, None]) * there[..., None, None], there


def motion_loss(
    model: torch.nn.Module, surface: torch.nn.Module, batch: dict[str, Tensor], rng: np.random.Generator
) -> tuple[Tensor, int, dict[str, float]]:
    """Returns the loss on one view of every toy in the batch, their number, and errors at much and little noise."""
    B = len(batch["times"])
    row, start = torch.arange(B), torch.from_numpy(rng.integers(STARTS, size=B))
    displacements, there = true_trajectories(batch, start)
    rgba = batch["start_rgba"][row, start].float() / 255.0
    viewmats, Ks = batch["start_viewmats"][row, start], batch["start_Ks"][row, start]
    rays = rays_of(viewmats, Ks, rgba.shape[-1])
    with torch.no_grad():
        depth = relative_depth(surface(rgba, rays, viewmats), rgba[:, 3], viewmats)
    clean = to_network(displacements, viewmats)
    words = batch["tokens"].long().clone()
    words[torch.from_numpy(rng.random(B) < _WORDLESS)] = 0
    levels = torch.from_numpy(np.where(rng.random(B) < 0.15, 1.0, rng.uniform(0.02, 1.0, B))).to(clean)
    given = noised(clean[:, None], torch.randn_like(clean)[:, None], levels[:, None])[:, 0]
    predicted = model(given, levels, torch.cat([rgba * 2 - 1, depth], dim=1), facing_rays(rays, viewmats), words)
    squared = (predicted - clean).square().mean(dim=(2, 3)) * there
    count = there.sum(dim=1).clamp_min(1)
    each = squared.sum(dim=1) / count
    figures = {
        name: float(each.detach()[rows].mean())
        for name, rows in (("error from noise", levels >= 1.0), ("at little noise", levels < 0.3))
        if rows.any()
    }
    return each.mean(), B, figures
