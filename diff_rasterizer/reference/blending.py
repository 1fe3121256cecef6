"""Blending: ellipses composited front to back in every pixel.

For a pixel centre (px + 0.5, py + 0.5) the Gaussians are visited by increasing depth, ties by row:

    d = mean2d - centre;  sigma = (a dx^2 + c dy^2) / 2 + b dx dy;  alpha = min(0.999, opacity * exp(-sigma))
    skip if sigma < 0 or alpha < 1/255
    stop if T * (1 - alpha) <= 1e-4
    render += alpha * T * color;  T *= 1 - alpha

and the pixel ends as render + T * background with alpha 1 - T (Kerbl et al., 3D Gaussian Splatting, 2023, section 4).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .constants import ALPHA_THRESHOLD, MAX_ALPHA, TRANSMITTANCE_STOP
from .tiling import tile_grid, tile_pairs

TILE_SIZE = 32
CHUNK = 256
"""Gaussians blended at once; a tile whose pixels are all finished looks at no further chunk."""

RECOMPUTE_ABOVE = 10_000_000
"""Gaussian-pixel pairs above which autograd recomputes each tile in the backward instead of keeping it all."""


def blend(
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
    backgrounds: Float[Tensor, "I D"] | None,
    absgrad: bool,
) -> tuple[Float[Tensor, "I H W D"], Float[Tensor, "I H W 1"]]:
    """Returns renders [I, H, W, D] and alphas [I, H, W, 1].

    Rows with a radius of 0 and rows with any non-finite value are skipped. An alpha clamped to 0.999 passes no
    gradient to its opacity and sigma. Depths order the rows and receive no gradient.

    Args:
        means2d: ellipse centres in pixels.
        conics: inverse covariances (a, b, c).
        colors: D channels of any meaning.
        opacities: in 0..1, any compensation included.
        depths: sorting keys; equal depths keep the order of the rows.
        radii: half sizes of the boxes in which the rows may contribute.
        image_ids: image of each row, non-decreasing.
        n_images: I.
        width: image width in pixels.
        height: image height in pixels.
        backgrounds: colours behind everything; None is black.
        absgrad: the backward sets `means2d.absgrad` [E, 2], the sum over pixels of the absolute gradient.
    """
    tiles_x, tiles_y = tile_grid(width, height, TILE_SIZE)
    rows, counts = _rows_by_tile(
        means2d, conics, colors, opacities, depths, radii, image_ids, n_images, tiles_x, tiles_y
    )
    return blend_lists(
        means2d, conics, colors, opacities, rows, counts, n_images, TILE_SIZE, width, height, backgrounds, absgrad
    )


def blend_lists(
    means2d: Float[Tensor, "E 2"],
    conics: Float[Tensor, "E 3"],
    colors: Float[Tensor, "E D"],
    opacities: Float[Tensor, " E"],
    rows: Int[Tensor, " M"],
    counts: list[int],
    n_images: int,
    tile_size: int,
    width: int,
    height: int,
    backgrounds: Float[Tensor, "I D"] | None,
    absgrad: bool,
) -> tuple[Float[Tensor, "I H W D"], Float[Tensor, "I H W 1"]]:
    """Returns renders and alphas where each tile blends the rows it is given, in the given order.

    Args:
        rows: rows of the tiles, front to back, tile after tile in raster order, image after image; all finite.
        counts: how many rows each tile has.
        tile_size: edge of the tiles in pixels.

    The other arguments are those of `blend`.
    """
    carrier = None
    if absgrad:
        means2d, carrier = _AbsgradSink.apply(means2d)  # type: ignore[misc]
    tiles_x, tiles_y = tile_grid(width, height, tile_size)
    gathered = [x.index_select(0, rows).split(counts) for x in (means2d, conics, colors, opacities)]
    carriers = [None] * len(counts) if carrier is None else carrier.index_select(0, rows).split(counts)
    recompute = torch.is_grad_enabled() and len(rows) * tile_size**2 > RECOMPUTE_ABOVE

    strips: list[Tensor] = []
    for image in range(n_images):
        for tile_y in range(tiles_y):
            tiles: list[Tensor] = []
            for tile_x in range(tiles_x):
                index = (image * tiles_y + tile_y) * tiles_x + tile_x
                pixels = tile_pixels(tile_x, tile_y, tile_size, width, height, means2d)
                args = [pixels.flatten(0, 1), *(part[index] for part in gathered), carriers[index]]
                out = _recomputed(args) if recompute else _blend_tile(*args)
                tiles.append(out.unflatten(0, pixels.shape[:2]))
            strips.append(torch.cat(tiles, dim=1))
    flat = torch.cat(strips) if strips else means2d.new_zeros(0, width, colors.shape[1] + 1)
    images = flat.reshape(n_images, height, width, colors.shape[1] + 1)
    renders, transmittance = images[..., :-1], images[..., -1:]
    if backgrounds is not None:
        renders = renders + transmittance * backgrounds[:, None, None]
    return renders, 1.0 - transmittance


def tile_pixels(
    tile_x: int, tile_y: int, tile_size: int, width: int, height: int, like: Tensor
) -> Float[Tensor, "rows columns 2"]:
    """Returns the pixel centres (x, y) of one tile, as far as it lies in the image."""
    x = torch.arange(tile_x * tile_size, min((tile_x + 1) * tile_size, width), device=like.device)
    y = torch.arange(tile_y * tile_size, min((tile_y + 1) * tile_size, height), device=like.device)
    across, down = torch.meshgrid(x, y, indexing="xy")
    return torch.stack([across, down], dim=-1).to(like.dtype) + 0.5


def _recomputed(args: list[Any]) -> Tensor:
    """Returns what `_blend_tile` does, keeping only its inputs for the backward."""
    return checkpoint(_blend_tile, *args, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]


@torch.no_grad()
def _rows_by_tile(
    means2d: Tensor,
    conics: Tensor,
    colors: Tensor,
    opacities: Tensor,
    depths: Tensor,
    radii: Tensor,
    image_ids: Tensor,
    n_images: int,
    tiles_x: int,
    tiles_y: int,
) -> tuple[Tensor, list[int]]:
    """Returns the rows each tile of each image blends, front to back, tile after tile, and how many per tile."""
    table = torch.cat([means2d, conics, colors, opacities[:, None], depths[:, None]], dim=1)
    drawn = (radii > 0).all(-1) & torch.isfinite(table).all(-1)
    rows = torch.nonzero(drawn)[:, 0]
    rows = rows[torch.sort(depths[rows], stable=True).indices]
    _, pair_rows, pair_tiles = tile_pairs(means2d[rows], radii[rows], TILE_SIZE, tiles_x, tiles_y)
    keys = image_ids[rows][pair_rows].to(torch.int64) * (tiles_x * tiles_y) + pair_tiles
    keys, order = torch.sort(keys, stable=True)
    counts = torch.bincount(keys, minlength=n_images * tiles_x * tiles_y)
    return rows[pair_rows[order]], counts.tolist()


def _blend_tile(
    pixels: Float[Tensor, "P 2"],
    means2d: Float[Tensor, "G 2"],
    conics: Float[Tensor, "G 3"],
    colors: Float[Tensor, "G D"],
    opacities: Float[Tensor, " G"],
    carrier: Float[Tensor, "G 2"] | None,
) -> Float[Tensor, "P D+1"]:
    """Returns the colours and, as the last channel, the transmittance of one tile's pixels."""
    T = pixels.new_ones(len(pixels))
    rendered = pixels.new_zeros(len(pixels), colors.shape[1])
    finished = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
    # At least once: an empty tile, too, stays connected to its inputs, or a backward of an empty view would fail.
    for start in range(0, max(len(means2d), 1), CHUNK):
        part = slice(start, start + CHUNK)
        alphas = pixel_alphas(pixels, means2d[part], conics[part], opacities[part], _slice(carrier, part), finished)
        # stages[k] is the transmittance in front of Gaussian k. It never rises, so the Gaussians that are blended are
        # those before the first at which it would reach the stop.
        stages = torch.cat([T[None], T * torch.cumprod(1.0 - alphas, dim=0)])
        blended = stages[1:].detach() > TRANSMITTANCE_STOP
        weights = torch.where(blended, alphas * stages[:-1], torch.zeros_like(alphas))
        rendered = rendered + weights.mT @ colors[part]
        T = stages.gather(0, blended.sum(0)[None])[0]
        finished = finished | ~blended.all(0)
        if bool(finished.all()):
            break
    return torch.cat([rendered, T[:, None]], dim=1)


def pixel_alphas(
    pixels: Tensor, means2d: Tensor, conics: Tensor, opacities: Tensor, carrier: Tensor | None, finished: Tensor
) -> Float[Tensor, "G P"]:
    """Returns the alpha of each Gaussian in each pixel, 0 where it is skipped or the pixel is finished."""
    if carrier is None:
        offsets = means2d[:, None] - pixels
    else:
        offsets = _Offsets.apply(means2d, carrier, pixels)
    dx, dy = offsets.unbind(-1)  # type: ignore[union-attr]
    a, b, c = conics[:, None].unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    with torch.no_grad():
        alpha = torch.clamp(opacities[:, None] * torch.exp(-sigma), max=MAX_ALPHA)
        used = (sigma >= 0) & (alpha >= ALPHA_THRESHOLD) & ~finished
    # exp of a skipped, very negative sigma is inf and would turn the zero gradient of that pair into NaN.
    sigma = torch.where(used, sigma, torch.zeros_like(sigma))
    alpha = torch.clamp(opacities[:, None] * torch.exp(-sigma), max=MAX_ALPHA)
    return torch.where(used, alpha, torch.zeros_like(alpha))


def _slice(carrier: Tensor | None, part: slice) -> Tensor | None:
    return None if carrier is None else carrier[part]


class _AbsgradSink(torch.autograd.Function):
    """Passes `means2d` on beside a tensor of zeros whose gradient becomes `means2d.absgrad`."""

    @staticmethod
    def forward(ctx: Any, means2d: Tensor) -> tuple[Tensor, Tensor]:
        ctx.means2d = means2d
        return means2d.view_as(means2d), torch.zeros_like(means2d)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_abs: Tensor) -> Tensor:  # type: ignore[override]
        ctx.means2d.absgrad = grad_abs
        return grad


class _Offsets(torch.autograd.Function):
    """Subtracts pixels [P, 2] from means [G, 2]; the carrier's gradient is the sum of absolute gradients."""

    @staticmethod
    def forward(ctx: Any, means2d: Tensor, carrier: Tensor, pixels: Tensor) -> Tensor:
        return means2d[:, None] - pixels

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        return grad.sum(1), grad.abs().sum(1), None
