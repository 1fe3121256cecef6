"""COLMAP scenes: a sparse model in `sparse/0` or `sparse`, and what its cameras recorded.

Three layouts, told apart by what lies beside the model:

* one registered picture per fixed camera, and a video or a folder of numbered pictures with the name of the picture
  (`cam01.png` and `cam01.mp4` or `images/cam01/000000.jpg`) or of its folder (`cam01/000000.png`);
* one registered picture per fixed camera, and a folder per frame with a picture of that name in each
  (`images/000000/cam01.png`);
* every registered picture is a frame itself, `images/NAME`: one moving camera, several, or one instant.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from ..conventions import numeric_key
from ..errors import UserError
from ..files import inside
from ..frame_numbers import FrameNumbers
from .clips import fit_lens_to_picture
from .colmap_model import RegisteredImage, is_model, read_model, read_model_points
from .problems import MissingFile, ProblemList
from .recordings import FixedCamera, Recording, clip_of, frame_number, pictures_in, recordings_in
from .records import FrameRecord, ImagePicture, Lens, PointCloud, SceneRecord

looked_for = "sparse/0 (COLMAP)"
# Folders of published scenes often hold such beside their own files.
last = True

MODELS = ("sparse/0", "sparse", "colmap/sparse/0")

# Where recordings and pictures are looked for, in this order.
PLACES = ("videos", "images", "frames", ".")


def recognises(folder: Path) -> bool:
    """Tells whether the folder holds a COLMAP scene."""
    return any(is_model(folder / model) for model in MODELS)


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`."""
    model = next(folder / model for model in MODELS if is_model(folder / model))
    images = sorted(read_model(model), key=lambda image: numeric_key(image.name))
    points = model_points(model, problems)
    cameras = _fixed_cameras(folder, model, images, problems)
    if cameras:
        clip = clip_of(cameras, problems)
        return SceneRecord("colmap", clip.frames, clip.fps, clip.duration, points)
    frames, notes = _pictures(folder, model, images, problems)
    return SceneRecord("colmap", frames, points=points, notes=notes)


def model_points(model: Path, problems: ProblemList) -> PointCloud | None:
    """Returns the points of a model; a broken file is left out with a warning."""
    try:
        return read_model_points(model)
    except UserError as error:
        problems.take_warning(model, error)
        return None


def _fixed_cameras(
    folder: Path, model: Path, images: list[RegisteredImage], problems: ProblemList
) -> list[FixedCamera]:
    """Returns the cameras that have a recording, none when every registered picture is a frame itself."""
    per_folder = Counter(image.folder for image in images)
    for place in PLACES:
        recordings = recordings_in(folder / place)
        # Pictures registered from several folders are of several cameras, whatever those folders' names look like.
        frames = _by_frame(folder / place) if len(per_folder) == 1 and (folder / place).is_dir() else {}
        cameras, missing = [], []
        for image in images:
            # A folder with several registered pictures is a moving camera, not the name of a fixed one.
            alone = image.folder if per_folder[image.folder] == 1 else ""
            name = next((name for name in (alone, image.stem) if name in recordings), None)
            if name is not None:
                cameras.append(FixedCamera(name, image.viewmat, image.lens, recordings[name], model))
            elif image.stem in frames:
                cameras.append(FixedCamera(image.stem, image.viewmat, image.lens, frames[image.stem], model))
            else:
                missing.append(image)
        if not cameras:
            continue
        twice = [name for name, count in Counter(camera.name for camera in cameras).items() if count > 1]
        if twice:
            raise UserError(
                f"{model}: several registered images are of the camera {twice[0]}, which has one recording; keep one"
                " image per camera in the model"
            )
        for image in missing:
            problems.warning(
                model, f"image {image.name} has no video or folder in {place} and is left out; is a recording missing?"
            )
        return cameras
    return []


def _by_frame(place: Path) -> dict[str, Recording]:
    """Returns recordings by picture stem from folders per frame, `000000/cam01.png`; none from folders per camera."""
    found: dict[str, dict[int, Path]] = {}
    folders = [path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")]
    numbers = {frame_number(path.name): path for path in folders}
    if len(folders) < 2 or None in numbers or len(numbers) < len(folders):
        return {}
    for number, folder in numbers.items():
        for path in pictures_in(folder):
            found.setdefault(path.stem, {})[number or 0] = path
    return {stem: Recording(place, tuple(sorted(pictures.items()))) for stem, pictures in found.items()}


def _pictures(
    folder: Path, model: Path, images: list[RegisteredImage], problems: ProblemList
) -> tuple[list[FrameRecord], list[str]]:
    """Returns a frame per registered picture, timed by the numbers in their names."""
    root = next(
        (folder / place for place in PLACES if any(_picture(folder / place, image) for image in images)), folder
    )
    numbers = [frame_number(image.stem) for image in images]
    timed = len(images) > 1 and None not in numbers
    if not timed:
        problems.warning(model, "not all registered images have a number in their name: taken as one instant")
    known = [number for number in numbers if number is not None] if timed else [0]
    low, span = min(known), max(max(known) - min(known), 1)
    frames = []
    checked: dict[tuple[str, Lens], Lens] = {}
    for image, number in zip(images, numbers):
        path = _picture(root, image)
        if path is None:
            problems.entry(
                model,
                f"image {image.name}",
                MissingFile(
                    root / image.name,
                    f"the picture {root / image.name} is missing; looked for a video, a folder or a picture of that"
                    f" name in {', '.join(PLACES[:-1])} and the scene's folder; restore it",
                ),
            )
            continue
        name = image.folder or re.sub(r"[^\w.-]", "_", image.stem)
        key = (name, image.lens)
        try:
            if key not in checked:
                checked[key] = fit_lens_to_picture(image.lens, path, problems)
        except UserError as error:
            problems.take(path, error)
            continue
        lens = checked[key]
        time = ((number or 0) - low) / span if timed else 0.0
        frames.append(FrameRecord(name, image.viewmat, lens, ImagePicture(path), time, stated_in=str(model)))
    if not timed:
        return frames, []
    gaps = FrameNumbers.of(known).gaps()
    return frames, ["every registered image is a frame, timed by the number in its name", *([gaps] if gaps else [])]


def _picture(root: Path, image: RegisteredImage) -> Path | None:
    path = inside(root, image.name)
    return path if path.is_file() else None
