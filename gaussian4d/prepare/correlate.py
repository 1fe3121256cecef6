"""How far two signals are shifted against each other, with a fraction of a sample, and how sure that is."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.signal import fftconvolve

# Shifts at which less than this share of the shorter signal overlaps (or fewer seconds) say nothing.
_LEAST_SHARE = 0.3
_LEAST_SECONDS = 1.0

# Peaks nearer than this to the highest one belong to it.
_LOBE_SECONDS = 0.25

# Standard deviations of a chance correlation that are taken off.
_CHANCE = 1.5

# Spikes, a cut or a flash, must not outweigh everything else.
_CLIP = 4.0


@dataclasses.dataclass(frozen=True)
class Shift:
    """The best shift of `b` against `a`: `a(t + seconds)` looks like `b(t)`."""

    seconds: float
    peak: float
    """Correlation there less what chance gives, at most 1."""
    rival: float
    """Highest correlation elsewhere."""
    overlap: float
    """Seconds that both cover at that shift."""

    @property
    def margin(self) -> float:
        """How much better the best shift is than any other, as a share of what could be better."""
        return (self.peak - self.rival) / max(1.0 - self.rival, 1e-6)


def best_shift(a: np.ndarray, b: np.ndarray, rate: float) -> Shift | None:
    """Returns the shift at which the signals correlate best, None when either is constant or too short.

    Args:
        a: [n] values.
        b: [m] values.
        rate: Values per second of both.

    At every shift the correlation is Pearson's over the samples that both cover, so that short overlaps and trends
    do not win by their level. The peak is refined by a parabola through its neighbours.
    """
    least = max(_LEAST_SECONDS * rate, _LEAST_SHARE * min(len(a), len(b)), 4)
    x, y = _standard(a), _standard(b)
    if x is None or y is None or min(len(a), len(b)) < least:
        return None
    ones_a, ones_b = np.ones(len(x)), np.ones(len(y))

    def correlate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return fftconvolve(first, second[::-1])

    # Index s of every array stands for the shift s - (len(y) - 1): x[k + shift] against y[k].
    n = np.round(correlate(ones_a, ones_b))
    n = np.maximum(n, 1)
    mean_x, mean_y = correlate(x, ones_b) / n, correlate(ones_a, y) / n
    covariance = correlate(x, y) / n - mean_x * mean_y
    var_x = correlate(x * x, ones_b) / n - mean_x**2
    var_y = correlate(ones_a, y * y) / n - mean_y**2
    # Where either signal is nearly flat inside the overlap, chance alone makes it correlate.
    valid = (n >= least) & (var_x > 0.1) & (var_y > 0.1)
    if not valid.any():
        return None
    r = np.where(valid, covariance / np.sqrt(np.maximum(var_x * var_y, 1e-12)), -1.0)
    # A short overlap correlates by chance, as 1 / sqrt(independent values); smooth signals hold few of those.
    memory = max(_memory(x), _memory(y))
    r = np.where(valid, r - _CHANCE * np.sqrt(memory / n), -1.0)
    top = int(np.argmax(r))
    fraction = 0.0
    if 0 < top < len(r) - 1 and valid[top - 1] and valid[top + 1]:
        left, middle, right = r[top - 1], r[top], r[top + 1]
        curve = left - 2 * middle + right
        fraction = float(np.clip(0.5 * (left - right) / curve, -0.5, 0.5)) if curve < 0 else 0.0
    lobe = max(round(_LOBE_SECONDS * rate), 2)
    others = np.concatenate([r[: max(top - lobe, 0)], r[top + lobe + 1 :]])
    rival = float(others.max()) if len(others) else 0.0
    seconds = (top + fraction - (len(y) - 1)) / rate
    return Shift(seconds, float(r[top]), max(rival, 0.0), float(n[top]) / rate)


def _memory(values: np.ndarray) -> float:
    """Returns after how many samples a standardised signal has forgotten itself: the width of its autocorrelation."""
    n = len(values)
    own = fftconvolve(values, values[::-1])[n - 1 :] / n
    below = np.flatnonzero(own < 0.5 * own[0])
    return 2.0 * float(below[0]) if len(below) else float(n)


def _standard(values: np.ndarray) -> np.ndarray | None:
    """Returns the values with mean 0 and variance 1, robust against spikes; None when they are constant."""
    spread = float(np.std(values))
    if len(values) < 4 or not np.isfinite(spread) or spread < 1e-9 * max(1.0, float(np.abs(values).max())):
        return None
    z = np.clip((values - np.median(values)) / spread, -_CLIP, _CLIP)
    return (z - z.mean()) / z.std()
