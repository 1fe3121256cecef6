"""What the picture network learns from: every view of a toy, with the words that say what it is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..cameras import rays_of
from ..models.noise import noised
from .loop import decibels
from .toy_bank import STARTS, VIEWS

_WORDLESS = 0.1
"""How often the words are left out, for guidance."""


def picture_loss(
    model: torch.nn.Module, batch: dict[str, Tensor], rng: np.random.Generator
) -> tuple[Tensor, int, dict[str, float]]:
    """Returns the loss on two views of every toy in the batch, their number, and the PSNR at pure noise.

    One view is of the clip's start, which is what words are asked for; the other of any time, from any side.
    """
    B, size = len(batch["times"]), batch["rgba"].shape[-1]
    row = torch.arange(B)
    first, any_ = torch.from_numpy(rng.integers(STARTS, size=B)), torch.from_numpy(rng.integers(VIEWS, size=B))

    def both(name: str) -> Tensor:
        return torch.cat([batch[f"start_{name}"][row, first], batch[name][row, any_]])

    clean = both("rgba").float() / 127.5 - 1.0
    rays = rays_of(both("viewmats"), both("Ks"), size)
    times = torch.cat([torch.zeros(B), batch["times"][row, any_]])
    words = batch["tokens"].long().repeat(2, 1)
    words[torch.from_numpy(rng.random(2 * B) < _WORDLESS)] = 0
    levels = torch.from_numpy(np.where(rng.random(2 * B) < 0.25, 1.0, rng.uniform(0.02, 1.0, 2 * B))).float()
    given = noised(clean[:, None], torch.randn_like(clean)[:, None], levels[:, None])[:, 0]
    predicted = model(given, levels, rays, times, words)
    squared = (predicted - clean).square() * (1.0 + 2.0 * (clean[:, 3:] > -1.0))
    pure = levels >= 1.0
    figures = {}
    if pure.any():
        figures["psnr from noise"] = decibels((predicted.detach() - clean)[pure].square().mean())
    return squared.mean(), 2 * B, figures
