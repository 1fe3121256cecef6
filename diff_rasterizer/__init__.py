"""A differentiable Gaussian rasterizer with gsplat's interface that also runs without a GPU.

Read `rasterization` for the interface, `reference/` for what every backend computes, `backends` for how one is chosen,
`gsplat_api/` for gsplat's lower-level functions. Those load on first use, and so do the training helpers, which need
the compiled extension.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .backends import Backend, available_backends, register_backend
from .rasterization import rasterization
from .spherical_harmonics import spherical_harmonics
from .validation import RollingShutterType

if TYPE_CHECKING:
    from .gsplat_api import accumulate as accumulate
    from .gsplat_api import compute_relocation as compute_relocation
    from .gsplat_api import fully_fused_projection as fully_fused_projection
    from .gsplat_api import isect_offset_encode as isect_offset_encode
    from .gsplat_api import isect_tiles as isect_tiles
    from .gsplat_api import proj as proj
    from .gsplat_api import quat_scale_to_covar_preci as quat_scale_to_covar_preci
    from .gsplat_api import rasterize_to_indices_in_range as rasterize_to_indices_in_range
    from .gsplat_api import rasterize_to_pixels as rasterize_to_pixels
    from .gsplat_api import world_to_cam as world_to_cam
    from .losses import fused_ssim as fused_ssim
    from .losses import l1_ssim_loss as l1_ssim_loss
    from .optim import FusedAdam as FusedAdam

_HOME = {
    "FusedAdam": "optim",
    "accumulate": "gsplat_api",
    "compute_relocation": "gsplat_api",
    "fully_fused_projection": "gsplat_api",
    "fused_ssim": "losses",
    "isect_offset_encode": "gsplat_api",
    "isect_tiles": "gsplat_api",
    "l1_ssim_loss": "losses",
    "proj": "gsplat_api",
    "quat_scale_to_covar_preci": "gsplat_api",
    "rasterize_to_indices_in_range": "gsplat_api",
    "rasterize_to_pixels": "gsplat_api",
    "world_to_cam": "gsplat_api",
}

__all__ = [
    "Backend",
    "FusedAdam",
    "RollingShutterType",
    "accumulate",
    "available_backends",
    "compute_relocation",
    "fully_fused_projection",
    "fused_ssim",
    "isect_offset_encode",
    "isect_tiles",
    "l1_ssim_loss",
    "proj",
    "quat_scale_to_covar_preci",
    "rasterization",
    "rasterize_to_indices_in_range",
    "rasterize_to_pixels",
    "register_backend",
    "spherical_harmonics",
    "world_to_cam",
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
