"""Gaussians as coloured points, which is what most libraries can take of them."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..conventions import SH_C0
from ..gaussians import Gaussians


@torch.no_grad()
def colored_points(gaussians: Gaussians, *, least: float = 0.1) -> tuple[Float[Tensor, "M 3"], Float[Tensor, "M 3"]]:
    """Returns the centres and colours 0..1 of the Gaussians whose opacity is at least `least`, in their order.

    Colours are those of degree 0: the mean over all directions, before it is clamped.
    """
    rows = gaussians.opacities >= least
    return gaussians.means[rows].detach(), (gaussians.colors[rows, 0].detach() * SH_C0 + 0.5).clamp(0.0, 1.0)
