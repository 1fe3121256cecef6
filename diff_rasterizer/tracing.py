"""Whether a call is being recorded rather than run."""

from __future__ import annotations

import torch
from torch import Tensor


def traced(x: Tensor) -> bool:
    """Returns whether a call on `x` is traced (torch.compile, export, fake tensors): values cannot be read then."""
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter):
        return True
    # FakeTensorMode and make_fx also trace plain tensors.
    return torch._C._len_torch_dispatch_stack() > 0
