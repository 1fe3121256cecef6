"""Fixtures of the rasterizer's tests."""

from __future__ import annotations

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
