"""Picture losses on the GPU: fused SSIM and L1, and the squared error; see `losses`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cuda_launch import launcher
from .cuda_tiles import BLOCK, TILE_SIZE


def ssim_and_l1(
    image: Float[Tensor, "I H W C"], target: Tensor, valid: bool
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Returns (mean SSIM, mean absolute error) of float32 pictures; the target may be uint8.

    With `valid` only pixels whose window lies inside the picture count for SSIM. Nothing waits for the device.
    """
    differentiable = torch.is_grad_enabled() and image.requires_grad
    return _SsimL1.apply(image, target, valid, differentiable)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def squared_error(image: Tensor, target: Tensor) -> Float[Tensor, ""]:
    """Returns the mean of (image - target)^2, float64, on the device."""
    scaled = target.to(image.dtype) / 255.0 if target.dtype == torch.uint8 else target
    return (image - scaled).square().mean(dtype=torch.float64)


class _SsimL1(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, valid: bool, differentiable: bool) -> tuple[Tensor, Tensor]:
        image, target = image.detach().contiguous(), target.detach().contiguous()
        images, height, width, channels = image.shape
        blocks = images * (-(-height // TILE_SIZE)) * (-(-width // TILE_SIZE))
        partials = image.new_empty(3, *image.shape) if differentiable else None
        sums = image.new_empty(blocks, 2)
        ctx.sizes = [np.int32(images), np.int32(height), np.int32(width), np.int32(channels)]
        ctx.blocks = blocks
        ctx.macros = {"GD_TARGET_BYTES": int(target.dtype == torch.uint8)}
        launcher(image.device).launch(
            "ssim", "ssim_forward", (blocks, 1, 1), (BLOCK, 1, 1),
            [*ctx.sizes, np.int32(valid), image, target, partials, sums], ctx.macros,
        )  # fmt: skip
        counted = images * channels * ((height - 10) * (width - 10) if valid else height * width)
        ctx.save_for_backward(image, target, partials)
        ctx.counted = counted
        ssim, l1 = sums.sum(0, dtype=torch.float64).unbind()
        return (ssim / counted).to(torch.float32), (l1 / image.numel()).to(torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_ssim: Tensor, v_l1: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        image, target, partials = ctx.saved_tensors
        # Stays on the device: a float here would wait for it.
        v_sums = torch.stack([v_ssim / ctx.counted, v_l1 / image.numel()])
        v_image = torch.empty_like(image)
        launcher(image.device).launch(
            "ssim", "ssim_backward", (ctx.blocks, 1, 1), (BLOCK, 1, 1),
            [*ctx.sizes, image, target, partials, v_sums, v_image], ctx.macros,
        )  # fmt: skip
        return v_image, None, None, None
