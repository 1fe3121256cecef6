"""The registry of rasterizer backends: which exist, which can run here, and which one a call gets.

A backend is a module with the three operations of `diff_rasterizer.reference` (`project`, `view_colors`, `blend`), or,
for another library's renderer, one function `rasterize` with the arguments of `rasterization`.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch


@dataclass(frozen=True)
class Backend:
    """One way to rasterize."""

    name: str
    """What the user types."""
    module: str
    """Module with the operations, relative to this package."""
    whole: bool
    """True when the module offers `rasterize` instead of the three operations."""
    unavailable: Callable[[], str]
    """Returns why the backend cannot run on this machine, "" when it can."""
    rejects: Callable[[torch.device, torch.dtype], str]
    """Returns what is wrong with such tensors, "" when they are fine."""


@cache
def _cpu_unavailable() -> str:
    try:
        importlib.import_module(f"{__package__}._cpu")
        importlib.import_module(f"{__package__}.cpu")
    except (ImportError, OSError) as error:
        return f"the C++ extension diff_rasterizer._cpu does not import ({error}); `pip install .` builds it"
    return ""


def _cpu_rejects(device: torch.device, dtype: torch.dtype) -> str:
    if device.type != "cpu":
        return f"it needs tensors on the CPU, they are on {device}"
    if dtype != torch.float32:
        return f"it needs float32 tensors, they are {str(dtype).removeprefix('torch.')}"
    return ""


@cache
def _cuda_unavailable() -> str:
    from . import cuda_runtime

    return cuda_runtime.unavailable()


def _cuda_rejects(device: torch.device, dtype: torch.dtype) -> str:
    if device.type != "cuda":
        return f"it needs tensors on a CUDA device, they are on {device}"
    if dtype != torch.float32:
        return f"it needs float32 tensors, they are {str(dtype).removeprefix('torch.')}"
    return ""


@cache
def _gsplat_unavailable() -> str:
    from . import gsplat_adapter

    return gsplat_adapter.unavailable()


def _reference_rejects(device: torch.device, dtype: torch.dtype) -> str:
    return ""


# Ordered by preference: `auto` takes the first that can run.
_BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("cpu", "cpu", False, _cpu_unavailable, _cpu_rejects),
        Backend("cuda", "cuda", False, _cuda_unavailable, _cuda_rejects),
        Backend("gsplat", "gsplat_adapter", True, _gsplat_unavailable, _cuda_rejects),
        Backend("reference", "reference", False, lambda: "", _reference_rejects),
    )
}

_warned: set[str] = set()


def available_backends() -> dict[str, str]:
    """Returns every backend's name with the reason it cannot run on this machine, "" for those that can."""
    return {name: backend.unavailable() for name, backend in _BACKENDS.items()}


def select_backend(name: str, device: torch.device, dtype: torch.dtype) -> tuple[ModuleType, bool]:
    """Returns the backend's module and whether it rasterizes as a whole (`Backend.whole`).

    `auto` takes the fastest that can run on such tensors. When only the reference is left it warns, once per reason.

    Raises:
        ValueError: for an unknown name, or a backend asked for by name that cannot run here or on such tensors.
    """
    if name == "auto":
        return _select_auto(device, dtype)
    backend = _BACKENDS.get(name)
    if backend is None:
        raise ValueError(f"backend must be one of {', '.join(['auto', *_BACKENDS])}, got {name!r}")
    reason = backend.unavailable() or backend.rejects(device, dtype)
    if reason:
        raise ValueError(f"backend={name!r} cannot be used: {reason}; use backend='auto' to take what can run")
    return _load(backend), backend.whole


def automatic_backend(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """Returns the name of the backend that `auto` takes for such tensors."""
    return _preferred(device, dtype)[0].name


def _preferred(device: torch.device, dtype: torch.dtype) -> tuple[Backend, list[str]]:
    """Returns the first backend that can run, and why those before it cannot."""
    reasons = []
    for backend in _BACKENDS.values():
        # Tensors first: asking whether a backend is available may load it.
        reason = backend.rejects(device, dtype) or backend.unavailable()
        if not reason:
            return backend, reasons
        reasons.append(f"{backend.name}: {reason}")
    raise AssertionError("the reference runs everywhere")


def _select_auto(device: torch.device, dtype: torch.dtype) -> tuple[ModuleType, bool]:
    backend, reasons = _preferred(device, dtype)
    if backend.name == "reference":
        _warn_once(
            "rasterizing with the pure torch reference, which is tens to hundreds of times slower than a compiled "
            "backend (" + "; ".join(reasons) + "). Pass backend='reference' to say that this is intended."
        )
    return _load(backend), backend.whole


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=5)


@cache
def _load(backend: Backend) -> ModuleType:
    return importlib.import_module(f"{__package__}.{backend.module}")
