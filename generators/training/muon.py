"""Muon in float32: momentum whose matrices are made orthogonal before the step.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; step size as in Liu et
al., "Muon is Scalable for LLM Training", 2025, equation 4. torch's own works in bfloat16, which processors without such
units compute thirty times more slowly.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """For the matrices of hidden layers only."""

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        iterations: int = 5,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "iterations": iterations}
        )

    @torch.no_grad()
    def step(self, closure=None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    alike[p.shape].append(p)
            for shape, params in alike.items():
                updates = []
                for p in params:
                    state = self.state[p]
                    if not state:
                        state["momentum_buffer"] = torch.zeros_like(p)
                    gradient: Tensor = p.grad  # pyright: ignore[reportAssignmentType]
                    buffer = state["momentum_buffer"].lerp_(gradient, 1.0 - group["momentum"])
                    # Nesterov's look ahead.
                    updates.append(gradient.lerp(buffer, group["momentum"]))
                size = 0.2 * max(shape) ** 0.5 * group["lr"]
                for p, update in zip(params, orthogonalised(torch.stack(updates), group["iterations"])):
                    p.mul_(1.0 - group["lr"] * group["weight_decay"]).sub_(update, alpha=size)


def orthogonalised(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Returns matrices [..., R, C] with their singular values brought near 1 by a quintic Newton-Schulz iteration."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x
