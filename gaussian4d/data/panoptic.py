"""PanopticSports scenes (Luiten et al., Dynamic 3D Gaussians, 2024): `{train,test}_meta.json`, `ims/`, `seg/`.

The meta files state, per instant t and camera c, `k[t][c]`, `w2c[t][c]` (world-to-camera, OpenCV axes), `fn[t][c]`
and `cam_id[t][c]`, and for all of them `w` and `h`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ..conventions import frame_times, numeric_key
from ..errors import UserError
from ..files import read_json
from ..frame_numbers import FrameNumbers
from .arrays import read_archived
from .images import header_for
from .named_files import SceneFiles
from .problems import ProblemList
from .records import FrameRecord, ImagePicture, Lens, PointCloud, SceneRecord, Split
from .values import matrix, number, pose

looked_for = "train_meta.json (PanopticSports)"

# The meta files do not state a rate; the published sequences all run at 30 frames a second.
FPS = 30.0

SPLITS: tuple[Split, ...] = ("train", "test")


def recognises(folder: Path) -> bool:
    """Tells whether the folder holds a PanopticSports scene."""
    return (folder / "train_meta.json").is_file()


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`."""
    found: list[tuple[str, FrameRecord]] = []
    fps = FPS
    for split in SPLITS:
        path = folder / f"{split}_meta.json"
        named = SceneFiles(folder / "ims", problems, path)
        if not path.is_file():
            problems.warning(path, f"no {split} frames: the file is missing")
            continue
        content = read_json(path)
        table = _table(path, content)
        fps = number(content["fps"], "fps") if "fps" in content else fps
        seen: set[str] = set()
        for t, (names, ids, ks, poses) in enumerate(zip(*table)):
            if not len(names) == len(ids) == len(ks) == len(poses):
                problems.error(path, f"instant {t}: fn, cam_id, k and w2c differ in length; restore the file")
                continue
            for name, camera_id, k, w2c in zip(names, ids, ks, poses):
                where = f"instant {t}, camera {camera_id}"
                try:
                    record = _read_frame(folder, named, path, content, split, name, camera_id, k, w2c, seen)
                except UserError as error:
                    problems.entry(path, where, error)
                    continue
                found.append((Path(name).stem, record))
    times, count = _times(folder, {stem for stem, _ in found}, problems)
    frames = [dataclasses.replace(record, time=times[stem]) for stem, record in found]
    duration = (count - 1) / fps if count > 1 else None
    notes = [] if not frames else [f"{fps:g} frames a second, as all PanopticSports sequences"]
    return SceneRecord("panoptic", frames, fps=fps, duration=duration, points=_points(folder, problems), notes=notes)


def _times(folder: Path, stems: set[str], problems: ProblemList) -> tuple[dict[str, float], int]:
    """Returns the clip time of every instant, by the stem of its pictures; and their number, with those missing."""
    if stems and all(stem.isascii() and stem.isdigit() for stem in stems):
        numbers = FrameNumbers.of(int(stem) for stem in stems)
        if gaps := numbers.gaps():
            problems.warning(folder, gaps)
        return {stem: numbers.time(int(stem)) for stem in stems}, numbers.intervals + 1
    instants = sorted(stems, key=numeric_key)
    return dict(zip(instants, frame_times(len(instants)).tolist())), len(instants)


def _table(path: Path, content: Any) -> list[list[Any]]:
    """Returns the per-instant lists fn, cam_id, k, w2c; raises `UserError` when they are not there."""
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object with w, h, k, w2c, fn and cam_id; restore the file")
    missing = [key for key in ("w", "h", "k", "w2c", "fn", "cam_id") if key not in content]
    if missing:
        raise UserError(f"{path}: expected {', '.join(missing)} in it, which are missing; restore the file")
    table = [content[key] for key in ("fn", "cam_id", "k", "w2c")]
    lengths = [len(column) if isinstance(column, list) else -1 for column in table]
    if len(set(lengths)) != 1 or lengths[0] < 1 or not all(isinstance(row, list) for col in table for row in col):
        raise UserError(f"{path}: fn, cam_id, k and w2c must list the same instants, got {lengths}; restore the file")
    return table


def _read_frame(
    folder: Path,
    named: SceneFiles,
    path: Path,
    content: dict[str, Any],
    split: Split,
    name: Any,
    camera_id: Any,
    k: Any,
    w2c: Any,
    seen: set[str],
) -> FrameRecord:
    if not isinstance(name, str):
        raise UserError(f"fn must be a file name, got {name!r}")
    picture = named.picture(name)
    viewmat = pose(w2c, "w2c")
    K = matrix(k, "k", (3, 3))
    w, h = int(number(content["w"], "w")), int(number(content["h"], "h"))
    key = str(camera_id)
    if key not in seen:
        seen.add(key)
        header = header_for(picture, (w, h))
        if (header.width, header.height) != (w, h):
            raise UserError(f"{picture} is {header.width}x{header.height}, the file says {w}x{h}; restore one of them")
    mask = folder / "seg" / picture.relative_to(named.folder).with_suffix(".png")
    lens = Lens(float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]), w, h)
    return FrameRecord(
        key, viewmat, lens, ImagePicture(picture), 0.0, split, mask if mask.is_file() else None, stated_in=str(path)
    )


def _points(folder: Path, problems: ProblemList) -> PointCloud | None:
    path = folder / "init_pt_cld.npz"
    if not path.is_file():
        return None
    try:
        data = read_archived(path, "data")
        if data.ndim != 2 or data.shape[1] < 6 or not np.isfinite(data[:, :6]).all():
            raise ValueError(f"data is {data.shape}, expected [N, 6 or more] finite numbers")
    except ValueError as error:
        problems.warning(path, f"the points cannot be read and are left out ({error})")
        return None
    rgb = np.clip(np.round(data[:, 3:6] * 255.0), 0, 255).astype(np.uint8)
    return PointCloud(data[:, :3], rgb)
