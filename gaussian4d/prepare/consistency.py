"""Do independent estimates of the cameras agree with each other? Loops of pairs, and scale between solutions.

Reprojection error cannot tell: structure from motion bends every camera until its own matches fit. Relative poses that
were estimated pair by pair, each from nothing but its two pictures, know nothing of each other; turned around a loop
of three cameras, true ones come back to where they began.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..conventions import invert_rigid
from ..data.lens import undistorted_lens
from ..data.records import Lens
from .matching import run_worker
from .undistort import undistort_pixels

# A pair's own relative pose is worth looking at from this many matches that explain each other.
_LEAST_INLIERS = 30
# A loop is closed when it comes back within this; measured on true pairs of a toy room it is under a degree.
CLOSED_DEGREES = 3.0
# Baselines shorter than this share of the cameras' spread have no length worth comparing.
_LEAST_BASELINE = 0.2


@dataclasses.dataclass(frozen=True)
class Loops:
    """How well relative rotations of pairs close around three cameras."""

    degrees: dict[tuple[str, str, str], float]
    """What is left after going around, per loop."""
    against: dict[tuple[str, str], float]
    """Degrees between each pair's own rotation and the solution's."""

    @property
    def closed(self) -> float:
        """Share of the loops that close; NaN without any."""
        left = list(self.degrees.values())
        return float(np.mean([value <= CLOSED_DEGREES for value in left])) if left else float("nan")

    @property
    def never_closed(self) -> list[str]:
        """Cameras that are in at least two loops, none of which closes."""
        cameras = sorted({name for loop in self.degrees for name in loop})
        own = {name: [left for loop, left in self.degrees.items() if name in loop] for name in cameras}
        return [name for name, left in own.items() if len(left) >= 2 and min(left) > CLOSED_DEGREES]


def relative_poses(
    stem: Path,
    lenses: Mapping[str, Lens],
    keypoints: Mapping[str, np.ndarray],
    pairs: Mapping[tuple[str, str], np.ndarray],
    seed: int,
) -> dict[tuple[str, str], np.ndarray]:
    """Returns the rotation [3, 3] of every pair (a, b) from a's axes to b's, from that pair's matches alone.

    Only pairs with 30 or more matches that one relative pose explains.

    Args:
        stem: The worker's files get endings to this.
        lenses: Of every camera.
        keypoints: [n, 2] pixels of the recorded pictures.
        pairs: [m, 2] indices of keypoints that match, not verified.
        seed: Of the worker's random samples.
    """
    number = {name: f"c{k:03d}" for k, name in enumerate(lenses)}
    arrays = {}
    cameras = []
    usable = {}
    for name, lens in lenses.items():
        straight = undistort_pixels(lens, keypoints[name])
        usable[name] = np.isfinite(straight).all(axis=1)
        arrays[f"keypoints/{number[name]}"] = np.nan_to_num(straight)
        model = undistorted_lens(lens)
        cameras.append(
            {
                "name": number[name], "width": lens.width, "height": lens.height,
                "params": [model.fx, model.fy, model.cx, model.cy],
            }
        )  # fmt: skip
    for (a, b), found in pairs.items():
        good = found[usable[a][found[:, 0]] & usable[b][found[:, 1]]]
        if len(good) >= _LEAST_INLIERS:
            arrays[f"matches/{number[a]}/{number[b]}"] = good
    data, out = stem.with_suffix(".npz"), stem.with_suffix(".result.json")
    np.savez(data, **arrays)  # pyright: ignore[reportArgumentType]
    run_worker(
        stem.with_suffix(".json"),
        {"task": "relative", "cameras": cameras, "matches": str(data), "out": str(out), "seed": seed},
    )
    named = {key: name for name, key in number.items()}
    found = json.loads(out.read_text(encoding="utf-8"))
    return {
        (named[pair["a"]], named[pair["b"]]): np.array(pair["R"]) for pair in found if pair["inliers"] >= _LEAST_INLIERS
    }


def loops_of(rotations: Mapping[tuple[str, str], np.ndarray], poses: Mapping[str, np.ndarray]) -> Loops:
    """Returns how the pairs' rotations close around all loops of three, and differ from world-to-camera `poses`."""
    both = dict(rotations) | {(b, a): R.T for (a, b), R in rotations.items()}
    degrees = {
        (a, b, c): turn_degrees(both[c, a] @ both[b, c] @ both[a, b])
        for a, b, c in itertools.combinations(sorted(poses), 3)
        if (a, b) in both and (b, c) in both and (c, a) in both
    }
    against = {(a, b): turn_degrees(R.T @ poses[b][:3, :3] @ poses[a][:3, :3].T) for (a, b), R in rotations.items()}
    return Loops(degrees, against)


def turn_degrees(R: np.ndarray) -> float:
    """Returns the angle in degrees of a rotation [3, 3]."""
    return float(np.degrees(np.arccos(np.clip((np.trace(R) - 1) / 2, -1.0, 1.0))))


def scale_spread(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> float:
    """Returns by how much the ratio of baselines differs over the pairs of cameras of two solutions: 0.02 is 2 %.

    Two solutions of one rig differ by one scale: every baseline of the one is the same multiple of the other's. The
    largest deviation from the median ratio counts, over baselines of at least a fifth of the cameras' spread.

    Args:
        first: World-to-camera [4, 4] of every camera.
        second: The same cameras in another solution.
    """
    a, b = (np.stack([invert_rigid(pose)[:3, 3] for pose in poses]) for poses in (first, second))
    ratios = []
    spread = [float(np.sqrt(((c - c.mean(0)) ** 2).sum(1).mean())) for c in (a, b)]
    for i, j in itertools.combinations(range(len(a)), 2):
        lengths = [float(np.linalg.norm(c[i] - c[j])) for c in (a, b)]
        if all(length > _LEAST_BASELINE * whole for length, whole in zip(lengths, spread)):
            ratios.append(np.log(lengths[1] / lengths[0]))
    return float(np.exp(np.abs(ratios - np.median(ratios)).max()) - 1) if ratios else float("inf")
