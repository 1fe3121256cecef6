"""Tiling on the GPU: which Gaussians each 16x16 tile blends, front to back.

One sort of all rows by depth, then one stable sort of all (Gaussian, tile) instances by tile; the kernels around them
are in `csrc/cuda/instances.cu`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .cuda_launch import Argument, launcher

TILE_SIZE = 16
BLOCK = 256
"""Threads of a block in every kernel but blend_backward's."""


@dataclass(frozen=True)
class Tiles:
    """The instances of every tile of every image. A rank is a row's position in depth order."""

    tiles_x: int
    tiles_y: int
    order: Int[Tensor, " E"]
    """Row of each rank, int64."""
    counts: Int[Tensor, " E"]
    """Tiles each rank touches."""
    instances: Int[Tensor, " M"]
    """Ranks, tile after tile, front to back."""
    ranges: Int[Tensor, "tiles 2"]
    """Begin and end of each tile in `instances`."""


def launch_rows(
    device: torch.device, file: str, entry: str, rows: int, args: list[Argument], macros: dict[str, int] | None = None
) -> None:
    """Launches one thread per row; nothing for no rows."""
    if rows:
        launcher(device).launch(file, entry, (-(-rows // BLOCK), 1, 1), (BLOCK, 1, 1), args, macros or {})


def make_tiles(
    means2d: Float[Tensor, "E 2"],
    conics: Float[Tensor, "E 3"],
    colors: Float[Tensor, "E D"],
    opacities: Float[Tensor, " E"],
    depths: Float[Tensor, " E"],
    radii: Int[Tensor, "E 2"],
    image_ids: Int[Tensor, " E"],
    n_images: int,
    width: int,
    height: int,
) -> Tiles:
    """Returns the tiles of contiguous float32 and int32 rows. Reads one number back from the device.

    Raises:
        ValueError: for more tiles or more instances than 31 bits count.
    """
    device, rows = means2d.device, len(means2d)
    tiles_x, tiles_y = -(-width // TILE_SIZE), -(-height // TILE_SIZE)
    n_tiles = n_images * tiles_x * tiles_y
    if max(n_tiles, rows) >= 2**31:
        raise ValueError(
            f"at most 2^31 - 1 tiles and rows fit one call, got {n_tiles} tiles ({n_images} images of "
            f"{width}x{height}) and {rows} rows; render fewer images per call"
        )
    bits = 16 if n_tiles <= 2**16 else 32
    macros = {"GD_KEY_BITS": bits}
    count, grid = np.int64(rows), [np.int32(tiles_x), np.int32(tiles_y)]
    keys = torch.empty_like(depths)
    launch_rows(
        device, "instances", "depth_keys", rows,
        [count, np.int32(colors.shape[1]), radii, means2d, conics, opacities, depths, colors, keys], macros,
    )  # fmt: skip
    # All images at once: the sort by tile below separates them and keeps this order inside each.
    keys, order = torch.sort(keys, stable=True)
    counts = torch.empty(rows, dtype=torch.int32, device=device)
    launch_rows(
        device, "instances", "count_tiles", rows,
        [count, *grid, keys, order, means2d, conics, opacities, counts], macros,
    )  # fmt: skip
    ends = torch.cumsum(counts, 0, dtype=torch.int64)
    total = int(ends[-1]) if rows else 0  # the one number the host must know
    if total >= 2**31:
        raise ValueError(
            f"at most 2^31 - 1 (Gaussian, tile) pairs fit one call, got {total}; render fewer Gaussians, fewer images "
            "per call or smaller pictures"
        )
    tile_keys = torch.empty(total, dtype=torch.int16 if bits == 16 else torch.int32, device=device)
    ranks, instances = (torch.empty(total, dtype=torch.int32, device=device) for _ in range(2))
    ranges = torch.zeros(n_tiles, 2, dtype=torch.int32, device=device)
    if total:
        launch_rows(
            device, "instances", "write_instances", rows,
            [count, *grid, counts, ends, order, image_ids, means2d, conics, opacities, tile_keys, ranks], macros,
        )  # fmt: skip
        tile_keys, key_order = torch.sort(tile_keys, stable=True)
        launch_rows(
            device, "instances", "tile_ranges", total,
            [np.int64(total), tile_keys, key_order, ranks, instances, ranges], macros,
        )  # fmt: skip
    return Tiles(tiles_x, tiles_y, order, counts, instances, ranges)
