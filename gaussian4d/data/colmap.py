"""COLMAP scenes: a sparse model in `sparse/0`, `sparse` or another usual place, and what its cameras recorded.

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
from ..files import hidden
from ..frame_numbers import FrameNumbers
from .clips import fit_lens_to_picture
from .colmap_model import RegisteredImage, is_model, read_model, read_model_points, registered
from .images import IMAGE_ENDINGS
from .named_files import SceneFiles, folder_of
from .problems import MissingFile, ProblemList
from .recordings import FixedCamera, Recording, clip_of, frame_number, mask_of, pictures_in, recordings_in
from .records import FrameRecord, ImagePicture, Lens, PointCloud, SceneRecord

looked_for = "sparse/0 (COLMAP)"
# Folders of published scenes often hold such beside their own files.
last = True

MODELS = ("sparse", "colmap/sparse")
"""Folders that are a model or hold models, the usual ones first; COLMAP numbers the parts that it could not join."""

# Where there is none of those: COLMAP's undistorted copy, which has pictures of its own; and what 3DGS's conversion
# leaves, the model of the pictures in `input`, which it then undistorts.
_OTHERS = ("dense/sparse", "distorted/sparse")

# Where recordings and pictures are looked for, in this order.
PLACES = ("videos", "images", "frames", "input", ".")


def recognises(folder: Path) -> bool:
    """Tells whether the folder holds a COLMAP scene."""
    return bool(models_in(folder))


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`."""
    model = _chosen(folder, problems)
    images = sorted(read_model(model), key=lambda image: numeric_key(image.name))
    points = model_points(model, problems)
    cameras = _fixed_cameras(folder, model, images, problems)
    if cameras:
        clip = clip_of(cameras, problems)
        return SceneRecord("colmap", clip.frames, clip.fps, clip.duration, points)
    frames, notes = _pictures(folder, model, images, problems)
    return SceneRecord("colmap", frames, points=points, notes=notes)


def models_in(folder: Path) -> list[Path]:
    """Returns the folders with sparse models of a scene, the usual places first."""
    found = [model for name in MODELS for model in _models_at(folder_of(folder, name))]
    for name in _OTHERS:
        found = found or _models_at(folder_of(folder, name))
    # A lone images.txt in a folder of pictures is as likely a list of them.
    return found or ([folder] if is_model(folder, whole=True) else [])


def _places(folder: Path, model: Path) -> list[Path]:
    """Returns where the recordings of a model may lie: beside its own folder `sparse`, then in the scene's."""
    above = model.parent if model.parent.name.casefold() == "sparse" else model
    beside = folder if model == folder else above.parent
    names = sorted(PLACES, key=lambda name: name != "input") if beside.name == "distorted" else PLACES
    return list(dict.fromkeys(folder_of(base, name) for base in (beside, folder) for name in names))


def _models_at(place: Path) -> list[Path]:
    """Returns the models in the numbered, or otherwise named, folders of a place, then the place if it is one."""
    if not place.is_dir():
        return []
    below = (path for path in place.iterdir() if path.is_dir() and not hidden(path.name))
    return [path for path in (*sorted(below, key=lambda p: numeric_key(p.name)), place) if is_model(path)]


def _chosen(folder: Path, problems: ProblemList) -> Path:
    """Returns the model with the most registered images, of equal ones the first; says what others there are."""
    models = models_in(folder)
    if len(models) == 1:
        _say_which_form(models[0], problems)
        return models[0]
    counts = [registered(model) for model in models]
    best = counts.index(max(counts))
    _say_which_form(models[best], problems)
    others = ", ".join(
        f"{model.relative_to(folder)} ({count})" for k, (model, count) in enumerate(zip(models, counts)) if k != best
    )
    problems.warning(
        folder,
        f"there are {len(models)} models: {models[best].relative_to(folder)} with {counts[best]} registered images is"
        f" read, not {others}; numbered models are parts that COLMAP could not join; to use another one, move the"
        " others away",
    )
    return models[best]


def _say_which_form(model: Path, problems: ProblemList) -> None:
    """Warns of a model that is there twice, binary and text, with other images in each."""
    forms = {path: registered(model, path.suffix) for path in (model / "images.bin", model / "images.txt")}
    forms = {path: count for path, count in forms.items() if path.is_file()}
    if len(set(forms.values())) > 1:
        (read, count), (other, others) = forms.items()
        problems.warning(
            model,
            f"{read.name} with {count} registered images is read, as COLMAP does, not {other.name} with {others};"
            " remove the wrong one",
        )


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
    masked = _mask_folders(folder, model)
    for place in _places(folder, model):
        recordings = recordings_in(place)
        # Pictures registered from several folders are of several cameras, whatever those folders' names look like.
        frames = _by_frame(place) if len(per_folder) == 1 and place.is_dir() else {}
        cameras, missing = [], []
        for image in images:
            # A folder with several registered pictures is a moving camera, not the name of a fixed one.
            alone = image.folder if per_folder[image.folder] == 1 else ""
            name = next((name for name in (alone, image.stem) if name in recordings), None)
            if name is not None:
                masks = next((path for base in masked if (path := base / name).is_dir()), None)
                cameras.append(FixedCamera(name, image.viewmat, image.lens, recordings[name], model, masks=masks))
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
                model,
                f"image {image.name} has no video or folder in {place.name} and is ignored; is a recording missing?",
            )
        if not frames and place != folder:
            names = sorted(recordings.keys() - {camera.name for camera in cameras})
            _say_what_is_not_registered(place, names, problems)
        return cameras
    return []


def _mask_folders(folder: Path, model: Path) -> list[Path]:
    """Returns the folders of masks beside a model's pictures, and in the scene's folder."""
    bases = dict.fromkeys([*(place.parent for place in _places(folder, model)), folder])
    return [path for base in bases for kind in ("masks", "mask") if (path := base / kind).is_dir()]


def _say_what_is_not_registered(place: Path, names: list[str], problems: ProblemList) -> None:
    """Warns of what lies beside the registered images and has no camera."""
    if names:
        listed = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        what = "1 file or folder is" if len(names) == 1 else f"{len(names)} files or folders are"
        problems.warning(place, f"{what} not registered in the model, so without a camera, and not used: {listed}")


def _by_frame(place: Path) -> dict[str, Recording]:
    """Returns recordings by picture stem from folders per frame, `000000/cam01.png`; none from folders per camera."""
    found: dict[str, dict[int, Path]] = {}
    folders = [path for path in place.iterdir() if path.is_dir() and not hidden(path.name)]
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
    root = next((place for place in _places(folder, model) if _holds_any(place, images)), None)
    if root is None:
        root = _smaller_pictures(folder, images) or folder
        scene = next((place for place in list(folder.absolute().parents)[:2] if models_in(place)), None)
        if root == model and scene is not None:
            raise UserError(f"{folder}: is the model of the scene {scene}; give that folder")
        if root != folder:
            problems.warning(root, f"images/ is missing: the smaller copies in {root.name} are read")
    named = SceneFiles(root, problems, model)
    masks = [SceneFiles(place) for place in _mask_folders(folder, model)]
    used = set()
    numbers = [frame_number(image.stem) for image in images]
    timed = len(images) > 1 and None not in numbers
    if not timed:
        problems.warning(model, "not all registered images have a number in their name: treated as a single instant")
    known = [number for number in numbers if number is not None] if timed else [0]
    low, span = min(known), max(max(known) - min(known), 1)
    frames = []
    checked: dict[tuple[str, Lens], Lens] = {}
    for image, number in zip(images, numbers):
        try:
            path = named.picture(image.name)
        except MissingFile as error:
            tried = f"; looked for a video, a folder or a picture of that name in {', '.join(PLACES[:-1])} and the"
            if root == folder:
                error = MissingFile(error.path, f"{error}{tried} scene's folder")
            problems.entry(model, f"image {image.name}", error)
            continue
        used.add(path)
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
        mask = next((found for each in masks if (found := mask_of(each, image.name))), None)
        frames.append(FrameRecord(name, image.viewmat, lens, ImagePicture(path), time, mask=mask, stated_in=str(model)))
    if root != folder:
        beside = {picture for path in used for picture in pictures_in(path.parent)} - used
        _say_what_is_not_registered(root, sorted(str(path.relative_to(root)) for path in beside), problems)
    if unmasked := sum(frame.mask is None for frame in frames) if masks else 0:
        problems.warning(
            masks[0].folder,
            f"{unmasked} of {len(frames)} images have no mask there and are used without one; masks are named like the"
            " images",
        )
    if not timed:
        return frames, []
    gaps = FrameNumbers.of(known).gaps()
    return frames, ["every registered image is a frame, timed by the number in its name", *([gaps] if gaps else [])]


def _smaller_pictures(folder: Path, images: list[RegisteredImage]) -> Path | None:
    """Returns the folder of the largest smaller copies, `images_2`, that holds registered pictures."""
    numbered = [(int(path.name[7:]), path) for path in folder.glob("images_*") if path.name[7:].isdigit()]
    for _, place in sorted(numbered):
        if _holds_any(place, images):
            return place
    return None


def _holds_any(place: Path, images: list[RegisteredImage]) -> bool:
    named = SceneFiles(place)
    return place.is_dir() and any(named.find(image.name, IMAGE_ENDINGS) for image in images)
