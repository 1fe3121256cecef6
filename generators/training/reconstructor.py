"""What the reconstructor learns from: some views of a toy in, all of them and the exact depth as the truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from diff_rasterizer import rasterization

from ..cameras import rays_of
from ..models.reconstructor import BLOCK, psnr
from .loop import load_weights
from .toy_bank import OTHERS, TIMES

NEAR = 0.1


def reconstruction_loss(
    model: torch.nn.Module, batch: dict[str, Tensor], rng: np.random.Generator
) -> tuple[Tensor, int, dict[str, float]]:
    """Returns the loss on a batch of toys, their number, and the PSNR of the views that were not given."""
    B = len(batch["times"])
    row = torch.arange(B)[:, None]
    instant = (batch["times"][:, -1] * (TIMES - 1)).round().long()
    views = torch.cat([instant[:, None], (TIMES + torch.arange(OTHERS)).expand(B, -1)], dim=1)
    given = int(rng.choice([4, 4, 5, 6]))
    order = torch.stack([torch.from_numpy(rng.permutation(OTHERS + 1)) for _ in range(B)])
    views = views.gather(1, order)
    truth = batch["rgba"][row, views].float() / 255.0
    depth = batch["depth"][row, views].float()
    viewmats, Ks = batch["viewmats"][row, views], batch["Ks"][row, views]
    inputs = truth[:, :given]
    if rng.random() < 0.5:
        inputs = _softened(inputs, rng)
    rays = rays_of(viewmats[:, :given], Ks[:, :given])
    rows = model(inputs, rays, viewmats[:, :given], Ks[:, :given])

    # Depth where a block lies inside the object.
    blocks = torch.nn.functional.avg_pool2d(depth[:, :given], BLOCK)
    inside = torch.nn.functional.avg_pool2d(truth[:, :given, 3], BLOCK) > 0.99
    inside &= torch.nn.functional.max_pool2d(depth[:, :given], BLOCK) < blocks * 1.05
    depth_loss = (rows["depth"] - blocks)[inside].abs().mean() if inside.any() else rows["depth"].sum() * 0
    picture_loss, unseen = truth.new_zeros(()), 0.0
    for b in range(B):
        rendered = render_rows(rows, b, viewmats[b], Ks[b], truth.shape[-1])
        error = (rendered - truth[b]).square()
        picture_loss = picture_loss + error.mean() + 0.1 * (rendered - truth[b]).abs().mean()
        unseen += psnr(float(error[given:].detach().mean())) / B
    loss = 20.0 * picture_loss / B + 0.5 * depth_loss
    return loss, B, {"depth error": float(depth_loss.detach()), "psnr of unseen views": unseen}


def render_rows(rows: dict[str, Tensor], b: int, viewmats: Tensor, Ks: Tensor, size: int) -> Tensor:
    """Returns premultiplied RGBA [V, 4, size, size] of object `b`'s Gaussians."""
    keep = rows["opacities"][b] > 1.0 / 255.0
    rgb, alpha, _ = rasterization(
        rows["means"][b][keep],
        rows["quats"][b][keep],
        rows["scales"][b][keep],
        rows["opacities"][b][keep],
        rows["rgb"][b][keep],
        viewmats,
        Ks,
        size,
        size,
        near_plane=NEAR,
        packed=False,
    )
    return torch.cat([rgb, alpha], dim=-1).permute(0, 3, 1, 2)


def _softened(views: Tensor, rng: np.random.Generator) -> Tensor:
    """Returns views as a prior might make them: all but the first blurred, a little off in colour."""
    sigma = float(rng.uniform(0.3, 1.6))
    x = torch.arange(-3, 4, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = views[:, 1:].flatten(0, 2)[:, None]
    flat = torch.nn.functional.conv2d(flat, kernel.view(1, 1, 1, 7), padding=(0, 3))
    flat = torch.nn.functional.conv2d(flat, kernel.view(1, 1, 7, 1), padding=(3, 0))
    soft = flat.view_as(views[:, 1:])
    tint = 1.0 + 0.06 * torch.from_numpy(rng.standard_normal((*soft.shape[:2], 3, 1, 1))).float()
    alpha = soft[:, :, 3:]
    return torch.cat([views[:, :1], torch.cat([(soft[:, :, :3] * tint).minimum(alpha), alpha], dim=2)], dim=1)


def load_reconstructor(model: torch.nn.Module, path: Path) -> None:
    """Loads a reconstructor's weights, or those of a view prior into its trunk."""
    with safe_open(path, "pt") as file:
        own = any(name.startswith("trunk.") for name in file.keys())  # noqa: SIM118
    load_weights(model if own else model.get_submodule("trunk"), path)
