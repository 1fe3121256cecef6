"""Adam over the parameter table, one pass over memory per tensor."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .backends import training_kernels


class FusedAdam(torch.optim.Optimizer):
    """Adam (Kingma & Ba 2015, algorithm 1): same results and same state as `torch.optim.Adam`, in one fused loop.

    For contiguous float32 parameters; others raise `ValueError`. On a device without kernels of a backend that can run
    (`backends.training_kernels`) the update is several operations of torch, which is said once. State per parameter:
    `step` (float tensor on the CPU), `exp_avg`, `exp_avg_sq`. A parameter without a gradient is left alone. A step does
    not wait for the device.
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
                        f"FusedAdam takes contiguous float32 parameters; for one of shape {tuple(param.shape)}, "
                        f"{reason}; use torch.optim.Adam"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Updates every parameter that has a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        known: dict[torch.device, Callable[..., None]] = {}
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
                if param.device not in known:
                    known[param.device] = _update_on(param.device)
                known[param.device](*update)
        return loss


def _refusal(param: Tensor) -> str:
    """Returns why the fused update cannot take a parameter, "" when it can."""
    if param.dtype != torch.float32:
        return f"it is {str(param.dtype).removeprefix('torch.')}"
    return "" if param.is_contiguous() else "it is not contiguous"


_warned: set[torch.device] = set()


def _update_on(device: torch.device) -> Callable[..., None]:
    """Returns the update for parameters on a device; says once where it is not a kernel."""
    kernels, reason = training_kernels(device)
    if kernels is not None:
        return kernels.adam
    if device not in _warned:
        _warned.add(device)
        warnings.warn(f"FusedAdam on {device} is not fused, which takes several times as long: {reason}", stacklevel=4)
    return torch_adam


def torch_adam(
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
    """Updates `param`, `exp_avg` and `exp_avg_sq` in place, in plain torch: what the kernels compute."""
    exp_avg.mul_(beta1).add_(grad, alpha=1.0 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1.0 - beta2)
    param.addcdiv_(exp_avg, exp_avg_sq.sqrt().mul_(inv_sqrt_correction2).add_(eps), value=-step_size)
