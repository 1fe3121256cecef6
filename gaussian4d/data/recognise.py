"""Which format a folder holds: recognised by its files, never asked for."""

from __future__ import annotations

from pathlib import Path

from ..errors import UserError
from . import (
    colmap,
    dnerf,
    dycheck,
    easyvolcap,
    multipleview,
    nerfies,
    nerfstudio,
    neural3d,
    panoptic,
    technicolor,
    videos,
)
from .problems import ProblemList
from .records import SceneRecord

# The first that recognises a folder reads it. Folders of published scenes often hold a COLMAP model or videos beside
# their own files, so these come last.
READERS = (
    dnerf,
    panoptic,
    nerfstudio,
    multipleview,
    neural3d,
    dycheck,
    nerfies,
    technicolor,
    easyvolcap,
    colmap,
    videos,
)

LOOKED_FOR = (
    "transforms_train.json (D-NeRF), train_meta.json (PanopticSports), transforms.json (nerfstudio), poses_bounds.npy"
    " (N3DV), dataset.json and camera/ (HyperNeRF, DyCheck), cameras_parameters.txt (Technicolor), intri.yml and"
    " extri.yml (EasyVolcap), sparse/0 (COLMAP), sparse_ (4DGaussians), or one video per camera with a calibration file"
    " (Qualisys .qca.txt, OpenCV .xml/.yml)"
)


def read_scene(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`, read by the first reader that recognises it; raises `UserError` when none does."""
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; check the path")
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder that holds a scene, got a file; give its folder")
    if not any(folder.iterdir()):
        raise UserError(f"{folder}: the folder is empty; looked for {LOOKED_FOR}")
    for reader in READERS:
        if reader.recognises(folder):
            return reader.read(folder, problems)
    raise UserError(f"{folder}: no scene found; looked for {LOOKED_FOR}; give the folder that holds one of them")
