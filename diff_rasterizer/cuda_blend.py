"""Blending of the `cuda` backend: tiles, then a kernel per pass of at most 32 channels, forward and backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cuda_kernels import MAX_CHANNELS
from .cuda_launch import launcher
from .cuda_tiles import BLOCK, TILE_SIZE, launch_rows, make_tiles

SMALL_BUCKET, LARGE_BUCKET = 32, 128
"""Instances between two stored states of a tile's pixels, from which the backward starts in parallel."""

LARGE_FROM = 1 << 20
"""Instances from which on large buckets leave enough warps to fill a GPU, with a quarter of the memory."""

_SPLAT_FLOATS = 6
_BACKWARD_WARPS = 4


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
    """Returns renders and alphas of the Gaussians of each image, blended front to back.

    See `diff_rasterizer.reference.blend`, the definition. More than 32 channels are blended 32 at a time; then
    `.absgrad` is the sum of the passes' absolute gradients, an upper bound of that of the whole.
    """
    inputs = (means2d, conics, colors, opacities, backgrounds)
    # Asked here: inside the node gradients are always off.
    differentiable = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs)
    return _Blend.apply(
        means2d, conics, colors, opacities, depths, radii, image_ids, n_images, width, height, backgrounds, absgrad,
        differentiable,
    )  # pyright: ignore[reportReturnType]  # fmt: skip


def _passes(channels: int) -> list[tuple[int, int]]:
    """Returns (first channel, number of channels) of each pass; one empty-handed pass is not needed."""
    return [(begin, min(MAX_CHANNELS, channels - begin)) for begin in range(0, channels, MAX_CHANNELS)]


def _ready(x: Tensor) -> Tensor:
    return x.detach().contiguous()


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        depths: Tensor,
        radii: Tensor,
        image_ids: Tensor,
        n_images: int,
        width: int,
        height: int,
        backgrounds: Tensor | None,
        absgrad: bool,
        differentiable: bool,
    ) -> tuple[Tensor, Tensor]:
        device, rows, channels = means2d.device, len(means2d), colors.shape[1]
        points, ellipses, values, opaque = (_ready(x) for x in (means2d, conics, colors, opacities))
        behind = None if backgrounds is None else _ready(backgrounds)
        tiles = make_tiles(
            points, ellipses, values, opaque, _ready(depths), _ready(radii), _ready(image_ids), n_images, width, height
        )
        renders = torch.empty(n_images, height, width, channels, device=device)
        alphas = torch.empty(n_images, height, width, 1, device=device)
        n_tiles = len(tiles.ranges)
        final_T = torch.empty(n_tiles, TILE_SIZE**2, device=device)
        last = torch.empty(n_tiles, TILE_SIZE**2, dtype=torch.int32, device=device)
        tile_end = torch.empty(n_tiles, dtype=torch.int32, device=device)
        bucket = LARGE_BUCKET if len(tiles.instances) >= LARGE_FROM else SMALL_BUCKET
        # An upper bound that the host knows; see first_bucket in tile_layout.cuh.
        buckets = len(tiles.instances) // bucket + n_tiles if differentiable else 0
        bucket_tile = bucket_T = None
        if buckets:
            bucket_tile = torch.full((buckets,), -1, dtype=torch.int32, device=device)
            bucket_T = torch.empty(buckets, TILE_SIZE**2, device=device)
        per_pass: list[Tensor | None] = []
        for begin, count in _passes(channels):
            macros = {"GD_CHANNELS": count, "GD_BUCKET": bucket}
            vectors = -(-(_SPLAT_FLOATS + count) // 4)
            records = torch.empty(rows, 4 * vectors, device=device)
            launch_rows(
                device, "blend_forward", "pack_records", rows,
                [
                    np.int64(rows), tiles.order, tiles.counts, points, ellipses, opaque, values, np.int64(channels),
                    np.int32(begin), records,
                ],
                macros,
            )  # fmt: skip
            bucket_colors = torch.empty(buckets, count, TILE_SIZE**2, device=device) if buckets else None
            if n_tiles:
                launcher(device).launch(
                    "blend_forward", "blend_forward", (n_tiles, 1, 1), (BLOCK, 1, 1),
                    [
                        np.int32(width), np.int32(height), np.int32(tiles.tiles_x), np.int32(tiles.tiles_y),
                        tiles.ranges, tiles.instances, records, behind, np.int64(channels), np.int32(begin), renders,
                        alphas if begin == 0 else None, final_T, last, tile_end, bucket_tile, bucket_T, bucket_colors,
                    ],
                    macros,
                )  # fmt: skip
            per_pass += [records, bucket_colors]
        # means2d is kept as it came: `.absgrad` is set on the caller's tensor.
        ctx.save_for_backward(
            means2d, backgrounds, renders, alphas, tiles.order, tiles.instances, tiles.ranges, final_T, last, tile_end,
            bucket_tile, bucket_T, *per_pass,
        )  # fmt: skip
        ctx.grid = (tiles.tiles_x, tiles.tiles_y)
        ctx.absgrad, ctx.bucket = absgrad, bucket
        return renders, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_renders: Tensor, v_alphas: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        means2d, backgrounds, renders, alphas, order, instances, ranges, final_T, last, tile_end = ctx.saved_tensors[
            :10
        ]
        bucket_tile, bucket_T, *per_pass = ctx.saved_tensors[10:]
        device, rows = means2d.device, len(means2d)
        _, height, width, channels = renders.shape
        v_renders, v_alphas = _ready(v_renders), _ready(v_alphas)
        v_means2d, v_conics, v_colors, v_opacities = (
            torch.zeros(rows, *tail, device=device) for tail in ((2,), (3,), (channels,), ())
        )
        v_abs = torch.zeros(rows, 2, device=device) if ctx.absgrad else None
        buckets = 0 if bucket_tile is None or not len(instances) else len(bucket_tile)
        for (begin, count), records, bucket_colors in zip(
            _passes(channels), per_pass[::2], per_pass[1::2], strict=True
        ):
            if not buckets:
                break
            launcher(device).launch(
                "blend_backward", "blend_backward", (-(-buckets // _BACKWARD_WARPS), 1, 1),
                (_BACKWARD_WARPS * 32, 1, 1),
                [
                    np.int64(buckets), np.int32(width), np.int32(height), np.int32(ctx.grid[0]), np.int32(ctx.grid[1]),
                    ranges, instances, records, order, np.int64(channels), np.int32(begin), renders, v_renders,
                    v_alphas if begin == 0 else None, final_T, last, tile_end, bucket_tile, bucket_T, bucket_colors,
                    v_means2d, v_abs, v_conics, v_colors, v_opacities,
                ],
                {"GD_CHANNELS": count, "GD_BUCKET": ctx.bucket, "GD_ABSGRAD": int(ctx.absgrad)},
            )  # fmt: skip
        if v_abs is not None:
            means2d.absgrad = v_abs
        v_backgrounds = None
        if backgrounds is not None and ctx.needs_input_grad[10]:
            v_backgrounds = (v_renders * (1.0 - alphas)).sum((1, 2))
        return v_means2d, v_conics, v_colors, v_opacities, None, None, None, None, None, None, v_backgrounds, None, None
