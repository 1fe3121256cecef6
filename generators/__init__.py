"""Diffusion priors and the loop around them: multi-view, video, score distillation, feed-forward reconstruction.

The package is the home of everything that generates; `gaussian4d` and `diff_rasterizer` never import it.
"""

from __future__ import annotations

__all__: list[str] = []
