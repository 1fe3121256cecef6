"""Does a calibration that the user has fit the pictures? Asked of matches between them, before any long work.

A calibration for another resolution, one with poses the other way round, or a camera that was moved since, projects as
smoothly as the right one. Matches of static and moving things alike lie on each other's epipolar lines only where the
calibration is right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from ..conventions import invert_rigid
from ..data.lens import undistorted_lens
from ..data.records import Lens
from ..errors import UserError
from .calibrate import PlacedCamera
from .geometry import ransac_fundamental, sampson_distance
from .matching import Matches
from .recordings import Recording
from .undistort import undistort_pixels

# Only matches that a pair's own geometry explains count, and only pairs with this many of them: fewer agree by chance.
_LEAST_MATCHES = 30
_LEAST_OWN = 0.4
_TOLERANCE = 0.004
# A right calibration is obeyed by nine tenths of them, a wrong one by what is near its lines by chance.
_OBEYED = 0.7
_CONTRADICTED = 0.35

_HALF_TURN = np.diag([1.0, -1.0, -1.0, 1.0])
_SCALES = (0.25, 1 / 3, 0.375, 0.5, 0.5625, 2 / 3, 0.75, 4 / 3, 1.5, 16 / 9, 2.0, 8 / 3, 3.0, 4.0)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far matches between the pictures obey a calibration."""

    shares: dict[tuple[str, str], float]
    """Per pair of cameras with matches enough, the share that obeys."""

    @property
    def median(self) -> float:
        """NaN without any pair."""
        return float(np.median(list(self.shares.values()))) if self.shares else float("nan")


def check_calibration(
    cameras: Mapping[str, PlacedCamera], recordings: Sequence[Recording], matches: Matches, stated_in: str
) -> Agreement:
    """Returns how the matches agree with the calibration; raises `UserError` when they clearly contradict it.

    The message names what would explain the contradiction: another resolution, poses the other way round, OpenGL axes,
    or one camera that is not where it is said to be. Units need no check: a scene may have any.

    Args:
        cameras: Of every recording.
        recordings: All cameras.
        matches: Not verified.
        stated_in: File of the calibration, for the message.
    """
    own = _own_matches(cameras, recordings, matches)
    found = _agreement(own, cameras)
    if not found.shares or found.median > _CONTRADICTED:
        _refuse_one_camera(found, stated_in)
        return found
    if len(found.shares) < 2:
        return found
    for scale in _SCALES:
        scaled = {name: _scaled(camera, scale) for name, camera in cameras.items()}
        if _agreement(own, scaled).median >= _OBEYED:
            width, height = (round(getattr(recordings[0], side) / scale) for side in ("width", "height"))
            raise UserError(
                f"{stated_in}: the calibration is for another resolution: the pictures fit it once its focal lengths"
                f" and centres are multiplied by {scale:.4g} (it seems made for about {width}x{height}, the recordings"
                f" are {recordings[0].width}x{recordings[0].height}); state the size it was made at in the file"
                " (width, height), or calibrate at the recordings' size"
            )
    others = {
        "its poses are camera-to-world, world-to-camera is expected: invert them": invert_rigid,
        "its camera axes are OpenGL's (y up, z backwards), OpenCV's are expected: turn y and z": lambda T: (
            _HALF_TURN @ T
        ),
        "its poses are camera-to-world with OpenGL axes, world-to-camera with OpenCV axes is expected": lambda T: (
            _HALF_TURN @ invert_rigid(T)
        ),
    }
    for meaning, turned in others.items():
        tried = {name: dataclasses.replace(c, viewmat=turned(c.viewmat)) for name, c in cameras.items()}
        if _agreement(own, tried).median >= _OBEYED:
            raise UserError(f"{stated_in}: {meaning}")
    return found


def contradiction(found: Agreement) -> str:
    """Returns a warning when the calibration is obeyed too little and nothing explains it, empty otherwise."""
    if len(found.shares) < 2 or found.median > _CONTRADICTED:
        return ""
    return (
        f"the calibration contradicts the pictures: in half of {len(found.shares)} pairs of cameras at most"
        f" {100 * found.median:.0f} % of the matches obey it; was it made for these cameras, at this size, and not"
        " moved since? To solve the cameras from the pictures instead: --ignore-calibration"
    )


def _refuse_one_camera(found: Agreement, stated_in: str) -> None:
    """Raises `UserError` when all pairs of one camera contradict the calibration and all others obey it."""
    for name in sorted({camera for pair in found.shares for camera in pair}):
        own = [share for pair, share in found.shares.items() if name in pair]
        rest = [share for pair, share in found.shares.items() if name not in pair]
        if len(own) >= 2 and rest and max(own) <= _CONTRADICTED and min(rest) >= _OBEYED:
            raise UserError(
                f"{stated_in}: camera {name} is not where the calibration says: at most {100 * max(own):.0f} % of its"
                f" matches with other cameras obey it, theirs with each other at least {100 * min(rest):.0f} %; was it"
                " moved since, is its place in another unit than the others', or its video another camera's? Correct"
                " it, or leave the camera out"
            )


def _own_matches(
    cameras: Mapping[str, PlacedCamera], recordings: Sequence[Recording], matches: Matches
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Returns pixels [n, 2] and [n, 2] of the matches of every pair that its own geometry explains."""
    keypoints, pairs = matches.at(range(len(matches.instants)))
    sizes = {recording.name: max(recording.width, recording.height) for recording in recordings}
    rng = np.random.default_rng(0)
    found = {}
    for (a, b), indices in pairs.items():
        if len(indices) < _LEAST_MATCHES:
            continue
        x, y = _in_window(cameras[a], keypoints[a][indices[:, 0]]), _in_window(cameras[b], keypoints[b][indices[:, 1]])
        own = ransac_fundamental(x, y, _TOLERANCE * max(sizes[a], sizes[b]), rng)
        if own.sum() >= _LEAST_MATCHES and own.mean() >= _LEAST_OWN:
            found[a, b] = (x[own], y[own])
    return found


def _in_window(camera: PlacedCamera, pixels: np.ndarray) -> np.ndarray:
    return pixels - [camera.video.left, camera.video.top] if camera.video is not None else pixels


def _agreement(
    own: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]], cameras: Mapping[str, PlacedCamera]
) -> Agreement:
    shares = {}
    for (a, b), (x, y) in own.items():
        lens_a, lens_b = cameras[a].lens, cameras[b].lens
        tolerance = 2 * _TOLERANCE * max(lens_a.width, lens_a.height, lens_b.width, lens_b.height)
        u, v = undistort_pixels(lens_a, x), undistort_pixels(lens_b, y)
        T_b_a = cameras[b].viewmat @ invert_rigid(cameras[a].viewmat)
        miss = sampson_distance(undistorted_lens(lens_a).K, undistorted_lens(lens_b).K, T_b_a, u, v)
        shares[a, b] = float((miss <= tolerance).mean())
    return Agreement(shares)


def _scaled(camera: PlacedCamera, scale: float) -> PlacedCamera:
    lens: Lens = camera.lens
    scaled = dataclasses.replace(
        lens, fx=lens.fx * scale, fy=lens.fy * scale, cx=lens.cx * scale, cy=lens.cy * scale
    )  # fmt: skip
    return dataclasses.replace(camera, lens=scaled)
