"""Fixtures of the rasterizer's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch  # noqa: F401  before the extension, so that both use one OpenMP runtime
from cuda_emulation.emulation import COMPILER, EmulationLauncher, compiler_available

from diff_rasterizer import backends
from diff_rasterizer.cuda_launch import set_launcher

INSTRUCTION_SETS = ["avx512", "avx2", "generic"]


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once per instruction set that this processor has."""
    _cpu = pytest.importorskip("diff_rasterizer._cpu")
    if request.param not in _cpu.instruction_sets():
        pytest.skip(f"this processor does not run {request.param}")
    before = _cpu.instruction_set()
    _cpu.use_instruction_set(request.param)
    yield request.param
    _cpu.use_instruction_set(before)


@pytest.fixture(scope="session")
def nvrtc():
    """The compiler of CUDA kernels, which needs no GPU. Without it the test is skipped, or fails where it must be."""
    from diff_rasterizer import cuda_compile

    try:
        return cuda_compile.toolchain()
    except cuda_compile.ToolchainError as error:
        if os.environ.get("GAUSSIAN4D_REQUIRE_CPU") == "1":
            pytest.fail(f"GAUSSIAN4D_REQUIRE_CPU=1, but {error}")
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def emulation_folder(request: pytest.FixtureRequest) -> Path:
    """Where the emulated CUDA kernels are compiled to, kept between runs. Skips, or fails, without a C++ compiler."""
    if not compiler_available():
        reason = f"the emulation of the CUDA kernels needs the C++ compiler {COMPILER}"
        if os.environ.get("GAUSSIAN4D_REQUIRE_CPU") == "1":
            pytest.fail(f"GAUSSIAN4D_REQUIRE_CPU=1, but {reason}")
        pytest.skip(reason)
    cache = request.config.cache
    assert cache is not None
    return cache.mkdir("cuda_emulation")


@pytest.fixture(scope="session")
def _emulation(emulation_folder: Path) -> EmulationLauncher:
    return EmulationLauncher(emulation_folder)


@pytest.fixture
def emulation(_emulation: EmulationLauncher) -> Iterator[EmulationLauncher]:
    """Runs the `cuda` backend's kernels on CPU tensors, and offers that backend by its name, for one test."""
    emulated = replace(backends._BACKENDS["cuda"], module="cuda", unavailable=lambda: "", rejects=lambda *_: "")
    set_launcher("cpu", lambda device: _emulation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backends._BACKENDS, "cuda", emulated)
        yield _emulation
    _emulation.before, _emulation.reverse = None, False
    set_launcher("cpu", None)
