"""Checks on values that come from other people's files."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..errors import UserError


def number(value: Any, name: str) -> float:
    """Returns `value` as a finite float; raises `UserError` with its name otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{name} must be a finite number, got {value!r}; correct it")
    return float(value)


def matrix(value: Any, name: str, *shapes: tuple[int, ...]) -> np.ndarray:
    """Returns `value` as a finite float64 array of one of `shapes`; raises `UserError` with its name otherwise."""
    expected = " or ".join("x".join(map(str, shape)) for shape in shapes)
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} must be a {expected} matrix of numbers, got {_short(value)}; restore it") from None
    if array.shape not in shapes:
        raise UserError(f"{name} must be {expected}, got {'x'.join(map(str, array.shape)) or 'one number'}; restore it")
    if not np.isfinite(array).all():
        raise UserError(f"{name} holds NaN or Inf; restore it from the calibration")
    return array


def pose(value: Any, name: str) -> np.ndarray:
    """Returns `value`, 4x4 or 3x4, as a rigid transform [4, 4] float64; raises `UserError` with its name otherwise."""
    array = matrix(value, name, (4, 4), (3, 4))
    T = np.eye(4)
    T[: len(array)] = array
    if np.abs(T[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise UserError(f"the last row of {name} must be 0 0 0 1, got {_short(T[3].tolist())}; is it transposed?")
    check_rotation(T[:3, :3], name)
    return T


def check_rotation(R: np.ndarray, name: str) -> None:
    """Raises `UserError` when `R` [3, 3] is not a rotation."""
    off = float(np.abs(R @ R.T - np.eye(3)).max())
    if off > 1e-2 or np.linalg.det(R) < 0:
        raise UserError(
            f"the 3x3 part of {name} is not a rotation (R R^T differs from 1 by {off:.3g}, determinant"
            f" {np.linalg.det(R):.3g}); take scale and mirroring out of it, or restore the calibration"
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
