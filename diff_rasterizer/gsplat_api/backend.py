"""Which operations the lower-level functions call."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from .. import reference
from ..backends import select_backend


def operations(tensor: Tensor) -> ModuleType:
    """Returns the module whose `project` and `blend` take such tensors."""
    module, whole = select_backend("auto", tensor.device, tensor.dtype)
    # Another library's renderer has no stages to call one by one.
    return reference if whole else module
