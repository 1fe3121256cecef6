"""A package of other people, installed for one test."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from swings_models import swinging_model
from swings_package import GROUPS, SOURCE

from gaussian4d.model import DynamicGaussians


@pytest.fixture
def swings(plugin: Callable[..., Path]) -> ModuleType:
    """The module of the package `swings` 1.2, which is installed."""
    plugin(SOURCE, **GROUPS)
    return importlib.import_module("swings")


@pytest.fixture
def swinging(swings: ModuleType) -> DynamicGaussians:
    """A model that moves in the package's way."""
    return swinging_model()
