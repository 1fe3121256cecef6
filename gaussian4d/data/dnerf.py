"""D-NeRF scenes: `transforms_{train,val,test}.json` with a time per frame, camera-to-world matrices with OpenGL axes.

Besides D-NeRF's own keys (Pumarola et al. 2021) a file, or a frame of it, may state a lens as `transforms.json`
does (`stated_lens`) and, per frame, `camera_id` and `time_index`, as synchronised multi-camera renderings do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..conventions import invert_rigid, opencv_from_opengl
from ..errors import UserError
from ..files import read_json
from .named_files import SceneFiles
from .problems import ProblemList
from .records import FrameRecord, ImagePicture, Lens, SceneRecord, Split
from .stated_lens import LENS_KEYS, lens_of_picture, say_what_is_not_read
from .values import number, pose

looked_for = "transforms_train.json (D-NeRF)"

SPLITS: tuple[Split, ...] = ("train", "val", "test")


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
        if path.is_file():
            files.append((split, path, _content(path)))
        elif split == "test":
            problems.warning(path, "no test frames: the file is missing")
    timed = any(isinstance(entry, dict) and "time" in entry for _, _, content in files for entry in content["frames"])
    if not timed:
        problems.warning(folder, 'no frame has a "time": taken as one instant')
    for split, path, content in files:
        named = SceneFiles(folder, problems, path)
        say_what_is_not_read(path, [content, *content["frames"]], problems)
        lens: Lens | None = None
        for index, entry in enumerate(content["frames"]):
            try:
                record, lens = _read_frame(named, path, content, entry, split, lens, poses, timed)
            except UserError as error:
                problems.entry(path, f"frame {index}", error)
                continue
            frames.append(record)
    return SceneRecord(format="dnerf", frames=_drop_repeated(frames))


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list) or not content["frames"]:
        raise UserError(f'{path}: expected an object with a non-empty list "frames"; restore the file')
    return content


def _read_frame(
    named: SceneFiles,
    path: Path,
    content: dict[str, Any],
    entry: Any,
    split: Split,
    lens: Lens | None,
    poses: dict[str, np.ndarray],
    timed: bool,
) -> tuple[FrameRecord, Lens | None]:
    """Returns one frame, and the lens of the file once it is known."""
    if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
        raise UserError('expected an object with "file_path", "time" and "transform_matrix"')
    picture = named.picture(entry["file_path"])
    viewmat = invert_rigid(opencv_from_opengl(pose(entry.get("transform_matrix"), "transform_matrix")))
    own = None
    if LENS_KEYS & entry.keys():
        own = lens_of_picture({**content, **entry}, picture)
    elif lens is None or "camera_id" not in entry:
        lens = lens_of_picture(content, picture)
    used = own or lens
    assert used is not None
    if timed and "time" not in entry:
        raise UserError('expected "time" (0 to 1), as other frames have; add it')
    time = number(entry["time"], "time") if timed else 0.0
    camera_id = _camera_id(entry, picture, split, viewmat, poses)
    record = FrameRecord(camera_id, viewmat, used, ImagePicture(picture), time, split, stated_in=str(path))
    return record, lens


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
