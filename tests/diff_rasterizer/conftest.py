"""Fixtures of the rasterizer's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch  # noqa: F401  before the extension, so that both use one OpenMP runtime

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
