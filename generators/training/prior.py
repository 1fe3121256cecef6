"""What the view prior learns from: sets of frames of a toy, some known, the others noised."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..cameras import rays_of
from ..models.noise import noised
from ..models.pieces import Moves
from ..models.surface import SurfaceNet, drawn_conditions
from ..models.view_transformer import Frames, ViewTransformer
from .loop import decibels
from .toy_bank import OTHERS, TIMES

_FRAMES_PER_STEP = 20
# How often the caption is left out.
_WORDLESS = {"views": 0.7, "two": 0.7, "video": 0.5}


def prior_loss(
    model: torch.nn.Module,
    surface: SurfaceNet,
    batch: dict[str, Tensor],
    mode: str,
    count: int,
    rng: np.random.Generator,
    regression: bool,
) -> tuple[Tensor, int, dict[str, float]]:
    """Returns the loss on a batch of toys, their number, and the PSNR at pure noise.

    Args:
        surface: Already trained; what it draws of the input picture is a condition.
        batch: From `ToyBank`.
        mode: What is known and what is made up; see `draw_frames`.
        count: Frames of a toy.
        regression: Always at pure noise, with none in the input: what a regressor learns.
    """
    views, known = draw_frames(mode, batch, count, rng)
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
    level = torch.from_numpy(np.where(rng.random(B) < 0.5, 1.0, rng.uniform(0.05, 1.0, B))).float()
    if regression:
        level = torch.ones(B)
    levels = torch.where(known, 0.0, level[:, None])
    noise = torch.zeros_like(clean) if regression else torch.randn_like(clean)
    given = noised(clean, noise, levels)
    viewmats, Ks = batch["viewmats"][row, views], batch["Ks"][row, views]
    moves = true_moves(batch, views) if mode == "video" else None
    drawn = drawn_conditions(surface, clean[:, 0] * 0.5 + 0.5, viewmats, Ks, moves)
    frames = Frames(rays_of(viewmats, Ks), batch["times"][row, views], known, words, drawn)
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


def true_moves(batch: dict[str, Tensor], views: Tensor) -> list[Moves]:
    """Returns how the pieces that each toy's first view shows move to its `views` [B, F], all of the input camera."""
    return [
        Moves(owner[0].long(), move[:, chosen].transpose(0, 1))
        for owner, move, chosen in zip(batch["start_owner"], batch["moves"], views)
    ]


def draw_mode(progress: float, rng: np.random.Generator, regression: bool = False) -> tuple[str, int, int]:
    """Returns what the next step learns, how many frames of a toy it takes, and how many toys there is room for.

    Few frames are made up at once at first, when more toys teach more.
    """
    modes = {"views": 0.6, "video": 0.3, "two": 0.1}
    mode = "views" if regression else str(rng.choice(list(modes), p=list(modes.values())))
    count = 5 if progress < 0.8 else 7
    return mode, count, _FRAMES_PER_STEP // count


def draw_frames(mode: str, batch: dict[str, Tensor], count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Returns which `count` of a toy's views [B, F], and which of them are known [B, F].

    `views`: others from the input picture. `video`: later pictures from the first, whose surface is drawn where the
    pieces of the toy have moved to. `two`: others from the input picture and a second known one, at another time or
    from another side.
    """
    B = len(batch["times"])
    views = np.zeros((B, count), np.int64)
    known = np.zeros((B, count), bool)
    for b in range(B):
        instant = round(float(batch["times"][b, -1]) * (TIMES - 1))
        others = TIMES + rng.permutation(OTHERS)
        if mode == "views":
            views[b], known[b, 0] = [instant, *others[: count - 1]], True
        elif mode == "video":
            later = np.sort(1 + rng.permutation(TIMES - 1)[: count - 1])
            views[b], known[b, 0] = [0, *later], True
        else:
            second = others[-1] if rng.random() < 0.5 or instant == 0 else 0
            views[b], known[b, :2] = [instant, second, *others[: count - 2]], True
    return torch.from_numpy(views), torch.from_numpy(known)


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
