"""The weight of a term: one number, or a schedule of (progress, weight) pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from ..errors import UserError

Weight = float | tuple[tuple[float, float], ...]
"""A weight for the whole fit, or (progress, weight) pairs in order, linear between them and level outside."""


def checked_weight(name: str, weight: Any) -> Weight:
    """Returns `weight` as a number or as pairs; raises `UserError` that names the term."""
    if isinstance(weight, int | float) and not isinstance(weight, bool):
        if not math.isfinite(weight):
            raise UserError(f"loss.{name}: expected a finite weight, got {weight}")
        return float(weight)
    try:
        given: Any = weight
        pairs = tuple((float(progress), float(value)) for progress, value in given)
    except (TypeError, ValueError):
        pairs = ()
    begins = [progress for progress, _ in pairs]
    finite = all(math.isfinite(number) for pair in pairs for number in pair)
    if not pairs or not finite or begins != sorted(set(begins)) or begins[0] < 0.0 or begins[-1] > 1.0:
        raise UserError(
            f"loss.{name}: expected a weight, or (progress, weight) pairs of ascending progress in 0..1 such as"
            f" [[0, 0], [0.5, 0.1]], got {weight!r}"
        )
    return pairs


def weight_at(weight: Weight, progress: float) -> float:
    """Returns the weight at `progress`."""
    if not isinstance(weight, tuple):
        return weight
    pairs: Sequence[tuple[float, float]] = weight
    if progress <= pairs[0][0]:
        return pairs[0][1]
    for (begin, first), (end, last) in itertools.pairwise(pairs):
        if progress <= end:
            return first + (last - first) * (progress - begin) / (end - begin)
    return pairs[-1][1]


def is_on(weight: Weight) -> bool:
    """Returns whether the weight is ever anything but 0."""
    return any(value for _, value in weight) if isinstance(weight, tuple) else weight != 0.0
