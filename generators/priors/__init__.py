"""Priors: where pictures that nobody took come from. `base` says what a prior is."""

from __future__ import annotations

from ..models.pieces import Moves
from .base import (
    CleanViewsHook,
    DistillationPrior,
    Fusion,
    GaussianReconstructor,
    ImagePrior,
    MotionPrior,
    MultiViewPrior,
    PriorInfo,
    StepCallback,
    VideoPrior,
)

__all__ = [
    "CleanViewsHook",
    "DistillationPrior",
    "Fusion",
    "GaussianReconstructor",
    "ImagePrior",
    "MotionPrior",
    "Moves",
    "MultiViewPrior",
    "PriorInfo",
    "StepCallback",
    "VideoPrior",
]
