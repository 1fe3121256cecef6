"""Recorded launches as files, and the programs that run them under a sanitizer (`replay.cpp`)."""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from diff_rasterizer.cuda_kernels import KERNEL_FILES
from diff_rasterizer.cuda_launch import Argument, Dim3

from .emulation import FLAGS, HERE, compile_cpp


@dataclass(frozen=True)
class Recorded:
    """One launch with copies of its arguments from before it ran."""

    file: str
    entry: str
    grid: Dim3
    block: Dim3
    args: list[Argument]
    macros: dict[str, int]

    def write(self, path: Path) -> Path:
        """Writes the launch in the layout that replay.cpp reads."""
        name = self.entry.encode()
        parts = [struct.pack("<I", len(name)), name, struct.pack("<6I", *self.grid, *self.block)]
        parts.append(struct.pack("<I", len(self.args)))
        for value in self.args:
            if value is None:
                parts.append(struct.pack("<IQ", 0, 0))
            elif isinstance(value, Tensor):
                data = value.numpy().tobytes()
                parts += [struct.pack("<IQ", 2, len(data)), data]
            else:
                assert isinstance(value, np.generic)
                data = value.tobytes()
                parts += [struct.pack("<IQ", 1, len(data)), data]
        path.write_bytes(b"".join(parts))
        return path


def build_replay(folder: Path, file: str, macros: dict[str, int], sanitizer: str, threads: bool) -> Path:
    """Returns the program that runs launches of one kernel file under a sanitizer ("thread", "address,undefined")."""
    kernels = KERNEL_FILES[file]
    uses = " ".join(f"X({entry})" for entry in kernels.entries)
    # Sanitizers watch ordinary static variables; a section of its own would hide shared memory from them.
    text = f'#define GD_EMULATION_PLAIN_SHARED 1\n#define GD_SOURCE "{kernels.path}"\n#define GD_ENTRIES(X) {uses}\n'
    text += f"{'#define GD_EMULATION_THREADS 1' if threads else ''}\n" + f'#include "{HERE / "replay.cpp"}"\n'
    defines = [f"-D{name}={value}" for name, value in sorted(macros.items())]
    flags = [*FLAGS, *defines, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=undefined", "-pthread"]
    return compile_cpp(folder, text, flags, ".replay")


def replay(program: Path, launch: Path, *skip: str) -> subprocess.CompletedProcess[str]:
    """Runs a program on a recorded launch; `skip` is the line and the file name of a barrier to leave out."""
    # A fixed address layout: some kernels' randomisation is too wide for ThreadSanitizer.
    command = ["setarch", "-R", str(program)] if _setarch() else [str(program)]
    # The longest memory of earlier accesses: a race whose other side is forgotten is not reported.
    environment = os.environ | {"TSAN_OPTIONS": "history_size=7"}
    return subprocess.run([*command, str(launch), *skip], capture_output=True, text=True, timeout=120, env=environment)


def _setarch() -> bool:
    try:
        return subprocess.run(["setarch", "-R", "true"], capture_output=True).returncode == 0
    except OSError:
        return False
