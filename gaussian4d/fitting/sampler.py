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


class MixedSampler:
    """Frames of a scene and extra ones beside them: of the pictures drawn at most a given share are extra.

    Indices of extra frames follow those of the scene's. The scene's frames come in the same order as without.
    """

    def __init__(self, frames: FrameSampler, extra: int, share: float, generator: torch.Generator) -> None:
        self.frames, self.share = frames, share
        self.extra = FrameSampler(extra, generator)
        self.drawn = self.drawn_extra = 0

    def next(self) -> int:
        """Returns the index of the next frame."""
        self.drawn += 1
        if self.drawn_extra + 1 <= self.share * self.drawn:
            self.drawn_extra += 1
            return self.frames.count + self.extra.next()
        return self.frames.next()

    def upcoming(self, k: int) -> list[int]:
        """Returns the scene's next frames; extra ones are read when they come."""
        return self.frames.upcoming(k)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Returns the state of both samplers."""
        tensors, values = self.frames.state()
        more, places = self.extra.state()
        return {**tensors, **{f"extra_{name}": value for name, value in more.items()}}, {
            **values,
            "extra_position": places["position"],
            "drawn": self.drawn,
            "drawn_extra": self.drawn_extra,
        }

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Goes back to a saved state; one from before there were these extra frames leaves them at their start."""
        self.frames.load_state(tensors, values)
        if "extra_order" in tensors and len(tensors["extra_order"]) == self.extra.count:
            order = {name: tensors[f"extra_{name}"] for name in ("order", "following")}
            self.extra.load_state(order, {"position": values["extra_position"]})
            self.drawn, self.drawn_extra = int(values["drawn"]), int(values["drawn_extra"])
