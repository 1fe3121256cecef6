"""STAG4D: a short video of an object and a multi-view prior become Gaussians that move.

Zeng et al., "STAG4D: Spatial-Temporal Anchored Generative 4D Gaussians", ECCV 2024. Read `fit` first: it makes the
`anchors`, finds a start (`initialise`) and runs the `trainer`, which asks the prior through `distillation`.
"""

from __future__ import annotations

from .anchors import Anchors, load_anchors, make_anchors
from .config import PRESETS, StagConfig, balanced, preset, quick, solid
from .fit import Interrupted, fit_asset

__all__ = [
    "PRESETS",
    "Anchors",
    "Interrupted",
    "StagConfig",
    "balanced",
    "fit_asset",
    "load_anchors",
    "make_anchors",
    "preset",
    "quick",
    "solid",
]
