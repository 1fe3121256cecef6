"""LLFF folders (Mildenhall et al. 2019): `poses_bounds.npy` beside pictures of one instant, one row for each picture.

The rows are those of `neural3d`, in the order of the pictures' names. Folders that hold a COLMAP model too, as those of
Mip-NeRF 360 do, are left to the COLMAP reader, which knows the lens better.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from .arrays import read_array
from .clips import fit_lens_to_picture
from .colmap import models_in
from .neural3d import POSES, camera_from_llff
from .problems import ProblemList
from .recordings import pictures_in
from .records import FrameRecord, ImagePicture, Lens, SceneRecord

looked_for = "poses_bounds.npy beside images/ (LLFF)"
# After N3DV, whose folders have the same file.
last = True


def recognises(folder: Path) -> bool:
    """Tells whether the folder holds pictures with LLFF's poses, and no COLMAP model."""
    return (folder / POSES).is_file() and bool(_pictures(folder)) and not models_in(folder)


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`: every picture is a camera of its own, at one instant."""
    path = folder / POSES
    rows, pictures = read_array(path, 17), _pictures(folder)
    if len(rows) != len(pictures):
        raise UserError(
            f"{path}: states {len(rows)} cameras, {pictures[0].parent} has {len(pictures)} pictures; restore those that"
            " are missing, or remove those that were left out"
        )
    frames = []
    lenses: dict[Lens, Lens] = {}
    for row, (values, picture) in enumerate(zip(rows, pictures)):
        try:
            viewmat, lens = camera_from_llff(values)
            if lens not in lenses:
                lenses[lens] = fit_lens_to_picture(lens, picture, problems)
        except UserError as error:
            problems.error(path, f"row {row} ({picture.name}): {error}")
            continue
        frames.append(FrameRecord(picture.stem, viewmat, lenses[lens], ImagePicture(picture), 0.0, stated_in=str(path)))
    return SceneRecord("llff", frames, notes=["LLFF has no times: all images are treated as a single instant"])


def _pictures(folder: Path) -> list[Path]:
    """Returns the pictures in `images`, or where that is not there in the largest of its smaller copies, `images_4`."""
    smaller = [(int(place.name[7:]), place) for place in folder.glob("images_*") if place.name[7:].isdigit()]
    for place in (folder / "images", *(place for _, place in sorted(smaller))):
        if place.is_dir() and (found := pictures_in(place)):
            return found
    return []
