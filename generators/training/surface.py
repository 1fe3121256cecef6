"""What the surface network learns from: pictures of toys, whose exact depth the toy world knows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..cameras import rays_of
from .toy_bank import VIEWS


def surface_loss(
    model: torch.nn.Module, batch: dict[str, Tensor], rng: np.random.Generator, per_toy: int = 4
) -> tuple[Tensor, int, dict[str, float]]:
    """Returns the loss on some pictures of every toy in the batch, their number, and the mean error of the depth.

    Colours are permuted half of the time and pictures blurred a quarter of the time, as a prior's own are.
    """
    B = len(batch["times"])
    row = torch.arange(B)[:, None]
    views = torch.stack([torch.from_numpy(rng.permutation(VIEWS)[:per_toy]) for _ in range(B)])
    pictures = batch["rgba"][row, views].flatten(0, 1).float() / 255.0
    depth = batch["depth"][row, views].flatten(0, 1).float()
    viewmats, Ks = batch["viewmats"][row, views].flatten(0, 1), batch["Ks"][row, views].flatten(0, 1)
    solid = pictures[:, 3] > 0.5
    if rng.random() < 0.5:
        order = torch.from_numpy(rng.permutation(3))
        pictures = torch.cat([pictures[:, order], pictures[:, 3:]], dim=1)
    if rng.random() < 0.25:
        pictures = torch.nn.functional.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    found = model(pictures, rays_of(viewmats, Ks), viewmats)
    error = (found - depth).abs()
    # Slopes as well: they turn the surfels.
    loss = error[solid].mean()
    for dim in (1, 2):
        count = depth.shape[dim] - 1
        ahead, here = (lambda x, d=dim, n=count: (x.narrow(d, 1, n), x.narrow(d, 0, n)))(depth)
        both = solid.narrow(dim, 1, count) & solid.narrow(dim, 0, count) & ((ahead - here).abs() < 0.1)
        slope = found.narrow(dim, 1, count) - found.narrow(dim, 0, count) - (ahead - here)
        loss = loss + slope[both].abs().mean()
    return loss, B * per_toy, {"depth error": float(error.detach()[solid].mean())}
