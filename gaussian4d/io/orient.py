"""Turning splats: files of one convention have x right and y down, those of another y up."""

from __future__ import annotations

import numpy as np

from ..errors import UserError
from .splats import Splats, degree_of, unit

PLY_TO_RUB = (1.0, -1.0, -1.0)
"""Signs from the axes of a 3DGS `.ply` (x right, y down, z forward) to x right, y up, z back: `.spz`."""

PLY_TO_GLTF = (-1.0, -1.0, 1.0)
"""Signs to x left, y up, z forward: glTF, as PlayCanvas' converter does it too."""


def upright(vertical_axis: str | None) -> np.ndarray | None:
    """Returns the rotation [3, 3] that brings the axis that points up to +y, or None when it is not known."""
    if vertical_axis is None:
        return None
    # Cyclic permutations: each takes one axis to y and mirrors nothing.
    turns = {
        "x": [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        "y": np.eye(3),
        "z": [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]],
    }
    if vertical_axis not in turns:
        raise UserError(f"vertical_axis must be x, y or z, got {vertical_axis!r}")
    return np.array(turns[vertical_axis])


def to_y_down(up: np.ndarray) -> np.ndarray | None:
    """Returns the shortest rotation [3, 3] that brings `up` [3] to -y, where other programs have it; None for none.

    Axes become axes exactly.
    """
    up = np.asarray(up, np.float64) / np.linalg.norm(up)
    axis = np.round(up)
    up = axis if np.abs(up - axis).max() < 1e-6 else up
    target = np.array([0.0, -1.0, 0.0])
    cosine = float(up @ target)
    if cosine > 1.0 - 1e-12:
        return None
    if cosine < -1.0 + 1e-9:
        # Straight up: half a turn about x, as good as any other.
        return np.diag([1.0, -1.0, -1.0])
    v = np.cross(up, target)
    cross = np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])
    return np.eye(3) + cross + cross @ cross / (1.0 + cosine)


def half_turned(splats: Splats, signs: tuple[float, float, float]) -> Splats:
    """Returns splats with the axes multiplied by `signs`, two of which are negative: a half turn, and its own inverse.

    Exact: positions, quaternions and coefficients change only their signs.
    """
    flip = np.asarray(signs, np.float32)
    quats = splats["quats"].copy()
    # D R D describes the same ellipsoid as D R, because the ellipsoid itself is symmetric.
    quats[:, 1:] *= flip
    return {
        **splats,
        "means": splats["means"] * flip,
        "quats": quats,
        "shN": splats["shN"] * _harmonic_signs(signs, degree_of(splats))[None, :, None],
    }


def rotated(splats: Splats, rotation: np.ndarray) -> Splats:
    """Returns splats turned by the rotation matrix [3, 3]: positions, orientations and spherical harmonics."""
    matrix = np.asarray(rotation, np.float64)
    shN = splats["shN"].astype(np.float64)
    start = 0
    for degree in range(1, degree_of(splats) + 1):
        width = 2 * degree + 1
        turn = harmonic_rotation(matrix, degree)
        shN[:, start : start + width] = np.einsum("ij,njc->nic", turn, shN[:, start : start + width])
        start += width
    return {
        **splats,
        "means": (splats["means"].astype(np.float64) @ matrix.T).astype(np.float32),
        "quats": unit(_product(_quaternion(matrix), splats["quats"].astype(np.float64)).astype(np.float32)),
        "shN": shN.astype(np.float32),
    }


def harmonic_rotation(rotation: np.ndarray, degree: int) -> np.ndarray:
    """Returns the matrix [2l + 1, 2l + 1] that turns the coefficients of degree l; see `harmonic_rotations`."""
    import torch

    from ..harmonics import harmonic_rotations

    return harmonic_rotations(torch.from_numpy(np.array(rotation, np.float64)), degree).numpy()


def _harmonic_signs(signs: tuple[float, float, float], degree: int) -> np.ndarray:
    """Returns [K - 1] the sign that each basis function takes when the axes take `signs`.

    The function of degree l and order m is odd or even in z as l - |m| is, in y exactly when m is negative, and in x as
    |m| is, changed once more when m is negative.
    """
    result = []
    for band in range(1, degree + 1):
        for order in range(-band, band + 1):
            odd_y = order < 0
            odd_x = (abs(order) + odd_y) % 2 == 1
            odd_z = (band - abs(order)) % 2 == 1
            result.append((signs[0] if odd_x else 1.0) * (signs[1] if odd_y else 1.0) * (signs[2] if odd_z else 1.0))
    return np.asarray(result, np.float32)


def _quaternion(matrix: np.ndarray) -> np.ndarray:
    """Returns the quaternion wxyz [4] of a rotation matrix."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(matrix).as_quat()
    return np.array([w, x, y, z])


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the quaternions left [4] times right [N, 4], wxyz."""
    w, vector = left[0], left[1:]
    real = w * right[:, 0] - right[:, 1:] @ vector
    imaginary = w * right[:, 1:] + right[:, :1] * vector + np.cross(vector[None], right[:, 1:])
    return np.concatenate([real[:, None], imaginary], axis=1)
