"""A part of the loss: depth is smooth, but for where the picture has an edge."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

import gaussian4d as g4


@dataclasses.dataclass
class DepthSmoothness:
    """Edge-aware total variation of the rendered depth. `--set loss.depth-smoothness=0.5` switches it on.

    A class is made with the settings of the run (`--set loss.settings.depth-smoothness.sharpness=20`); a term without
    settings may as well be a function.
    """

    # Depth is then drawn in the same pass as the picture.
    needs: ClassVar[tuple[str, ...]] = ("depth",)

    sharpness: float = 10.0
    """How much an edge of the picture excuses an edge of the depth."""

    def __call__(self, step: g4.Step) -> torch.Tensor:
        """Returns a scalar with a gradient."""
        depth = step.render("depth").depth
        assert depth is not None
        # A picture of bytes where it is served as recorded, of floats where it was made smaller or put over a colour.
        picture = step.composed.float() / (255.0 if step.composed.dtype == torch.uint8 else 1.0)
        # Where nothing is seen there is no depth.
        seen = step.alpha.detach()
        total = depth.new_zeros(())
        for axis in (0, 1):
            excused = torch.exp(-self.sharpness * picture.diff(dim=axis).abs().mean(dim=-1, keepdim=True))
            length = depth.shape[axis] - 1
            both = seen.narrow(axis, 0, length) * seen.narrow(axis, 1, length)
            total = total + (both * excused * depth.diff(dim=axis).abs()).mean()
        return total
