"""The emulation of CUDA itself: what it computes, and that it reports what would hang or be undefined on a GPU."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cuda_emulation.emulation import FLAGS, HERE, EmulationError, compile_cpp, emulated_source, run

SOURCE = HERE / "self_test.cu"


@pytest.fixture(scope="module")
def kernels(emulation_folder: Path) -> ctypes.CDLL:
    entries = re.findall(r"__global__ void (\w+)", SOURCE.read_text())
    return ctypes.CDLL(
        str(compile_cpp(emulation_folder, emulated_source(SOURCE, entries), [*FLAGS, "-shared", "-fPIC"], ".so"))
    )


def launch(kernels: ctypes.CDLL, entry: str, threads: int, *args: object, blocks: int = 1, **options: object) -> None:
    run(kernels, entry, (blocks, 1, 1), (threads, 1, 1), args, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("reverse", [False, True])
def test_shuffles_and_votes(kernels: ctypes.CDLL, reverse: bool) -> None:
    out = torch.zeros(64, 10, dtype=torch.int32)
    launch(kernels, "warp_operations", 64, out, reverse=reverse)
    lane = torch.arange(64) % 32
    thirds = sum(1 << i for i in range(0, 32, 3))
    expected = [
        torch.full((64,), 105),
        100 + torch.where(lane < 3, lane, lane - 3),
        100 + torch.where(lane > 28, lane, lane + 3),
        100 + (lane ^ 6),
        101 + lane // 8 * 8,
        torch.full((64,), thirds - (1 << 32) if thirds >= 1 << 31 else thirds),
        torch.ones(64),
        torch.zeros(64),
        torch.where(lane < 16, 15, 16),
        torch.full((64,), 32 + 4 + 31),
    ]
    for column, values in enumerate(expected):
        assert out[:, column].tolist() == values.tolist(), column


@pytest.mark.parametrize("reverse", [False, True])
def test_barriers_and_atomics(kernels: ctypes.CDLL, reverse: bool) -> None:
    out, sums = torch.zeros(2, 64, dtype=torch.int32), torch.zeros(3)
    run(kernels, "block_operations", (2, 1, 1), (16, 4, 1), [out, sums], reverse=reverse)
    assert out.tolist() == [[63 - i + 32 * 1000 + 100000 for i in range(64)]] * 2
    assert float(sums[0]) == 64.0
    assert sums[1:].view(torch.int32).tolist() == [63, 256]


def test_dynamic_shared_memory(kernels: ctypes.CDLL) -> None:
    out = torch.zeros(32, dtype=torch.int32)
    launch(kernels, "dynamic_memory", 32, out, shared_bytes=128)
    assert out.tolist() == list(range(31, -1, -1))


def test_shared_memory_is_garbage_in_each_block(kernels: ctypes.CDLL) -> None:
    out = torch.zeros(3)
    launch(kernels, "stale_shared_memory", 1, out, blocks=3)
    assert bool(torch.isnan(out).all())


@pytest.mark.parametrize(
    ("entry", "threads", "message"),
    [
        ("some_leave_before_the_barrier", 64, r"deadlock .* 40 of 64 threads wait at __syncthreads .* 24 have left"),
        ("barrier_in_a_branch", 64, r"divergent synchronisation: lane 32 .* __syncthreads"),
        ("lane_missing_from_a_shuffle", 32, r"deadlock .* 31 of 32 threads wait at __shfl_sync"),
        ("lane_outside_its_mask", 32, r"lane 16 is not in its own mask 0x0000ffff"),
        ("large_local_array", 1, r"thread 0 has overflowed its stack"),
        ("read_from_a_lane_outside", 32, r"lane \d+ reads lane 20, which is not in the mask"),
    ],
)
def test_reports_what_would_hang_or_be_undefined(kernels: ctypes.CDLL, entry: str, threads: int, message: str) -> None:
    out = torch.zeros(threads, dtype=torch.int32)
    with pytest.raises(EmulationError, match=message):
        launch(kernels, entry, threads, out)
    # The next launch does not inherit anything.
    launch(kernels, "dynamic_memory", 32, torch.zeros(32, dtype=torch.int32), shared_bytes=128)


def test_the_order_of_threads_shows_a_missing_barrier(kernels: ctypes.CDLL) -> None:
    results = []
    for reverse in (False, True):
        out = torch.zeros(64, dtype=torch.int32)
        launch(kernels, "read_without_a_barrier", 64, out, reverse=reverse)
        results.append(out)
    assert not torch.equal(*results)


def test_arguments_have_the_types_of_the_kernel(kernels: ctypes.CDLL) -> None:
    out, d = torch.zeros(1), torch.tensor([0.5])
    launch(kernels, "add_numbers", 1, np.int32(1), np.int64(1 << 33), np.float32(-8.0), d, out)
    assert float(out) == float(np.float32(1 << 33))
    launch(kernels, "add_numbers", 1, np.int32(1), np.int64(2), np.float32(3.5), None, out)
    assert float(out) == 6.5
    with pytest.raises(EmulationError, match="argument 1 has 4 bytes, the kernel expects 8"):
        launch(kernels, "add_numbers", 1, np.int32(1), np.int32(2), np.float32(3.0), None, out)
    with pytest.raises(EmulationError, match="takes 5 arguments, got 4"):
        launch(kernels, "add_numbers", 1, np.int32(1), np.int64(2), np.float32(3.0), out)
    with pytest.raises(EmulationError, match="argument 0: expected a tensor, None or a numpy scalar, got int"):
        launch(kernels, "add_numbers", 1, 1, np.int64(2), np.float32(3.0), None, out)
    with pytest.raises(EmulationError, match="argument 4: expected a contiguous tensor"):
        launch(kernels, "add_numbers", 1, np.int32(1), np.int64(2), np.float32(3.0), None, torch.zeros(2, 2).T)
