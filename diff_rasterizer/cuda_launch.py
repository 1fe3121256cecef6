"""Who runs the kernels of the `cuda` backend: one launcher per kind of device.

On CUDA devices that is `cuda_runtime.CudaLauncher`. The tests register an emulation for the CPU, so that the same
orchestration and the same kernel sources run without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

Argument = Tensor | np.generic | None
Dim3 = tuple[int, int, int]


class Launcher(Protocol):
    """Launches kernels of `cuda_kernels.KERNEL_FILES` on one device."""

    def launch(
        self,
        file: str,
        entry: str,
        grid: Dim3,
        block: Dim3,
        args: Sequence[Argument],
        macros: Mapping[str, int] = ...,
        shared_bytes: int = ...,
    ) -> None:
        """Queues one launch on the current stream.

        Args:
            file: key of `KERNEL_FILES`.
            entry: name of the kernel in that file.
            grid: blocks along x, y, z.
            block: threads along x, y, z.
            args: contiguous tensors, passed as pointers; None, a null pointer; numpy scalars, passed as their type.
            macros: values of the file's compile-time parameters; those left out have the source's defaults.
            shared_bytes: dynamic shared memory.
        """
        ...


_factories: dict[str, Callable[[torch.device], Launcher]] = {}
_launchers: dict[torch.device, Launcher] = {}


def set_launcher(device_type: str, factory: Callable[[torch.device], Launcher] | None) -> None:
    """Makes `factory` build the launchers of devices of this type; None takes the registration back."""
    for device in [d for d in _launchers if d.type == device_type]:
        del _launchers[device]
    if factory is None:
        _factories.pop(device_type, None)
    else:
        _factories[device_type] = factory


def launcher(device: torch.device) -> Launcher:
    """Returns the launcher of a device, made on first use.

    Raises:
        ValueError: for a device whose type has none.
    """
    found = _launchers.get(device)
    if found is None:
        factory = _factories.get(device.type)
        if factory is None and device.type == "cuda":
            from .cuda_runtime import CudaLauncher

            factory = CudaLauncher
        if factory is None:
            raise ValueError(f"the CUDA kernels need tensors on a CUDA device, got tensors on {device}")
        found = _launchers[device] = factory(device)
    return found
