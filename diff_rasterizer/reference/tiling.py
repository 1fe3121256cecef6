"""Which square tiles of the image the bounding box of each ellipse touches."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def tile_grid(width: int, height: int, tile_size: int) -> tuple[int, int]:
    """Returns how many tiles of `tile_size` pixels cover the image along x and y."""
    return math.ceil(width / tile_size), math.ceil(height / tile_size)


@torch.no_grad()
def tile_pairs(
    means2d: Float[Tensor, "E 2"],
    radii: Int[Tensor, "E 2"],
    tile_size: int,
    tiles_x: int,
    tiles_y: int,
) -> tuple[Int[Tensor, " E"], Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Returns (tiles touched per row, row of each pair, tile of each pair), all int64.

    Pairs come row by row, the tiles of a row in raster order. A tile counts as touched when the box mean +- radius
    reaches into it. Rows with a radius of 0 touch nothing.

    Raises:
        ValueError: for 2^31 pairs or more.
    """
    grid = torch.tensor([tiles_x, tiles_y], device=means2d.device)
    centre, reach = means2d / tile_size, radii.to(means2d.dtype) / tile_size
    first = torch.minimum(torch.floor(centre - reach).clamp(min=0), grid).to(torch.int64)
    last = torch.minimum(torch.ceil(centre + reach).clamp(min=0), grid).to(torch.int64)
    drawn = (radii > 0).all(-1)
    extent = torch.where(drawn[:, None], (last - first).clamp(min=0), torch.zeros_like(first))
    counts = extent[:, 0] * extent[:, 1]
    total = int(counts.sum())
    if total >= 2**31:
        raise ValueError(
            f"radii must touch fewer than 2^31 tiles in all, got {total}; use a larger tile_size or fewer Gaussians"
        )

    rows = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    starts = torch.cumsum(counts, 0) - counts
    within = torch.arange(len(rows), device=rows.device) - starts[rows]
    across = extent[rows, 0]
    tile_x = first[rows, 0] + within % across
    tile_y = first[rows, 1] + torch.div(within, across, rounding_mode="floor")
    return counts, rows, tile_y * tiles_x + tile_x
