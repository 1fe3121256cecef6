"""Lenses as `transforms*.json` states them, for the file or a frame: one rule for nerfstudio and D-NeRF."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .clips import fit_lens, fit_lens_to_picture
from .images import header_for
from .problems import ProblemList
from .records import Lens
from .values import matrix, number
from .video import Video

_PINHOLE_MODELS = {"PINHOLE", "SIMPLE_PINHOLE"}
_BROWN_MODELS = {"OPENCV", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV", "PERSPECTIVE", *_PINHOLE_MODELS}
_FISHEYE_MODELS = {"OPENCV_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"}
_BROWN_KEYS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_FISHEYE_KEYS = ("k1", "k2", "k3", "k4")
# As nerfstudio orders them.
_LISTED = ("k1", "k2", "k3", "k4", "p1", "p2")
LENS_KEYS = frozenset(
    {"w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "camera_model", "is_fisheye"}
    | {*_BROWN_KEYS, "distortion_params"}
)
"""What states a lens; a frame's own values count before the file's."""

# What a frame states in one of these words replaces what its file states in the others.
_SAME_THING = (
    ({"camera_angle_x"}, {"fl_x", "fl_y", "camera_angle_y"}),
    ({"fl_x"}, {"camera_angle_x"}),
    ({"fl_y"}, {"camera_angle_y"}),
    ({"camera_angle_y"}, {"fl_y"}),
    ({"camera_model"}, {"is_fisheye"}),
    ({"is_fisheye"}, {"camera_model"}),
    ({"distortion_params"}, {*_BROWN_KEYS}),
    ({*_BROWN_KEYS}, {"distortion_params"}),
)

# Projections that other programs state by a word of their own.
_OTHER_PROJECTIONS = ("orthographic", "equirectangular", "latlong", "ftheta_p0")

_NOT_READ = {
    "depth_file_path": "depth maps",
    "depth_path": "depth maps",
    "normal_file_path": "normal maps",
    "rolling_shutter_time": "the rolling shutter",
    "rolling_shutter": "the rolling shutter",
    "transform_matrix_start": "motion during the exposure",
    "transform_matrix_end": "motion during the exposure",
    "skew": "skew",
    "fisheye_crop_radius": "the fisheye image circle",
    **dict.fromkeys(("K", "intrinsics", "intrinsic", "intrinsic_matrix", "camera_matrix"), "an intrinsics matrix"),
    **dict.fromkeys(("distortion", "dist_coeffs", "distortion_coefficients"), "a list of distortion coefficients"),
}

# What says nothing of how a picture was taken.
_HARMLESS = frozenset(
    {"rotation", "colmap_im_id", "sharpness", "blur_score", "time_index", "seconds", "synchronisation"}
)
_POSES_AS_STATED = frozenset({"applied_transform", "applied_scale"})
_MOST_KEYS = 12

# Focal lengths that differ by less are rounded ones.
_SAME_FOCAL = 0.01

Say = Callable[[str], None]


def say_what_is_not_read(
    path: Path, listed: Iterable[Mapping[str, Any]], known: Iterable[str], problems: ProblemList
) -> list[str]:
    """Warns once of what a file states of its frames and we do not honour; returns notes on keys that we do not know.

    Args:
        path: The file.
        listed: All of its content, and its frames one by one.
        known: The keys that the reader reads beside those of lenses.
        problems: Takes the warning.
    """
    entries = [entry for entry in listed if isinstance(entry, Mapping)]
    stated = {str(key) for entry in entries for key in entry}
    found = {
        key
        for entry in entries
        for key in entry.keys() & _NOT_READ.keys()
        # A rolling shutter or skew of 0 is none.
        if entry[key] and entry[key] != [0] * 4
    }
    if found:
        words = ", ".join(f"{_NOT_READ[key]} ({key})" for key in sorted(found))
        problems.warning(path, f"{words}: not supported, ignored")
    notes = [
        f"{key} is already applied to the poses and points; it is not undone"
        for key in sorted(stated & _POSES_AS_STATED)
    ]
    known_keys = LENS_KEYS | _NOT_READ.keys() | _HARMLESS | _POSES_AS_STATED | {*known}
    rest = sorted(stated - known_keys)
    if rest:
        shown = ", ".join(key if len(key) <= 40 else f"{key[:40]}..." for key in rest[:_MOST_KEYS])
        more = f" and {len(rest) - _MOST_KEYS} more" if len(rest) > _MOST_KEYS else ""
        notes.append(f"{path.name} has unknown keys, which are ignored: {shown}{more}")
    return notes


def merged(content: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a frame states over what its file states; two words for one thing do not mix."""
    replaced = {key for said, others in _SAME_THING if said & own.keys() for key in others}
    return {key: value for key, value in content.items() if key not in replaced} | dict(own)


class StatedLenses:
    """The lenses of one file, each held once against the first of its pictures; what is odd is said once."""

    def __init__(self, path: Path, problems: ProblemList) -> None:
        """Makes an empty table; `path` states the lenses."""
        self._path, self._problems = path, problems
        self._found: dict[tuple[str, str], Lens | UserError] = {}

    def of_picture(self, fields: Mapping[str, Any], picture: Path, camera: str) -> Lens:
        """Returns the lens of a picture, a smaller or larger copy of what `w`, `h` say included.

        Without `w`, `h` the size is that of the picture, turned upright as `header_for` says. Only the first picture of
        a camera is looked at here; whether the others have its size is checked with all of the scene's.

        Args:
            fields: See `merged`.
            picture: The file.
            camera: Which camera took it; empty where pictures may be of several.
        """
        sized = "w" in fields and "h" in fields
        if not sized and not camera:
            return self._of_one(fields, picture)
        key = (camera, repr([fields.get(name) for name in sorted(LENS_KEYS)]))
        found = self._found.get(key)
        if found is None:
            try:
                found = self._of_one(fields, picture)
            except UserError as error:
                found = error
            self._found[key] = found
        if isinstance(found, UserError):
            raise found
        return found

    def _of_one(self, fields: Mapping[str, Any], picture: Path) -> Lens:
        if "w" in fields and "h" in fields:
            return fit_lens_to_picture(self._lens(fields, 0, 0), picture, self._problems)
        middle = None
        if "cx" in fields and "cy" in fields:
            # Principal points lie near the middle.
            middle = (round(2 * number(fields["cx"], "cx")), round(2 * number(fields["cy"], "cy")))
        header = header_for(picture, middle)
        lens = self._lens(fields, header.width, header.height)
        same = (lens.width, lens.height) == (header.width, header.height)
        return lens if same else fit_lens_to_picture(lens, picture, self._problems)

    def of_video(self, fields: Mapping[str, Any], video: Video) -> tuple[Lens, Video]:
        """Returns the lens for the pictures of a video, and the video cut to them (`fit_lens`)."""
        return fit_lens(self._lens(fields, video.width, video.height), video, self._problems)

    def _lens(self, fields: Mapping[str, Any], width: int, height: int) -> Lens:
        return lens_of(fields, width, height, lambda message: self._problems.warning(self._path, message))


def lens_of(fields: Mapping[str, Any], width: int, height: int, say: Say) -> Lens:
    """Returns the lens that `fields` state; its size is `w`, `h`, else `width`, `height`.

    Of two statements that contradict each other the one that says more counts, and `say` is told so.
    """
    w, h = (int(number(fields.get(key, size), key)) for key, size in (("w", width), ("h", height)))
    if w < 1 or h < 1:
        raise UserError(f"w and h must be positive, got {w} and {h}; correct them")
    fx, fy = _focal(fields, "x", w, say), _focal(fields, "y", h, say)
    # One is stated: pixels are square.
    fx, fy = (fy if fx is None else fx), (fx if fy is None else fy)
    if fx is None or fy is None:
        raise UserError('expected "fl_x" or "camera_angle_x"; add the focal length or the field of view')
    if fx <= 0 or fy <= 0:
        raise UserError(f"fl_x and fl_y must be positive, got {fx:g} and {fy:g}; restore the calibration")
    cx, cy = number(fields.get("cx", w / 2), "cx"), number(fields.get("cy", h / 2), "cy")
    if abs(cx - w / 2) > w / 4 or abs(cy - h / 2) > h / 4:
        say(
            f"the principal point cx {cx:g}, cy {cy:g} is far from the centre of {w}x{h}: used as stated; are cx and cy"
            " for another resolution?"
        )
    fisheye, coefficients = _distortion(fields, say)
    if fisheye or any(coefficients):
        return Lens(fx, fy, cx, cy, w, h, "fisheye" if fisheye else "brown", coefficients)
    return Lens(fx, fy, cx, cy, w, h)


def _distortion(fields: Mapping[str, Any], say: Say) -> tuple[bool, tuple[float, ...]]:
    """Returns whether the lens is a fisheye, and its coefficients in the order of `Lens.distortion`."""
    other = next((key for key in _OTHER_PROJECTIONS if fields.get(key)), None)
    if other is not None:
        raise UserError(f"{other} is not supported; expected a perspective or fisheye camera")
    kind = str(fields.get("camera_model", "OPENCV")).upper()
    fisheye = kind in _FISHEYE_MODELS or bool(fields.get("is_fisheye"))
    if kind not in _FISHEYE_MODELS | _BROWN_MODELS:
        raise UserError(f"camera_model {kind} is not supported; expected OPENCV, OPENCV_FISHEYE or PINHOLE")
    if fisheye and kind not in _FISHEYE_MODELS and "camera_model" in fields:
        say(f"camera_model {kind} and is_fisheye contradict each other: read as a fisheye camera")
    stated = {key: number(fields[key], key) for key in _BROWN_KEYS if key in fields}
    if "distortion_params" in fields:
        listed = matrix(fields["distortion_params"], "distortion_params", (4,), (6,))
        named = {key: float(value) for key, value in zip(_LISTED, listed)}
        if any(value != named.get(key, 0.0) for key, value in stated.items()):
            say("distortion_params and k1, k2, ... contradict each other: distortion_params are used")
        stated = named
    keys = _FISHEYE_KEYS if fisheye else _BROWN_KEYS
    coefficients = tuple(stated.get(key, 0.0) for key in keys)
    if fisheye:
        if any(value for key, value in stated.items() if key not in _FISHEYE_KEYS):
            say("a fisheye model has no p1, p2, k5 and k6: they are ignored")
        return True, coefficients
    if kind != "FULL_OPENCV":
        # Files of OPENCV lenses often carry k3 and k4 of zero; k4 is a denominator only in the full model.
        if any(coefficients[5:]):
            raise UserError(
                "k4, k5 and k6 belong to camera_model FULL_OPENCV (k4 also to OPENCV_FISHEYE); state the model"
            )
        coefficients = coefficients[:5]
    if kind in _PINHOLE_MODELS and any(coefficients):
        say(f"camera_model {kind} has no distortion, but the stated coefficients are not all 0: they are used")
    return False, coefficients


def _focal(fields: Mapping[str, Any], axis: str, size: int, say: Say) -> float | None:
    """Returns the focal length along an axis: as stated, else of the stated field of view; None without either."""
    stated = number(fields[f"fl_{axis}"], f"fl_{axis}") if f"fl_{axis}" in fields else None
    if f"camera_angle_{axis}" not in fields:
        return stated
    angle = number(fields[f"camera_angle_{axis}"], f"camera_angle_{axis}")
    if not 0 < angle < math.pi:
        raise UserError(f"camera_angle_{axis} must lie between 0 and pi (radians), got {angle:g}")
    meant = 0.5 * size / math.tan(0.5 * angle)
    if stated is None:
        return meant
    if abs(meant - stated) > _SAME_FOCAL * abs(stated):
        say(
            f"camera_angle_{axis} implies a focal length of {meant:.4g} pixels, but fl_{axis} is {stated:.4g}, which"
            " is used"
        )
    return stated
