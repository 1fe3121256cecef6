"""N3DV scenes (Li et al., Neural 3D Video Synthesis, 2022): `poses_bounds.npy` and one video `camNN.mp4` per camera.

Row c of the array belongs to the c-th camera file in numeric order (numbers may be missing) and holds a 3x5 matrix, row
by row, and two depths (LLFF, Mildenhall et al. 2019). Columns 0 to 2 of the matrix are the camera's down, right and
backward directions in the world, column 3 its place, column 4 the picture's height, width and focal length; the
principal point is the middle. 4DGaussians unpacks each video to `camNN/images/0000.png`; that is read too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..conventions import invert_rigid, numeric_key
from ..errors import UserError
from .arrays import read_array
from .point_files import read_points
from .problems import ProblemList
from .recordings import FixedCamera, clip_of, recordings_in
from .records import Lens, PointCloud, SceneRecord
from .values import check_rotation

looked_for = "poses_bounds.npy (N3DV)"

POSES = "poses_bounds.npy"

# The published videos run at 30 frames a second; pictures unpacked from them state no rate.
FPS = 30.0

# Papers train and test on half of the stated size, 1352x1014, ...
PAPER_DOWNSCALE = 2
# ... and on 300 frames; one sequence, flame_salmon_1, is longer.
PAPER_FRAMES = 300


def recognises(folder: Path) -> bool:
    """Tells whether the folder holds an N3DV scene."""
    # Folders of Mip-NeRF 360 and LLFF have the same file beside pictures of one instant; other readers take those.
    return (folder / POSES).is_file() and any(name.lower().startswith("cam") for name in recordings_in(folder))


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`; the first camera is the test."""
    path = folder / POSES
    poses = read_array(path, 17)
    recordings = {name: found for name, found in recordings_in(folder).items() if name.lower().startswith("cam")}
    names = sorted(recordings, key=numeric_key)
    if len(names) != len(poses):
        raise UserError(
            f"{path}: states {len(poses)} cameras, the folder has {len(names)} ({', '.join(names) or 'none'}; expected"
            " cam00.mp4, cam01.mp4, ...); restore the missing videos, or remove those that were filtered out"
        )
    cameras = []
    for row, (name, values) in enumerate(zip(names, poses)):
        try:
            viewmat, lens = camera_from_llff(values)
        except UserError as error:
            problems.error(path, f"row {row} (camera {name}): {error}")
            continue
        split = "test" if row == 0 else "train"
        cameras.append(FixedCamera(name, viewmat, lens, recordings[name], path, split))
    if not cameras:
        return SceneRecord("n3dv", [])
    clip = clip_of(cameras, problems, fps=FPS)
    notes = [f"{names[0]} is the test camera, as in the papers"]
    instants = len({frame.time for frame in clip.frames})
    if instants > PAPER_FRAMES:
        notes.append(f"{instants} frames; published figures are for the first {PAPER_FRAMES} (frames :{PAPER_FRAMES})")
    factor = None
    if clip.frames:
        factor = max(PAPER_DOWNSCALE * clip.frames[0].lens.width / cameras[0].lens.width, 1.0)
    return SceneRecord(
        "n3dv", clip.frames, clip.fps, clip.duration, _points(folder, problems), downscale=factor, notes=notes
    )


def camera_from_llff(values: np.ndarray) -> tuple[np.ndarray, Lens]:
    """Returns world-to-camera [4, 4] (OpenCV axes) and the lens of one row [17]; raises `UserError` when it is none."""
    matrix = values[:15].reshape(3, 5)
    down, right, back = matrix[:, 0], matrix[:, 1], matrix[:, 2]
    T_world_camera = np.eye(4)
    T_world_camera[:3, :3] = np.stack([right, down, -back], axis=1)
    T_world_camera[:3, 3] = matrix[:, 3]
    check_rotation(T_world_camera[:3, :3], "its pose")
    height, width, focal = matrix[:, 4]
    if not (1 <= height <= 1e5 and 1 <= width <= 1e5) or focal <= 0:
        raise UserError(f"expected height, width and focal length in pixels, got {height:g}, {width:g}, {focal:g}")
    width, height = round(float(width)), round(float(height))
    lens = Lens(float(focal), float(focal), width / 2, height / 2, width, height)
    return invert_rigid(T_world_camera), lens


def _points(folder: Path, problems: ProblemList) -> PointCloud | None:
    # Made by 4DGaussians' preparation: the dense cloud of the first instant, thinned.
    path = folder / "points3D_downsample2.ply"
    if not path.is_file():
        return None
    try:
        return read_points(path)
    except UserError as error:
        problems.take_warning(path, error)
        return None
