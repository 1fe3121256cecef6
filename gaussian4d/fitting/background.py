"""What lies behind the Gaussians, in training and in what is handed out."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..devices import uploaded

FIXED = {"white": 1.0, "black": 0.0}


class Background:
    """A colour per step: fixed, random, or one fitted colour."""

    def __init__(self, mode: str, start: Float[Tensor, "3"], generator: torch.Generator) -> None:
        self.mode = mode
        self.generator = generator
        self.color = torch.nn.Parameter(start.clone(), requires_grad=mode == "model")
        """The fitted colour; used by mode `model` only."""

    def sample(self) -> Float[Tensor, "3"]:
        """Returns the colour of this step."""
        if self.mode == "model":
            return self.color
        if self.mode == "random":
            return uploaded(torch.rand(3, generator=self.generator), self.color.device)
        return self.color.new_full((3,), FIXED[self.mode])

    def final(self) -> Float[Tensor, "3"]:
        """Returns the colour to render the finished model over: white where training colours were random."""
        if self.mode == "model":
            return self.color.detach().clamp(0.0, 1.0).clone()
        return self.color.new_full((3,), FIXED.get(self.mode, 1.0)).detach()
