"""Lenses as `transforms*.json` states them, for the file or a frame: one rule for nerfstudio and D-NeRF."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .images import header_for
from .problems import ProblemList
from .records import Lens
from .values import number

_BROWN_MODELS = {"OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "FULL_OPENCV", "PERSPECTIVE"}
_FISHEYE_MODELS = {"OPENCV_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE"}
_BROWN_KEYS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_FISHEYE_KEYS = ("k1", "k2", "k3", "k4")
LENS_KEYS = frozenset(
    {"w", "h", "fl_x", "fl_y", "cx", "cy", "camera_angle_x", "camera_angle_y", "camera_model", "is_fisheye"}
    | {*_BROWN_KEYS}
)
"""What states a lens; a frame's own values count before the file's."""
_NOT_READ = {
    "depth_file_path": "depth maps (depth_file_path)",
    "rolling_shutter_time": "the rolling shutter (rolling_shutter_time)",
    "rolling_shutter": "the rolling shutter (rolling_shutter)",
}


def say_what_is_not_read(path: Path, listed: Iterable[Mapping[str, Any]], problems: ProblemList) -> None:
    """Warns once of what a file states of its frames and we do not honour."""
    found = {key for entry in listed if isinstance(entry, Mapping) for key in entry.keys() & _NOT_READ.keys()}
    if found:
        problems.warning(path, f"{', '.join(_NOT_READ[key] for key in sorted(found))}: stated, and not used")


def lens_of_picture(fields: Mapping[str, Any], picture: Path) -> Lens:
    """Returns the lens that `fields` state for a picture, whose size must be the stated one where there is one.

    A picture stored in another orientation counts as the upright one where that has the stated size, or none is stated.
    """
    stated = None
    if "w" in fields and "h" in fields:
        stated = (int(number(fields["w"], "w")), int(number(fields["h"], "h")))
    elif "cx" in fields and "cy" in fields:
        # Principal points lie near the middle.
        stated = (round(2 * number(fields["cx"], "cx")), round(2 * number(fields["cy"], "cy")))
    header = header_for(picture, stated)
    lens = lens_of(fields, header.width, header.height)
    if (header.width, header.height) != (lens.width, lens.height):
        raise UserError(
            f"{picture} is {header.width}x{header.height}, the file says {lens.width}x{lens.height}; correct w and h"
            " (and the intrinsics with them) or restore the picture"
        )
    return lens


def lens_of(fields: Mapping[str, Any], width: int, height: int) -> Lens:
    """Returns the lens that `fields` state; its size is `w`, `h`, else `width`, `height`."""
    w, h = (int(number(fields.get(key, size), key)) for key, size in (("w", width), ("h", height)))
    fx, fy = _focal(fields, "x", w), _focal(fields, "y", h)
    if fx is None:
        raise UserError('expected "fl_x" or "camera_angle_x"; add the focal length or the field of view')
    fy = fx if fy is None else fy
    if fx <= 0 or fy <= 0:
        raise UserError(f"fl_x and fl_y must be positive, got {fx:g} and {fy:g}; restore the calibration")
    cx, cy = number(fields.get("cx", w / 2), "cx"), number(fields.get("cy", h / 2), "cy")
    kind = str(fields.get("camera_model", "OPENCV")).upper()
    fisheye = kind in _FISHEYE_MODELS or bool(fields.get("is_fisheye"))
    if not fisheye and kind not in _BROWN_MODELS:
        raise UserError(f"camera_model {kind} is not supported; expected OPENCV, OPENCV_FISHEYE or PINHOLE")
    keys = _FISHEYE_KEYS if fisheye else _BROWN_KEYS
    coefficients = tuple(number(fields.get(key, 0.0), key) for key in keys)
    if not fisheye and kind != "FULL_OPENCV":
        # Files of OPENCV lenses often carry k3 and k4 of zero; k4 is a denominator only in the full model.
        if any(coefficients[5:]):
            raise UserError(
                "k4, k5 and k6 belong to camera_model FULL_OPENCV (k4 also to OPENCV_FISHEYE); name the model"
            )
        coefficients = coefficients[:5]
    if fisheye or any(coefficients):
        return Lens(fx, fy, cx, cy, w, h, "fisheye" if fisheye else "brown", coefficients)
    return Lens(fx, fy, cx, cy, w, h)


def _focal(fields: Mapping[str, Any], axis: str, size: int) -> float | None:
    """Returns the focal length along an axis: as stated, else of the stated field of view; None without either."""
    if f"fl_{axis}" in fields:
        return number(fields[f"fl_{axis}"], f"fl_{axis}")
    if f"camera_angle_{axis}" not in fields:
        return None
    angle = number(fields[f"camera_angle_{axis}"], f"camera_angle_{axis}")
    if not 0 < angle < math.pi:
        raise UserError(f"camera_angle_{axis} must lie between 0 and pi (radians), got {angle:g}")
    return 0.5 * size / math.tan(0.5 * angle)
