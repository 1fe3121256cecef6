"""Cameras from the pictures alone, and the doubt they deserve.

A small reprojection error says little: repetitive surroundings give wrong cameras at one pixel. So cameras are solved
several times, from different instants and seeds, and believed only when

* every solution places every camera,
* all solutions agree after the best similarity: the same viewing directions, places (with that scale consistency) and
  focal lengths, and
* matches of instants that a solution did not use obey its epipolar geometry.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..conventions import invert_rigid
from ..data.records import Lens
from ..errors import UserError
from .calibrate import PlacedCamera
from .geometry import align_cameras, sampson_distance
from .matching import Matches, run_worker
from .recordings import Recording

# Solutions may differ by this much. Good ones differ by a tenth of it, wrong ones by tens of degrees.
_MOST_DEGREES = 2.0
_MOST_SHARE = 0.05
_MOST_FOCAL = 0.08

# A match obeys a model when it misses its epipolar line by at most this share of the picture's larger side.
_EPIPOLAR = 0.003
# Matches that are not verified hold outliers, and epipolar lines pass near wrong ones by chance: a tenth of a picture's
# matches would. Of the matches that a pair's own geometry explains, this share must obey the model too.
_LEAST_HELD_OUT = 0.7
_LEAST_MATCHES = 15


@dataclasses.dataclass(frozen=True)
class Solution:
    """One run of structure from motion."""

    cameras: dict[str, dict[str, Any]]
    """Per camera `viewmat`, `params` (focal, cx, cy, k1), `rms` pixels, `observations`."""
    models: list[int]
    """Cameras of every separate model, largest first."""

    def pose(self, name: str) -> np.ndarray:
        return np.array(self.cameras[name]["viewmat"])

    def K(self, name: str) -> np.ndarray:
        focal, cx, cy = self.cameras[name]["params"][:3]
        return np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1.0]])


@dataclasses.dataclass(frozen=True)
class Solved:
    """Believed cameras, and the figures that made them so."""

    cameras: dict[str, PlacedCamera]
    degrees: float
    """Largest disagreement of viewing directions between solutions."""
    share: float
    """Largest disagreement of places, as a share of the cameras' spread."""
    held_out: float
    """Share of held-out matches, explained by their own pair's geometry, that obey the model; the worst pair's."""
    reprojection: dict[str, float]


def solve_cameras(
    folder: Path,
    recordings: Sequence[Recording],
    matches: Matches,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Solved:
    """Returns the cameras of all recordings; raises `UserError` when they cannot be found or cannot be believed."""
    names = [recording.name for recording in recordings]
    if len(names) < 3:
        raise UserError(
            f"{recordings[0].path.parent}: {len(names)} cameras without a calibration cannot be checked against each"
            " other; give a calibration, or film with at least 3 cameras"
        )
    positions = list(range(len(matches.instants)))
    half = [positions[0::2], positions[1::2]] if len(positions) > 1 else [positions, positions]
    plans = [(positions, seed), (half[0], seed + 1), (half[1], seed + 2)]
    solutions = []
    for done, (used, own_seed) in enumerate(plans, start=1):
        solutions.append(_solve(folder / f"solve_{done}", recordings, matches, used, own_seed))
        _refuse_unplaced(recordings, solutions[-1])
        if progress is not None:
            progress(done, len(plans))
    degrees, share = _disagreement(recordings, solutions)
    worst = min(
        _held_out(recordings, solutions[1], matches, half[1]), _held_out(recordings, solutions[2], matches, half[0])
    )
    best = solutions[0]
    cameras = {}
    for recording in recordings:
        focal, cx, cy, k1 = best.cameras[recording.name]["params"]
        lens = Lens(focal, focal, cx, cy, recording.width, recording.height, "brown", (k1, 0.0, 0.0, 0.0))
        cameras[recording.name] = PlacedCamera(recording.name, best.pose(recording.name), lens, recording.video)
    rms = {name: float(best.cameras[name]["rms"]) for name in names if best.cameras[name]["rms"] is not None}
    return Solved(cameras, degrees, share, worst, rms)


def _solve(
    stem: Path, recordings: Sequence[Recording], matches: Matches, positions: Sequence[int], seed: int
) -> Solution:
    keypoints, pairs = matches.at(positions)
    arrays = {f"keypoints/{index[0]}": keypoints[index[1]] for index in _numbered(recordings)}
    number = {name: key for key, name in _numbered(recordings)}
    arrays |= {f"matches/{number[a]}/{number[b]}": found for (a, b), found in pairs.items()}
    data = stem.with_suffix(".npz")
    np.savez(data, **arrays)  # pyright: ignore[reportArgumentType]
    cameras = [
        {"name": number[recording.name], "width": recording.width, "height": recording.height}
        for recording in recordings
    ]
    out = stem.with_suffix(".result.json")
    run_worker(
        stem.with_suffix(".json"),
        {"task": "map", "cameras": cameras, "matches": str(data), "out": str(out), "seed": seed},
    )
    result = json.loads(out.read_text(encoding="utf-8"))
    named = dict(_numbered(recordings))
    return Solution({named[key]: camera for key, camera in result.get("cameras", {}).items()}, result["models"])


def _numbered(recordings: Sequence[Recording]) -> list[tuple[str, str]]:
    """Returns (key, name) per camera; keys hold no character that a list of pairs or an archive would split at."""
    return [(f"c{k:03d}", recording.name) for k, recording in enumerate(recordings)]


def _refuse_unplaced(recordings: Sequence[Recording], solution: Solution) -> None:
    missing = [recording.name for recording in recordings if recording.name not in solution.cameras]
    if missing:
        parts = f" (they fall into models of {', '.join(map(str, solution.models))} cameras)" if solution.models else ""
        raise _refusal(
            recordings,
            f"{len(missing)} of {len(recordings)} cameras share too little with the others to be placed:"
            f" {', '.join(missing)}{parts}",
        )


def _disagreement(recordings: Sequence[Recording], solutions: Sequence[Solution]) -> tuple[float, float]:
    names = [recording.name for recording in recordings]
    most_degrees = most_share = 0.0
    for first, second in itertools.combinations(solutions, 2):
        degrees, share = align_cameras(
            np.stack([first.pose(name) for name in names]), np.stack([second.pose(name) for name in names])
        )
        ratios = np.array([second.K(name)[0, 0] / first.K(name)[0, 0] for name in names])
        most_degrees, most_share = max(most_degrees, float(degrees.max())), max(most_share, float(share.max()))
        if degrees.max() > _MOST_DEGREES or share.max() > _MOST_SHARE:
            raise _refusal(
                recordings,
                f"solutions from different instants and seeds contradict each other: {names[int(degrees.argmax())]} by"
                f" {degrees.max():.0f} degrees, {names[int(share.argmax())]} by {100 * share.max():.0f} % of the"
                " cameras' spread, although each fits its own matches",
            )
        if np.abs(np.log(ratios)).max() > _MOST_FOCAL:
            worst = int(np.abs(np.log(ratios)).argmax())
            raise _refusal(
                recordings,
                f"the focal length of {names[worst]} differs by a factor {ratios[worst]:.2f} between solutions",
            )
    return most_degrees, most_share


def _held_out(recordings: Sequence[Recording], solution: Solution, matches: Matches, positions: Sequence[int]) -> float:
    """Returns the smallest share, over pairs of cameras, of held-out matches that obey the solution.

    Counted are only matches that the pair's own geometry (estimated here by RANSAC, without any model) explains, so
    that a pair which sees nothing in common does not count against a right model.
    """
    keypoints, pairs = matches.at(positions)
    sizes = {recording.name: max(recording.width, recording.height) for recording in recordings}
    shares = {}
    rng = np.random.default_rng(0)
    for (a, b), found in pairs.items():
        x, y = keypoints[a][found[:, 0]], keypoints[b][found[:, 1]]
        tolerance = _EPIPOLAR * max(sizes[a], sizes[b])
        own = ransac_fundamental(x, y, tolerance, rng)
        if own.sum() < _LEAST_MATCHES or own.mean() < 0.3:
            continue
        T_b_a = solution.pose(b) @ invert_rigid(solution.pose(a))
        miss = sampson_distance(solution.K(a), solution.K(b), T_b_a, x[own], y[own])
        shares[a, b] = float((miss <= 2 * tolerance).mean())
    if not shares:
        raise _refusal(recordings, "no pair of cameras has matches enough to check the solution with")
    bad = {pair: share for pair, share in shares.items() if share < _LEAST_HELD_OUT}
    if len(bad) > 0.1 * len(shares):
        (a, b), share = min(bad.items(), key=lambda item: item[1])
        raise _refusal(
            recordings,
            f"matches that were held out contradict the solution in {len(bad)} of {len(shares)} pairs of cameras"
            f" (between {a} and {b} only {100 * share:.0f} % obey it)",
        )
    return min(shares.values())


def ransac_fundamental(x: np.ndarray, y: np.ndarray, tolerance: float, rng: np.random.Generator) -> np.ndarray:
    """Returns which matches [n] the best fundamental matrix of random eight of them explains (normalised 8 points).

    Source: Hartley, "In defense of the eight-point algorithm", 1997; RANSAC by Fischler and Bolles, 1981.
    """
    best = np.zeros(len(x), dtype=bool)
    if len(x) < 8:
        return best
    shift, scale = 0.5 * (x.mean(0) + y.mean(0)), max(float(x.std()), float(y.std()), 1e-9)
    u = np.concatenate([(x - shift) / scale, np.ones((len(x), 1))], axis=1)
    v = np.concatenate([(y - shift) / scale, np.ones((len(y), 1))], axis=1)
    rows = (v[:, :, None] * u[:, None, :]).reshape(len(x), 9)
    for _ in range(400):
        chosen = rng.choice(len(x), 8, replace=False)
        F = np.linalg.svd(rows[chosen])[2][-1].reshape(3, 3)
        U, S, Vt = np.linalg.svd(F)
        F = U @ np.diag([S[0], S[1], 0.0]) @ Vt
        line_v, line_u = u @ F.T, v @ F
        slope = (line_v[:, :2] ** 2).sum(1) + (line_u[:, :2] ** 2).sum(1)
        miss = np.abs(np.einsum("ij,ij->i", v, line_v)) / np.sqrt(np.maximum(slope, 1e-24))
        explained = miss * scale <= tolerance
        if explained.sum() > best.sum():
            best = explained
    return best


def _refusal(recordings: Sequence[Recording], reason: str) -> UserError:
    return UserError(
        f"{recordings[0].path.parent}: the cameras cannot be trusted: {reason}. Give a calibration with --calibration;"
        " or film again with neighbouring cameras at most 20 to 30 degrees apart, and varied, textured, unrepetitive"
        " things that do not move in view of all of them"
    )


def solved_as_json(solved: Solved) -> dict[str, Any]:
    """Returns the value that `solved_from_json` reads."""
    cameras = {
        name: {"viewmat": camera.viewmat.tolist(), "lens": dataclasses.asdict(camera.lens)}
        for name, camera in solved.cameras.items()
    }
    return dataclasses.asdict(dataclasses.replace(solved, cameras={})) | {"cameras": cameras}


def solved_from_json(value: Mapping[str, Any], recordings: Sequence[Recording]) -> Solved:
    """Returns what `solved_as_json` wrote, with the recordings' videos."""
    videos = {recording.name: recording.video for recording in recordings}
    cameras = {}
    for name, camera in value["cameras"].items():
        lens = Lens(**{**camera["lens"], "distortion": tuple(camera["lens"]["distortion"])})
        cameras[name] = PlacedCamera(name, np.array(camera["viewmat"]), lens, videos[name])
    return Solved(**{**value, "cameras": cameras})
