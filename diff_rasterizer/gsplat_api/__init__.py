"""gsplat 1.5.3's lower-level functions: same names, signatures and layouts, on any device torch runs on.

float32 tensors on the CPU go through the C++ backend where it has the function, everything else through torch. Each
module says what it does differently, if anything.
"""

from __future__ import annotations

from .geometry import proj, quat_scale_to_covar_preci, world_to_cam
from .indices import accumulate, rasterize_to_indices_in_range
from .pixels import rasterize_to_pixels
from .projection import fully_fused_projection
from .relocation import compute_relocation
from .tiles import isect_offset_encode, isect_tiles

__all__ = [
    "accumulate",
    "compute_relocation",
    "fully_fused_projection",
    "isect_offset_encode",
    "isect_tiles",
    "proj",
    "quat_scale_to_covar_preci",
    "rasterize_to_indices_in_range",
    "rasterize_to_pixels",
    "world_to_cam",
]
