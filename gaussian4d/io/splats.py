"""Splats: the columns that every format of still Gaussians is read into and written from.

`Splats` is a dictionary of float32 arrays with N rows: `means` [N, 3], `quats` [N, 4] wxyz, `scales` [N, 3] natural
logarithms, `opacities` [N] logits, `sh0` [N, 1, 3] and `shN` [N, K - 1, 3] spherical-harmonics coefficients, and any
`extra.NAME` [N] that a file had besides. Colour is max(SH + 0.5, 0).
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from ..errors import UserError

Splats = dict[str, np.ndarray]

EXTRA = "extra."
"""Beginning of the names of columns that belong to no layout and are carried along."""

SH_C0 = 0.28209479177387814
"""Value of the spherical harmonic of degree 0: colour = 0.5 + SH_C0 * coefficient."""

REST_COUNTS = (0, 3, 8, 15, 24)
"""Coefficients per channel beyond degree 0, by degree."""

LARGEST_LOG_SCALE = 43.0
"""The covariance of a Gaussian holds squares of its scales, which must be floats."""

LARGEST_PLACE = 1e18
"""A distance is the root of squares of positions, which must be floats; so it is with what a motion adds to them."""

_NO_PLACES = ("scales", "opacities", "sh0", "shN", "durations")

_QUAT_LENGTHS = (1e-12, 1e18)
"""Between these a quaternion can be normalised in floats: a shorter one is none (`unit`), of a longer one the square
is infinite."""

# Bytes hold opacities 0 and 1, of which there is no logit. A byte's own step is 1 / 255, so this loses nothing.
_SMALLEST_OPACITY = 1e-4


def check_splats(splats: Splats) -> Splats:
    """Returns the columns as float32; raises `UserError` for a missing column or a wrong shape."""
    missing = [name for name in ("means", "quats", "scales", "opacities", "sh0", "shN") if name not in splats]
    if missing:
        raise UserError(
            f"Gaussians are missing the column {', '.join(missing)}; expected means quats scales opacities sh0 shN"
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


def gaussian_rows(table: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns which rows [N] of a table are Gaussians.

    They are finite and have a rotation, and floats can hold the squares of their sizes, places and motion.
    Columns `extra.NAME` are not looked at, and `durations` may be infinite.
    """
    good = np.ones(len(table["means"]), dtype=bool)
    for name, value in table.items():
        if name.startswith(EXTRA) or not len(good):
            continue
        rows = value.reshape(len(good), -1)
        good &= ~np.isnan(rows).any(axis=1) if name == "durations" else np.isfinite(rows).all(axis=1)
        if name == "quats":
            with np.errstate(invalid="ignore"):
                length = np.linalg.norm(rows.astype(np.float64), axis=1)
            good &= (length > _QUAT_LENGTHS[0]) & (length < _QUAT_LENGTHS[1])
        elif name not in _NO_PLACES:
            good &= (np.abs(rows) <= LARGEST_PLACE).all(axis=1)
        elif name == "scales":
            good &= (rows <= LARGEST_LOG_SCALE).all(axis=1)
    return good


def only_gaussians(source: object, table: Splats) -> Splats:
    """Returns the table without the rows that are no Gaussians (`gaussian_rows`), and warns how many those were.

    Raises `UserError` when no row is left of some.
    """
    good = gaussian_rows(table)
    left_out = int((~good).sum())
    if not left_out:
        return table
    why = f"{left_out:,} of {len(good):,} rows are not valid Gaussians (NaN, Inf, zero quaternion or out of range)"
    first = f"first row {int((~good).argmax())}"
    if left_out == len(good):
        raise UserError(f"{source}: {why}, {first}; export the file again from the program that wrote it")
    warnings.warn(f"{source}: {why} and are left out, {first}", stacklevel=3)
    return {name: value[good] for name, value in table.items()}


@contextlib.contextmanager
def said_once() -> Iterator[None]:
    """Yields while frames are read or written: of warnings that differ in numbers and names only the first is given."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    say_alike([str(warning.message) for warning in caught])


def say_alike(texts: Iterable[str]) -> None:
    """Warns of the first of those texts that differ in numbers and names only, and of how many more there are."""
    alike: dict[str, list[str]] = {}
    for text in texts:
        alike.setdefault(re.sub(r"\S*\d\S*", "", text), []).append(text)
    for lines in alike.values():
        more = f" ({len(lines) - 1} more like this for the other frames)" if len(lines) > 1 else ""
        warnings.warn(f"{lines[0]}{more}", stacklevel=4)


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
    """Returns quaternions [N, 4] of length one; those of length zero, which are no rotation, stay zero."""
    length = np.linalg.norm(quats.astype(np.float64), axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.where(length > 1e-12, quats / np.maximum(length, 1e-12), 0.0).astype(np.float32)


def log_scales(scales: np.ndarray) -> np.ndarray:
    """Returns natural logarithms of linear scales, those of zero as those of a very small one, of negative ones NaN."""
    linear = scales.astype(np.float64)
    return np.log(np.where(linear < 0, np.nan, np.maximum(linear, 1e-12))).astype(np.float32)
