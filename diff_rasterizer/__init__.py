"""A differentiable Gaussian rasterizer with gsplat's interface that also runs without a GPU.

Read `rasterization` for the interface, `reference/` for what every backend computes, `backends` for how one is chosen.
The training helpers load on first use: they need the compiled extension, the rasterizer does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .backends import available_backends
from .rasterization import rasterization
from .spherical_harmonics import spherical_harmonics
from .validation import RollingShutterType

if TYPE_CHECKING:
    from .losses import fused_ssim as fused_ssim
    from .losses import l1_ssim_loss as l1_ssim_loss
    from .optim import FusedAdam as FusedAdam

_HOME = {"FusedAdam": "optim", "fused_ssim": "losses", "l1_ssim_loss": "losses"}

__all__ = [
    "FusedAdam",
    "RollingShutterType",
    "available_backends",
    "fused_ssim",
    "l1_ssim_loss",
    "rasterization",
    "spherical_harmonics",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'diff_rasterizer' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
