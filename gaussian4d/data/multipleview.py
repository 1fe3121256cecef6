"""4DGaussians' layout for users' own recordings: `camNN/frame_00001.jpg`, a COLMAP model of one instant in `sparse_`.

Registered pictures are named with the camera's number (`image01.png` of `cam01`). `points3D_multipleview.ply` holds
the points; `poses_bounds_multipleview.npy` only shapes 4DGaussians' camera path and is not read.
"""

from __future__ import annotations

from pathlib import Path

from ..conventions import numeric_key
from ..errors import UserError
from .colmap import model_points, models_in
from .colmap_model import RegisteredImage, is_model, read_model
from .point_files import read_points
from .problems import ProblemList
from .recordings import FixedCamera, Recording, clip_of, frame_number, recordings_in
from .records import PointCloud, SceneRecord

looked_for = "sparse_ (4DGaussians)"

MODEL = "sparse_"
POINTS = "points3D_multipleview.ply"
PATH = "poses_bounds_multipleview.npy"


def recognises(folder: Path) -> bool:
    """Tells whether the folder holds a scene in 4DGaussians' multiple-view layout."""
    # What 4DGaussians leaves beside a model elsewhere does not make it this layout.
    prepared = (folder / POINTS).is_file() or (folder / PATH).is_file()
    return is_model(folder / MODEL) or (prepared and not models_in(folder))


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`."""
    model = folder / MODEL
    if not model.is_dir():
        raise UserError(f"{model}: expected the COLMAP model of one instant (cameras.bin, images.bin); restore it")
    recordings = {name: found for name, found in recordings_in(folder).items() if name.lower().startswith("cam")}
    by_number = {frame_number(name): name for name in recordings}
    cameras: dict[str, FixedCamera] = {}
    for image in sorted(read_model(model), key=lambda image: numeric_key(image.name)):
        name = _recording_of(image, recordings, by_number)
        if name is None:
            problems.warning(model, f"image {image.name} has no folder of its number (cam01, ...) and is left out")
        elif name in cameras:
            raise UserError(f"{model}: two registered images are of {name}, {image.name} is the second; keep one")
        else:
            cameras[name] = FixedCamera(name, image.viewmat, image.lens, recordings[name], model)
    if not cameras:
        raise UserError(f"{folder}: no folder camNN matches a registered image; expected cam01/frame_00001.jpg, ...")
    for name in recordings.keys() - cameras.keys():
        problems.warning(recordings[name].path, "no registered image is of this camera; it is left out")
    clip = clip_of(list(cameras.values()), problems)
    notes = ["4DGaussians tests on three of its training instants; here test instants do not train"]
    return SceneRecord(
        "multipleview", clip.frames, clip.fps, clip.duration, _points(folder, model, problems), notes=notes
    )


def _recording_of(
    image: RegisteredImage, recordings: dict[str, Recording], by_number: dict[int | None, str]
) -> str | None:
    for name in (image.folder, image.stem):
        if name in recordings:
            return name
    number = frame_number(image.stem)
    return None if number is None else by_number.get(number)


def _points(folder: Path, model: Path, problems: ProblemList) -> PointCloud | None:
    path = folder / POINTS
    if not path.is_file():
        return model_points(model, problems)
    try:
        return read_points(path)
    except UserError as error:
        problems.take_warning(path, error)
        return None
