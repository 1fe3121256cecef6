"""One video of a camera that moves: a pose for every frame.

Frames spread over the clip (key frames) are matched with their neighbours and solved together, with one lens; what
stands still outvotes what moves. The frames between get poses from a smooth path through the key frames' (spherical
interpolation of rotations, cubic splines of places). How far that can be off is measured by leaving key frames out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation, Slerp

from ..conventions import invert_rigid
from ..data.records import Lens, PointCloud
from ..errors import UserError
from .geometry import align_cameras
from .matching import MAX_FEATURES, MAX_RATIO, MAX_SIZE, run_worker
from .recordings import Recording
from .solve import lens_from_colmap, lens_to_colmap

# Key frames: enough that a hand-held camera turns little between them, few enough to match in minutes.
_KEY_FRAMES = 60
# Neighbours that a key frame is matched with: these, and those 2, 4, 8, ... further.
_WINDOW = 6

_LEAST_PLACED = 0.8
_MOST_GAP = 4
_MOST_DEGREES = 2.0
_MOST_SHARE = 0.05
_LEAST_TRAVEL = 0.02


@dataclasses.dataclass(frozen=True)
class Path3d:
    """The way of a moving camera."""

    lens: Lens
    first: int
    """Frame that the way begins with: frames before the first placed key frame, and after the last, have no pose."""
    viewmats: np.ndarray
    """[n, 4, 4] world-to-camera of the frames from `first` on."""
    key_frames: int
    placed: int
    rms: float
    """Root mean square reprojection error in pixels."""
    degrees: float
    """Disagreement of viewing directions with a second solution, largest."""
    share: float
    """Disagreement of places, as a share of their spread, largest."""
    between_degrees: float
    """A key frame's rotation against the one interpolated from its neighbours, median; 0 when all are key frames."""
    between_share: float
    """The same of places."""
    points: PointCloud


def solve_path(
    folder: Path,
    recording: Recording,
    seed: int,
    key_frames: int = _KEY_FRAMES,
    known: Lens | None = None,
    *,
    thorough: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path3d:
    """Returns the pose of every frame of a moving camera's video.

    Raises `UserError` when too few key frames can be placed, or two solutions contradict each other.
    """
    chosen = np.unique(np.linspace(0, recording.count - 1, min(key_frames, recording.count)).round().astype(int))
    if len(chosen) < 8:
        raise UserError(f"{recording.path}: {recording.count} frames are too few for the path of a moving camera")
    pictures = dict(recording.frames(int(k) for k in chosen))
    matches = _match(folder, recording, chosen, pictures, seed, thorough)
    lens = known
    solutions = []
    for done, step in enumerate((1, 2), start=1):
        used = list(range(0, len(chosen), step))
        solutions.append(_solve(folder / f"path_{done}", recording, matches, used, seed + done, lens, thorough))
        _refuse_lost(recording, used, solutions[-1])
        if progress is not None:
            progress(done, 2)
    whole, half = solutions
    common = sorted(whole["cameras"].keys() & half["cameras"].keys())
    poses = {key: np.array(camera["viewmat"]) for key, camera in whole["cameras"].items()}
    degrees, share = align_cameras(
        np.stack([np.array(half["cameras"][key]["viewmat"]) for key in common]), np.stack([poses[k] for k in common])
    )
    if degrees.max() > _MOST_DEGREES or share.max() > _MOST_SHARE:
        raise _refusal(
            recording,
            f"two solutions of the camera's way contradict each other, by up to {degrees.max():.1f} degrees and"
            f" {100 * share.max():.0f} % of its spread",
        )
    xyz = np.array([point[:3] for point in whole["points"]]).reshape(-1, 3)
    centres = np.stack([invert_rigid(pose)[:3, 3] for pose in poses.values()])
    spread = float(np.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean()))
    away = float(np.median(np.linalg.norm(xyz - centres.mean(0), axis=1))) if len(xyz) else 0.0
    if spread < _LEAST_TRAVEL * away:
        raise _refusal(recording, "the camera hardly moves: it turns, or everything is far away, so depth is unknown")
    placed = sorted(_index(key) for key in poses)
    at = chosen[placed]
    keys = np.stack([poses[_key(k)] for k in placed])
    frames = np.arange(at[0], at[-1] + 1)
    stamps = recording.stamps
    viewmats = interpolate_poses(stamps[at], keys, stamps[frames])
    between = _between(stamps[at], keys) if len(at) < len(frames) else (0.0, 0.0)
    first_camera = whole["cameras"][_key(placed[0])]
    errors = [camera["rms"] for camera in whole["cameras"].values() if camera["rms"] is not None]
    return Path3d(
        lens_from_colmap(first_camera["model"], first_camera["params"], recording.width, recording.height),
        int(at[0]), viewmats, len(chosen), len(placed), float(np.sqrt(np.mean(np.square(errors)))),
        float(degrees.max()), float(share.max()), *between, _cloud(whole["points"], pictures, chosen),
    )  # fmt: skip


def interpolate_poses(times: np.ndarray, viewmats: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Returns world-to-camera [n, 4, 4] at `wanted` [n] on a smooth way through `viewmats` [k, 4, 4] at `times` [k]."""
    T = invert_rigid(viewmats)
    turn = Slerp(times, Rotation.from_matrix(T[:, :3, :3]))
    place = CubicSpline(times, T[:, :3, 3])
    found = np.tile(np.eye(4), (len(wanted), 1, 1))
    found[:, :3, :3] = turn(wanted).as_matrix()
    found[:, :3, 3] = place(wanted)
    return invert_rigid(found)


def _between(times: np.ndarray, keys: np.ndarray) -> tuple[float, float]:
    """Returns the median degrees and share of the spread by which key frames miss the way through the others.

    Steps are twice as long there as between key frames, so that the real error is smaller.
    """
    degrees, misses = [], []
    centres = invert_rigid(keys)[:, :3, 3]
    for k in range(1, len(times) - 1):
        rest = np.arange(len(times)) != k
        guess = interpolate_poses(times[rest], keys[rest], times[k : k + 1])[0]
        turned = Rotation.from_matrix(guess[:3, :3] @ keys[k][:3, :3].T).magnitude()
        degrees.append(np.degrees(turned))
        misses.append(np.linalg.norm(invert_rigid(guess)[:3, 3] - centres[k]))
    spread = np.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean())
    return float(np.median(degrees)), float(np.median(misses) / max(spread, 1e-12))


def _match(
    folder: Path,
    recording: Recording,
    chosen: np.ndarray,
    pictures: Mapping[int, np.ndarray],
    seed: int,
    thorough: bool,
) -> dict[str, np.ndarray]:
    """Returns keypoints/KEY in pixels of the recording and matches/KEY/KEY between neighbouring key frames."""
    place = folder / "key_frames"
    place.mkdir(parents=True, exist_ok=True)
    scale = min(1.0, MAX_SIZE / max(recording.width, recording.height))
    size = (max(1, round(recording.width * scale)), max(1, round(recording.height * scale)))
    names = [f"{_key(k)}.png" for k in range(len(chosen))]
    for name, index in zip(names, chosen):
        image = Image.fromarray(np.ascontiguousarray(pictures[int(index)]))
        image.resize(size, Image.Resampling.BOX).save(place / name, compress_level=1)
    steps = [*range(1, _WINDOW + 1), *(2**k for k in range(3, 7))]
    pairs = [(names[a], names[a + step]) for step in steps for a in range(len(names) - step)]
    out = folder / "path_matches.npz"
    run_worker(
        folder / "path_match.json",
        {
            "task": "match", "folder": str(place), "out": str(out), "names": names, "pairs": pairs,
            "max_features": MAX_FEATURES[thorough], "max_ratio": MAX_RATIO[thorough], "max_size": MAX_SIZE,
            "seed": seed,
        },
    )  # fmt: skip
    found = {}
    with np.load(out) as data:
        for key in data.files:
            kind, *rest = key.split("/")
            plain = "/".join([kind, *(name.removesuffix(".png") for name in rest)])
            if kind == "keypoints":
                found[plain] = data[key] / (size[0] / recording.width)
            elif kind == "matches" and len(data[key]):
                found[plain] = data[key]
    return found


def _solve(
    stem: Path,
    recording: Recording,
    matches: Mapping[str, np.ndarray],
    used: list[int],
    seed: int,
    known: Lens | None,
    thorough: bool,
) -> dict[str, Any]:
    keys = {_key(k) for k in used}
    data, out = stem.with_suffix(".npz"), stem.with_suffix(".result.json")
    arrays = {name: found for name, found in matches.items() if set(name.split("/")[1:]) <= keys}
    np.savez(data, **arrays)  # pyright: ignore[reportArgumentType]
    lens = lens_to_colmap(known) if known is not None else {}
    cameras = [
        {"name": _key(k), "width": recording.width, "height": recording.height} | lens for k in used
    ]  # fmt: skip
    run_worker(
        stem.with_suffix(".json"),
        {
            "task": "map", "cameras": cameras, "matches": str(data), "out": str(out), "seed": seed,
            "thorough": thorough, "shared": True,
        },
    )  # fmt: skip
    found = json.loads(out.read_text(encoding="utf-8"))
    return {"cameras": {}, "points": []} | found


def _refuse_lost(recording: Recording, used: list[int], solution: Mapping[str, Any]) -> None:
    placed = sorted(_index(key) for key in solution["cameras"])
    lost = len(used) - len(placed)
    gaps = np.diff([used.index(k) for k in placed]) if len(placed) > 1 else np.array([len(used)])
    if len(placed) < _LEAST_PLACED * len(used) or gaps.max() > _MOST_GAP:
        raise _refusal(
            recording,
            f"{lost} of {len(used)} frames have too little overlap with the others (longest gap"
            f" {int(gaps.max()) - 1} of them)",
        )


def _refusal(recording: Recording, reason: str) -> UserError:
    return UserError(
        f"{recording.path}: the camera path cannot be trusted: {reason}. If the camera stood still, prepare it"
        " together with the other cameras' videos; otherwise film again: walk around the subject slowly, do not only"
        " turn, with textured things that do not move in view, or give the lens with --calibration"
    )


def _cloud(points: list[list[float]], pictures: Mapping[int, np.ndarray], chosen: np.ndarray) -> PointCloud:
    """Returns the points of a solution ([x, y, z, key frame, column, row]) with their colours; all stand still."""
    found = np.array(points, dtype=np.float64).reshape(-1, 6)
    rgb = np.zeros((len(found), 3), dtype=np.uint8)
    for n, (key, column, row) in enumerate(found[:, 3:]):
        picture = pictures[int(chosen[int(key)])]
        rgb[n] = picture[
            np.clip(int(row), 0, picture.shape[0] - 1), np.clip(int(column), 0, picture.shape[1] - 1)
        ]  # fmt: skip
    return PointCloud(found[:, :3].astype(np.float32), rgb, np.full(len(found), np.nan))


def _key(index: int) -> str:
    return f"k{index:04d}"


def _index(key: str) -> int:
    return int(key[1:])
