"""The fused Adam update on the GPU; see `optim.FusedAdam`."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from .cuda_launch import launcher
from .cuda_tiles import BLOCK


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
    """Updates contiguous float32 `param`, `exp_avg` and `exp_avg_sq` of the same size in place, in one pass."""
    arrays = [x.detach() for x in (param, grad, exp_avg, exp_avg_sq)]
    # A view may begin anywhere in its storage.
    vector = 4 if all(x.data_ptr() % 16 == 0 for x in arrays) else 1
    numbers = [np.float32(x) for x in (beta1, beta2, step_size, inv_sqrt_correction2, eps)]
    blocks = -(-param.numel() // (vector * BLOCK))
    if blocks:
        launcher(param.device).launch(
            "adam", "adam", (blocks, 1, 1), (BLOCK, 1, 1), [np.int64(param.numel()), *arrays, *numbers],
            {"GD_VECTOR": vector},
        )  # fmt: skip
