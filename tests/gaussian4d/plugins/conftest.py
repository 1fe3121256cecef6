"""A package of other people, installed for one test."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from swings_package import GROUPS

from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import make_motion

SOURCE = Path(__file__).with_name("swings_package.py").read_text(encoding="ascii")


@pytest.fixture
def swings(plugin: Callable[..., Path]) -> ModuleType:
    """The module of the package `swings` 1.2, which is installed."""
    plugin(SOURCE, **GROUPS)
    return importlib.import_module("swings")


@pytest.fixture
def swinging(swings: ModuleType) -> DynamicGaussians:
    """A model that moves in the package's way."""
    return swinging_model()


def swinging_model(motion: str = "oscillator", count: int = 40) -> DynamicGaussians:
    """Returns blobs around the origin that swing."""
    g = torch.Generator().manual_seed(0)
    params = {
        "means": 0.4 * torch.randn(count, 3, generator=g),
        "quats": torch.randn(count, 4, generator=g),
        "scales": -2.5 + 0.3 * torch.randn(count, 3, generator=g),
        "opacities": 2.0 + torch.rand(count, generator=g),
        "sh0": torch.randn(count, 1, 3, generator=g),
        "shN": 0.1 * torch.randn(count, 3, 3, generator=g),
        "swings": 0.2 * torch.randn(count, 3, generator=g),
    }
    if motion == "static":
        del params["swings"]
    return DynamicGaussians(params, make_motion(motion), torch.ones(3), 10.0, np.linspace(0.0, 1.0, 9))
