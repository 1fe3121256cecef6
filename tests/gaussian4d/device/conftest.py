"""What the tests on the pretend accelerator share."""

from __future__ import annotations

from collections.abc import Iterator

import pretend_device
import pytest
import torch

from diff_rasterizer import backends


@pytest.fixture
def pretend(cpu_backend: object, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device `pretend:0`, on which the CPU backend's kernels run."""
    device = pretend_device.required()
    from pretend_kernels import PRETEND

    monkeypatch.setitem(backends._registered, PRETEND.name, PRETEND)
    return device


@pytest.fixture
def emulated(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The device `pretend:0`, on which the kernels of the `cuda` backend run, emulated; skips without a compiler."""
    device = pretend_device.required()
    from pretend_kernels import emulated_backend

    from diff_rasterizer.cuda_launch import set_launcher

    cache = request.config.cache
    assert cache is not None
    backend = emulated_backend(cache.mkdir("cuda_emulation"))
    from cuda_emulation.emulation import COMPILER, compiler_available

    if not compiler_available():
        pytest.skip(f"the emulation of the CUDA kernels needs the C++ compiler {COMPILER}")
    monkeypatch.setitem(backends._registered, backend.name, backend)
    yield device
    set_launcher(pretend_device.NAME, None)
