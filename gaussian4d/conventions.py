"""The conventions every module shares: camera axes, quaternions, colour, time.

* Camera axes are OpenCV's: +X right, +Y down, +Z forward. `viewmat` is world-to-camera, 4x4. `K` holds pixel
  intrinsics; the centre of pixel (column i, row j) is (i + 0.5, j + 0.5).
* Quaternions are wxyz and normalised on use.
* Stored Gaussian parameters are log scale, logit opacity and spherical-harmonics coefficients [N, K, 3];
  a colour is max(SH(direction) + 0.5, 0).
* Time is clip time in [0, 1]; frame k of K has time k / (K - 1).
* Transforms are named `T_parent_local`; converters are named by direction, `opencv_from_opengl`.
"""

from __future__ import annotations

import re

import numpy as np

# The constant spherical-harmonics basis function, 1 / (2 sqrt(pi)).
SH_C0 = 0.28209479177387814

_FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])


def opencv_from_opengl(T_world_camera: np.ndarray) -> np.ndarray:
    """Returns camera-to-world [..., 4, 4] with OpenCV camera axes from that with OpenGL axes (y up, z back)."""
    return np.asarray(T_world_camera, dtype=np.float64) @ _FLIP_YZ


def opengl_from_opencv(T_world_camera: np.ndarray) -> np.ndarray:
    """Returns camera-to-world [..., 4, 4] with OpenGL camera axes (y up, z back) from that with OpenCV axes."""
    return np.asarray(T_world_camera, dtype=np.float64) @ _FLIP_YZ


def invert_rigid(T: np.ndarray) -> np.ndarray:
    """Returns the inverse [..., 4, 4] of rigid transforms [..., 4, 4]."""
    T = np.asarray(T, dtype=np.float64)
    inverse = np.zeros_like(T)
    R_t = np.swapaxes(T[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = R_t
    inverse[..., :3, 3] = -(R_t @ T[..., :3, 3:])[..., 0]
    inverse[..., 3, 3] = 1.0
    return inverse


def sh0_from_rgb(rgb: np.ndarray) -> np.ndarray:
    """Returns the degree-0 coefficients [..., 3] whose colour is `rgb` in [0, 1]."""
    return (rgb - 0.5) / SH_C0


def rgb_from_sh0(sh0: np.ndarray) -> np.ndarray:
    """Returns the colour [..., 3] of degree-0 coefficients, before clamping."""
    return sh0 * SH_C0 + 0.5


def frame_times(count: int) -> np.ndarray:
    """Returns the clip times [count] of evenly spaced frames: k / (count - 1), and 0 for a single frame."""
    return np.arange(count, dtype=np.float64) / max(count - 1, 1)


def numeric_key(name: str) -> tuple[tuple[int, int | str], ...]:
    """Returns a sort key under which `frame_10` follows `frame_9`: digit runs compare as numbers."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts if part)
