"""`rasterize_to_indices_in_range` and `accumulate`: blending in two steps, for experiments.

The first says which Gaussian meets which pixel, the second blends any such list. Plain torch, without nerfacc.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import (
    INTEGERS,
    check_count,
    check_floats,
    check_ndim,
    check_number,
    check_shape,
    check_tensor,
)
from ..reference.blending import pixel_alphas, tile_pixels
from ..reference.constants import MAX_ALPHA, TRANSMITTANCE_STOP
from ..reference.tiling import tile_grid
from ..validation import check_pictures
from .pixels import check_lists, list_counts


@torch.no_grad()
def rasterize_to_indices_in_range(
    range_start: int,
    range_end: int,
    transmittances: Float[Tensor, "*images H W"],
    means2d: Float[Tensor, "*images N 2"],
    conics: Float[Tensor, "*images N 3"],
    opacities: Float[Tensor, "*images N"],
    image_width: int,
    image_height: int,
    tile_size: int,
    isect_offsets: Int[Tensor, "*images tile_height tile_width"],
    flatten_ids: Int[Tensor, " M"],
) -> tuple[Int[Tensor, " P"], Int[Tensor, " P"], Int[Tensor, " P"]]:
    """Returns (gaussian_ids, pixel_ids, image_ids), int64, of every blended pair: pixel by pixel, front to back.

    Of each tile's list only batches `range_start` to `range_end` (exclusive) are looked at, a batch being tile_size^2
    entries; `transmittances` are those in front of the first. Pixel ids are row-major inside their image. A call for
    all batches at once has range_start=0 and a large range_end.

    Args:
        range_start: first batch.
        range_end: batch after the last; may be a float such as 1e10.
        transmittances: of each pixel, 1 in front of everything.
        means2d: ellipse centres in pixels.
        conics: inverse covariances (xx, xy, yy).
        opacities: in 0..1.
        image_width: pixels.
        image_height: pixels.
        tile_size: edge of a tile in pixels.
        isect_offsets: where each tile's part of `flatten_ids` begins.
        flatten_ids: rows of each tile in [I * N], front to back.

    Raises:
        ValueError: for arguments that do not fit.
    """
    check_floats(means2d=means2d, conics=conics, opacities=opacities, transmittances=transmittances)
    first, last = check_number("range_start", range_start, least=0.0), check_number("range_end", range_end, least=0.0)
    width, height = check_count("image_width", image_width), check_count("image_height", image_height)
    tile_size = check_count("tile_size", tile_size)
    check_ndim("means2d", means2d, 2, "(..., N, 2)", last=2)
    images, N = means2d.shape[:-2], means2d.shape[-2]
    check_shape("conics", conics, *images, ("N", N), 3)
    check_shape("opacities", opacities, *images, ("N", N))
    check_shape("transmittances", transmittances, *images, ("image_height", height), ("image_width", width))
    check_lists(means2d, isect_offsets, flatten_ids, width, height, tile_size, images)

    block = tile_size * tile_size
    flat = (means2d.reshape(-1, 2), conics.reshape(-1, 3), opacities.reshape(-1))
    light = transmittances.reshape(images.numel(), height, width)
    counts = list_counts(isect_offsets, flatten_ids).reshape(images.numel(), *isect_offsets.shape[-2:]).tolist()
    begins = isect_offsets.reshape(images.numel(), *isect_offsets.shape[-2:]).tolist()
    tiles_x, tiles_y = tile_grid(width, height, tile_size)
    found: list[tuple[Tensor, Tensor]] = []
    for image in range(images.numel()):
        for tile_y in range(tiles_y):
            for tile_x in range(tiles_x):
                begin, count = begins[image][tile_y][tile_x], counts[image][tile_y][tile_x]
                start, stop = int(min(first * block, count)), int(min(last * block, count))
                if start >= stop:
                    continue
                rows = flatten_ids[begin + start : begin + stop].to(torch.int64)
                pixels = tile_pixels(tile_x, tile_y, tile_size, width, height, means2d).flatten(0, 1)
                x, y = pixels.to(torch.int64).unbind(-1)
                done = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
                alphas = pixel_alphas(pixels, flat[0][rows], flat[1][rows], flat[2][rows], None, done)
                left = light[image, y, x] * torch.cumprod(1.0 - alphas, dim=0)
                entry, pixel = torch.nonzero((alphas > 0) & (left > TRANSMITTANCE_STOP), as_tuple=True)
                found.append((rows[entry], (image * height + y[pixel]) * width + x[pixel]))
    if not found:
        empty = torch.zeros(0, dtype=torch.int64, device=means2d.device)
        return empty, empty.clone(), empty.clone()
    rows, where = (torch.cat(parts) for parts in zip(*found, strict=True))
    where, order = torch.sort(where, stable=True)
    return rows[order] % N, where % (width * height), where // (width * height)


def accumulate(
    means2d: Float[Tensor, "*images N 2"],
    conics: Float[Tensor, "*images N 3"],
    opacities: Float[Tensor, "*images N"],
    colors: Float[Tensor, "*images N channels"],
    gaussian_ids: Int[Tensor, " P"],
    pixel_ids: Int[Tensor, " P"],
    image_ids: Int[Tensor, " P"],
    image_width: int,
    image_height: int,
) -> tuple[Float[Tensor, "*images H W channels"], Float[Tensor, "*images H W 1"]]:
    """Returns renders and alphas of the listed (Gaussian, pixel) pairs, each pixel's in the order of the list.

    Every listed pair is blended, whatever its alpha (clamped to 0.999). Autograd gives the gradients with respect to
    means2d, conics, opacities and colors.

    Args:
        means2d: ellipse centres in pixels.
        conics: inverse covariances (xx, xy, yy).
        opacities: in 0..1.
        colors: channels of any meaning.
        gaussian_ids: 0 to N - 1.
        pixel_ids: row-major inside the image.
        image_ids: image of each pair.
        image_width: pixels.
        image_height: pixels.

    Raises:
        ValueError: for arguments that do not fit, ids out of range included.
    """
    check_floats(means2d=means2d, conics=conics, opacities=opacities, colors=colors)
    width, height = check_count("image_width", image_width), check_count("image_height", image_height)
    check_ndim("means2d", means2d, 2, "(..., N, 2)", last=2)
    images, N = means2d.shape[:-2], means2d.shape[-2]
    check_shape("conics", conics, *images, ("N", N), 3)
    check_shape("opacities", opacities, *images, ("N", N))
    check_ndim("colors", colors, 1, "(..., N, channels)")
    channels = colors.shape[-1]
    check_shape("colors", colors, *images, ("N", N), ("channels", channels))
    n_images, pixels = images.numel(), width * height
    check_pictures(n_images, width, height, channels, means2d, "image_width * image_height")
    limits = {"gaussian_ids": (gaussian_ids, N), "pixel_ids": (pixel_ids, pixels), "image_ids": (image_ids, n_images)}
    for name, (ids, limit) in limits.items():
        _check_ids(name, ids, gaussian_ids, means2d, limit)

    where, order = torch.sort(image_ids.to(torch.int64) * pixels + pixel_ids, stable=True)
    rows = (image_ids.to(torch.int64) * N + gaussian_ids)[order]
    pixel = where % pixels
    centres = torch.stack([pixel % width, torch.div(pixel, width, rounding_mode="floor")], dim=-1) + 0.5
    dx, dy = (means2d.reshape(-1, 2)[rows] - centres.to(means2d.dtype)).unbind(-1)
    a, b, c = conics.reshape(-1, 3)[rows].unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alphas = torch.clamp(opacities.reshape(-1)[rows] * torch.exp(-sigma), max=MAX_ALPHA)

    # Transmittance in front of each pair: a product inside each pixel, as a sum of logarithms over the whole list, in
    # float64 so that the sums of the pixels before cancel.
    logs = torch.log1p(-alphas.to(torch.float64))
    before = torch.cumsum(logs, 0) - logs
    first = torch.searchsorted(where, where)
    weights = alphas * torch.exp(before - before[first]).to(alphas.dtype)
    shape = (n_images * pixels,)
    renders = weights.new_zeros(*shape, channels).index_add(
        0, where, weights[:, None] * colors.reshape(n_images * N, channels)[rows]
    )
    covered = weights.new_zeros(*shape, 1).index_add(0, where, weights[:, None])
    return renders.reshape(*images, height, width, channels), covered.reshape(*images, height, width, 1)


def _check_ids(name: str, ids: Any, gaussian_ids: Tensor, means2d: Tensor, limit: int) -> None:
    check_tensor(name, ids, INTEGERS, ("means2d", means2d))
    check_ndim(name, ids, 1, "(P,)")
    check_shape(name, ids, ("P", gaussian_ids.numel()))
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < limit:
        raise ValueError(f"{name} must be 0 to {limit - 1}, got {int(ids.min())} to {int(ids.max())}")
