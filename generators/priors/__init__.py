"""Priors: where pictures that nobody took come from. `base` says what a prior is."""

from __future__ import annotations

from .base import (
    CleanViewsHook,
    DistillationPrior,
    Fusion,
    GaussianReconstructor,
    ImagePrior,
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
    "MultiViewPrior",
    "PriorInfo",
    "StepCallback",
    "VideoPrior",
]
