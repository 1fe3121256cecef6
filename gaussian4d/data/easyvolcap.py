"""EasyVolcap scenes (Xu et al. 2023), ENeRF-Outdoor and SelfCap among them: `intri.yml`, `extri.yml`, `images/`.

The two files are OpenCV FileStorage YAML: per camera `K_`, `D_`, `H_`, `W_` and `R_` (Rodrigues), `Rot_`, `T_`
(world-to-camera, OpenCV axes). EasyVolcap shoots rays through pixel centres at +0.5, so the principal points are meant
in our own convention; a plain folder of videos with the same two files is read by `videos.py` in OpenCV's. Pictures lie
in `images/CAMERA/FRAME.jpg`, or there is `videos/CAMERA.mp4`; `masks/CAMERA/FRAME.png` may hold the foreground.
"""

from __future__ import annotations

from pathlib import Path

from ..conventions import numeric_key
from ..errors import UserError
from .calibration import CalibratedCamera, read_opencv
from .opencv_storage import read_storage
from .problems import ProblemList
from .recordings import FixedCamera, Recording, clip_of, recordings_in
from .records import Lens, SceneRecord, Split

looked_for = "intri.yml and extri.yml (EasyVolcap)"

FILES = ("intri.yml", "extri.yml")
PLACES = ("images", "videos")

# Which camera the papers hold out, by a word in the name of the scene's folder (SelfCap).
TEST_CAMERAS = {"dance": "0015", "corgi": "0007", "bike": "0009"}


def recognises(folder: Path) -> bool:
    """Tells whether the folder holds an EasyVolcap scene."""
    calibrated = any((folder / name).is_file() for name in FILES)
    return calibrated and any((folder / place).is_dir() for place in PLACES)


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`."""
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name}: expected the file beside the other calibration file; restore it")
        # A file that cannot be read is one mistake; without this every camera would lack its half.
        read_storage(folder / name)
    calibrated = {}
    for camera in read_opencv([folder / name for name in FILES], problems, centre=0.5):
        calibrated[camera.name] = camera
    if not calibrated:
        problems.raise_errors(folder)
        raise UserError(f"{folder / FILES[0]}: names no camera (K_00, D_00, ...); restore the calibration")
    recordings = _recordings(folder, calibrated)
    test = _test_camera(folder, recordings)
    cameras = []
    for name in sorted(calibrated, key=numeric_key):
        camera = calibrated[name]
        if name not in recordings:
            problems.warning(camera.file, f"camera {name} has no pictures or video and is left out; are they missing?")
            continue
        split: Split | None = None if test is None else "test" if name == test else "train"
        masks = next((path for kind in ("masks", "mask") if (path := folder / kind / name).is_dir()), None)
        cameras.append(
            FixedCamera(name, camera.viewmat, _lens(camera), recordings[name], camera.file, split, masks)
        )  # fmt: skip
    for name in recordings.keys() - calibrated.keys():
        problems.warning(recordings[name].path, "no calibrated camera has this name; it is left out")
    _warn_of_offsets(folder, problems)
    clip = clip_of(cameras, problems)
    notes = [] if test is None else [f"camera {test} is the test camera, as in the papers"]
    return SceneRecord("easyvolcap", clip.frames, clip.fps, clip.duration, notes=notes)


def _recordings(folder: Path, calibrated: dict[str, CalibratedCamera]) -> dict[str, Recording]:
    for place in PLACES:
        recordings = recordings_in(folder / place)
        if recordings.keys() & calibrated.keys():
            return recordings
    raise UserError(
        f"{folder}: no camera has pictures or a video; cameras are {', '.join(calibrated)}; expected"
        f" images/{next(iter(calibrated))}/000000.jpg or videos/{next(iter(calibrated))}.mp4"
    )


def _test_camera(folder: Path, recordings: dict[str, Recording]) -> str | None:
    words = folder.resolve().name.lower()
    held = (camera for word, camera in TEST_CAMERAS.items() if word in words and camera in recordings)
    return next(held, None)


def _lens(camera: CalibratedCamera) -> Lens:
    K, (width, height) = camera.K, camera.size or (0, 0)
    return Lens(
        float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]), width, height, camera.model, camera.distortion
    )


def _warn_of_offsets(folder: Path, problems: ProblemList) -> None:
    for name in ("sync.json", "t_offsets.json"):
        if (folder / name).is_file():
            problems.warning(
                folder / name, "time offsets between cameras are not applied: frames of one number count as one instant"
            )
