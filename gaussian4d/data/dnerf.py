"""D-NeRF scenes: `transforms_{train,val,test}.json` with a time per frame, camera-to-world matrices with OpenGL axes.

Besides D-NeRF's own keys (Pumarola et al. 2021) a file, or a frame of it, may state a lens as `transforms.json`
does (`stated_lens`) and, per frame, `mask_path`, `camera_id` and `time_index`, as synchronised multi-camera renderings
do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..conventions import invert_rigid, opencv_from_opengl
from ..errors import UserError
from ..files import read_json
from .named_files import SceneFiles
from .point_files import stated_points
from .problems import ProblemList
from .records import FrameRecord, ImagePicture, PointCloud, SceneRecord, Split
from .stated_lens import StatedLenses, merged, say_what_is_not_read
from .values import number, pose

looked_for = "transforms_train.json (D-NeRF)"

SPLITS: tuple[Split, ...] = ("train", "val", "test")

_READ = ("frames", "file_path", "time", "transform_matrix", "camera_id", "mask_path", "ply_file_path")


def recognises(folder: Path) -> bool:
    """Tells whether the folder holds a D-NeRF scene."""
    return (folder / "transforms_train.json").is_file()


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`."""
    frames: list[FrameRecord] = []
    poses: dict[str, np.ndarray] = {}
    files: list[tuple[Split, Path, dict[str, Any]]] = []
    for split in SPLITS:
        path = folder / f"transforms_{split}.json"
        content = _content(path, required=split == "train") if path.is_file() else None
        if content is not None and content["frames"]:
            files.append((split, path, content))
        elif split == "test":
            why = "is missing" if content is None else "lists none"
            problems.warning(path, f"no test frames: the file {why}")
    timed = any(isinstance(entry, dict) and "time" in entry for _, _, content in files for entry in content["frames"])
    if not timed:
        problems.warning(folder, 'no frame has a "time": treated as a single instant')
    notes = say_what_is_not_read(
        files[0][1], [entry for _, _, content in files for entry in (content, *content["frames"])], _READ, problems
    )
    points: PointCloud | None = None
    for split, path, content in files:
        named = SceneFiles(folder, problems, path)
        if points is None:
            points = stated_points(named, path, content, problems)
        lenses = StatedLenses(path, problems)
        shared = {key: value for key, value in content.items() if key != "frames"}
        for index, entry in enumerate(content["frames"]):
            try:
                record = _read_frame(named, path, shared, entry, split, lenses, poses, timed)
            except UserError as error:
                problems.entry(path, f"frame {index}", error)
                continue
            frames.append(record)
    return SceneRecord(format="dnerf", frames=_drop_repeated(frames), points=points, notes=notes)


def _content(path: Path, required: bool) -> dict[str, Any]:
    """Returns what a file states; its list of frames may be empty unless they are `required`."""
    content = read_json(path)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or (required and not frames):
        raise UserError(f'{path}: expected an object with a non-empty list "frames"; restore the file')
    return content


def _read_frame(
    named: SceneFiles,
    path: Path,
    shared: dict[str, Any],
    entry: Any,
    split: Split,
    lenses: StatedLenses,
    poses: dict[str, np.ndarray],
    timed: bool,
) -> FrameRecord:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
        raise UserError('expected an object with "file_path", "time" and "transform_matrix"')
    picture = named.picture(entry["file_path"])
    viewmat = invert_rigid(opencv_from_opengl(pose(entry.get("transform_matrix"), "transform_matrix")))
    mask = named.file(str(entry["mask_path"]), "mask") if entry.get("mask_path") else None
    # Without camera_id, a file has one camera that moves.
    lens = lenses.of_picture(merged(shared, entry), picture, str(entry.get("camera_id", "")))
    if timed and "time" not in entry:
        raise UserError('expected "time" (0 to 1), as other frames have; add it')
    time = number(entry["time"], "time") if timed else 0.0
    camera_id = _camera_id(entry, picture, split, viewmat, poses)
    return FrameRecord(camera_id, viewmat, lens, ImagePicture(picture), time, split, mask, stated_in=str(path))


def _camera_id(
    entry: dict[str, Any], picture: Path, split: str, viewmat: np.ndarray, poses: dict[str, np.ndarray]
) -> str:
    """Returns the camera's name: its `camera_id` while its pose stays the same, else one per picture."""
    if "camera_id" not in entry:
        return f"{split}_{picture.stem}"
    name = str(entry["camera_id"])
    if np.allclose(poses.setdefault(name, viewmat), viewmat, rtol=0, atol=1e-9):
        return name
    return f"{name}_{picture.stem}"


def _drop_repeated(frames: list[FrameRecord]) -> list[FrameRecord]:
    """Returns the frames without `val` frames whose picture another split has already."""
    own = {frame.picture for frame in frames if frame.split != "val"}
    return [frame for frame in frames if frame.split != "val" or frame.picture not in own]
