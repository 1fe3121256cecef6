"""D-NeRF scenes: `transforms_{train,val,test}.json` with a time per frame, camera-to-world matrices with OpenGL axes.

Besides D-NeRF's own keys (Pumarola et al. 2021) a file may state `w, h, fl_x, fl_y, cx, cy` and, per frame,
`camera_id` and `time_index`, as synchronised multi-camera renderings do.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ..conventions import invert_rigid, opencv_from_opengl
from ..errors import UserError
from ..files import inside, read_json
from .images import IMAGE_ENDINGS, read_header
from .problems import MissingFile, ProblemList
from .records import FrameRecord, ImagePicture, Lens, SceneRecord, Split
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
        lens: Lens | None = None
        for index, entry in enumerate(content["frames"]):
            try:
                record, lens = _read_frame(folder, path, content, entry, split, lens, poses, timed)
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
    folder: Path,
    path: Path,
    content: dict[str, Any],
    entry: Any,
    split: Split,
    lens: Lens | None,
    poses: dict[str, np.ndarray],
    timed: bool,
) -> tuple[FrameRecord, Lens]:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
        raise UserError('expected an object with "file_path", "time" and "transform_matrix"')
    picture = find_image(folder, entry["file_path"])
    viewmat = invert_rigid(opencv_from_opengl(pose(entry.get("transform_matrix"), "transform_matrix")))
    if lens is None or "camera_id" not in entry:
        lens = _lens(content, picture)
    if timed and "time" not in entry:
        raise UserError('expected "time" (0 to 1), as other frames have; add it')
    time = number(entry["time"], "time") if timed else 0.0
    camera_id = _camera_id(entry, picture, split, viewmat, poses)
    record = FrameRecord(camera_id, viewmat, lens, ImagePicture(picture), time, split, stated_in=str(path))
    return record, lens


def _lens(content: dict[str, Any], picture: Path) -> Lens:
    """Returns the lens the file states, its size taken from the picture and compared with `w`, `h`."""
    header = read_header(picture)
    w, h = header.width, header.height
    stated = (int(number(content.get("w", w), "w")), int(number(content.get("h", h), "h")))
    if stated != (w, h):
        raise UserError(f"{picture} is {w}x{h}, the file says {stated[0]}x{stated[1]}; correct w and h or the picture")
    if "fl_x" in content:
        fx = number(content["fl_x"], "fl_x")
    elif "camera_angle_x" in content:
        angle = number(content["camera_angle_x"], "camera_angle_x")
        if not 0 < angle < math.pi:
            raise UserError(f"camera_angle_x must lie between 0 and pi (radians), got {angle:g}")
        fx = 0.5 * w / math.tan(0.5 * angle)
    else:
        raise UserError('expected "camera_angle_x" or "fl_x"; add the field of view or the focal length')
    fy = number(content.get("fl_y", fx), "fl_y")
    cx, cy = number(content.get("cx", w / 2), "cx"), number(content.get("cy", h / 2), "cy")
    return Lens(fx, fy, cx, cy, w, h)


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


def find_image(folder: Path, name: str) -> Path:
    """Returns the picture `name`, which may lack its ending.

    Raises `UserError` when it is missing or lies outside `folder`.
    """
    path = inside(folder, name)
    if path.is_file() and path.suffix:
        return path
    for ending in IMAGE_ENDINGS:
        candidate = path.with_name(path.name + ending)
        if candidate.is_file():
            return candidate
    shown = path if path.suffix.lower() in IMAGE_ENDINGS else path.with_name(path.name + ".png")
    raise MissingFile(shown, f"the picture {shown} is missing; restore it or remove its entry")
