"""Adam over the parameter table, one pass over memory per tensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .backends import training_kernels


class FusedAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1): same results and same state as `torch.optim.Adam`, in one fused loop.

    For contiguous float32 parameters on a device whose backend brings the kernel (`backends.training_kernels`), which
    are the CPU and a GPU that the `cuda` backend can use. Others raise `ValueError`. State per parameter: `step` (float
    tensor on the CPU), `exp_avg`, `exp_avg_sq`. A parameter without a gradient is left alone. A step does not wait for
    the device.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-15
    ) -> None:
        if lr < 0 or eps < 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"expected lr >= 0, eps >= 0 and betas in [0, 1), got lr={lr}, eps={eps}, betas={betas}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})
        for group in self.param_groups:
            for param in group["params"]:
                reason = _refusal(param)
                if reason:
                    raise ValueError(
                        "FusedAdam takes contiguous float32 parameters on the CPU or a GPU that a backend can use; for "
                        f"one of shape {tuple(param.shape)}, {reason}; use torch.optim.Adam"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Updates every parameter that has a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for param in group["params"]:
                if param.grad is None or param.numel() == 0:
                    continue
                state = self.state[param]
                if not state:
                    state["step"] = torch.tensor(0.0)
                    state["exp_avg"] = torch.zeros_like(param)
                    state["exp_avg_sq"] = torch.zeros_like(param)
                state["step"] += 1
                count = float(state["step"])
                update = (
                    param.detach(), param.grad.contiguous(), state["exp_avg"], state["exp_avg_sq"], beta1, beta2,
                    group["lr"] / (1 - beta1**count), 1 / math.sqrt(1 - beta2**count), group["eps"],
                )  # fmt: skip
                kernels, reason = training_kernels(param.device)
                if kernels is None:
                    raise ValueError(f"FusedAdam cannot update a parameter on {param.device}: {reason}")
                kernels.adam(*update)
        return loss


def _refusal(param: Tensor) -> str:
    """Returns why the fused update cannot take a parameter, "" when it can."""
    if param.dtype != torch.float32:
        return f"it is {str(param.dtype).removeprefix('torch.')}"
    if not param.is_contiguous():
        return "it is not contiguous"
    return training_kernels(param.device)[1]
