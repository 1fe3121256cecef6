"""What programs write into a `.ply` of Gaussians that the layout of 3D Gaussian splatting does not have.

Flat Gaussians with two scales (2D Gaussian splatting), spheres with one, plain colours instead of harmonics, harmonics
of part of a degree, the 3D filter of Mip-Splatting, and the motion of Spacetime Gaussians. One function for each.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError
from .splats import EXTRA, REST_COUNTS, Splats, sh0_from_color, sigmoid

_COLOURS = (("red", "green", "blue"), ("r", "g", "b"), ("diffuse_red", "diffuse_green", "diffuse_blue"))
_THINNEST = 9.2
"""The third scale of a flat Gaussian is a ten-thousandth of the smaller one: nothing draws a thickness of zero."""
FILTER_3D = EXTRA + "filter_3D"
_OTHER_SHAPES = {
    "beta": "Deformable Beta Splatting",
    "shape": "Generalized Exponential Splatting",
    "nu_degree": "Student Splatting and Scooping",
}
"""Columns of methods that draw something else than Gaussians, by the method."""


def are_points(names: Sequence[str]) -> bool:
    """Returns whether columns are those of a point cloud."""
    ours = ("opacity", "scale_0", "rot_0", "packed_position")
    return set(names).issuperset("xyz") and not set(names).intersection(ours)


def columns_of(source: Path, names: Sequence[str]) -> dict[str, list[str]]:
    """Returns the file's columns of means, quats, scales, opacities, sh0 and shN.

    Raises `UserError` when there are none, and says what the file seems to be instead.
    """
    present = set(names)
    scales = [f"scale_{i}" for i in range(3) if f"scale_{i}" in present]
    if scales != [f"scale_{i}" for i in range(len(scales))] or not scales:
        scales = [f"scale_{i}" for i in range(3)]
    plain = next((list(names) for names in _COLOURS if present.issuperset(names)), None)
    sh0 = [f"f_dc_{i}" for i in range(3)]
    quats = [f"rot_{i}" for i in range(4)]
    groups = {
        "means": list("xyz"),
        # A sphere needs no rotation.
        "quats": quats if len(scales) > 1 or present.intersection(quats) else [],
        "scales": scales,
        "opacities": ["opacity"],
        "sh0": plain if plain is not None and not present.intersection(sh0) else sh0,
    }
    missing = [column for columns in groups.values() for column in columns if column not in present]
    if "f_anchor_feat_0" in present:
        raise UserError(
            f"{source} holds anchors of Scaffold-GS, from which networks beside it generate Gaussians for each view;"
            " export Gaussians from that program"
        )
    if missing and are_points(names):
        raise UserError(
            f"{source} holds points, not Gaussians: it has no opacity, scale or rot columns; to initialise a fit"
            " with these points, set ply_file_path in the scene's transforms.json"
        )
    if missing:
        raise UserError(
            f"{source} has no column {', '.join(missing)}; expected a 3D Gaussian splatting .ply "
            f"(x y z f_dc_* opacity scale_* rot_*), found {' '.join(names) or 'no columns'}"
        )
    rest = sorted((name for name in names if name.startswith("f_rest_")), key=lambda name: (len(name), name))
    if rest != [f"f_rest_{i}" for i in range(len(rest))] or len(rest) % 3 or len(rest) > 3 * REST_COUNTS[-1]:
        raise UserError(
            f"{source} has {len(rest)} f_rest_* columns; expected f_rest_0 up to one of "
            f"{[3 * count for count in REST_COUNTS]} columns"
        )
    return {**groups, "shN": rest}


def plain_layout(source: Path, splats: Splats, columns: dict[str, list[str]], types: np.dtype) -> Splats:
    """Returns the Gaussians of a file's `columns` in the layout of 3DGS, float32; says once what was taken for what."""
    splats = dict(splats)
    count = len(splats["means"])
    if len(columns["scales"]) < 3:
        splats["scales"] = _three_scales(splats["scales"])
        kind = "flat Gaussians with two scales" if len(columns["scales"]) == 2 else "spheres with one scale"
        thin = "the third is set to a ten-thousandth" if len(columns["scales"]) == 2 else "all three are set equal"
        warnings.warn(f"{source} holds {kind}: {thin}", stacklevel=3)
    if not columns["quats"]:
        splats["quats"] = np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1))
    if columns["sh0"][0] != "f_dc_0":
        kind = types[columns["sh0"][0]]
        largest = 255.0 if splats["sh0"].max(initial=0.0) > 1.0 else 1.0
        if kind.kind in "iu":
            largest = 65535.0 if kind.itemsize == 2 else 255.0
        splats["sh0"] = sh0_from_color(splats["sh0"] / np.float32(largest))
    stored = splats["shN"].shape[1]
    full = next(number for number in REST_COUNTS if number >= stored)
    if full > stored:
        warnings.warn(
            f"{source} has {stored} coefficients of {full} for its degree: the others are set to 0", stacklevel=3
        )
        splats["shN"] = np.pad(splats["shN"], ((0, 0), (0, full - stored), (0, 0)))
    if FILTER_3D in splats and count:
        _filter(splats)
    for name, method in _OTHER_SHAPES.items():
        if EXTRA + name in splats:
            warnings.warn(
                f"{source}: the column {name} seems to define a kernel other than a Gaussian ({method}), which is not"
                " rendered",
                stacklevel=3,
            )
    return splats


def _three_scales(scales: np.ndarray) -> np.ndarray:
    if scales.shape[1] == 1:
        return np.repeat(scales, 3, axis=1)
    return np.concatenate([scales, scales.min(axis=1, keepdims=True) - np.float32(_THINNEST)], axis=1)


def _filter(splats: Splats) -> None:
    """Applies Mip-Splatting's 3D filter (Yu et al., CVPR 2024, equation 9), whose program keeps it as a column.

    A Gaussian convolved with one of variance f^2: squared scales grow by f^2, and what it covers more it is fainter.
    """
    filter_3d = splats.pop(FILTER_3D).astype(np.float64).reshape(-1, 1)
    square = np.exp(2.0 * np.clip(splats["scales"].astype(np.float64), -80.0, 80.0))
    grown = square + filter_3d**2
    splats["scales"] = (0.5 * np.log(grown)).astype(np.float32)
    opacity = 1.0 / (1.0 + np.exp(-np.clip(splats["opacities"].astype(np.float64), -80.0, 80.0)))
    opacity *= np.exp(0.5 * (np.log(square) - np.log(grown)).sum(axis=1))
    opacity = np.clip(opacity, 1e-9, 1.0 - 1e-7)
    splats["opacities"] = np.log(opacity / (1.0 - opacity)).astype(np.float32)


SPACETIME = ("trbf_center", "trbf_scale", *(f"motion_{i}" for i in range(9)), *(f"omega_{i}" for i in range(4)))
"""Columns of Spacetime Gaussians' "lite" model; `motion.spacetime` has its formulas."""
_MOVING = re.compile(
    r"trbf_.*|motion_\d+|omega_\d+|f_t_\d+|t|t_scale|scale_t|scaling_t|rot_r_\d+|velocity_\d+|vel_[xyz]"
)


def spacetime(source: Path, splats: Splats) -> Splats | None:
    """Returns the table of the motion `spacetime` that columns of that method hold, None where there are none.

    Says so where columns of a motion are there that cannot be read.
    """
    extras = {name[len(EXTRA) :] for name in splats if name.startswith(EXTRA)}
    if extras.issuperset(SPACETIME):
        table = {name: value for name, value in splats.items() if name[len(EXTRA) :] not in SPACETIME}
        column = {name: splats[EXTRA + name] for name in SPACETIME}
        table["trajectories"] = np.stack([column[f"motion_{i}"] for i in range(9)], axis=1).reshape(-1, 3, 3)
        table["spins"] = np.stack([column[f"omega_{i}"] for i in range(4)], axis=1)
        table["times"], table["durations"] = column["trbf_center"], column["trbf_scale"]
        # This method stores plain colours under the names of coefficients, its full model what a sigmoid makes colours.
        color = splats["sh0"]
        if "f_t_0" in extras:
            color = sigmoid(color)
            warnings.warn(
                f"{source}: what a network outside the file adds to colours, from the features f_dc_3.. and"
                " f_t_*, is not rendered",
                stacklevel=4,
            )
        table["sh0"] = sh0_from_color(color)
        return table
    if unread := sorted(name for name in extras if _MOVING.fullmatch(name)):
        warnings.warn(
            f"{source}: the columns {', '.join(unread[:4])}{', ...' if len(unread) > 4 else ''} seem to be a motion"
            " model that is not supported: all Gaussians are shown at once, static",
            stacklevel=4,
        )
    elif beside := _motion_beside(source):
        warnings.warn(
            f"{source}: its motion is in the network {beside}, which is not read: the Gaussians are static; export a"
            " .ply for each instant from the program that made it",
            stacklevel=4,
        )
    return None


def _motion_beside(source: Path) -> Path | None:
    """Returns the network that moves a `.ply` in the output folders of 4DGaussians and Deformable 3D Gaussians."""
    places = [source.parent / "deformation.pth"]
    if source.parent.name.startswith("iteration_") and source.parent.parent.name == "point_cloud":
        places += sorted((source.parent.parent.parent / "deform").glob("iteration_*/deform.pth"))
    return next((path for path in places if path.is_file()), None)
