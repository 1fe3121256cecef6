"""CUDA kernels from source to machine code: NVRTC through cuda.core. Needs no nvcc, no headers and no GPU."""

from __future__ import annotations

import hashlib
import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

CSRC = Path(__file__).resolve().parent / "csrc"
"""The folder of kernel sources: `cuda/*.cu`, which include `../maths/*.h`."""

_INSTALL = "pip install 'gaussian4d[cuda]' (or 'gaussian4d[cuda12]' beside a torch built for CUDA 12)"


class ToolchainError(RuntimeError):
    """What compiles or launches kernels is missing or does not fit; the message says what to install."""


class KernelCompileError(RuntimeError):
    """NVRTC refused a kernel; the message holds its log, which quotes the source lines."""


@dataclass(frozen=True)
class Toolchain:
    """What was found on this machine."""

    core: ModuleType
    """cuda.core, or cuda.core.experimental in the releases before 0.5."""
    core_version: str
    nvrtc_version: tuple[int, int]
    """(major, minor) of the CUDA release that NVRTC belongs to."""
    architectures: tuple[int, ...]
    """Compute capabilities NVRTC compiles for, as 75, 80, ..."""

    def architecture_for(self, capability: tuple[int, int]) -> str:
        """Returns the best target, as "sm_90", whose code runs on a GPU of such a compute capability.

        Machine code runs on GPUs of the same major capability and the same or a higher minor one, so a GPU newer than
        NVRTC gets the code of its nearest elder.

        Raises:
            ToolchainError: when NVRTC has no such target.
        """
        major, minor = capability
        fitting = [a for a in self.architectures if a // 10 == major and a % 10 <= minor]
        if not fitting:
            known = ", ".join(f"{a // 10}.{a % 10}" for a in self.architectures)
            raise ToolchainError(
                f"NVRTC {self.nvrtc_version[0]}.{self.nvrtc_version[1]} cannot compile for a GPU of compute capability "
                f"{major}.{minor}, it knows {known}; install a torch and an NVRTC of a CUDA release that supports it"
            )
        return f"sm_{max(fitting)}"


@cache
def toolchain() -> Toolchain:
    """Returns cuda.core and NVRTC.

    Raises:
        ToolchainError: when one of them is missing or does not load.
    """
    core = _cuda_core()
    try:
        nvrtc = importlib.import_module("cuda.bindings.nvrtc")
        version = _checked(nvrtc.nvrtcVersion())
        architectures = _checked(nvrtc.nvrtcGetSupportedArchs())[0]
    # The bindings load the library at the first call and raise errors of their own, of several kinds.
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ToolchainError(f"NVRTC does not load ({first_line}); {_INSTALL}") from error
    return Toolchain(core, _version("cuda-core"), (int(version[0]), int(version[1])), tuple(sorted(architectures)))


def _cuda_core() -> ModuleType:
    reason = "it has neither Program nor launch"
    for name in ("cuda.core", "cuda.core.experimental"):
        try:
            module = importlib.import_module(name)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            continue
        if hasattr(module, "Program") and hasattr(module, "launch"):
            return module
    if _version("cuda-core") == "missing":
        raise ToolchainError(f"the package cuda-core is not installed; {_INSTALL}")
    raise ToolchainError(f"cuda-core {_version('cuda-core')} does not import ({reason}); {_INSTALL}")


def _checked(answer: Sequence[Any]) -> Sequence[Any]:
    status, *values = answer
    if int(status) != 0:
        raise RuntimeError(f"NVRTC answered {status}")
    return values


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


@dataclass(frozen=True)
class Compiled:
    """One kernel file as machine code."""

    cubin: bytes
    log: str
    """What the compiler said, with ptxas's line of registers, stack and spills for each entry."""


def compile_kernel(file: str, macros: Mapping[str, int], architecture: str, csrc: Path = CSRC) -> Compiled:
    """Returns `csrc/cuda/file` compiled for an architecture such as "sm_90".

    Every kernel of this package, on every machine and in the tests, is compiled by this function with these options.

    Raises:
        ToolchainError: when there is nothing to compile with.
        KernelCompileError: when the source does not compile.
    """
    tools = toolchain()
    folder = csrc / "cuda"
    source = (folder / file).read_text(encoding="utf-8")
    log = io.StringIO()
    try:
        program = tools.core.Program(
            source, "c++", tools.core.ProgramOptions(**options(file, macros, architecture, folder))
        )
        try:
            cubin = bytes(program.compile("cubin", logs=log).code)
        finally:
            program.close()
    # cuda.core's own exception has moved between modules from release to release.
    except Exception as error:
        with_macros = "".join(f" -D{name}={value}" for name, value in sorted(macros.items()))
        said = "\n".join(part for part in (str(error).strip(), log.getvalue().strip()) if part)
        raise KernelCompileError(
            f"NVRTC {tools.nvrtc_version[0]}.{tools.nvrtc_version[1]} cannot compile csrc/cuda/{file}{with_macros} for "
            f"{architecture}; please report this with the log:\n{said}"
        ) from error
    return Compiled(cubin, log.getvalue())


def options(file: str, macros: Mapping[str, int], architecture: str, folder: Path) -> dict[str, Any]:
    """Returns the fields of cuda.core's ProgramOptions: precise divisions and roots, line numbers for profilers."""
    return {
        "name": file,
        "arch": architecture,
        "std": "c++17",
        "include_path": [str(folder)],
        # cuda.core takes an empty list for a mistake.
        "define_macro": [(name, str(int(value))) for name, value in sorted(macros.items())] or None,
        "lineinfo": True,
        "ptxas_options": ["-v"],
    }


def source_digest(csrc: Path = CSRC) -> str:
    """Returns a hash over the names and contents of all sources a kernel can include."""
    digest = hashlib.sha256()
    for path in sorted([*(csrc / "maths").iterdir(), *(csrc / "cuda").iterdir()]):
        if path.is_file():
            data = path.read_bytes()
            digest.update(f"{path.relative_to(csrc).as_posix()} {len(data)}\n".encode())
            digest.update(data)
    return digest.hexdigest()


def kernel_key(file: str, macros: Mapping[str, int], architecture: str, sources: str) -> str:
    """Returns the name under which a compiled kernel is kept; `sources` is a `source_digest`.

    Equal keys mean equal machine code: it covers every source, macro and option, NVRTC's release and the architecture.
    """
    # The include folder is left out: its content counts, not where it lies.
    what = options(file, macros, architecture, Path())
    text = repr([sources, sorted(what.items()), toolchain().nvrtc_version])
    return f"{Path(file).stem}-{architecture}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
