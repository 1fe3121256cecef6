"""Exposure and colour of every camera: gain and offset per channel, from colours of the same surface points.

Every match between two cameras shows one surface twice. With a gain g and an offset o per camera and channel, g c + o
is the colour that all cameras would agree on; least squares over all matches gives them, up to one common change, which
is fixed by a mean gain of 1 and a mean offset of 0. Shine and shadow make outliers, so large disagreements count less
(iteratively reweighted, Huber 1964).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ..conventions import invert_rigid
from ..data.lens import undistorted_lens
from .calibrate import PlacedCamera
from .geometry import sampson_distance
from .matching import Matches
from .undistort import undistort_pixels

_MOST_EPIPOLAR = 0.002
_LEAST_MATCHES = 40
# Levels of 255 from which on a disagreement counts less, and clipped levels, which say nothing.
_HUBER = 6.0
_DARKEST, _BRIGHTEST = 6.0, 249.0
# Offsets are drawn to 0 as if every camera had this many matches that say so: a narrow range of levels leaves gain and
# offset open against each other.
_PRIOR = 20.0
_ROUNDS = 8


@dataclasses.dataclass(frozen=True)
class Exposure:
    """What makes one camera's colours those of the mean camera: gain * colour + offset, colours in 0..255."""

    gain: tuple[float, float, float]
    offset: tuple[float, float, float]
    matches: int
    """How many it was fitted to."""

    @property
    def percent(self) -> float:
        """By how many percent the camera is brighter (+) or darker (-) than the mean, at middle grey."""
        corrected = np.mean([g * 128 + o for g, o in zip(self.gain, self.offset)])
        return float(100 * (128 / corrected - 1))

    @property
    def cast(self) -> float:
        """Largest difference between channels at middle grey after correction of brightness, in percent."""
        corrected = np.array([g * 128 + o for g, o in zip(self.gain, self.offset)])
        return float(100 * (corrected.max() - corrected.min()) / corrected.mean())


def fit_exposures(
    cameras: Mapping[str, PlacedCamera], matches: Matches, colours: Mapping[tuple[str, int], np.ndarray]
) -> dict[str, Exposure]:
    """Returns the exposure of every camera that shares enough with others; empty without two such cameras.

    Args:
        cameras: With poses: matches that contradict them are left out.
        matches: Of several instants, not verified.
        colours: (camera, position) -> [n, 3] of every keypoint, averaged over a few pixels.
    """
    names = list(cameras)
    a_of, b_of, left, right = [], [], [], []
    for (a, b, position), found in matches.matches.items():
        good = found[_obeying(cameras, matches, a, b, position, found)]
        x, y = colours[a, position][good[:, 0]].astype(float), colours[b, position][good[:, 1]].astype(float)
        usable = (np.minimum(x, y) > _DARKEST).all(axis=1) & (np.maximum(x, y) < _BRIGHTEST).all(axis=1)
        left.append(x[usable])
        right.append(y[usable])
        a_of += [names.index(a)] * int(usable.sum())
        b_of += [names.index(b)] * int(usable.sum())
    if not a_of:
        return {}
    first, second = np.array(a_of), np.array(b_of)
    counts = np.bincount(np.concatenate([first, second]), minlength=len(names))
    kept = np.flatnonzero(counts >= _LEAST_MATCHES)
    rows = np.isin(first, kept) & np.isin(second, kept)
    if len(kept) < 2 or not rows.any():
        return {}
    place = {int(k): n for n, k in enumerate(kept)}
    first, second = (np.array([place[int(k)] for k in of[rows]]) for of in (first, second))
    x, y = np.concatenate(left)[rows], np.concatenate(right)[rows]
    solved = [_channel(first, second, x[:, c], y[:, c], len(kept)) for c in range(3)]
    return {
        names[k]: Exposure(
            tuple(float(gain[n]) for gain, _ in solved),  # pyright: ignore[reportArgumentType]
            tuple(float(offset[n]) for _, offset in solved),  # pyright: ignore[reportArgumentType]
            int(counts[k]),
        )
        for n, k in enumerate(kept)
    }


def _channel(
    first: np.ndarray, second: np.ndarray, x: np.ndarray, y: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns gains [count] and offsets [count] for which gain * level + offset agree over the matches best."""
    weights = np.ones(len(x))
    gain, offset = np.ones(count), np.zeros(count)
    for _ in range(_ROUNDS):
        # Normal equations of sum w (g_a x + o_a - g_b y - o_b)^2 over the unknowns (g, o).
        A = np.zeros((2 * count, 2 * count))
        columns = np.stack([first, count + first, second, count + second])
        values = np.stack([x, np.ones_like(x), -y, -np.ones_like(y)])
        for i in range(4):
            for j in range(4):
                np.add.at(A, (columns[i], columns[j]), weights * values[i] * values[j])
        A[range(count, 2 * count), range(count, 2 * count)] += _PRIOR
        # The constraints (mean gain 1, mean offset 0) by their Lagrange multipliers.
        full = np.zeros((2 * count + 2, 2 * count + 2))
        full[: 2 * count, : 2 * count] = A
        full[2 * count, :count] = full[:count, 2 * count] = 1.0
        full[2 * count + 1, count : 2 * count] = full[count : 2 * count, 2 * count + 1] = 1.0
        right = np.zeros(2 * count + 2)
        right[2 * count] = count
        found = np.linalg.lstsq(full, right, rcond=None)[0]
        gain, offset = found[:count], found[count : 2 * count]
        miss = np.abs(gain[first] * x + offset[first] - gain[second] * y - offset[second])
        weights = np.minimum(1.0, _HUBER / np.maximum(miss, 1e-9))
    return gain, offset


def _obeying(
    cameras: Mapping[str, PlacedCamera], matches: Matches, a: str, b: str, position: int, found: np.ndarray
) -> np.ndarray:
    """Returns which matches [n] obey the cameras."""
    pixels = []
    for name, column in ((a, 0), (b, 1)):
        camera = cameras[name]
        window = [camera.video.left, camera.video.top] if camera.video is not None else [0, 0]
        pixels.append(undistort_pixels(camera.lens, matches.keypoints[name, position][found[:, column]] - window))
    size = max(max(cameras[name].lens.width, cameras[name].lens.height) for name in (a, b))
    T_b_a = cameras[b].viewmat @ invert_rigid(cameras[a].viewmat)
    K_a, K_b = (undistorted_lens(cameras[name].lens).K for name in (a, b))
    return sampson_distance(K_a, K_b, T_b_a, *pixels) <= _MOST_EPIPOLAR * size


def mean_colours(picture: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Returns the mean colours [n, 3] float of 5x5 pixels around `keypoints` [n, 2] of a picture uint8 [H, W, 3]."""
    column, row = (
        np.clip(keypoints[:, axis].astype(int)[:, None, None], 2, picture.shape[1 - axis] - 3) for axis in (0, 1)
    )
    around = np.arange(-2, 3)
    return picture[row + around[None, :, None], column + around[None, None, :]].astype(float).mean(axis=(1, 2))


def describe(exposures: Mapping[str, Exposure], names: Sequence[str]) -> list[str]:
    """Returns one sentence on the cameras that differ, for the report."""
    if not exposures:
        return []
    odd = [
        f"{name} {exposures[name].percent:+.0f} % bright, {exposures[name].cast:.0f} % cast"
        for name in names
        if name in exposures and (abs(exposures[name].percent) >= 5 or exposures[name].cast >= 5)
    ]
    unknown = [name for name in names if name not in exposures]
    lines = [
        "exposure and colour differ from the mean camera by 5 % or more: " + "; ".join(odd)
        if odd
        else "exposure and colour of the cameras are within 5 % of their mean"
    ]
    if unknown:
        lines.append(f"exposure could not be compared for {', '.join(unknown)}: too few common points")
    return lines
