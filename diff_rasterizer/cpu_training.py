"""The training kernels of the CPU backend: fused SSIM and L1, squared error, Adam; see `backends.TrainingKernels`."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import _cpu, loss_ops


def ssim_and_l1(
    image: Float[Tensor, "I H W C"], target: Tensor, valid: bool
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Returns (mean SSIM, mean absolute error) of float32 pictures; the target may be uint8."""
    return SsimL1.apply(image, target, valid)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def squared_error(image: Tensor, target: Tensor) -> Float[Tensor, ""]:
    """Returns the mean of (image - target)^2, float64: one pass over memory."""
    target = target.detach().contiguous()[None]
    given = (None, target) if target.dtype == torch.uint8 else (target, None)
    total = _cpu.squared_error(image.detach().contiguous()[None], *given, torch.get_num_threads())
    return torch.tensor(total / image.numel(), dtype=torch.float64)


def adam(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    beta1: float,
    beta2: float,
    step_size: float,
    inv_sqrt_correction2: float,
    eps: float,
) -> None:
    """Updates contiguous float32 `param`, `exp_avg` and `exp_avg_sq` in place, in one pass."""
    _cpu.adam(
        param, grad, exp_avg, exp_avg_sq, beta1, beta2, step_size, inv_sqrt_correction2, eps, torch.get_num_threads()
    )


class SsimL1(torch.autograd.Function):
    """`ssim_and_l1` as an autograd node."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, valid: bool) -> tuple[Tensor, Tensor]:
        image, target = image.detach().contiguous(), target.detach().contiguous()
        ssim, l1, partials = loss_ops.ssim_l1(image, target, valid, ctx.needs_input_grad[0])
        ctx.save_for_backward(image, target, partials)
        ctx.valid = valid
        return ssim, l1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_ssim: Tensor, v_l1: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        image, target, partials = ctx.saved_tensors
        return loss_ops.ssim_l1_backward(image, target, partials, v_ssim, v_l1, ctx.valid), None, None
