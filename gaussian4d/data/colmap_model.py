"""COLMAP's sparse model, binary or text: cameras, registered images, points. No stated count is believed unchecked.

Layouts are those of COLMAP's documentation ("Output Format"): little-endian, counts of 8 bytes, world-to-camera poses
with OpenCV axes and quaternions wxyz, pixel centres at +0.5.
"""

from __future__ import annotations

import dataclasses
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from scipy.spatial.transform import Rotation

from ..errors import UserError
from ..files import decoded
from .point_files import read_points
from .records import FARTHEST, Lens, PointCloud

_Content = TypeVar("_Content")

# Number, name, number of parameters of every model up to COLMAP 4.2.
_MODELS = (
    (0, "SIMPLE_PINHOLE", 3),
    (1, "PINHOLE", 4),
    (2, "SIMPLE_RADIAL", 4),
    (3, "RADIAL", 5),
    (4, "OPENCV", 8),
    (5, "OPENCV_FISHEYE", 8),
    (6, "FULL_OPENCV", 12),
    (7, "FOV", 5),
    (8, "SIMPLE_RADIAL_FISHEYE", 4),
    (9, "RADIAL_FISHEYE", 5),
    (10, "THIN_PRISM_FISHEYE", 12),
    (11, "RAD_TAN_THIN_PRISM_FISHEYE", 16),
    (12, "SIMPLE_DIVISION", 4),
    (13, "DIVISION", 5),
    (14, "SIMPLE_FISHEYE", 3),
    (15, "FISHEYE", 4),
    (16, "EUCM", 6),
    (17, "EQUIRECTANGULAR", 2),
)
_NAMES = {number: name for number, name, _ in _MODELS}
_COUNTS = {name: count for _, name, count in _MODELS}

# Models with one focal length; the others start with two.
_ONE_FOCAL = {"SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_FISHEYE"}
_PINHOLE = {"SIMPLE_PINHOLE", "PINHOLE"}
# Our order of Brown's coefficients is k1 k2 p1 p2 k3 k4 k5 k6, which is COLMAP's own.
_BROWN = {"SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV"}
_FISHEYE = {"OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "SIMPLE_FISHEYE", "FISHEYE"}


@dataclasses.dataclass(frozen=True)
class RegisteredImage:
    """A picture whose pose is known."""

    name: str
    """Path below COLMAP's image folder, with forward slashes."""
    viewmat: np.ndarray
    """[4, 4] world-to-camera."""
    lens: Lens

    @property
    def stem(self) -> str:
        """The name without folder and ending."""
        return PurePosixPath(self.name).stem

    @property
    def folder(self) -> str:
        """The name of the folder right above the picture, empty without one."""
        return PurePosixPath(self.name).parent.name


def is_model(folder: Path, whole: bool = False) -> bool:
    """Tells whether a folder holds a sparse model; half a model counts, so that what is missing gets named.

    With `whole` both cameras and images must be there.
    """
    there = [
        any((folder / f"{part}.{ending}").is_file() for ending in ("bin", "txt")) for part in ("cameras", "images")
    ]
    return all(there) if whole else any(there)


def read_model(folder: Path) -> list[RegisteredImage]:
    """Returns the registered images of a sparse model; raises `UserError` naming the file that is missing or broken."""
    cameras_path, images_path = _part(folder, "cameras"), _part(folder, "images")
    lenses = _guarded(cameras_path, _cameras_bin if cameras_path.suffix == ".bin" else _cameras_txt)
    found = _guarded(images_path, _images_bin if images_path.suffix == ".bin" else _images_txt)
    if not found:
        raise UserError(f"{images_path}: no image is registered; the reconstruction failed, run COLMAP again")
    images: dict[str, RegisteredImage] = {}
    for name, values, camera in found:
        if camera not in lenses:
            raise UserError(f"{images_path}: image {name} uses camera {camera}, which {cameras_path.name} lacks")
        if name in images:
            raise UserError(f"{images_path}: image {name} is registered twice; every image needs a name of its own")
        images[name] = RegisteredImage(name, _pose(images_path, name, values), lenses[camera])
    return list(images.values())


def read_model_points(folder: Path) -> PointCloud | None:
    """Returns the points of a sparse model, None without a file; raises `UserError` naming it when it is broken."""
    for path, reader in ((folder / "points3D.bin", _points_bin), (folder / "points3D.txt", _points_txt)):
        # An empty file is what people write where COLMAP wants one and cameras were known.
        if path.is_file() and len(points := _guarded(path, reader)):
            return points
    # What the programs of 3DGS make of the points, and sometimes all that is left of them.
    path = folder / "points3D.ply"
    return read_points(path) if path.is_file() else None


def registered(folder: Path, ending: str = "") -> int:
    """Returns how many images a model says it registered, 0 where it cannot be read; reads no more than it must.

    `ending` asks for one of its forms, `.bin` or `.txt`.
    """
    try:
        path = folder / f"images{ending}" if ending else _part(folder, "images")
        if path.suffix == ".bin":
            with path.open("rb") as file:
                return int.from_bytes(file.read(8), "little") if path.stat().st_size > 8 else 0
        return len(_images_txt(path))
    except (UserError, OSError, ValueError, IndexError):
        return 0


def lens_of(model: str, width: int, height: int, params: tuple[float, ...]) -> Lens:
    """Returns the lens of a COLMAP camera; raises `UserError` for models that cannot be undistorted."""
    if model not in _PINHOLE | _BROWN | _FISHEYE:
        raise UserError(
            f"the camera model {model} is not supported (only pinhole, radial, OPENCV and fisheye models are);"
            " undistort with `colmap image_undistorter`, or reconstruct with OPENCV or OPENCV_FISHEYE"
        )
    if not np.isfinite(params).all():
        raise UserError(f"the parameters of the {model} camera hold NaN or Inf; restore the reconstruction")
    if not (1 <= width <= 100_000 and 1 <= height <= 100_000):
        raise UserError(f"an image size of {width}x{height} is impossible; restore the reconstruction")
    fx, fy, cx, cy, *rest = (params[0], *params) if model in _ONE_FOCAL else params
    if fx <= 0 or fy <= 0:
        raise UserError(f"focal lengths must be positive, got {fx:g} and {fy:g}; restore the reconstruction")
    if not any(rest) and model not in _FISHEYE:
        return Lens(fx, fy, cx, cy, width, height)
    size = 4 if model in _FISHEYE else max(4, len(rest))
    coefficients = tuple(rest) + (0.0,) * (size - len(rest))
    return Lens(fx, fy, cx, cy, width, height, "fisheye" if model in _FISHEYE else "brown", coefficients)


def _part(folder: Path, name: str) -> Path:
    for ending in ("bin", "txt"):
        path = folder / f"{name}.{ending}"
        if path.is_file():
            return path
    raise UserError(f"{folder}: expected {name}.bin or {name}.txt in it, found neither; copy the whole sparse model")


def _guarded(path: Path, reader: Callable[[Path], _Content]) -> _Content:
    """Returns what `reader` finds in the file; whatever is wrong becomes a `UserError` that names it."""
    try:
        return reader(path)
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
    except (OSError, ValueError, IndexError, struct.error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: is not a complete COLMAP file ({error}); copy it again, or export the model again"
        ) from None


def _pose(path: Path, name: str, values: tuple[float, ...]) -> np.ndarray:
    """Returns world-to-camera [4, 4] of qw qx qy qz tx ty tz."""
    quat = np.array(values[:4])
    if not np.isfinite(values).all() or np.linalg.norm(quat) < 1e-6:
        raise UserError(f"{path}: the pose of image {name} has NaN, Inf or an invalid rotation; reconstruct it again")
    viewmat = np.eye(4)
    viewmat[:3, :3] = Rotation.from_quat(quat[[1, 2, 3, 0]]).as_matrix()
    viewmat[:3, 3] = values[4:]
    return viewmat


class _Bytes:
    """A binary file read from front to back."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.at = 0

    def take(self, layout: str) -> tuple:
        values = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def count(self, least: int) -> int:
        """Returns a stated number of things that take at least so many bytes each, when the file can hold them."""
        (number,) = self.take("Q")
        room = (len(self.data) - self.at) // least
        if number > room:
            raise ValueError(f"it states {number} entries, but has room for {room}: truncated, or not a COLMAP file")
        return number

    def skip(self, number: int) -> None:
        self.at += number

    def text(self) -> str:
        end = self.data.index(b"\0", self.at)
        text = os.fsdecode(self.data[self.at : end])
        self.at = end + 1
        return text

    def end(self) -> None:
        if self.at != len(self.data):
            raise ValueError(f"{len(self.data) - self.at} bytes are left over after the last entry")


def _cameras_bin(path: Path) -> dict[int, Lens]:
    file, lenses = _Bytes(path), {}
    for _ in range(file.count(24)):
        camera, model, width, height = file.take("IiQQ")
        if model not in _NAMES:
            raise ValueError(f"camera {camera} has the unknown model {model}")
        name = _NAMES[model]
        lenses[camera] = lens_of(name, width, height, file.take(f"{_COUNTS[name]}d"))
    file.end()
    return lenses


def _cameras_txt(path: Path) -> dict[int, Lens]:
    lenses = {}
    for words in _rows(path):
        model = words[1]
        if model not in _COUNTS or len(words) != 4 + _COUNTS[model]:
            raise ValueError(f"camera {words[0]}: {model} with {len(words) - 4} parameters is not a COLMAP camera")
        lenses[int(words[0])] = lens_of(model, _whole(words[2]), _whole(words[3]), tuple(map(float, words[4:])))
    _check_count(path, len(lenses))
    return lenses


def _whole(word: str) -> int:
    """Returns a size in pixels; some programs write it as 64.0."""
    number = float(word)
    if number != int(number):
        raise ValueError(f"expected a whole number of pixels, got {word}")
    return int(number)


def _images_bin(path: Path) -> list[tuple[str, tuple[float, ...], int]]:
    file, images = _Bytes(path), []
    for _ in range(file.count(73)):
        values = file.take("I7dI")
        name = file.text()
        file.skip(24 * file.count(24))
        images.append((name, values[1:8], values[8]))
    file.end()
    return images


def _images_txt(path: Path) -> list[tuple[str, tuple[float, ...], int]]:
    images = []
    # Two lines per image; the second, its 2D points, may be empty.
    waiting = False
    for line in _lines(path):
        if line.lstrip().startswith("#"):
            continue
        # The second line is known by what it is: some programs leave it out where there are no 2D points.
        if waiting and _is_points_line(line):
            waiting = False
            continue
        if not line.strip():
            continue
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise ValueError(f"expected ID, 4 + 3 numbers, CAMERA and NAME, got {line.strip()[:60]!r}")
        images.append((words[9].strip(), tuple(map(float, words[1:8])), int(words[8])))
        waiting = True
    _check_count(path, len(images))
    return images


def _is_points_line(line: str) -> bool:
    """Returns whether a line is the 2D points of an image, X Y POINT3D_ID each, or empty."""
    words = line.split()
    return len(words) % 3 == 0 and all(
        re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?|nan", word, re.IGNORECASE) for word in words
    )


def _points_bin(path: Path) -> PointCloud:
    file = _Bytes(path)
    count = file.count(51)
    xyz, rgb = np.empty((count, 3)), np.empty((count, 3), np.uint8)
    for k in range(count):
        values = file.take("Q3d3Bd")
        xyz[k], rgb[k] = values[1:4], values[4:7]
        file.skip(8 * file.count(8))
    file.end()
    return _cloud(xyz, rgb)


def _points_txt(path: Path) -> PointCloud:
    rows = [words[1:7] for words in _rows(path)]
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    _check_count(path, len(table))
    return _cloud(table[:, :3], np.clip(table[:, 3:], 0, 255).astype(np.uint8))


def _cloud(xyz: np.ndarray, rgb: np.ndarray) -> PointCloud:
    if not (np.abs(xyz) < FARTHEST).all():
        raise ValueError("positions are NaN, Inf or out of range")
    return PointCloud(xyz, rgb)


def _check_count(path: Path, found: int) -> None:
    """Raises `ValueError` when the comment at the top of a text file promises more entries: it was cut, or pruned.

    Comments with a smaller number, often 0, are of programs that write no model of their own.
    """
    for line in map(str.lstrip, _lines(path)):
        if not line.startswith("#"):
            return
        stated = re.match(r"#\s*Number of \w+:\s*(\d+)", line)
        if stated and int(stated.group(1)) > found:
            raise ValueError(
                f"it states {stated.group(1)} entries, but contains {found}; if lines were removed on purpose, correct"
                " the number"
            )


def _rows(path: Path) -> Iterator[list[str]]:
    for line in _lines(path):
        if line.strip() and not line.lstrip().startswith("#"):
            yield line.split()


def _lines(path: Path) -> Iterator[str]:
    # Names are bytes to COLMAP: those that are no UTF-8 are kept as Python keeps such names of files.
    yield from re.split(r"\r\n?|\n", decoded(path.read_bytes()))
