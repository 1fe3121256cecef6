"""What the view prior learns from: sets of frames of a toy, some known, the others noised."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..models.noise import noised
from ..models.view_transformer import Frames, ViewTransformer
from .loop import decibels
from .toy_bank import OTHERS, TIMES

_FRAMES_PER_STEP = 40
# How often the caption is left out.
_WORDLESS = {"views": 0.7, "two": 0.7, "video": 0.5, "text": 0.25}


def prior_loss(
    model: torch.nn.Module, batch: dict[str, Tensor], progress: float, rng: np.random.Generator, regression: bool
) -> tuple[Tensor, int, dict[str, float]]:
    """Returns the loss on a batch of toys, their number, and the PSNR at pure noise.

    Args:
        batch: From `ToyBank`; as many toys as `toys_per_step` says.
        regression: Always at pure noise, with none in the input: what a regressor learns.
    """
    mode = draw_mode(rng)
    views, known = draw_frames(mode, batch, progress, rng)
    B = len(views)
    row = torch.arange(B)[:, None]
    clean = batch["rgba"][row, views].float() / 127.5 - 1.0
    words = batch["tokens"].long()
    if rng.random() < _WORDLESS[mode]:
        words = torch.zeros_like(words)
    if not words.any() and rng.random() < 0.35:
        # Other colours than toys have; only where no words name them.
        order = torch.from_numpy(rng.permutation(3))
        clean = torch.cat([clean[:, :, order], clean[:, :, 3:]], dim=2)
    rays = rays_of(batch["viewmats"][row, views], batch["Ks"][row, views])
    level = torch.from_numpy(np.where(rng.random(B) < 0.35, 1.0, rng.uniform(0.02, 1.0, B))).float()
    if regression:
        level = torch.ones(B)
    levels = torch.where(known, 0.0, level[:, None])
    noise = torch.zeros_like(clean) if regression else torch.randn_like(clean)
    given = noised(clean, noise, levels)
    first = (batch["viewmats"][row, views][:, 0], batch["Ks"][row, views][:, 0])
    frames = Frames(rays, batch["times"][row, views], known, words, projection=projection_of(*first))
    predicted = model(given, levels, frames)
    # The object counts three times as much as what is around it; what is known, not at all.
    weight = (1.0 + 2.0 * (clean[:, :, 3:] > -1.0)) * (~known)[..., None, None, None]
    squared = (predicted - clean).square() * weight
    loss = squared.sum() / weight.expand_as(squared).sum()
    figures = {}
    if mode == "views":
        pure = (level >= 1.0)[:, None] & ~known
        if pure.any():
            with torch.no_grad():
                figures["psnr of views from noise"] = decibels((predicted - clean)[pure].square().mean())
    return loss, B, figures


def toys_per_step(progress: float) -> int:
    """Returns how many toys a step has room for."""
    return _FRAMES_PER_STEP // (1 + targets_at(progress))


def targets_at(progress: float) -> int:
    """Returns how many frames are made up at once: few at first, when more toys teach more."""
    return 3 if progress < 0.4 else 4 if progress < 0.8 else 6


def draw_mode(rng: np.random.Generator) -> str:
    return str(rng.choice(["views", "video", "two", "text"], p=[0.54, 0.18, 0.12, 0.16]))


def draw_frames(
    mode: str, batch: dict[str, Tensor], progress: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Returns which of a toy's views [B, F], and which of them are known [B, F].

    `views`: others from the input picture. `video`: later pictures from the first. `two`: others from the input picture
    and a second known one, at another time or from another side. `text`: nothing known.
    """
    B = len(batch["times"])
    count = targets_at(progress)
    views = np.zeros((B, count + 1), np.int64)
    known = np.zeros((B, count + 1), bool)
    for b in range(B):
        instant = round(float(batch["times"][b, -1]) * (TIMES - 1))
        others = TIMES + rng.permutation(OTHERS)
        if mode == "views":
            views[b], known[b, 0] = [instant, *others[:count]], True
        elif mode == "video":
            later = np.sort(1 + rng.permutation(TIMES - 1)[:count])
            views[b], known[b, 0] = [0, *later], True
        elif mode == "two":
            second = others[-1] if rng.random() < 0.5 or instant == 0 else 0
            views[b], known[b, :2] = [instant, second, *others[: count - 1]], True
        elif rng.random() < 0.5:
            views[b] = [instant, *others[:count]]
        else:
            views[b] = [0, *np.sort(1 + rng.permutation(TIMES - 1)[:count])]
    return torch.from_numpy(views), torch.from_numpy(known)


def projection_of(viewmats: Tensor, Ks: Tensor) -> Tensor:
    """Returns world to pixels [..., 3, 4] of cameras."""
    return Ks @ viewmats[..., :3, :]


def rays_of(viewmats: Tensor, Ks: Tensor, size: int = 64) -> Tensor:
    """Returns `generators.cameras.pluecker_rays` of many cameras [..., 6, size, size] at once, as tensors."""
    grid = torch.arange(size, dtype=torch.float32) + 0.5
    x = (grid - Ks[..., 0, 2, None]) / Ks[..., 0, 0, None]
    y = (grid - Ks[..., 1, 2, None]) / Ks[..., 1, 1, None]
    x, y = x[..., None, :].expand(*x.shape[:-1], size, size), y[..., :, None].expand(*y.shape[:-1], size, size)
    local = torch.stack([x, y, torch.ones_like(x)], dim=-3)
    R, t = viewmats[..., :3, :3], viewmats[..., :3, 3]
    directions = torch.nn.functional.normalize(torch.einsum("...ji,...jhw->...ihw", R, local), dim=-3)
    origins = -torch.einsum("...ji,...j->...i", R, t)[..., None, None].expand_as(directions)
    return torch.cat([torch.linalg.cross(origins, directions, dim=-3), directions], dim=-3)


@torch.no_grad()
def sample_frames(
    model: ViewTransformer, clean: Tensor, known: Tensor, frames: Frames, steps: int = 8, seed: int = 0
) -> Tensor:
    """Returns pictures [B, F, 4, H, W] in -1..1 with the frames that are not `known` made up."""
    from ..models.noise import TRAIN_STEPS, scheduler

    ddim = scheduler()
    ddim.set_timesteps(steps)
    keep = known[..., None, None, None]
    x = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    for t in ddim.timesteps:
        levels = torch.where(known, 0.0, (float(t) + 1) / TRAIN_STEPS)
        x0 = model(torch.where(keep, clean, x), levels, frames)
        x = ddim.step(x0, int(t), x, return_dict=False)[0]
    return torch.where(keep, clean, x)
