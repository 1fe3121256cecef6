"""The definition of truth: the three rasterizer operations in pure torch, for any float type and device.

Every other backend exposes the same three functions and is tested against these:

- `project`: Gaussians in the world to ellipses in the image (camera models in `cameras`, the rest in `projection`),
- `view_colors`: spherical harmonics seen from each camera (`harmonics`, `view_colors`),
- `blend`: front-to-back compositing of the ellipses (`tiling`, `blending`).

Gradients come from autograd. Speed is second to being readable.
"""

from __future__ import annotations

from .blending import blend
from .projection import project
from .view_colors import view_colors

__all__ = ["blend", "project", "view_colors"]
