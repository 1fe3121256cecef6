"""When a fit has left what numbers can hold: how that is told, and where it goes on from.

A single step whose loss is not finite is dropped and counted. Several in a row, or a parameter that is not finite, do
not mend themselves: the fit stops, and its last checkpoint, which holds finite numbers only, is what it leaves behind.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import UserError

PATIENCE = 10
"""Steps in a row without a finite loss after which a fit is taken to diverge."""


class Diverged(UserError):
    """A fit that cannot go on as it is; the message says since which step and why."""


def unsound(tensors: Mapping[str, Tensor]) -> list[str]:
    """Returns the names of the tensors that hold a number they must not: NaN or infinity.

    An infinite duration is sound: it marks a frozen Gaussian (see `motion.window`).
    """
    return [name for name, value in tensors.items() if value.is_floating_point() and not _sound(name, value)]


def _sound(name: str, value: Tensor) -> bool:
    if name.rsplit("/", 1)[-1] == "durations":
        return not bool((torch.isnan(value) | torch.isneginf(value)).any())
    return bool(torch.isfinite(value).all())
