"""Where tensors live and which rasterizer backend draws them: one choice for every function and command.

A device and a backend must go together. Whoever draws or fits asks `choose_device` first, before any long work; what
cannot be is refused there, with the reason in one line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

AUTO = "auto"


@dataclass(frozen=True)
class Placement:
    """A device and a backend that go together."""

    device: torch.device
    """With its index, where devices of its type are counted."""
    backend: str
    """A name of `diff_rasterizer.available_backends()`, or `auto` where only the slow reference is left, which says so
    when it draws."""
    reason: str
    """What was taken, and why nothing faster."""


def choose_device(
    device: str | torch.device | None = None, backend: str = AUTO, say: Callable[[str], None] | None = None
) -> Placement:
    """Returns where to put tensors and what draws them.

    Args:
        device: None or `auto` for the GPU where a backend works there, else the CPU; `cpu`, `cuda`, `cuda:1`, or any
            device of torch.
        backend: A rasterizer backend, or `auto` for the fastest on the device.
        say: Told the choice, in one line, when either of the two was left open.

    Raises:
        UserError: for a device that is not there, a backend that does not run here, or two that do not go together.
    """
    automatic = device is None or device == AUTO
    _check_name(backend)
    placement = _automatic(backend) if automatic else _asked(_parsed(device), backend)
    if say is not None and (automatic or backend == AUTO):
        say(placement.reason)
    return placement


def uploaded(values: Any, device: torch.device) -> Tensor:
    """Returns numbers from the host as a float32 tensor on `device`, without making the host wait for it.

    On the CPU it may share the memory of `values`.
    """
    import torch

    return torch.as_tensor(values, dtype=torch.float32).to(device, non_blocking=True)


def accelerators() -> list[str]:
    """Returns the types of devices besides the CPU that some backend draws on, ours first."""
    from diff_rasterizer.backends import device_types

    return [kind for kind in device_types() if kind != "cpu"]


def _automatic(backend: str) -> Placement:
    import torch

    if backend == "reference":
        return Placement(torch.device("cpu"), backend, "on the CPU, with the backend reference, as asked")
    reasons = []
    for kind in accelerators():
        try:
            found = _asked(_counted(torch.device(kind)), backend)
        except UserError as error:
            reasons.append(str(error))
            continue
        return Placement(found.device, found.backend, f"on {_named(found.device)}, with the backend {found.backend}")
    try:
        found = _asked(torch.device("cpu"), backend)
    except UserError as error:
        raise UserError(f"the backend {backend} cannot be used here: {'; '.join(dict.fromkeys(reasons))}") from error
    why = f"; no GPU: {'; '.join(dict.fromkeys(reasons))}" if reasons else ""
    return Placement(found.device, found.backend, f"{found.reason}{why}" if backend == AUTO else found.reason)


def _asked(device: torch.device, backend: str) -> Placement:
    """Returns the device with a backend; raises `UserError` when there is none."""
    from diff_rasterizer.backends import automatic_backend, available_backends, why_not

    if reason := _missing(device):
        raise UserError(f"the device {device} is not there: {reason}")
    where = "the CPU" if device.type == "cpu" else _named(device)
    if backend != AUTO:
        if reason := why_not(backend, device):
            raise UserError(f"the backend {backend} and the device {device} do not go together: {reason}")
        return Placement(device, backend, f"on {where}, with the backend {backend}")
    name = automatic_backend(device)
    if name != "reference":
        return Placement(device, name, f"on {where}, with the backend {name}")
    reasons = {name: why_not(name, device) for name in available_backends() if name != "reference"}
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if "it needs tensors on" not in reason)
    if device.type != "cpu":
        raise UserError(f"nothing fast draws on the device {device}: {why or 'no backend is for it'}; use the CPU")
    return Placement(device, AUTO, f"on the CPU, with the slow reference: {why}")


def _check_name(backend: str) -> None:
    from diff_rasterizer import available_backends

    known = [AUTO, *available_backends()]
    if backend not in known:
        raise UserError(f"expected a backend out of {', '.join(known)}, got {backend!r}")


def _parsed(device: Any) -> torch.device:
    import torch

    try:
        return _counted(torch.device(device))
    except (RuntimeError, TypeError, ValueError):
        raise UserError(f"expected a device, auto, cpu, cuda or cuda:1, got {device!r}") from None


def _counted(device: torch.device) -> torch.device:
    """Returns the device with an index, which tensors on it have; the CPU without one."""
    import torch

    if device.type == "cpu":
        return torch.device("cpu") if device.index in (None, 0) else device
    if device.index is not None:
        return device
    module = getattr(torch, device.type, None)
    current = module.current_device() if module is not None and _there(module) else 0
    return torch.device(device.type, current)


def _there(module: Any) -> bool:
    return bool(getattr(module, "is_available", lambda: False)())


def _missing(device: torch.device) -> str:
    """Returns why torch has no such device, "" when it has."""
    import torch

    module = getattr(torch, device.type, None)
    if module is None or not _there(module):
        return f"torch {torch.__version__} sees no {device.type.upper()} device; use cpu"
    count = getattr(module, "device_count", lambda: 1)()
    if device.index is not None and device.index >= count:
        last = f"{device.type}:{count - 1}" if device.type != "cpu" else "cpu"
        return f"there {'is' if count == 1 else 'are'} {count} of its type, the last one is {last}"
    return ""


def _named(device: torch.device) -> str:
    """Returns a device as messages show it, with the name of its make where torch knows it."""
    import torch

    name = getattr(getattr(torch, device.type, None), "get_device_name", None)
    return f"{device} ({name(device)})" if name is not None else str(device)
