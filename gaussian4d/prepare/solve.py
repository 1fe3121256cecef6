"""Cameras from the pictures alone, and the doubt they deserve.

A small reprojection error says little: repetitive surroundings give wrong cameras at one pixel. So cameras are solved
several times, from different instants and seeds, and believed only when

* every solution places every camera,
* all solutions agree after the best similarity: the same viewing directions, places, focal lengths, and one scale over
  all baselines,
* matches of instants that a solution did not use obey its epipolar geometry, and
* rotations that pairs of cameras give on their own close around loops of three, and are those of the solution.
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
from ..data.lens import undistorted_lens
from ..data.records import Lens
from ..errors import UserError
from .calibrate import PlacedCamera
from .consistency import CLOSED_DEGREES, Loops, loops_of, relative_poses, scale_spread
from .geometry import align_cameras, ransac_fundamental, sampson_distance
from .matching import Matches, run_worker
from .recordings import Recording
from .undistort import undistort_pixels

# Solutions may differ by this much. Good ones differ by a tenth of it, wrong ones by tens of degrees.
_MOST_DEGREES = 2.0
_MOST_SHARE = 0.05
_MOST_FOCAL = 0.08
_MOST_SCALE = 0.15
# Pairs that see little in common give rotations of chance: of all loops, this share must close.
_LEAST_CLOSED = 0.5
# Half of the pairs must have, on their own, the solution's rotation within this.
_MOST_AGAINST = 5.0

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
    """Per camera `viewmat`, `model` and `params` in COLMAP's order, `rms` pixels, `observations`."""
    models: list[int]
    """Cameras of every separate model, largest first."""

    def pose(self, name: str) -> np.ndarray:
        return np.array(self.cameras[name]["viewmat"])

    def lens(self, recording: Recording) -> Lens:
        camera = self.cameras[recording.name]
        return lens_from_colmap(camera["model"], camera["params"], recording.width, recording.height)


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
    scale: float = 0.0
    """Largest disagreement of the cameras' baselines between solutions after one common scale: 0.02 is 2 %."""
    loops: int = 0
    """Loops of three cameras whose pairs give rotations on their own."""
    loop_degrees: float = 0.0
    """What is left after going around such a loop, median."""
    loops_closed: float = 0.0
    """Share of the loops that come back within 3 degrees."""
    pair_degrees: float = 0.0
    """Between pairs' own rotations and the solution's, median."""


def solve_cameras(
    folder: Path,
    recordings: Sequence[Recording],
    matches: Matches,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    known: Mapping[str, Lens] = {},
    thorough: bool = False,
) -> Solved:
    """Returns the cameras of all recordings; raises `UserError` when they cannot be found or cannot be believed.

    Args:
        folder: Keeps the worker's files.
        recordings: All cameras.
        matches: Of several instants.
        seed: Of everything random.
        progress: Called with (solutions done, solutions in all).
        known: Lenses that are kept as they are; the others are solved.
        thorough: Place cameras that share little, too.
    """
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
        solutions.append(_solve(folder / f"solve_{done}", recordings, matches, used, own_seed, known, thorough))
        _refuse_unplaced(recordings, solutions[-1])
        if progress is not None:
            progress(done, len(plans))
    degrees, share, scale = _disagreement(recordings, solutions)
    worst = min(
        _held_out(recordings, solutions[1], matches, half[1]), _held_out(recordings, solutions[2], matches, half[0])
    )
    best = solutions[0]
    lenses = {recording.name: best.lens(recording) for recording in recordings}
    keypoints, pairs = matches.at(positions)
    rotations = relative_poses(folder / "relative", lenses, keypoints, pairs, seed)
    loops = loops_of(rotations, {name: best.pose(name) for name in names})
    _refuse_open_loops(recordings, loops)
    cameras = {r.name: PlacedCamera(r.name, best.pose(r.name), lenses[r.name], r.video) for r in recordings}
    rms = {name: float(best.cameras[name]["rms"]) for name in names if best.cameras[name]["rms"] is not None}
    left = list(loops.degrees.values())
    return Solved(
        cameras, degrees, share, worst, rms, scale, len(left), float(np.median(left)) if left else 0.0,
        loops.closed if left else 0.0, float(np.median(list(loops.against.values()))) if loops.against else 0.0,
    )  # fmt: skip


def lens_from_colmap(model: str, params: Sequence[float], width: int, height: int) -> Lens:
    """Returns the lens that COLMAP's model and parameters describe; SIMPLE_RADIAL is what unknown lenses are given."""
    if model == "SIMPLE_RADIAL":
        focal, cx, cy, k1 = params
        return Lens(focal, focal, cx, cy, width, height, "brown", (k1, 0.0, 0.0, 0.0))
    fx, fy, cx, cy, *distortion = params
    kind = {"PINHOLE": "pinhole", "FULL_OPENCV": "brown", "OPENCV_FISHEYE": "fisheye"}[model]
    return Lens(fx, fy, cx, cy, width, height, kind, tuple(distortion))  # pyright: ignore[reportArgumentType]


def lens_to_colmap(lens: Lens) -> dict[str, Any]:
    """Returns COLMAP's `model` and `params` of a lens."""
    pinhole = [lens.fx, lens.fy, lens.cx, lens.cy]
    if lens.model == "fisheye":
        return {
            "model": "OPENCV_FISHEYE",
            "params": pinhole + list(lens.distortion) + [0.0] * (4 - len(lens.distortion)),
        }
    if lens.straight:
        return {"model": "PINHOLE", "params": pinhole}
    return {"model": "FULL_OPENCV", "params": pinhole + list(lens.distortion) + [0.0] * (8 - len(lens.distortion))}


def _solve(
    stem: Path,
    recordings: Sequence[Recording],
    matches: Matches,
    positions: Sequence[int],
    seed: int,
    known: Mapping[str, Lens],
    thorough: bool,
) -> Solution:
    keypoints, pairs = matches.at(positions)
    arrays = {f"keypoints/{index[0]}": keypoints[index[1]] for index in _numbered(recordings)}
    number = {name: key for key, name in _numbered(recordings)}
    arrays |= {f"matches/{number[a]}/{number[b]}": found for (a, b), found in pairs.items()}
    data = stem.with_suffix(".npz")
    np.savez(data, **arrays)  # pyright: ignore[reportArgumentType]
    cameras = [
        {"name": number[recording.name], "width": recording.width, "height": recording.height}
        | (lens_to_colmap(known[recording.name]) if recording.name in known else {})
        for recording in recordings
    ]
    out = stem.with_suffix(".result.json")
    run_worker(
        stem.with_suffix(".json"),
        {
            "task": "map",
            "cameras": cameras,
            "matches": str(data),
            "out": str(out),
            "seed": seed,
            "thorough": thorough,
            "shared": False,
        },
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
            f"{len(missing)} of {len(recordings)} cameras have too little overlap with the others:"
            f" {', '.join(missing)}{parts}",
        )


def _disagreement(recordings: Sequence[Recording], solutions: Sequence[Solution]) -> tuple[float, float, float]:
    """Returns by how many degrees, share of the spread, and share of a baseline the solutions differ at most."""
    names = [recording.name for recording in recordings]
    most_degrees = most_share = most_scale = 0.0
    for first, second in itertools.combinations(solutions, 2):
        degrees, share = align_cameras(
            np.stack([first.pose(name) for name in names]), np.stack([second.pose(name) for name in names])
        )
        ratios = np.array([second.lens(r).fx / first.lens(r).fx for r in recordings])
        scale = scale_spread([first.pose(name) for name in names], [second.pose(name) for name in names])
        most_degrees, most_share = max(most_degrees, float(degrees.max())), max(most_share, float(share.max()))
        most_scale = max(most_scale, scale)
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
        if scale > _MOST_SCALE:
            raise _refusal(
                recordings,
                f"no single scale joins two solutions: distances between cameras disagree by {100 * scale:.0f} %",
            )
    return most_degrees, most_share, most_scale


def _refuse_open_loops(recordings: Sequence[Recording], loops: Loops) -> None:
    left, against = list(loops.degrees.values()), list(loops.against.values())
    if left and loops.closed < _LEAST_CLOSED:
        raise _refusal(
            recordings,
            f"rotations that pairs of cameras give on their own do not close: of {len(left)} loops of three cameras"
            f" {100 * (1 - loops.closed):.0f} % miss by more than {CLOSED_DEGREES:g} degrees (median"
            f" {np.median(left):.1f})",
        )
    if loops.never_closed:
        raise _refusal(recordings, f"no loop of three cameras through {', '.join(loops.never_closed)} closes")
    if against and np.median(against) > _MOST_AGAINST:
        raise _refusal(
            recordings,
            f"half of {len(against)} pairs of cameras give, on their own, another rotation than the solution (median"
            f" {np.median(against):.1f} degrees)",
        )


def _held_out(recordings: Sequence[Recording], solution: Solution, matches: Matches, positions: Sequence[int]) -> float:
    """Returns the smallest share, over pairs of cameras, of held-out matches that obey the solution.

    Counted are only matches that the pair's own geometry (estimated here by RANSAC, without any model) explains, so
    that a pair which sees nothing in common does not count against a right model.
    """
    keypoints, pairs = matches.at(positions)
    sizes = {recording.name: max(recording.width, recording.height) for recording in recordings}
    lenses = {recording.name: solution.lens(recording) for recording in recordings}
    shares = {}
    rng = np.random.default_rng(0)
    for (a, b), found in pairs.items():
        x, y = keypoints[a][found[:, 0]], keypoints[b][found[:, 1]]
        tolerance = _EPIPOLAR * max(sizes[a], sizes[b])
        own = ransac_fundamental(x, y, tolerance, rng)
        if own.sum() < _LEAST_MATCHES or own.mean() < 0.3:
            continue
        T_b_a = solution.pose(b) @ invert_rigid(solution.pose(a))
        u, v = undistort_pixels(lenses[a], x[own]), undistort_pixels(lenses[b], y[own])
        miss = sampson_distance(undistorted_lens(lenses[a]).K, undistorted_lens(lenses[b]).K, T_b_a, u, v)
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
