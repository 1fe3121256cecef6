"""Compiling, keeping and launching CUDA kernels, without a GPU: what the launcher does up to the driver's door."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from diff_rasterizer import backends, cuda_compile, cuda_runtime
from diff_rasterizer.cuda_cache import KernelCache, cache_folder
from diff_rasterizer.cuda_compile import KernelCompileError, Toolchain, ToolchainError, compile_kernel

HERE = Path(__file__).parent
TINY = """
#include "../maths/factor.h"
#ifndef GD_TIMES
#define GD_TIMES 1
#endif
extern "C" __global__ void scale(float* out, const float* in, int count, float by) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = in[i] * by * factor() * GD_TIMES;
}
"""


@pytest.fixture
def csrc(tmp_path: Path) -> Path:
    """A source tree with one kernel and one header."""
    folder = tmp_path / "csrc"
    (folder / "cuda").mkdir(parents=True)
    (folder / "maths").mkdir()
    (folder / "cuda" / "tiny.cu").write_text(TINY, encoding="utf-8")
    (folder / "maths" / "factor.h").write_text("static __device__ float factor() { return 3.0f; }\n", encoding="utf-8")
    return folder


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were really compiled, in order."""
    done: list[str] = []

    def counted(file: str, *args: object) -> cuda_compile.Compiled:
        done.append(file)
        return compile_kernel(file, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(cuda_runtime, "compile_kernel", counted)
    return done


def test_a_kernel_compiles_once_per_source_macro_and_architecture(
    nvrtc: Toolchain, csrc: Path, tmp_path: Path, compilations: list[str]
) -> None:
    def cubin(architecture: str = "sm_90", **macros: int) -> bytes:
        # A new builder each time, as in a new process: only the disk is shared.
        return cuda_runtime.KernelBuilder(architecture, csrc, KernelCache(tmp_path / "kept")).cubin("tiny.cu", macros)

    first = cubin()
    assert first.startswith(b"\x7fELF") and b".text.scale\0" in first
    assert cubin() == first and len(compilations) == 1
    assert cubin(GD_TIMES=2) != first and len(compilations) == 2
    assert cubin("sm_80") != first and len(compilations) == 3
    header = csrc / "maths" / "factor.h"
    header.write_text(header.read_text(encoding="utf-8").replace("3.0f", "4.0f"), encoding="utf-8")
    assert cubin() != first and len(compilations) == 4, "a changed header must not find the old kernel"
    (csrc / "maths" / "other.h").write_text("", encoding="utf-8")
    cubin()
    assert len(compilations) == 5, "a new header may shadow another"
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert len(kept) == 5 and all(name.endswith(".cubin") for name in kept), "no temporary file may stay behind"


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other program"])
def test_a_damaged_cache_entry_is_compiled_again(
    nvrtc: Toolchain, csrc: Path, tmp_path: Path, compilations: list[str], damage: str
) -> None:
    builder = cuda_runtime.KernelBuilder("sm_90", csrc, KernelCache(tmp_path / "kept"))
    first = builder.cubin("tiny.cu", {})
    (entry,) = (tmp_path / "kept").iterdir()
    data = entry.read_bytes()
    flipped = data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]
    entry.write_bytes({"cut": data[:-1], "flipped": flipped, "empty": b"", "other program": first}[damage])
    assert builder.cubin("tiny.cu", {}) == first and len(compilations) == 2
    assert entry.read_bytes() == data, "the damaged entry is replaced"
    assert builder.cubin("tiny.cu", {}) == first and len(compilations) == 2


def test_a_folder_that_cannot_be_written_costs_a_warning_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder", encoding="utf-8")
    kept = KernelCache(tmp_path / "file" / "kernels")
    with pytest.warns(UserWarning, match=r"cannot be kept in .*file.*set GAUSSIAN4D_CACHE"):
        kept.save("key", b"code")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept.save("key", b"code")
    assert kept.load("key") is None


def test_where_kernels_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.delenv("GAUSSIAN4D_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / "user" / ".cache" / "gaussian4d" / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == tmp_path / "user" / ".cache" / "gaussian4d" / "kernels"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "gaussian4d" / "kernels"
    monkeypatch.setenv("GAUSSIAN4D_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "kernels"


def test_a_broken_source_shows_the_log_and_the_line(nvrtc: Toolchain, csrc: Path) -> None:
    source = csrc / "cuda" / "tiny.cu"
    source.write_text(TINY.replace("float by)", "float by, nonsense x)"), encoding="utf-8")
    with pytest.raises(KernelCompileError) as caught:
        compile_kernel("tiny.cu", {"GD_TIMES": 2}, "sm_90", csrc)
    message = str(caught.value)
    assert "csrc/cuda/tiny.cu -DGD_TIMES=2 for sm_90" in message
    assert 'tiny.cu(6): error: identifier "nonsense" is undefined' in message
    assert "float by, nonsense x" in message, "the source line is quoted"


def test_the_architecture_is_the_nearest_that_the_gpu_runs() -> None:
    tools = Toolchain(sys, "1.2.2", (13, 0), (75, 80, 86, 89, 90, 100, 120))
    wanted = {(7, 5): 75, (8, 0): 80, (8, 7): 86, (8, 9): 89, (9, 0): 90, (10, 3): 100, (12, 1): 120}
    for capability, target in wanted.items():
        assert tools.architecture_for(capability) == f"sm_{target}"
    for too_old_or_new in ((7, 0), (6, 1), (13, 0)):
        with pytest.raises(ToolchainError, match=r"NVRTC 13\.0 cannot compile for a GPU of compute capability"):
            tools.architecture_for(too_old_or_new)


def test_arguments_keep_their_types() -> None:
    cpu = torch.device("cpu")
    tensor = torch.arange(6.0).reshape(2, 3)
    packed = cuda_runtime.pack_arguments([tensor, None, np.int32(5), np.float32(0.5), np.int64(7), tensor[1:]], cpu)
    assert packed[0] == tensor.data_ptr() and packed[1] == 0 and packed[5] == tensor.data_ptr() + 12
    assert [type(x) for x in packed[2:5]] == [np.int32, np.float32, np.int64]
    assert cuda_runtime.argument_sizes(packed) == (8, 8, 4, 4, 8, 8)


@pytest.mark.parametrize("wrong", [3, 0.5, True, "x", np.float16(1), [1]], ids=lambda x: type(x).__name__)
def test_untyped_arguments_are_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match=rf"kernel argument 1 must be .*np\.int32\(3\), got {type(wrong).__name__}"):
        cuda_runtime.pack_arguments([None, wrong], torch.device("cpu"))  # type: ignore[list-item]


def test_tensors_that_a_pointer_does_not_describe_are_refused() -> None:
    tensor = torch.zeros(4, 4)
    with pytest.raises(ValueError, match=r"argument 0 must be contiguous.*shape \(4, 2\) and strides \(4, 1\)"):
        cuda_runtime.pack_arguments([tensor[:, :2]], torch.device("cpu"))
    with pytest.raises(ValueError, match=r"argument 0 must be on cuda:0, it is on cpu"):
        cuda_runtime.pack_arguments([tensor], torch.device("cuda", 0))


# Each case: what torch and the toolchain say, and what the user is told.
@pytest.mark.parametrize(
    ("hip", "cuda", "gpu", "nvrtc_version", "told"),
    [
        ("6.2", None, True, (13, 0), "built for AMD GPUs"),
        (None, None, False, (13, 0), "no CUDA GPU: this torch .* is built without CUDA"),
        (None, "13.0", False, (13, 0), r"no CUDA GPU \(torch .*CUDA 13.0\)"),
        (None, "12.8", True, (13, 0), r"NVRTC is of CUDA 13.0, torch of CUDA 12.8.*cuda-bindings==12.*nvrtc-cu12"),
        (None, "13.0", True, (12, 9), r"NVRTC is of CUDA 12.9, torch of CUDA 13.0.*cuda-bindings==13"),
        (None, "13.0", True, None, r"cuda-core is not installed; pip install 'gaussian4d\[cuda\]'"),
        (None, "13.2", True, (13, 0), ""),
    ],
)
def test_the_reason_why_kernels_cannot_run(
    monkeypatch: pytest.MonkeyPatch,
    hip: str | None,
    cuda: str | None,
    gpu: bool,
    nvrtc_version: tuple[int, int] | None,
    told: str,
) -> None:
    def tools() -> Toolchain:
        if nvrtc_version is None:
            monkeypatch.setattr(cuda_compile, "_version", lambda package: "missing")
            monkeypatch.setitem(sys.modules, "cuda.core", None)
            monkeypatch.setitem(sys.modules, "cuda.core.experimental", None)
            return cuda_compile.toolchain.__wrapped__()
        return Toolchain(sys, "1.2.2", nvrtc_version, (80, 90))

    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(cuda_runtime, "toolchain", tools)
    reason = cuda_runtime.unavailable()
    assert bool(reason) == bool(told) and re.search(told, reason), reason


def test_auto_on_a_gpu_prefers_ours_then_gsplat(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    reasons = {"cpu": "", "cuda": "", "gsplat": ""}

    for name in reasons:
        real = backends._BACKENDS[name]
        fake = backends.Backend(name, "reference", real.whole, lambda name=name: reasons[name], real.rejects)
        monkeypatch.setitem(backends._BACKENDS, name, fake)
    assert backends.automatic_backend(gpu) == "cuda"
    reasons["cuda"] = "broken"
    assert backends.automatic_backend(gpu) == "gsplat"
    assert backends.automatic_backend(torch.device("cpu")) == "cpu"
    reasons["gsplat"] = "broken too"
    assert backends.automatic_backend(gpu) == "reference"
    assert "float64" in backends._BACKENDS["cuda"].rejects(gpu, torch.float64)
    assert "they are on cpu" in backends._BACKENDS["cuda"].rejects(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda.so.1 that writes down what it is asked."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("the fake driver needs Linux and a C++ compiler")
    folder = tmp_path_factory.mktemp("fake_cuda")
    library = folder / "libcuda.so.1"
    source = HERE / "fake_cuda" / "driver.cpp"
    command = [compiler, "-std=c++17", "-O0", "-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", library, source]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return folder


def test_the_launcher_before_a_driver_that_writes_down_what_it_is_asked(
    nvrtc: Toolchain, fake_driver: Path, csrc: Path, tmp_path: Path
) -> None:
    """The real cuda.core, handed to by our launcher, on two threads, two devices and two streams."""
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(fake_driver),
        "FAKE_CUDA_PARAMS": "8,8,4,4",
        "GAUSSIAN4D_CACHE": str(tmp_path / "kept"),
    }
    command = [sys.executable, str(HERE / "fake_cuda" / "launches.py"), str(csrc)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        # The null stream goes by its own name; the numbers are little-endian: a pointer, a null pointer, 5, 0.5f.
        "launch scale thread 0 device 0 stream 1 shared 0 grid 3 2 1 block 64 1 1 "
        "args POINTER 0000000000000000 05000000 0000003f",
        # Another thread has no context until the launcher gives it one, and its own current stream.
        "launch scale thread 1 device 0 stream 4660 shared 0 grid 3 2 1 block 64 1 1 "
        "args POINTER 0000000000000000 05000000 0000003f",
        "launch scale thread 0 device 1 stream 1 shared 1024 grid 1 1 1 block 32 1 1 "
        "args POINTER 0000000000000000 05000000 0000003f",
        # Above 48 KB the kernel must be allowed to, once (8: the maximum of dynamic shared memory).
        "attribute 8=65536 scale device 1",
        "launch scale thread 0 device 1 stream 1 shared 65536 grid 1 1 1 block 32 1 1 "
        "args POINTER 0000000000000000 05000000 0000003f",
        "launch scale thread 0 device 1 stream 1 shared 65000 grid 1 1 1 block 32 1 1 "
        "args POINTER 0000000000000000 05000000 0000003f",
        "refused TypeError: scale of tiny takes parameters of (8, 8, 4, 4) bytes, got arguments of (8, 8, 8, 4) bytes",
        "refused ValueError: scale needs 300000 bytes of shared memory per block, a card has 232448",
        "current device after all: 0",
    ]
