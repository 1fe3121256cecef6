"""What the tests on the pretend accelerator share."""

from __future__ import annotations

import pretend_device
import pytest
import torch


@pytest.fixture(scope="session")
def pretend(cpu_backend: object) -> torch.device:
    """The device `pretend:0`, with the CPU backend's kernels."""
    return pretend_device.required()
