"""The registry of rasterizer backends: which exist, which can run here, and which one a call gets.

A backend is a module with the three operations of `diff_rasterizer.reference` (`project`, `view_colors`, `blend`), or,
for another library's renderer, one function `rasterize` with the arguments of `rasterization`. It may bring training
kernels for the tensors of its device: what `losses` and `optim` run on (`TrainingKernels`).

Besides our own there are those that a program registers (`register_backend`), and those that installed packages declare
as entry points of the group `gaussian4d.backends`, each the name of a `Backend`. These are imported when somebody asks
for them, and one that does not load says so as the reason why it cannot run.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

ENTRY_POINTS = "gaussian4d.backends"


@dataclass(frozen=True)
class Backend:
    """One way to rasterize."""

    name: str
    """What the user types."""
    module: str | Any
    """Module with the operations, by its name (ours relative to this package) or itself."""
    whole: bool
    """True when the module offers `rasterize` instead of the three operations."""
    unavailable: Callable[[], str]
    """Returns why the backend cannot run on this machine, "" when it can."""
    rejects: Callable[[torch.device, torch.dtype], str]
    """Returns what is wrong with such tensors, "" when they are fine."""
    device_type: str = ""
    """Type of the devices it is for: those whose tensors `training` takes, and that are asked for a backend."""
    training: str | Any = None
    """Module with `TrainingKernels`, by its name or itself; None where the backend has none."""


class TrainingKernels(Protocol):
    """What a fit needs besides the rasterizer. Nothing here may make the host wait for the device."""

    def ssim_and_l1(self, image: Tensor, target: Tensor, valid: bool) -> tuple[Tensor, Tensor]:
        """Returns mean SSIM and mean absolute error of float32 [I, H, W, C]; a gradient flows to `image`.

        `target` may be uint8. With `valid` only pixels whose window lies inside the picture count for SSIM.
        """
        ...

    def squared_error(self, image: Tensor, target: Tensor) -> Tensor:
        """Returns the mean of (image - target)^2 as a float64 scalar on the device, without a gradient.

        `image` is float32, `target` float32 or uint8, of the same shape.
        """
        ...

    def adam(
        self,
        param: Tensor,
        grad: Tensor,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        beta1: float,
        beta2: float,
        step_size: float,
        inv_sqrt_correction2: float,
        eps: float,
    ) -> None:
        """Updates contiguous float32 `param`, `exp_avg` and `exp_avg_sq` in place; see `optim.FusedAdam`."""
        ...


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


_REFERENCE = "reference"

# Ordered by preference: `auto` takes the first that can run. Those from outside come before the reference, which always
# can.
_BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("cpu", "cpu", False, _cpu_unavailable, _cpu_rejects, "cpu", "cpu_training"),
        Backend("cuda", "cuda", False, _cuda_unavailable, _cuda_rejects, "cuda", "cuda_training"),
        Backend("gsplat", "gsplat_adapter", True, _gsplat_unavailable, _cuda_rejects, "cuda"),
        Backend(_REFERENCE, "reference", False, lambda: "", _reference_rejects),
    )
}

_registered: dict[str, Backend] = {}
_warned: set[str] = set()


def register_backend(backend: Backend) -> None:
    """Adds a backend, which `rasterization(backend=...)` then knows by its name; the same name again replaces it.

    `auto` takes it for tensors that none of our compiled backends takes. Its training kernels serve the devices of its
    `device_type` where ours do not.

    Raises:
        ValueError: for what is no `Backend`, or a name of our own.
    """
    if not isinstance(backend, Backend):
        raise ValueError(f"expected a diff_rasterizer.Backend, got {type(backend).__name__}")
    if backend.name in (*_BACKENDS, "auto", ""):
        raise ValueError(f"the name {backend.name!r} is taken; register the backend under another")
    _registered[backend.name] = backend


@cache
def _installed() -> dict[str, EntryPoint]:
    """Returns the entry points of other packages; of two of one name the first counts, and our names are ours."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=ENTRY_POINTS):
        if point.name in (*_BACKENDS, "auto"):
            warnings.warn(f"the backend {point.name!r} of {point.value} is ignored: the name is taken", stacklevel=2)
        else:
            found.setdefault(point.name, point)
    return found


@cache
def _imported(point: EntryPoint) -> Backend:
    """Returns the backend of an entry point; one that does not load is never available, and says why."""
    try:
        backend = point.load()
        if isinstance(backend, Backend):
            return backend
        reason = f"expected a diff_rasterizer.Backend at {point.value}, got {type(backend).__name__}"
    except Exception as error:  # a stranger's import may raise anything
        reason = f"{type(error).__name__}: {error}"
    package = point.dist.name if point.dist is not None else point.value.split(":")[0]
    reason = f"the package {package} does not load: {reason}; mend or uninstall it"
    return Backend(point.name, "", False, lambda: reason, lambda device, dtype: "")


def backend_names() -> list[str]:
    """Returns all names in the order of preference; nothing is imported."""
    own = [name for name in _BACKENDS if name != _REFERENCE]
    return list(dict.fromkeys([*own, *_registered, *_installed(), _REFERENCE]))


def _backend(name: str) -> Backend:
    return _BACKENDS.get(name) or _registered.get(name) or _imported(_installed()[name])


def _all() -> Iterator[tuple[str, Backend]]:
    """Yields the backends in the order of preference; those of other packages are imported when it is their turn."""
    for name in backend_names():
        yield name, _backend(name)


def available_backends() -> dict[str, str]:
    """Returns every backend's name with the reason it cannot run on this machine, "" for those that can."""
    return {name: backend.unavailable() for name, backend in _all()}


def select_backend(name: str, device: torch.device, dtype: torch.dtype) -> tuple[ModuleType, bool]:
    """Returns the backend's module and whether it rasterizes as a whole (`Backend.whole`).

    `auto` takes the fastest that can run on such tensors. When only the reference is left it warns, once per reason.

    Raises:
        ValueError: for an unknown name, or a backend asked for by name that cannot run here or on such tensors.
    """
    if name == "auto":
        return _select_auto(device, dtype)
    reason = why_not(name, device, dtype)
    if reason:
        raise ValueError(f"backend={name!r} cannot be used: {reason}; use backend='auto' to take what can run")
    backend = _backend(name)
    return _load(name, backend.module), backend.whole


def why_not(name: str, device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """Returns why the backend `name` cannot rasterize such tensors here, "" when it can.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in _BACKENDS and name not in _registered and name not in _installed():
        raise ValueError(f"backend must be one of {', '.join(['auto', *backend_names()])}, got {name!r}")
    backend = _backend(name)
    return backend.unavailable() or backend.rejects(device, dtype)


def automatic_backend(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """Returns the name of the backend that `auto` takes for such tensors."""
    return _preferred(device, dtype)[0]


def device_types() -> list[str]:
    """Returns the types of devices that backends say they are for, ours first."""
    return list(dict.fromkeys(backend.device_type for _, backend in _all() if backend.device_type))


def backends_for(device_type: str) -> list[str]:
    """Returns the names of the backends that say they are for such devices, or did not load, in order of preference."""
    return [name for name, backend in _all() if backend.device_type == device_type or not backend.module]


def training_kernels(device: torch.device) -> tuple[TrainingKernels | None, str]:
    """Returns the training kernels for tensors on `device`, or None and why there are none."""
    reasons = []
    for name, backend in _all():
        if backend.device_type != device.type or backend.training is None:
            continue
        reason = backend.unavailable()
        if not reason:
            return _load(name, backend.training), ""  # pyright: ignore[reportReturnType]
        reasons.append(reason)
    return None, "; ".join(reasons) or f"no backend has kernels for it on {device}"


def _preferred(device: torch.device, dtype: torch.dtype) -> tuple[str, Backend, list[str]]:
    """Returns the first backend that can run, by name and itself, and why those before it cannot."""
    reasons = []
    for name, backend in _all():
        # Tensors first: asking whether a backend is available may load it.
        reason = backend.rejects(device, dtype) or backend.unavailable()
        if not reason:
            return name, backend, reasons
        reasons.append(f"{name}: {reason}")
    raise AssertionError("the reference runs everywhere")


def _select_auto(device: torch.device, dtype: torch.dtype) -> tuple[ModuleType, bool]:
    name, backend, reasons = _preferred(device, dtype)
    if name == _REFERENCE:
        _warn_once(
            "rasterizing with the pure torch reference, which is tens to hundreds of times slower than a compiled "
            "backend (" + "; ".join(reasons) + "). Pass backend='reference' to say that this is intended."
        )
    return _load(name, backend.module), backend.whole


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=5)


def _load(name: str, module: str | Any) -> ModuleType:
    return _import(f"{__package__}.{module}" if name in _BACKENDS else module) if isinstance(module, str) else module


@cache
def _import(name: str) -> ModuleType:
    return importlib.import_module(name)
