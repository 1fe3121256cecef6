"""Cameras from calibration files: Qualisys XML and OpenCV FileStorage, one file for all cameras or one each."""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from ..conventions import numeric_key
from ..errors import UserError
from .opencv_storage import is_storage, parse_xml, read_storage, read_text
from .problems import ProblemList
from .values import check_rotation, matrix, pose

# Both programs put pixel centres at whole numbers; ours are at +0.5 (see `conventions`).
_HALF = 0.5

# Qualisys stores intrinsics in 64ths of a pixel.
_QUALISYS_SUBPIXELS = 64.0

_K_NAMES = ("cameramatrix", "intrinsics", "intrinsicmatrix", "intrinsic", "k", "kmatrix", "mtx")
_D_NAMES = (
    "distortioncoeffs",
    "distortioncoefficients",
    "distortionvector",
    "distortion",
    "distcoeffs",
    "distcoeff",
    "dist",
    "d",
)
_R_NAMES = ("rot", "rotationmatrix", "rotation", "r", "rvec", "rotationvector")
_T_NAMES = ("translation", "t", "tvec", "translationvector")
_POSE_NAMES = ("extrinsics", "extrinsic", "extrinsicmatrix", "w2c", "worldtocamera", "viewmatrix", "rt")
_WIDTH_NAMES = ("width", "imagewidth", "w")
_HEIGHT_NAMES = ("height", "imageheight", "h")
_MODEL_NAMES = ("cameramodel", "distortionmodel", "model", "fisheye")
_FIELDS = {
    "K": _K_NAMES,
    "D": _D_NAMES,
    "R": _R_NAMES,
    "T": _T_NAMES,
    "pose": _POSE_NAMES,
    "width": _WIDTH_NAMES,
    "height": _HEIGHT_NAMES,
    "size": ("imagesize", "size", "resolution"),
    "model": _MODEL_NAMES,
}


@dataclasses.dataclass(frozen=True)
class CalibratedCamera:
    """One camera of a calibration."""

    name: str
    file: Path
    K: np.ndarray
    """[3, 3] pixels, centres at +0.5."""
    viewmat: np.ndarray
    """[4, 4] world-to-camera, OpenCV axes."""
    model: Literal["brown", "fisheye"]
    distortion: tuple[float, ...]
    size: tuple[int, int] | None
    """(width, height) the intrinsics are for, None when the file does not say."""


@dataclasses.dataclass(frozen=True)
class Intrinsics:
    """The lens of a camera whose place is not known."""

    name: str
    file: Path
    K: np.ndarray
    """[3, 3] pixels, centres at +0.5."""
    model: Literal["brown", "fisheye"]
    distortion: tuple[float, ...]
    size: tuple[int, int] | None
    """(width, height) they are for, None when the file does not say."""


def find_intrinsics(files: Iterable[Path]) -> list[Intrinsics]:
    """Returns the lenses of OpenCV FileStorage files that state no pose of any camera; empty where one is stated.

    Raises `UserError` when such a lens cannot be used. Files of other kinds are passed over.
    """
    found: list[Intrinsics] = []
    for path in sorted(files, key=lambda p: numeric_key(str(p))):
        try:
            if not is_storage(read_text(path)):
                continue
            cameras = _cameras_in(path, read_storage(path))
        except UserError:
            continue
        for name, fields in cameras:
            if fields.keys() & {"R", "T", "pose"}:
                return []
            try:
                found.append(_intrinsics(name, path, fields))
            except UserError as error:
                raise UserError(f"{path}: camera {name}: {error}") from None
    return found


def find_calibrations(files: Iterable[Path], problems: ProblemList) -> list[list[CalibratedCamera]]:
    """Returns the calibrations among `files`: each a list of cameras. Broken ones go to `problems`."""
    calibrations: list[list[CalibratedCamera]] = []
    storages: dict[Path, list[Path]] = {}
    for path in sorted(files, key=lambda p: numeric_key(str(p))):
        try:
            text = read_text(path)
            if is_storage(text):
                storages.setdefault(path.parent, []).append(path)
            elif "<calibration" in text[:4096] and "<camera" in text:
                calibrations.append(read_qualisys(path, problems))
            elif not text.strip():
                problems.error(path, "the calibration is empty; restore it from its source")
        except UserError as error:
            problems.take(path, error)
    for paths in storages.values():
        calibrations.append(read_opencv(paths, problems))
    return [cameras for cameras in calibrations if cameras]


def read_qualisys(path: Path, problems: ProblemList) -> list[CalibratedCamera]:
    """Returns the cameras of a Qualisys Track Manager calibration (`.qca.txt`); positions in mm, as stated.

    The matrix r11..r33, row by row, turns world axes to the camera's, whose y points up and z backwards; x, y, z is the
    camera's place.
    """
    try:
        root = parse_xml(read_text(path))
    except (ET.ParseError, ValueError) as error:
        raise UserError(f"{path}: is not valid XML ({error}); export the calibration again") from None
    cameras: list[CalibratedCamera] = []
    for number, element in enumerate(root.iter("camera")):
        name = element.get("serial") or element.get("name") or f"camera {number + 1}"
        try:
            camera = _qualisys_camera(path, name, element)
        except UserError as error:
            problems.error(path, f"camera {name}: {error}")
            continue
        if camera is not None and any(other.name == name for other in cameras):
            problems.error(path, f"camera {name} is listed twice; every camera needs a unique name: rename one")
        elif camera is not None:
            cameras.append(camera)
    if not cameras and not problems.errors:
        problems.error(path, "names no camera with a transform and an intrinsic; export the calibration again")
    return cameras


def _qualisys_camera(path: Path, name: str, element: ET.Element) -> CalibratedCamera | None:
    if element.get("active", "1") == "0":
        return None
    transform, intrinsic = element.find("transform"), element.find("intrinsic")
    if transform is None or intrinsic is None:
        raise UserError("expected a transform and an intrinsic; export the calibration again")

    def value(source: ET.Element, key: str, default: float | None = None) -> float:
        text = source.get(key)
        if text is None and default is not None:
            return default
        try:
            number = float(text or "")
        except ValueError:
            raise UserError(f"{key} must be a number, got {text!r}; export the calibration again") from None
        if not np.isfinite(number):
            raise UserError(f"{key} is {text}, expected a finite number; export the calibration again")
        return number

    R = np.array([[value(transform, f"r{i}{j}") for j in (1, 2, 3)] for i in (1, 2, 3)])
    check_rotation(R, "the transform r11..r33")
    position = np.array([value(transform, axis) for axis in "xyz"])
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.diag([1.0, -1.0, -1.0]) @ R
    viewmat[:3, 3] = -viewmat[:3, :3] @ position

    window = element.find("fov_video")
    left = value(window, "left", 0.0) if window is not None else 0.0
    top = value(window, "top", 0.0) if window is not None else 0.0
    size = None
    if window is not None and window.get("right") and window.get("bottom"):
        size = (int(value(window, "right") - left) + 1, int(value(window, "bottom") - top) + 1)
    unit = _QUALISYS_SUBPIXELS
    K = np.eye(3)
    K[0, 0], K[1, 1] = value(intrinsic, "focalLengthU") / unit, value(intrinsic, "focalLengthV") / unit
    K[0, 1] = value(intrinsic, "skew", 0.0) / unit
    K[0, 2] = value(intrinsic, "centerPointU") / unit - left + _HALF
    K[1, 2] = value(intrinsic, "centerPointV") / unit - top + _HALF
    _check_K(K)
    # Qualisys writes "tangental".
    k1, k2, k3 = (value(intrinsic, f"radialDistortion{i}", 0.0) for i in (1, 2, 3))
    p1, p2 = (value(intrinsic, f"tangentalDistortion{i}", 0.0) for i in (1, 2))
    return CalibratedCamera(name, path, K, viewmat, "brown", (k1, k2, p1, p2, k3), size)


def read_opencv(paths: Iterable[Path], problems: ProblemList, *, centre: float = 0.0) -> list[CalibratedCamera]:
    """Returns the cameras of the OpenCV FileStorage files of one folder.

    `centre` is where the files put the centre of the first pixel: 0 as OpenCV does, or 0.5.

    Understood: a camera per file (named by the file), maps per camera, and names with a camera's suffix (`K_01`,
    `Rot_01`, `T_01`), also spread over two files. Rotations are 3x3 or Rodrigues vectors; all are world-to-camera.
    """
    parts: dict[str, dict[str, Any]] = {}
    files: dict[str, Path] = {}
    for path in paths:
        try:
            content = read_storage(path)
        except UserError as error:
            problems.take(path, error)
            continue
        for name, fields in _cameras_in(path, content):
            if "K" in fields and "K" in parts.get(name, {}):
                problems.error(
                    path,
                    f"camera {name} has intrinsics in {files[name].name} too; every camera needs a unique name:"
                    " rename or remove one",
                )
                continue
            parts.setdefault(name, {}).update(fields)
            # The file with the intrinsics is the one to name when something is wrong with the camera.
            if "K" in fields or name not in files:
                files[name] = path
    cameras = []
    for name, fields in parts.items():
        try:
            cameras.append(_opencv_camera(name, files[name], fields, _HALF - centre))
        except UserError as error:
            problems.error(files[name], f"camera {name}: {error}")
    return cameras


def _cameras_in(path: Path, content: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Returns (camera, its fields) found in one file's values."""
    whole = _fields(content)
    if "K" in whole or ("R" in whole and "T" in whole) or "pose" in whole:
        return [(path.name.split(".")[0], whole)]
    found = [(key, _fields(value)) for key, value in content.items() if isinstance(value, dict)]
    found = [(key, fields) for key, fields in found if fields.keys() & {"K", "R", "pose"}]
    suffixed: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        field_name, _, camera = key.partition("_")
        field = _field_of(field_name)
        if field == "T" and np.size(value) != 3:
            # EasyVolcap writes a time t_00 beside the translation T_00.
            continue
        if field and camera and not isinstance(value, dict):
            known = suffixed.setdefault(camera, {})
            # Rot_ (3x3) beside R_ (Rodrigues) says the same; the matrix needs no conversion.
            if field != "R" or "R" not in known or np.shape(value) == (3, 3):
                known[field] = value
    return found + [(camera, fields) for camera, fields in suffixed.items() if fields.keys() & {"K", "R", "pose"}]


def _fields(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the values we know the meaning of, under our names."""
    result: dict[str, Any] = {}
    for key, value in content.items():
        field = _field_of(key)
        if field == "K" and np.shape(value) == (3, 4):
            # OpenPose calls the extrinsic matrix CameraMatrix.
            field = "pose"
        if field and (field not in result or np.shape(value) == (3, 3)):
            result[field] = value
    return result


def _field_of(key: str) -> str | None:
    plain = key.replace("_", "").replace("-", "").lower()
    return next((field for field, names in _FIELDS.items() if plain in names), None)


def _intrinsics(name: str, path: Path, fields: dict[str, Any]) -> Intrinsics:
    K = matrix(fields["K"], "the camera matrix", (3, 3)).copy()
    K[:2, 2] += _HALF
    _check_K(K)
    fisheye = "fisheye" in str(fields.get("model", "")).lower() or fields.get("model") == 1
    return Intrinsics(
        name, path, K, "fisheye" if fisheye else "brown", _distortion(fields.get("D"), fisheye), _size(fields)
    )


def _opencv_camera(name: str, path: Path, fields: dict[str, Any], shift: float) -> CalibratedCamera:
    if "K" not in fields:
        raise UserError("no 3x3 camera matrix (CameraMatrix, K, ...) is given; add it")
    K = matrix(fields["K"], "the camera matrix", (3, 3)).copy()
    K[:2, 2] += shift
    _check_K(K)
    if "pose" in fields:
        viewmat = pose(fields["pose"], "the extrinsic matrix")
    elif "R" in fields and "T" in fields:
        R = matrix(fields["R"], "the rotation", (3, 3), (3, 1), (1, 3), (3,))
        if R.shape != (3, 3):
            R = Rotation.from_rotvec(R.reshape(3)).as_matrix()
        check_rotation(R, "the rotation")
        viewmat = np.eye(4)
        viewmat[:3, :3] = R
        viewmat[:3, 3] = matrix(fields["T"], "the translation", (3, 1), (1, 3), (3,)).reshape(3)
    else:
        raise UserError("no rotation and translation (Rotation, Translation, R, T, rvec, tvec) are given; add them")
    fisheye = "fisheye" in str(fields.get("model", "")).lower() or fields.get("model") == 1
    return CalibratedCamera(
        name, path, K, viewmat, "fisheye" if fisheye else "brown", _distortion(fields.get("D"), fisheye), _size(fields)
    )


def _distortion(value: Any, fisheye: bool) -> tuple[float, ...]:
    """Returns the coefficients k1 k2 p1 p2 [k3 [k4 k5 k6]], or k1..k4 of a fisheye."""
    if value is None:
        return ()
    try:
        numbers = np.asarray(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise UserError("the distortion coefficients are not numbers; restore the calibration") from None
    if not np.isfinite(numbers).all():
        raise UserError("the distortion coefficients hold NaN or Inf; restore the calibration")
    limit = 4 if fisheye else 8
    if np.any(numbers[limit:]):
        raise UserError(
            f"{len(numbers)} distortion coefficients are given, at most {limit} are supported"
            " (no thin prism or tilted sensor); calibrate with fewer"
        )
    if not fisheye and len(numbers) not in (0, 4, 5, 8, 12, 14):
        raise UserError(f"expected 4, 5 or 8 distortion coefficients, got {len(numbers)}; restore the calibration")
    return tuple(float(number) for number in numbers[:limit])


def _size(fields: dict[str, Any]) -> tuple[int, int] | None:
    try:
        if "size" in fields:
            w, h = np.asarray(fields["size"], dtype=np.float64).reshape(-1)
            return int(w), int(h)
        if "width" in fields and "height" in fields:
            w, h = (float(np.asarray(fields[key]).reshape(())) for key in ("width", "height"))
            return int(w), int(h)
    except (TypeError, ValueError):
        raise UserError("the image size must be two numbers; correct it") from None
    return None


def _check_K(K: np.ndarray) -> None:
    """Raises `UserError` when `K` [3, 3] cannot be intrinsics."""
    if K[0, 0] <= 0 or K[1, 1] <= 0:
        raise UserError(f"focal lengths must be positive, got {K[0, 0]:g} and {K[1, 1]:g}; restore the calibration")
    if abs(K[0, 1]) > 1e-3 * K[0, 0]:
        raise UserError(f"a skew of {K[0, 1]:g} pixels is not supported; calibrate without skew")
    if np.abs(K[1, 0]) > 1e-6 or np.abs(K[2] - [0, 0, 1]).max() > 1e-6:
        raise UserError("the camera matrix must end in the row 0 0 1 and hold 0 below its diagonal; is it transposed?")
