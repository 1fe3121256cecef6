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
    placement = _automatic(backend) if automatic else _asked(str(device), _parsed(device), backend)
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
    """Returns the types of devices besides the CPU that some backend is for, in the order in which `auto` asks."""
    from diff_rasterizer.backends import device_types

    return [kind for kind in device_types() if kind != "cpu"]


def present() -> list[torch.device]:
    """Returns one device of every type that is there and has backends: the CPU, then the others."""
    import torch

    there = [_counted(torch.device(kind)) for kind in accelerators() if not _missing(torch.device(kind))]
    return [torch.device("cpu"), *there]


def compute_device(device: str | torch.device | None = None) -> torch.device:
    """Returns where to compute what no backend draws, such as the networks of priors: `auto` is a GPU if there is one.

    Raises:
        UserError: for a device that is not there.
    """
    import torch

    if device is None or device == AUTO:
        device = next((kind for kind in accelerators() if not _missing(torch.device(kind))), "cpu")
    found = _parsed(device)
    if reason := _missing(found):
        raise UserError(f"the device {device} is not there: {reason}; use cpu")
    return found


def free_memory(device: torch.device) -> int | None:
    """Returns the bytes that are free on a device besides the CPU; None where torch does not say."""
    import torch

    ask = getattr(getattr(torch, device.type, None), "mem_get_info", None)
    return None if ask is None else int(ask(device)[0])


def _automatic(backend: str) -> Placement:
    import torch

    if backend == "reference":
        # It runs anywhere and is fast nowhere.
        return _asked("cpu", torch.device("cpu"), backend)
    absent, refused = [], []
    for kind in accelerators():
        device = _counted(torch.device(kind))
        if reason := _missing(device):
            absent.append(reason)
        elif reason := _no_backend(device, backend):
            refused.append(reason)
        else:
            return _asked(kind, device, backend)
    cpu = torch.device("cpu")
    if backend != AUTO and (reason := _no_backend(cpu, backend)):
        raise UserError(f"the backend {backend} cannot be used here: {'; '.join(refused or [reason])}")
    placement = _asked("cpu", cpu, backend)
    if backend != AUTO or not (refused or absent):
        return placement
    return Placement(cpu, placement.backend, f"{placement.reason}; no GPU: {'; '.join(refused or absent)}")


def _asked(name: str, device: torch.device, backend: str) -> Placement:
    """Returns the device, which the user calls `name`, with a backend; raises `UserError` when there is none."""
    from diff_rasterizer.backends import automatic_backend

    if reason := _missing(device):
        raise UserError(f"the device {name} is not there: {reason}; use cpu")
    if reason := _no_backend(device, backend):
        if backend == AUTO:
            raise UserError(f"nothing draws fast on the device {name}: {reason}; use cpu, or the backend reference")
        raise UserError(f"the backend {backend} and the device {name} do not go together: {reason}")
    where = _named(device)
    if backend != AUTO:
        return Placement(device, backend, f"on {where}, with the backend {backend}")
    chosen = automatic_backend(device)
    if chosen != "reference":
        return Placement(device, chosen, f"on {where}, with the backend {chosen}")
    return Placement(device, AUTO, f"on {where}, with the slow backend reference: {_refusals(device)}")


def _no_backend(device: torch.device, backend: str) -> str:
    """Returns why `backend` does not draw on a device that is there, "" when it does."""
    from diff_rasterizer.backends import automatic_backend, why_not

    if backend != AUTO:
        return why_not(backend, device)
    # On a CPU without our extension the reference is still a way.
    if device.type == "cpu" or automatic_backend(device) != "reference":
        return ""
    return _refusals(device)


def _refusals(device: torch.device) -> str:
    """Returns why each backend that is for such devices does not draw there."""
    from diff_rasterizer.backends import backends_for, why_not

    reasons = [f"{name}: {why_not(name, device)}" for name in backends_for(device.type)]
    return "; ".join(reasons) or f"no backend is for {device.type} devices"


def _check_name(backend: str) -> None:
    from diff_rasterizer.backends import backend_names

    known = [AUTO, *backend_names()]
    if backend not in known:
        raise UserError(f"expected a backend out of {', '.join(known)}, got {backend!r}")


def _parsed(device: Any) -> torch.device:
    import torch

    try:
        return _counted(torch.device(device))
    except (RuntimeError, TypeError, ValueError):
        raise UserError(f"expected a device such as auto, cpu, cuda or cuda:1, got {device!r}") from None


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
        return f"torch {torch.__version__} sees no {device.type} device"
    count = getattr(module, "device_count", lambda: 1)()
    if device.index is not None and device.index >= count:
        return f"there is only {device.type}:0" if count == 1 else f"the last one is {device.type}:{count - 1}"
    return ""


def _named(device: torch.device) -> str:
    """Returns a device as messages show it, with the name of its make where torch knows it."""
    import torch

    if device.type == "cpu":
        return "the CPU"
    name = getattr(getattr(torch, device.type, None), "get_device_name", None)
    return str(device) if name is None else f"{device} ({name(device)})"
