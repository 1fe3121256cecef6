"""Nerfies and HyperNeRF scenes (Park et al. 2021): `dataset.json`, `metadata.json`, `camera/ID.json`, `rgb/Fx/ID.png`.

A camera file states `orientation` (world-to-camera rotation, OpenCV axes), `position` (the camera's place), focal
length, principal point (pixel centres at +0.5), skew, aspect ratio, distortion and `image_size`, all for the pictures
of `rgb/1x`. `metadata.json` gives every picture its `warp_id` (NeRF-DS: `time_id`), which is its instant, and its
`camera_id`. `scene.json` would move and scale the world; poses and points stay as stated here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_json
from .arrays import read_array
from .images import IMAGE_ENDINGS, header_for
from .named_files import SceneFiles
from .problems import MissingFile, ProblemList
from .records import FrameRecord, ImagePicture, Lens, PointCloud, SceneRecord, Split
from .values import check_rotation, matrix, number

looked_for = "dataset.json and camera/ (HyperNeRF)"

# HyperNeRF's figures are for half of the recorded size, 536x960.
PAPER_FACTOR = 2

_ID = re.compile(r"[\w.-]+")


def recognises(folder: Path) -> bool:
    """Tells whether the folder holds a Nerfies or HyperNeRF scene."""
    return (folder / "dataset.json").is_file() and (folder / "camera").is_dir()


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`, split as HyperNeRF does for its validation rig and its interpolation scenes."""
    path = folder / "dataset.json"
    dataset = read_json(path)
    ids = _ids(path, dataset, "ids")
    splits, split_note = _splits(path, dataset, ids)
    metadata = read_metadata(folder)
    factor = choose_factor(folder, ids, PAPER_FACTOR)
    instants, problem_ids = {}, set()
    for id in ids:
        try:
            instants[id] = _instant(metadata, id)
        except UserError as error:
            problems.error(folder / "metadata.json", str(error))
            problem_ids.add(id)
    last = max(instants.values(), default=0) or 1
    frames = []
    cameras = CameraReader(folder, factor)
    for id in ids:
        if id in problem_ids or id not in splits:
            continue
        try:
            viewmat, lens, picture = cameras.read(id)
        except UserError as error:
            problems.entry(path if isinstance(error, MissingFile) else cameras.file(id), f"picture {id}", error)
            continue
        name = str(metadata[id].get("camera_id", 0))
        frames.append(
            FrameRecord(
                name, viewmat, lens, ImagePicture(picture), instants[id] / last, splits[id],
                stated_in=str(cameras.file(id)),
            )
        )  # fmt: skip
    notes = [split_note, f"pictures of rgb/{factor}x"]
    return SceneRecord("nerfies", frames, points=read_points_npy(folder, problems), downscale=1, notes=notes)


def _ids(path: Path, content: Any, key: str) -> list[str]:
    """Returns a list of picture names, checked to be plain names."""
    values = content.get(key) if isinstance(content, dict) else None
    if not isinstance(values, list) or (key == "ids" and not values):
        raise UserError(f'{path}: expected an object with a list "{key}" of picture names; restore the file')
    return [checked_id(path, value) for value in values]


def checked_id(path: Path, value: Any) -> str:
    """Returns a picture's name; raises `UserError` unless it is one name without folders."""
    if not isinstance(value, str) or not _ID.fullmatch(value) or value.startswith("."):
        raise UserError(f"{path}: expected the name of a picture, got {value!r}; restore the file")
    return value


def _splits(path: Path, dataset: Any, ids: list[str]) -> tuple[dict[str, Split], str]:
    """Returns the split of every id that has one.

    With `val_ids` (validation rig) the file's own; without (interpolation) every fourth picture trains and the second
    after each is the test, as in HyperNeRF, appendix.
    """
    held = _ids(path, dataset, "val_ids") if dataset.get("val_ids") else []
    splits: dict[str, Split] = {}
    if held:
        splits |= {id: "train" for id in _ids(path, dataset, "train_ids")}
        splits |= {id: "test" for id in held}
        unknown = sorted(splits.keys() - set(ids))
        if unknown:
            raise UserError(f"{path}: train_ids and val_ids name {unknown[0]}, which ids lacks; restore the file")
        return splits, "validation rig: train_ids and val_ids of dataset.json"
    splits |= {id: "train" for id in ids[::4]}
    splits |= {id: "test" for id in ids[2::4]}
    return splits, "interpolation: images 0, 4, 8, ... for training, 2, 6, 10, ... for testing, others unused"


def read_metadata(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns `metadata.json`; raises `UserError` when it is no map of maps."""
    path = folder / "metadata.json"
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise UserError(f"{path}: expected an object with an object per picture; restore the file")
    return content


def _instant(metadata: dict[str, dict[str, Any]], id: str) -> int:
    if id not in metadata:
        raise UserError(f"picture {id} of dataset.json has no entry; restore the file")
    entry = metadata[id]
    key = next((key for key in ("warp_id", "time_id", "appearance_id") if key in entry), None)
    if key is None:
        raise UserError(f"picture {id} has no warp_id (or time_id); restore the file")
    value = number(entry[key], f"{key} of picture {id}")
    if value < 0 or value != int(value):
        raise UserError(f"{key} of picture {id} must be a whole number from 0 on, got {value:g}; restore the file")
    return int(value)


def choose_factor(folder: Path, ids: Sequence[str], wanted: int) -> int:
    """Returns the reduction whose folder `rgb/Fx` is read: the wanted one, else the nearest smaller picture."""
    there = sorted(
        int(path.name[:-1]) for path in (folder / "rgb").glob("*x") if path.is_dir() and path.name[:-1].isdigit()
    )
    named = {factor: pictures_of(folder, factor) for factor in there}
    there = [factor for factor in there if factor > 0 and any(named[factor].find(id, IMAGE_ENDINGS) for id in ids)]
    if not there:
        shown = f"2x/{ids[0]}.png"
        raise UserError(f"{folder / 'rgb'}: expected pictures in 1x, 2x, 4x, ..., such as {shown}; restore them")
    return min(there, key=lambda factor: (factor < wanted, abs(factor - wanted)))


def pictures_of(folder: Path, factor: int) -> SceneFiles:
    """Returns the pictures reduced by `factor`; ids are their names without ending."""
    return SceneFiles(folder / "rgb" / f"{factor}x")


class CameraReader:
    """Reads the cameras of pictures reduced by one factor."""

    def __init__(self, folder: Path, factor: int) -> None:
        self._folder, self._factor, self._pictures = folder, factor, pictures_of(folder, factor)
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}
        """Size of the reduced picture by the size that the camera file states."""

    def file(self, id: str) -> Path:
        return self._folder / "camera" / f"{id}.json"

    def read(self, id: str) -> tuple[np.ndarray, Lens, Path]:
        """Returns world-to-camera [4, 4], the lens and the picture; raises `UserError` when one of them is broken."""
        picture = self._pictures.find(id, IMAGE_ENDINGS)
        if picture is None:
            missing = self._folder / "rgb" / f"{self._factor}x" / f"{id}.png"
            raise MissingFile(missing, f"the picture rgb/{self._factor}x/{id}.png is missing; restore it")
        content = read_json(self.file(id))
        if not isinstance(content, dict):
            raise UserError("expected an object with orientation, position and focal_length; restore the file")
        viewmat = np.eye(4)
        viewmat[:3, :3] = matrix(content.get("orientation"), "orientation", (3, 3))
        check_rotation(viewmat[:3, :3], "orientation")
        viewmat[:3, 3] = -viewmat[:3, :3] @ matrix(content.get("position"), "position", (3,))
        return viewmat, self._lens(content, picture), picture

    def _lens(self, content: dict[str, Any], picture: Path) -> Lens:
        w, h = (int(x) for x in matrix(content.get("image_size"), "image_size", (2,)))
        if (w, h) not in self._sizes:
            header = header_for(picture, (w, h))
            if abs(header.width - w / self._factor) > 1 or abs(header.height - h / self._factor) > 1:
                raise UserError(
                    f"image_size is {w}x{h}, so {picture} should be {w / self._factor:g}x{h / self._factor:g}, it is"
                    f" {header.width}x{header.height}; restore one of them"
                )
            self._sizes[w, h] = (header.width, header.height)
        width, height = self._sizes[w, h]
        focal = number(content.get("focal_length"), "focal_length")
        aspect = number(content.get("pixel_aspect_ratio", 1.0), "pixel_aspect_ratio")
        if focal <= 0 or aspect <= 0:
            raise UserError(f"focal_length and pixel_aspect_ratio must be positive, got {focal:g} and {aspect:g}")
        if abs(number(content.get("skew", 0.0), "skew")) > 1e-3 * focal:
            raise UserError(f"a skew of {content['skew']:g} pixels is not supported; calibrate without skew")
        cx, cy = matrix(content.get("principal_point"), "principal_point", (2,))
        k1, k2, k3 = matrix(content.get("radial_distortion", [0, 0, 0]), "radial_distortion", (3,))
        # Nerfies' documents say "tangential", its files "tangential_distortion".
        stated = content.get("tangential_distortion", content.get("tangential", [0, 0]))
        p1, p2 = matrix(stated, "tangential_distortion", (2,))
        sx, sy = width / w, height / h
        distortion = tuple(float(value) for value in (k1, k2, p1, p2, k3))
        model = "brown" if any(distortion) else "pinhole"
        return Lens(
            focal * sx, focal * aspect * sy, float(cx) * sx, float(cy) * sy, width, height, model,
            distortion if model == "brown" else (),
        )  # fmt: skip


def read_points_npy(folder: Path, problems: ProblemList) -> PointCloud | None:
    """Returns the points of `points.npy` [N, 3], grey; None without the file, or with a warning when it is broken."""
    path = folder / "points.npy"
    if not path.is_file():
        return None
    try:
        xyz = read_array(path, 3)
    except UserError as error:
        problems.take_warning(path, error)
        return None
    return PointCloud(xyz, np.full((len(xyz), 3), 128, np.uint8))
