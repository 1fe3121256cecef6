"""Launches a kernel through `CudaLauncher` on a machine whose driver is `driver.cpp`; prints what the driver saw.

Run in a process of its own, because the driver is loaded once. torch is a build without CUDA here, so its few functions
that the launcher calls are stood in for.
"""

from __future__ import annotations

import ctypes
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from diff_rasterizer.cuda_kernels import KernelFile
from diff_rasterizer.cuda_runtime import CudaLauncher

driver = ctypes.CDLL("libcuda.so.1")
driver.fake_cuda_calls.restype = ctypes.c_char_p
streams = threading.local()


class OnDevice(torch.Tensor):
    """A tensor that says it lies on a GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", self.index)


def on_device(index: int) -> torch.Tensor:
    tensor = torch.zeros(8).as_subclass(OnDevice)
    tensor.index = index
    return tensor


def context() -> int:
    """Returns the device whose context this thread has, as torch sees it: 0 where it has none."""
    index = ctypes.c_int(0)
    return index.value if driver_call("cuCtxGetDevice", ctypes.byref(index)) == 0 else 0


def driver_call(name: str, *args: Any) -> int:
    address, found = ctypes.c_void_p(), ctypes.c_int()
    driver.cuGetProcAddress_v2(name.encode(), ctypes.byref(address), 13000, ctypes.c_uint64(0), ctypes.byref(found))
    return ctypes.CFUNCTYPE(
        ctypes.c_int, *(type(a) if isinstance(a, ctypes._SimpleCData) else ctypes.c_void_p for a in args)
    )(address.value)(*args)


@contextmanager
def device(wanted: torch.device) -> Iterator[None]:
    """torch.cuda.device: switches only where another device is current."""
    before = context()
    if before != wanted.index:
        driver_call("cuCtxSetCurrent", ctypes.c_size_t(0x1000 + wanted.index))
    yield
    if before != wanted.index:
        driver_call("cuCtxSetCurrent", ctypes.c_size_t(0x1000 + before))


torch.cuda.device = device  # type: ignore[assignment,misc]
torch.cuda.get_device_capability = lambda *_: (9, 0)  # type: ignore[assignment]
torch.cuda.get_device_name = lambda *_: "a card"  # type: ignore[assignment]
torch.cuda.get_device_properties = lambda *_: SimpleNamespace(shared_memory_per_block_optin=232448)  # type: ignore
torch.cuda.current_stream = lambda *_: SimpleNamespace(cuda_stream=getattr(streams, "current", 0))  # type: ignore


def main() -> None:
    csrc = Path(sys.argv[1])
    files = {"tiny": KernelFile("tiny.cu", ("scale",), {"GD_TIMES": (1, 2)})}
    first, second = (CudaLauncher(torch.device("cuda", index), files, csrc) for index in (0, 1))
    refused = []

    def launch(launcher: CudaLauncher, grid: tuple[int, int, int], threads: int, count: Any, shared: int = 0) -> None:
        tensor = on_device(launcher.device.index)
        pointers.append(tensor)
        args = [tensor, None, count, np.float32(0.5)]
        try:
            launcher.launch("tiny", "scale", grid, (threads, 1, 1), args, shared_bytes=shared)
        except (TypeError, ValueError) as error:
            refused.append(f"refused {type(error).__name__}: {error}")

    def elsewhere() -> None:
        streams.current = 0x1234
        launch(first, (3, 2, 1), 64, np.int32(5))

    pointers: list[torch.Tensor] = []
    launch(first, (3, 2, 1), 64, np.int32(5))
    launch(first, (3, 0, 1), 64, np.int32(5))
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    for shared in (1024, 65536, 65000):
        launch(second, (1, 1, 1), 32, np.int32(5), shared)
    launch(first, (1, 1, 1), 32, np.int64(5))
    launch(first, (1, 1, 1), 32, np.int32(5), 300000)

    calls = driver.fake_cuda_calls().decode()
    known = {tensor.data_ptr().to_bytes(8, "little").hex() for tensor in pointers}
    calls = re.sub("args ([0-9a-f]{16})", lambda m: "args POINTER" if m[1] in known else m[0], calls)
    print(calls + "\n".join(refused) + f"\ncurrent device after all: {context()}")


main()
