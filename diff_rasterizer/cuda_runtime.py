"""Runs CUDA kernels on torch tensors: compiled when first used, kept on disk, launched on torch's current stream.

Nothing here waits for the GPU.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cuda_cache import KernelCache
from .cuda_compile import CSRC, ToolchainError, compile_kernel, kernel_key, source_digest, toolchain
from .cuda_kernels import KERNEL_FILES, KernelFile
from .cuda_launch import Argument, Dim3

log = logging.getLogger(__name__)

# What a block may use of dynamic shared memory without asking.
_SHARED_BYTES = 48 * 1024
# torch's default stream is the null stream, 0; whether the driver takes that for the legacy stream or the thread's own
# depends on how it is called. 1 says which.
_LEGACY_STREAM = 1
_SCALARS = (
    np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.float32, np.float64,
)  # fmt: skip


def unavailable() -> str:
    """Returns why kernels cannot run on this machine, "" when they can. Compiles nothing."""
    if torch.version.hip is not None:
        return f"this torch ({torch.__version__}) is built for AMD GPUs; the kernels need an NVIDIA GPU"
    if torch.version.cuda is None:
        return f"torch sees no CUDA GPU: this torch ({torch.__version__}) is built without CUDA; see pytorch.org"
    if not torch.cuda.is_available():
        return f"torch sees no CUDA GPU (torch {torch.__version__}, CUDA {torch.version.cuda}); see nvidia-smi"
    try:
        tools = toolchain()
        if str(tools.nvrtc_version[0]) != torch.version.cuda.split(".")[0]:
            major = torch.version.cuda.split(".")[0]
            return (
                f"NVRTC is of CUDA {tools.nvrtc_version[0]}.{tools.nvrtc_version[1]}, torch of CUDA "
                f"{torch.version.cuda}; their major versions must be equal: pip install 'cuda-bindings=={major}.*' and "
                f"NVRTC of CUDA {major} ({'nvidia-cuda-nvrtc-cu12' if major == '12' else 'nvidia-cuda-nvrtc'})"
            )
        tools.architecture_for(torch.cuda.get_device_capability())
    except ToolchainError as error:
        return str(error)
    if not any((CSRC / "cuda").glob("*.cu")):
        return f"the kernel sources are missing from {CSRC / 'cuda'}; install gaussian4d again"
    return ""


def describe() -> list[tuple[str, str, str]]:
    """Returns lines of (what, state, what to do) about what compiles and runs kernels here, for `gaussian4d doctor`."""
    rows = [("CUDA of torch", torch.version.cuda or "none", "" if torch.version.cuda else "this torch is for the CPU")]
    try:
        tools = toolchain()
    except ToolchainError as error:
        reason, _, mend = str(error).partition("; ")
        rows.append(("compiler of kernels", reason, mend))
    else:
        targets = ", ".join(f"{a // 10}.{a % 10}" for a in tools.architectures)
        release = f"{tools.nvrtc_version[0]}.{tools.nvrtc_version[1]}"
        rows.append(("compiler of kernels", f"NVRTC {release} through cuda-core {tools.core_version}", ""))
        rows.append(("compute capabilities", targets, ""))
    rows.append(("compiled kernels", KernelCache().summary(), "GAUSSIAN4D_CACHE moves them"))
    return rows


class KernelBuilder:
    """Machine code of kernel files for one architecture, from the cache or compiled and then kept."""

    def __init__(self, architecture: str, csrc: Path = CSRC, cache: KernelCache | None = None) -> None:
        self.architecture = architecture
        self._csrc = csrc
        self._cache = KernelCache() if cache is None else cache
        self._sources = source_digest(csrc)

    def cubin(self, file: str, macros: Mapping[str, int]) -> bytes:
        """Returns the machine code of one file under `csrc/cuda`.

        Raises:
            KernelCompileError: when the source does not compile.
        """
        key = kernel_key(file, macros, self.architecture, self._sources)
        cubin = self._cache.load(key)
        if cubin is None:
            log.info("compiling %s %s for %s", file, dict(macros), self.architecture)
            cubin = compile_kernel(file, macros, self.architecture, self._csrc).cubin
            self._cache.save(key, cubin)
        return cubin


def pack_arguments(args: Sequence[Argument], device: torch.device) -> list[int | np.generic]:
    """Returns kernel arguments as cuda.core takes them: Python ints for pointers, typed numpy scalars as they are.

    Raises:
        TypeError: for anything but a tensor, None or a numpy scalar; a Python float would arrive as a double and a
            Python int as a pointer.
        ValueError: for a tensor that is on another device or not contiguous.
    """
    packed: list[int | np.generic] = []
    for position, arg in enumerate(args):
        if arg is None:
            packed.append(0)
        elif isinstance(arg, Tensor):
            if arg.device != device:
                raise ValueError(f"kernel argument {position} must be on {device}, it is on {arg.device}")
            if not arg.is_contiguous():
                raise ValueError(
                    f"kernel argument {position} must be contiguous, it has shape {tuple(arg.shape)} and strides "
                    f"{arg.stride()}; call .contiguous()"
                )
            packed.append(arg.data_ptr())
        elif isinstance(arg, np.generic) and type(arg) in _SCALARS:
            packed.append(arg)
        else:
            raise TypeError(
                f"kernel argument {position} must be a tensor, None or a typed numpy scalar such as np.int32(3), got "
                f"{type(arg).__name__}"
            )
    return packed


def argument_sizes(packed: Sequence[int | np.generic]) -> tuple[int, ...]:
    """Returns the bytes each packed argument takes in a kernel's parameter list."""
    return tuple(arg.itemsize if isinstance(arg, np.generic) else 8 for arg in packed)


@dataclass
class _Kernel:
    """An entry loaded on the device."""

    handle: Any
    """cuda.core's Kernel."""
    sizes: tuple[int, ...] | None
    """Bytes of each parameter; None where the driver is too old to say."""
    shared_bytes: int = _SHARED_BYTES
    """Dynamic shared memory it may use now."""


class CudaLauncher:
    """Compiles, loads and launches kernels on one GPU. Threads may share it."""

    def __init__(
        self,
        device: torch.device,
        files: Mapping[str, KernelFile] = KERNEL_FILES,
        csrc: Path = CSRC,
        cache: KernelCache | None = None,
    ) -> None:
        """Raises `ToolchainError` when the device's architecture cannot be compiled for."""
        self._files = files
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)
        self._core = toolchain().core
        architecture = toolchain().architecture_for(torch.cuda.get_device_capability(index))
        self._builder = KernelBuilder(architecture, csrc, cache)
        self._kernels: dict[tuple[str, str, tuple[tuple[str, int], ...]], _Kernel] = {}
        self._lock = threading.Lock()
        self._thread = threading.local()

    def launch(
        self,
        file: str,
        entry: str,
        grid: Dim3,
        block: Dim3,
        args: Sequence[Argument],
        macros: Mapping[str, int] = MappingProxyType({}),
        shared_bytes: int = 0,
    ) -> None:
        """Queues one kernel on the current stream of the device; an empty grid is no launch.

        Args:
            file: key of the table of kernels; the file is compiled the first time.
            entry: name of a kernel in it.
            grid: blocks along x, y, z.
            block: threads along x, y, z.
            args: tensors pass as pointers, None as a null pointer, numpy scalars as they are.
            macros: compile-time parameters, `-DNAME=value`; those left out have the source's defaults.
            shared_bytes: dynamic shared memory of a block.

        Raises:
            TypeError, ValueError: for arguments that do not fit the kernel (see `pack_arguments`), an unknown kernel.
            KernelCompileError: when the source does not compile.
            RuntimeError: when the driver refuses the launch.
        """
        if 0 in grid:
            return
        packed = pack_arguments(args, self.device)
        with torch.cuda.device(self.device):
            self._make_current()
            kernel = self._kernel(file, entry, macros)
            if kernel.sizes is not None and argument_sizes(packed) != kernel.sizes:
                raise TypeError(
                    f"{entry} of {file} takes parameters of {kernel.sizes} bytes, got arguments of "
                    f"{argument_sizes(packed)} bytes"
                )
            if shared_bytes > kernel.shared_bytes:
                self._allow_shared_memory(kernel, entry, shared_bytes)
            stream = self._core.Stream.from_handle(torch.cuda.current_stream(self.device).cuda_stream or _LEGACY_STREAM)
            config = self._core.LaunchConfig(grid=grid, block=block, shmem_size=shared_bytes)
            try:
                self._core.launch(stream, config, kernel.handle, *packed)
            except Exception as error:
                raise RuntimeError(
                    f"launching {entry} of {file} failed with grid {grid}, block {block}, {shared_bytes} bytes of "
                    f"shared memory: {error}"
                ) from error

    def _make_current(self) -> None:
        """Gives this thread the device's context, once.

        Threads start without one, autograd's among them, and torch sets none while it believes that device 0 is the
        current device anyway. cuda.core's Device objects belong to the thread that made them.
        """
        if not getattr(self._thread, "ready", False):
            self._core.Device(self.device.index).set_current()
            self._thread.ready = True

    def _kernel(self, file: str, entry: str, macros: Mapping[str, int]) -> _Kernel:
        key = (file, entry, tuple(sorted(macros.items())))
        kernel = self._kernels.get(key)
        if kernel is None:
            with self._lock:
                kernel = self._kernels.get(key)
                if kernel is None:
                    kernel = self._load(file, entry, macros)
                    self._kernels[key] = kernel
        return kernel

    def _load(self, file: str, entry: str, macros: Mapping[str, int]) -> _Kernel:
        known = self._files.get(file)
        if known is None or entry not in known.entries or not macros.keys() <= known.macros.keys():
            raise ValueError(f"no kernel {entry!r} with macros {sorted(macros)} in {file!r}; the table has {known}")
        code = self._core.ObjectCode.from_cubin(self._builder.cubin(known.source, macros))
        handle = code.get_kernel(entry)
        return _Kernel(handle, _optional(lambda: tuple(int(info.size) for info in handle.arguments_info)))

    def _allow_shared_memory(self, kernel: _Kernel, entry: str, size: int) -> None:
        limit = getattr(torch.cuda.get_device_properties(self.device), "shared_memory_per_block_optin", None)
        if limit is not None and size > limit:
            raise ValueError(
                f"{entry} needs {size} bytes of shared memory per block, {torch.cuda.get_device_name(self.device)} has "
                f"{limit}"
            )
        driver = importlib.import_module("cuda.bindings.driver")
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        handle = getattr(kernel.handle, "handle", None) or kernel.handle._handle
        (status,) = driver.cuKernelSetAttribute(attribute, size, handle, driver.CUdevice(self.device.index))
        if int(status) != 0:
            raise RuntimeError(f"the driver refuses {size} bytes of shared memory for {entry}: {status}")
        kernel.shared_bytes = size


def _optional(query: Callable[[], Any]) -> Any:
    """Returns what the query answers, None where this cuda.core or driver does not know the question."""
    try:
        return query()
    except Exception:
        return None
