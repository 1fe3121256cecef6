"""A metric: how far a pixel is off on average."""

from __future__ import annotations

from torch import Tensor

import gaussian4d as g4


@g4.metric(unit="levels", higher_is_better=False)
def mean_absolute_error(prediction: Tensor, truth: Tensor, mask: Tensor | None) -> float:
    """Returns the mean absolute difference in levels of 255; pictures [H, W, 3] in 0..1, `mask` [H, W] or None."""
    difference = 255.0 * (prediction - truth).abs()
    return float(difference.mean() if mask is None else difference[mask].mean())
