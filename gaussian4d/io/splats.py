"""Splats: the columns that every format of still Gaussians is read into and written from.

`Splats` is a dictionary of float32 arrays with N rows: `means` [N, 3], `quats` [N, 4] wxyz, `scales` [N, 3] natural
logarithms, `opacities` [N] logits, `sh0` [N, 1, 3] and `shN` [N, K - 1, 3] spherical-harmonics coefficients, and any
`extra.NAME` [N] that a file had besides. Colour is max(SH + 0.5, 0).
"""

from __future__ import annotations

import numpy as np

from ..errors import UserError

Splats = dict[str, np.ndarray]

EXTRA = "extra."
"""Beginning of the names of columns that belong to no layout and are carried along."""

SH_C0 = 0.28209479177387814
"""Value of the spherical harmonic of degree 0: colour = 0.5 + SH_C0 * coefficient."""

REST_COUNTS = (0, 3, 8, 15, 24)
"""Coefficients per channel beyond degree 0, by degree."""

# Bytes hold opacities 0 and 1, of which there is no logit. A byte's own step is 1 / 255, so this loses nothing.
_SMALLEST_OPACITY = 1e-4


def check_splats(splats: Splats) -> Splats:
    """Returns the columns as float32; raises `UserError` for a missing column or a wrong shape."""
    missing = [name for name in ("means", "quats", "scales", "opacities", "sh0", "shN") if name not in splats]
    if missing:
        raise UserError(
            f"Gaussians lack the column {', '.join(missing)}; expected means quats scales opacities sh0 shN"
        )
    arrays = {name: np.asarray(value, dtype=np.float32) for name, value in splats.items()}
    count = len(arrays["means"])
    rest = arrays["shN"]
    if rest.ndim != 3 or rest.shape[::2] != (count, 3):
        raise UserError(f"shN must have shape ({count}, K - 1, 3), got {rest.shape}")
    if rest.shape[1] not in REST_COUNTS:
        raise UserError(f"shN must hold 0, 3, 8, 15 or 24 coefficients per Gaussian, got {rest.shape[1]}")
    shapes = {"means": (count, 3), "quats": (count, 4), "scales": (count, 3), "opacities": (count,)}
    shapes |= {"sh0": (count, 1, 3)} | {name: (count,) for name in arrays if name.startswith(EXTRA)}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise UserError(f"{name} must have shape {shape}, got {arrays[name].shape}")
    return arrays


def check_finite(source: object, splats: Splats) -> Splats:
    """Returns `splats`; raises `UserError` that names the first row with NaN or Inf."""
    bad = np.zeros(len(next(iter(splats.values()))), dtype=bool)
    columns = []
    for name, value in splats.items():
        wrong = ~np.isfinite(value).reshape(len(value), int(np.prod(value.shape[1:]))).all(axis=1)
        if wrong.any():
            columns.append(name)
            bad |= wrong
    if bad.any():
        raise UserError(
            f"{source}: {int(bad.sum())} of {len(bad)} rows hold NaN or Inf, first row {int(bad.argmax())}, "
            f"column {columns[0]}; remove these rows in the program that wrote the file"
        )
    return splats


def degree_of(splats: Splats) -> int:
    """Returns the degree of the spherical harmonics."""
    return REST_COUNTS.index(splats["shN"].shape[1])


def limit_degree(splats: Splats, degree: int) -> Splats:
    """Returns `splats` with coefficients up to `degree` only."""
    return {**splats, "shN": splats["shN"][:, : REST_COUNTS[min(degree, degree_of(splats))]]}


def color_from_sh0(sh0: np.ndarray) -> np.ndarray:
    """Returns the colour of coefficients of degree 0, not clamped."""
    return sh0 * np.float32(SH_C0) + np.float32(0.5)


def sh0_from_color(color: np.ndarray) -> np.ndarray:
    """Returns the coefficients of degree 0 that give `color`."""
    return ((color - np.float32(0.5)) / np.float32(SH_C0)).astype(np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Returns opacities 0..1 of logits."""
    return (1.0 / (1.0 + np.exp(-np.clip(logits, -80.0, 80.0)))).astype(np.float32)


def logit(opacities: np.ndarray) -> np.ndarray:
    """Returns the logits of opacities 0..1, those of 0 and 1 as finite ones."""
    inside = np.clip(opacities.astype(np.float64), _SMALLEST_OPACITY, 1.0 - _SMALLEST_OPACITY)
    return np.log(inside / (1.0 - inside)).astype(np.float32)


def unit(quats: np.ndarray) -> np.ndarray:
    """Returns quaternions [N, 4] of length one; those of length zero as no rotation."""
    length = np.linalg.norm(quats.astype(np.float64), axis=1, keepdims=True)
    identity = np.zeros_like(quats)
    identity[:, 0] = 1.0
    return np.where(length > 1e-12, quats / np.maximum(length, 1e-12), identity).astype(np.float32)


def log_scales(scales: np.ndarray) -> np.ndarray:
    """Returns natural logarithms of linear scales, those of zero as those of a very small one."""
    return np.log(np.maximum(scales.astype(np.float64), 1e-12)).astype(np.float32)
