"""Matches between the cameras at several instants, and every instant's matches of two cameras together."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import atomic_write
from ..optional import OPTIONAL
from .recordings import Recording
from .timeline import Timeline

# By thoroughness: SIFT features per picture, and the ratio of best to second best distance below which a match counts.
MAX_FEATURES = {False: 3000, True: 8000}
MAX_RATIO = {False: 0.8, True: 0.9}
# Pictures are shrunk to this side before features are sought: HD gives no better poses, only slower ones.
MAX_SIZE = 1000


@dataclasses.dataclass(frozen=True)
class Matches:
    """Keypoints and matches of all cameras at some instants."""

    instants: np.ndarray
    """[I] indices of the timeline's instants."""
    keypoints: dict[tuple[str, int], np.ndarray]
    """(camera, position among the instants) -> [n, 2] pixels, centres at +0.5."""
    matches: dict[tuple[str, str, int], np.ndarray]
    """(camera, camera, position) -> [m, 2] indices of keypoints; not verified."""

    def save(self, path: Path) -> None:
        """Writes them to an npz file, whole or not at all."""
        cameras = sorted({camera for camera, _ in self.keypoints})
        number = {name: k for k, name in enumerate(cameras)}
        arrays: dict[str, np.ndarray] = {"instants": self.instants, "cameras": np.array(cameras)}
        arrays |= {f"keypoints/{number[name]}/{k}": found for (name, k), found in self.keypoints.items()}
        arrays |= {f"matches/{number[a]}/{number[b]}/{k}": found for (a, b, k), found in self.matches.items()}
        with atomic_write(path) as temporary:
            np.savez(temporary, **arrays)  # pyright: ignore[reportArgumentType]

    @classmethod
    def load(cls, path: Path) -> Matches:
        """Returns what `save` wrote."""
        with np.load(path) as data:
            cameras = [str(name) for name in data["cameras"]]
            keypoints, matches = {}, {}
            for key in data.files:
                kind, *rest = key.split("/")
                if kind == "keypoints":
                    keypoints[cameras[int(rest[0])], int(rest[1])] = data[key]
                elif kind == "matches":
                    matches[cameras[int(rest[0])], cameras[int(rest[1])], int(rest[2])] = data[key]
            return cls(data["instants"], keypoints, matches)

    def at(self, positions: Sequence[int]) -> tuple[dict[str, np.ndarray], dict[tuple[str, str], np.ndarray]]:
        """Returns keypoints per camera and matches per pair, those of the given instants put together."""
        cameras = sorted({camera for camera, _ in self.keypoints})
        keypoints = {c: np.concatenate([self.keypoints[c, k] for k in positions]) for c in cameras}
        before = {
            (c, k): sum(len(self.keypoints[c, other]) for other in positions[:n])
            for c in cameras
            for n, k in enumerate(positions)
        }
        pairs: dict[tuple[str, str], np.ndarray] = {}
        for a, b in sorted({(a, b) for a, b, _ in self.matches}):
            parts = [
                self.matches[a, b, k] + [before[a, k], before[b, k]] for k in positions if (a, b, k) in self.matches
            ]
            if parts:
                pairs[a, b] = np.concatenate(parts)
        return keypoints, pairs


def missing_pycolmap() -> str | None:
    """Returns how to install pycolmap when it is not there, None when it is. Does not import it."""
    package = OPTIONAL["pycolmap"]
    return None if package.version is not None else f"pycolmap is not installed; run: {package.install}"


def match_cameras(
    folder: Path,
    recordings: Sequence[Recording],
    timeline: Timeline,
    instants: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    *,
    thorough: bool = False,
) -> Matches:
    """Returns SIFT matches between all cameras at `instants` moments spread over the clip.

    Args:
        folder: Keeps the pictures and pycolmap's files.
        recordings: All cameras.
        timeline: Which frame shows which instant.
        instants: How many moments.
        seed: Of pycolmap's random numbers.
        progress: Called with (pictures written, pictures in all).
        thorough: Seek more features and take less distinct matches.
    """
    chosen = np.unique(np.linspace(0, timeline.count - 1, min(instants, timeline.count)).round().astype(int))
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    names: dict[tuple[str, int], str] = {}
    scales: dict[str, float] = {}
    for done, recording in enumerate(recordings, start=1):
        scale = min(1.0, MAX_SIZE / max(recording.width, recording.height))
        size = (max(1, round(recording.width * scale)), max(1, round(recording.height * scale)))
        scales[recording.name] = size[0] / recording.width
        indices = timeline.indices[recording.name][chosen]
        decoded = dict(recording.frames(int(k) for k in indices))
        for position, index in enumerate(indices):
            # Numbers in place of names: a camera may be called anything, a list of pairs is split at spaces.
            name = f"c{done:03d}_t{position:03d}.png"
            names[recording.name, position] = name
            image = Image.fromarray(np.ascontiguousarray(decoded[int(index)]))
            image.resize(size, Image.Resampling.BOX).save(pictures / name, compress_level=1)
        if progress is not None:
            progress(done, len(recordings))
    pairs = [
        (a.name, b.name, position) for position in range(len(chosen)) for a, b in itertools.combinations(recordings, 2)
    ]
    out = folder / "matches.npz"
    run_worker(
        folder / "match.json",
        {
            "task": "match", "folder": str(pictures), "out": str(out), "names": list(names.values()),
            "pairs": [(names[a, k], names[b, k]) for a, b, k in pairs],
            "max_features": MAX_FEATURES[thorough], "max_ratio": MAX_RATIO[thorough], "max_size": MAX_SIZE,
            "seed": seed,
        },
    )  # fmt: skip
    data = np.load(out)
    keypoints = {key: data[f"keypoints/{name}"] / scales[key[0]] for key, name in names.items()}
    matches = {}
    for a, b, k in pairs:
        key = f"matches/{names[a, k]}/{names[b, k]}"
        if key in data.files and len(data[key]):
            matches[a, b, k] = data[key].astype(np.int64)
    return Matches(chosen, keypoints, matches)


def run_worker(job_file: Path, job: Mapping[str, Any]) -> None:
    """Runs a job of `colmap_worker` in its own process; raises `UserError` when pycolmap is missing or fails."""
    missing = missing_pycolmap()
    if missing:
        raise UserError(f"matching the cameras needs pycolmap: {missing}")
    job_file.write_text(json.dumps({"threads": os.cpu_count() or 1} | dict(job)), encoding="utf-8")
    command = [sys.executable, "-m", "gaussian4d.prepare.colmap_worker", str(job_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        log = job_file.with_suffix(".log")
        log.write_text(done.stdout + done.stderr, encoding="utf-8", errors="surrogateescape")
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(
            f"pycolmap failed at {job['task']} (exit code {done.returncode}): {last}; its output is in {log};"
            " try again, or give a calibration"
        )
