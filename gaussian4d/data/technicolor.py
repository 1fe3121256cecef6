"""Technicolor's light-field videos (Sabater et al. 2017): `cameras_parameters.txt` and a picture per camera and frame.

Pictures are named `SCENE_undist_FRAME_CAMERA.png`. After a header line, row c of the file belongs to camera c:
focal length, principal point x and y (pixels, centres at +0.5), aspect ratio, skew, quaternion wxyz and translation
(world-to-camera, OpenCV axes). The original, distorted release has two distortion numbers more and is refused.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from ..errors import UserError
from ..files import hidden
from .colmap import models_in
from .images import IMAGE_ENDINGS, header_for
from .opencv_storage import read_text
from .problems import ProblemList
from .recordings import FixedCamera, Recording, clip_of
from .records import Lens, SceneRecord

looked_for = "cameras_parameters.txt (Technicolor)"

PARAMETERS = "cameras_parameters.txt"

# The camera that all papers hold out: third row, third column of the 4x4 rig.
TEST_CAMERA = 10

_NAME = re.compile(r"(?P<scene>.+)_(?P<frame>\d+)_(?P<camera>\d+)")
_COLUMNS = 12
_COLUMNS_DISTORTED = 14


def recognises(folder: Path) -> bool:
    """Tells whether the folder holds a Technicolor scene."""
    return (folder / PARAMETERS).is_file() and (not models_in(folder) or bool(_recordings(folder)))


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`; camera 10 is the test."""
    path = folder / PARAMETERS
    rows = _rows(path)
    recordings = _recordings(folder)
    if not recordings:
        raise UserError(
            f"{folder}: no picture named SCENE_undist_FRAME_CAMERA.png, such as Painter_undist_00100_00.png"
        )
    beyond = [camera for camera in recordings if camera >= len(rows)]
    if beyond:
        raise UserError(
            f"{path}: states {len(rows)} cameras, but {recordings[beyond[0]].pictures[0][1].name} is of camera"
            f" {beyond[0]} (counted from 0); restore the missing rows"
        )
    held = TEST_CAMERA in recordings and len(recordings) > 1
    cameras = []
    for camera, words in enumerate(rows):
        name = f"{camera:02d}"
        if camera not in recordings:
            problems.warning(path, f"camera {name} has no pictures and is left out; are they missing?")
            continue
        try:
            viewmat, lens = _camera(words, recordings[camera].pictures[0][1])
        except UserError as error:
            problems.error(path, f"camera {name}: {error}")
            continue
        split = None if not held else "test" if camera == TEST_CAMERA else "train"
        cameras.append(FixedCamera(name, viewmat, lens, recordings[camera], path, split))
    if not cameras:
        return SceneRecord("technicolor", [])
    clip = clip_of(cameras, problems)
    notes = [f"camera {TEST_CAMERA} is the test camera, as in the papers"] if held else []
    notes.append("published figures are for full size (downscale 1) and 50 frames")
    return SceneRecord("technicolor", clip.frames, clip.fps, clip.duration, notes=notes)


def _rows(path: Path) -> list[list[str]]:
    lines = [line.split() for line in read_text(path).splitlines()]
    rows = [words for words in lines[1:] if words]
    if not rows:
        raise UserError(
            f"{path}: expected a header line and a row per camera, got {len(lines)} lines; restore the file"
        )
    return rows


def _recordings(folder: Path) -> dict[int, Recording]:
    """Returns the pictures of every camera; raises `UserError` when pictures of two scenes are mixed."""
    found: dict[int, dict[int, Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        match = _NAME.fullmatch(path.stem)
        if match is None or path.suffix.lower() not in IMAGE_ENDINGS or hidden(path.name):
            continue
        pictures, frame = found.setdefault(int(match["camera"]), {}), int(match["frame"])
        if frame in pictures:
            raise UserError(f"{path}: camera {match['camera']} has frame {frame} twice, also as {pictures[frame].name}")
        pictures[frame] = path
    return {camera: Recording(folder, tuple(sorted(pictures.items()))) for camera, pictures in sorted(found.items())}


def _camera(words: list[str], picture: Path) -> tuple[np.ndarray, Lens]:
    if len(words) == _COLUMNS_DISTORTED:
        raise UserError("14 numbers are of the distorted release; use the undistorted one, SCENE_undist_*.png")
    try:
        values = np.array(words, dtype=np.float64)
    except ValueError:
        raise UserError(f"expected {_COLUMNS} numbers, got {' '.join(words)[:60]!r}; restore the row") from None
    if len(values) != _COLUMNS or not np.isfinite(values).all():
        raise UserError(
            f"expected {_COLUMNS} finite numbers (focal length, principal point, aspect ratio, skew, quaternion,"
            f" translation), got {' '.join(words)[:60]!r}; restore the row"
        )
    focal, cx, cy, aspect, skew = (float(value) for value in values[:5])
    if focal <= 0 or abs(aspect - 1) > 1e-2 or abs(skew) > 1e-3 * focal:
        raise UserError(
            f"expected a positive focal length, aspect ratio 1 and no skew, got {focal:g}, {aspect:g} and {skew:g};"
            " restore the row"
        )
    if np.linalg.norm(values[5:9]) < 1e-6:
        raise UserError("its quaternion is zero; restore the row")
    viewmat = np.eye(4)
    viewmat[:3, :3] = Rotation.from_quat(values[[6, 7, 8, 5]]).as_matrix()
    viewmat[:3, 3] = values[9:]
    # The file states no size; principal points of this rig lie near the middle of the full picture.
    header = header_for(picture, (round(2 * cx), round(2 * cy)))
    return viewmat, Lens(focal, focal, cx, cy, header.width, header.height)
