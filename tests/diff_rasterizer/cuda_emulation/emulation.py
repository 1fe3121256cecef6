"""Builds the CUDA kernels for the CPU and launches them there; see docs/cuda_emulation.md.

`EmulationLauncher` stands where `CudaLauncher` stands on a GPU: same calls, tensors on the CPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from torch import Tensor

from diff_rasterizer.cuda_kernels import KERNEL_FILES, SOURCE_FOLDER
from diff_rasterizer.cuda_launch import Argument, Dim3

HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Wno-unused-function", "-Werror"]
_MESSAGE_BYTES = 512


class EmulationError(RuntimeError):
    """What a launch did wrong: a deadlock, lanes that diverged, arguments of the wrong kind."""


@cache
def _sources_hash() -> str:
    digest = hashlib.sha256()
    for folder in (SOURCE_FOLDER, SOURCE_FOLDER.parent / "maths", HERE):
        for path in sorted(folder.iterdir()):
            if path.suffix in (".cu", ".cuh", ".h", ".cpp"):
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def compile_cpp(folder: Path, text: str, flags: Sequence[str], suffix: str) -> Path:
    """Returns the compiled form of a C++ text, from the folder if the same sources were compiled before.

    Raises:
        EmulationError: with the compiler's output.
    """
    key = hashlib.sha256("\0".join([_sources_hash(), text, COMPILER, *flags]).encode()).hexdigest()[:24]
    built = folder / f"{key}{suffix}"
    if built.exists():
        return built
    source = folder / f"{key}.{os.getpid()}.cpp"
    source.write_text(text)
    partial = source.with_suffix(".partial")
    done = subprocess.run(
        [COMPILER, *flags, f"-I{HERE}", str(source), "-o", str(partial)], capture_output=True, text=True
    )
    if done.returncode:
        raise EmulationError(f"{COMPILER} failed:\n{done.stderr}")
    source.unlink()
    # Renamed when complete: another process may be looking.
    partial.rename(built)
    return built


def emulated_source(source: Path, entries: Sequence[str]) -> str:
    """Returns the C++ text that defines `launch_ENTRY` for each kernel of a .cu file."""
    lines = ['#include "cuda_emulation.h"', f'#include "{source}"']
    return "\n".join([*lines, *(f"GD_EMULATED_ENTRY({entry})" for entry in entries), ""])


@dataclass
class EmulationLauncher:
    """Runs launches on the CPU, the threads of a block as fibers."""

    folder: Path
    """Where compiled kernels are kept."""
    reverse: bool = False
    """Lets the threads of a block take turns in descending order."""
    before: Callable[[str, str, Dim3, Dim3, Sequence[Argument], Mapping[str, int]], None] | None = None
    """Called with each launch before it runs."""
    _libraries: dict[str, ctypes.CDLL] = field(default_factory=dict)

    def launch(
        self,
        file: str,
        entry: str,
        grid: Dim3,
        block: Dim3,
        args: Sequence[Argument],
        macros: Mapping[str, int] = {},
        shared_bytes: int = 0,
    ) -> None:
        kernels = KERNEL_FILES[file]
        unknown = set(macros) - set(kernels.macros)
        if unknown or entry not in kernels.entries:
            raise EmulationError(f"{file} has no macros {unknown} or no entry {entry}")
        if self.before is not None:
            self.before(file, entry, grid, block, args, macros)
        library = self._library(emulated_source(kernels.path, kernels.entries), macros)
        run(library, entry, grid, block, args, shared_bytes, self.reverse)

    def _library(self, text: str, macros: Mapping[str, int]) -> ctypes.CDLL:
        defines = [f"-D{name}={value}" for name, value in sorted(macros.items())]
        key = "\0".join([text, *defines])
        if key not in self._libraries:
            flags = [*FLAGS, *defines, "-shared", "-fPIC", "-fvisibility=hidden"]
            self._libraries[key] = ctypes.CDLL(str(compile_cpp(self.folder, text, flags, ".so")))
        return self._libraries[key]


def run(
    library: ctypes.CDLL,
    entry: str,
    grid: Dim3,
    block: Dim3,
    args: Sequence[Argument],
    shared_bytes: int = 0,
    reverse: bool = False,
) -> None:
    """Launches one kernel of a compiled library.

    Raises:
        EmulationError: when the launch is wrong or gets stuck.
    """
    storage = [_bytes_of(i, value) for i, value in enumerate(args)]
    buffers = [ctypes.create_string_buffer(data, len(data)) for data in storage]
    pointers = (ctypes.c_void_p * max(1, len(args)))(*[ctypes.addressof(b) for b in buffers])
    sizes = (ctypes.c_uint32 * max(1, len(args)))(*[len(data) for data in storage])
    dims = (ctypes.c_uint32 * 6)(*grid, *block)
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    failed = getattr(library, f"launch_{entry}")(
        dims, pointers, sizes, len(args), shared_bytes, int(reverse), message, _MESSAGE_BYTES
    )
    if failed:
        raise EmulationError(f"{entry}: {message.value.decode()}")


def _bytes_of(index: int, value: Argument) -> bytes:
    """Returns an argument as the kernel's parameter holds it: a pointer, or a number of its own size."""
    if value is None:
        return bytes(8)
    if isinstance(value, Tensor):
        if value.device.type != "cpu" or not value.is_contiguous():
            raise EmulationError(
                f"argument {index}: expected a contiguous tensor on the CPU, got one on {value.device}"
            )
        return value.data_ptr().to_bytes(8, "little")
    if isinstance(value, np.generic):
        return value.tobytes()
    raise EmulationError(f"argument {index}: expected a tensor, None or a numpy scalar, got {type(value).__name__}")


def compiler_available() -> bool:
    return shutil.which(COMPILER) is not None
