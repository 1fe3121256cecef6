"""Frames on the fit's device: uint8 all the way, uploaded once where they fit, else one after the other in good time.

On the CPU a frame is the array of the scene's cache and nothing is copied. On an accelerator frames that together take
at most `SHARE` of its free memory stay there after their first use. Larger clips go through pinned memory, the next
frame while the present one is drawn, on a stream of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..devices import free_memory
from ..scene import Frame

SHARE = 0.4
"""Share of the device's free memory that frames may take."""


class Uploads:
    """The pictures of `frames` on `device`, [H, W, 3 or 4] uint8."""

    def __init__(self, frames: Sequence[Frame], device: torch.device) -> None:
        self.frames, self.device = frames, device
        self.stays = device.type != "cpu" and _fits(_bytes_of(frames), device)
        self._kept: dict[int, Tensor] = {}
        self._next: tuple[int, Tensor, Any] | None = None
        self._stream = None if self.stays else _side_stream(device)
        self._following: list[int] = []

    def missing(self, indices: Sequence[int]) -> list[int]:
        """Returns which of the frames to come must still be read, and remembers their order."""
        self._following = [index for index in indices if index not in self._kept]
        return self._following

    def image(self, index: int) -> Tensor:
        """Returns frame `index` on the device."""
        if self.device.type == "cpu":
            return torch.from_numpy(np.ascontiguousarray(self.frames[index].image))
        if index in self._kept:
            return self._kept[index]
        if self._next is not None and self._next[0] == index:
            _, image, event = self._next
            self._next = None
            if event is not None:
                event.wait()
                # The side stream may not reuse this memory while the present one reads it.
                image.record_stream(torch.accelerator.current_stream(self.device))
        else:
            image = self._upload(index)
        if self.stays:
            self._kept[index] = image
        elif self._stream is not None:
            self._begin_next(index)
        return image

    def _upload(self, index: int) -> Tensor:
        image = torch.from_numpy(np.ascontiguousarray(self.frames[index].image))
        return image.to(self.device, non_blocking=True)

    def _begin_next(self, index: int) -> None:
        """Starts the copy of the frame that comes after `index` on the side stream."""
        following = [other for other in self._following if other != index]
        if not following or self._stream is None:
            return
        image = torch.from_numpy(np.ascontiguousarray(self.frames[following[0]].image)).pin_memory()
        with self._stream:
            copied = image.to(self.device, non_blocking=True)
            event = self._stream.record_event()
        self._next = (following[0], copied, event)


def _fits(size: int, device: torch.device) -> bool:
    """Returns whether frames of `size` bytes may stay on an accelerator; where it does not say, they do."""
    free = free_memory(device)
    return free is None or size <= SHARE * free


def _bytes_of(frames: Sequence[Frame]) -> int:
    return sum(4 * frame.camera.width * frame.camera.height for frame in frames)


def _side_stream(device: torch.device) -> Any:
    """Returns a stream beside the current one; None on a device without streams."""
    if device.type == "cpu":
        return None
    try:
        return torch.Stream(device=device)
    except (RuntimeError, NotImplementedError, TypeError):
        return None
