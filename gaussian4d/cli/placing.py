"""Where a command draws: its flags `--device` and `--backend` as one choice, said in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..devices import Placement


def told(placement: Placement | None) -> torch.device | None:
    """Prints where something is drawn, for commands that do not always draw; returns the device."""
    if placement is None:
        return None
    print(f"device   {placement.reason}", flush=True)
    return placement.device


def placed(device: str, backend: str = "auto") -> Placement:
    """Returns `devices.choose_device` and prints what was left to it; call it before any long work."""
    from ..devices import choose_device

    return choose_device(device, backend, lambda reason: print(f"device   {reason}", flush=True))
