"""DyCheck's iPhone scenes (Gao et al. 2022): Nerfies' layout with `splits/*.json` and covisibility masks.

`splits/train.json` and `splits/val.json` list `frame_names`, `camera_ids` and `time_ids` side by side; `val` is the
test. `covisible/Fx/val/ID.png` is not black where enough training frames saw what the test frame shows; figures of
test frames are masked by it. `extra.json` states the reduction `factor` that published figures use and the frame rate.
Depth and keypoints are not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json
from .images import IMAGE_ENDINGS, read_header
from .named_files import SceneFiles
from .nerfies import CameraReader, checked_id, choose_factor, read_points_npy
from .problems import MissingFile, ProblemList
from .records import FrameRecord, ImagePicture, Lens, SceneRecord, Split
from .values import number

looked_for = "splits/ and camera/ (DyCheck)"

# The reduction of all published iPhone scenes, should extra.json be missing.
PAPER_FACTOR = 2

_SPLITS: tuple[tuple[str, Split], ...] = (("train", "train"), ("val", "test"))


def recognises(folder: Path) -> bool:
    """Tells whether the folder holds a DyCheck scene."""
    return (folder / "splits").is_dir() and (folder / "camera").is_dir()


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`."""
    rows: list[tuple[Path, str, Split, str, int, str]] = []
    for name, split in _SPLITS:
        path = folder / "splits" / f"{name}.json"
        if not path.is_file() and split == "test":
            problems.warning(path, "no test frames: the file is missing")
            continue
        for camera, time, id in _rows(path):
            rows.append((path, name, split, camera, time, id))
    extra = _extra(folder)
    factor = choose_factor(folder, [row[5] for row in rows], extra.get("factor", PAPER_FACTOR))
    last = max(time for _, _, _, _, time, _ in rows) or 1
    cameras = CameraReader(folder, factor)
    masks = {name: SceneFiles(folder / "covisible" / f"{factor}x" / name) for name, _ in _SPLITS}
    frames, unmasked = [], 0
    for path, name, split, camera, time, id in rows:
        try:
            viewmat, lens, picture = cameras.read(id)
        except UserError as error:
            problems.entry(path if isinstance(error, MissingFile) else cameras.file(id), f"picture {id}", error)
            continue
        covisible = None
        if split == "test":
            covisible = masks[name].find(id, IMAGE_ENDINGS)
            if covisible is None:
                unmasked += 1
            else:
                _check_mask(covisible, lens, problems)
        frames.append(
            FrameRecord(
                camera, viewmat, lens, ImagePicture(picture), time / last, split,
                covisible=covisible, stated_in=str(path),
            )
        )  # fmt: skip
    if unmasked:
        problems.warning(
            folder / "covisible",
            f"{unmasked} test frames have no covisibility mask in {factor}x/val: their figures are not masked and"
            " cannot be compared with published ones; restore the masks",
        )
    fps = extra.get("fps")
    notes = [f"pictures of rgb/{factor}x", "depth is not used"]
    return SceneRecord(
        "dycheck", frames, fps, last / fps if fps else None, read_points_npy(folder, problems), downscale=1, notes=notes
    )


def _rows(path: Path) -> list[tuple[str, int, str]]:
    """Returns (camera, time id, frame name) of a split; raises `UserError` when its three lists are not there."""
    content = read_json(path)
    keys = ("frame_names", "camera_ids", "time_ids")
    columns = [content.get(key) if isinstance(content, dict) else None for key in keys]
    if not all(isinstance(column, list) for column in columns):
        raise UserError(f"{path}: expected an object with lists {', '.join(keys)}; restore the file")
    names, cameras, times = (column or [] for column in columns)
    if not len(names) == len(cameras) == len(times) or not names:
        raise UserError(
            f"{path}: {', '.join(keys)} must list the same frames, at least one; they have {len(names)},"
            f" {len(cameras)} and {len(times)} entries; restore the file"
        )
    rows = []
    for name, camera, time in zip(names, cameras, times):
        id = checked_id(path, name)
        instant = number(time, f"{path}: the time id of {id}")
        if instant < 0 or instant != int(instant):
            raise UserError(f"{path}: the time id of {id} must be a whole number from 0 on, got {instant:g}; mend it")
        rows.append((str(camera), int(instant), id))
    return rows


def _check_mask(path: Path, lens: Lens, problems: ProblemList) -> None:
    """Notes a mask of another size than its picture now: it is read when figures are taken, after a long fit."""
    try:
        header = read_header(path)
    except UserError as error:
        problems.take(path, error)
        return
    if (header.width, header.height) != (lens.width, lens.height):
        problems.error(
            path,
            f"the mask is {header.width}x{header.height}, its image is {lens.width}x{lens.height}; make them the same"
            " size",
        )


def _extra(folder: Path) -> dict[str, Any]:
    """Returns the checked `factor` and `fps` of `extra.json`, as far as they are there."""
    path = folder / "extra.json"
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected an object with factor and fps; restore the file")
    extra = {key: number(content[key], f"{path}: {key}") for key in ("factor", "fps") if key in content}
    if any(value <= 0 for value in extra.values()):
        raise UserError(f"{path}: factor and fps must be positive, got {extra}; restore the file")
    return {key: int(value) if key == "factor" else value for key, value in extra.items()}
