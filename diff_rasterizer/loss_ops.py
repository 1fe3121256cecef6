"""SSIM and L1 as the `torch.library` operator `diff_rasterizer::ssim_l1`, for calls that are traced (see `cpu_ops`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _cpu
from .op_library import define, differentiable


def counted_pixels(image: Tensor, valid: bool) -> int:
    """Returns over how many values the SSIM of `image` [I, H, W, C] is averaged."""
    images, height, width, channels = image.shape
    return images * channels * ((height - 10) * (width - 10) if valid else height * width)


def ssim_l1(image: Tensor, target: Tensor, valid: bool, wanted: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Returns mean SSIM, mean absolute error and, when a gradient is `wanted`, what the backward needs.

    Contiguous tensors outside autograd: image [I, H, W, C] float32, target the same or uint8.
    """
    partials = torch.empty(_cpu.ssim_partials_size(*image.shape)) if wanted else None
    ssim, l1 = _cpu.ssim_forward(image, *_targets(target), valid, partials, torch.get_num_threads())
    ssim, l1 = ssim / counted_pixels(image, valid), l1 / image.numel()
    return torch.tensor(ssim, dtype=torch.float32), torch.tensor(l1, dtype=torch.float32), partials


def ssim_l1_backward(
    image: Tensor, target: Tensor, partials: Tensor, v_ssim: Tensor, v_l1: Tensor, valid: bool
) -> Tensor:
    """Returns the gradient of the image."""
    v_image = torch.empty_like(image)
    _cpu.ssim_backward(
        image, *_targets(target), valid, partials, float(v_ssim) / counted_pixels(image, valid),
        float(v_l1) / image.numel(), v_image, torch.get_num_threads(),
    )  # fmt: skip
    return v_image


def _targets(target: Tensor) -> tuple[Tensor | None, Tensor | None]:
    return (None, target) if target.dtype == torch.uint8 else (target, None)


def _forward(image: Tensor, target: Tensor, valid: bool) -> tuple[Tensor, ...]:
    ssim, l1, partials = ssim_l1(image.detach().contiguous(), target.detach().contiguous(), valid, True)
    assert partials is not None
    return ssim, l1, partials


def _forward_fake(image: Tensor, target: Tensor, valid: bool) -> tuple[Tensor, ...]:
    images, height, width, channels = image.shape
    # Three planes of rows padded as the kernel pads them (ssim_padded_row).
    size = images * 3 * height * (((width + 10) * channels + 15) // 16 * 16 + 16)
    return image.new_empty(()), image.new_empty(()), image.new_empty(size)


def _backward(image: Tensor, target: Tensor, partials: Tensor, v_ssim: Tensor, v_l1: Tensor, valid: bool) -> Tensor:
    image, target, partials = (x.detach().contiguous() for x in (image, target, partials))
    return ssim_l1_backward(image, target, partials, v_ssim, v_l1, valid)


def _backward_fake(
    image: Tensor, target: Tensor, partials: Tensor, v_ssim: Tensor, v_l1: Tensor, valid: bool
) -> Tensor:
    return image.new_empty(image.shape)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    image, target, ctx.valid = inputs
    ctx.save_for_backward(image, target, output[2])


def _gradient(ctx: Any, v_ssim: Tensor, v_l1: Tensor, _: Tensor) -> tuple[Any, ...]:
    return torch.ops.diff_rasterizer.ssim_l1_backward(*ctx.saved_tensors, v_ssim, v_l1, ctx.valid), None, None


define(
    "ssim_l1",
    "Tensor image, Tensor target, bool valid",
    "Tensor ssim, Tensor l1, Tensor partials",
    _forward,
    _forward_fake,
)
define(
    "ssim_l1_backward",
    "Tensor image, Tensor target, Tensor partials, Tensor v_ssim, Tensor v_l1, bool valid",
    "Tensor v_image",
    _backward,
    _backward_fake,
)
differentiable("ssim_l1", _setup, _gradient)
