"""Which training frame comes next: shuffled epochs, so that every frame is seen equally often."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class FrameSampler:
    """Endless shuffled epochs over `count` frames, repeatable from its state."""

    def __init__(self, count: int, generator: torch.Generator) -> None:
        self.count = count
        self.generator = generator
        self.order = torch.randperm(count, generator=generator)
        self.following = torch.randperm(count, generator=generator)
        self.position = 0

    def next(self) -> int:
        """Returns the index of the next frame."""
        if self.position == self.count:
            self.order, self.position = self.following, 0
            self.following = torch.randperm(self.count, generator=self.generator)
        index = int(self.order[self.position])
        self.position += 1
        return index

    def upcoming(self, k: int) -> list[int]:
        """Returns the next `k` indices at most, without taking them, so that they can be read ahead."""
        ahead = torch.cat([self.order[self.position :], self.following])
        return ahead[:k].tolist()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the tensors and the JSON values that `load_state` needs; the generator is saved by its owner."""
        return {"order": self.order, "following": self.following}, {"position": self.position}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Goes back to a saved state."""
        self.order, self.following = tensors["order"], tensors["following"]
        self.position = int(values["position"])
