"""PyTorch3D: `PerspectiveCameras` in both of its conventions, and `Pointclouds`.

PyTorch3D multiplies row vectors, X_view = X_world R + T, and its cameras have +X left, +Y up, +Z forward. With OpenCV's
world-to-camera x = A X + t and F = diag(-1, -1, 1), that is R = A^T F and T = F t. Intrinsics come in two conventions:

* screen (`in_ndc=False`): focal lengths and principal point in pixels, as in K;
* NDC (`in_ndc=True`): the shorter side of the picture spans -1 .. 1 and axes point left and up, so with s half of the
  shorter side f = (fx, fy) / s and p = -(cx - W / 2, cy - H / 2) / s.

`image_size` is (H, W). Pixel centres are at +0.5 in both. Source: PyTorch3D's notes on cameras (docs/notes/cameras.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..cameras import Camera
from ..errors import UserError
from ..gaussians import Gaussians
from ..optional import require
from .points import colored_points

__all__ = ["from_pytorch3d", "pytorch3d_values", "to_pointclouds", "to_pytorch3d"]

_FLIP = np.array([-1.0, -1.0, 1.0])


def to_pytorch3d(
    cameras: Sequence[Camera],
    *,
    in_ndc: bool = True,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Any:
    """Returns a batch of `pytorch3d.renderer.PerspectiveCameras`; needs pytorch3d.

    Args:
        cameras: Pinholes, at least one.
        in_ndc: The convention of the intrinsics, see the module.
        device: Where its tensors are.
        dtype: Of its tensors.
    """
    values = pytorch3d_values(cameras, in_ndc=in_ndc)
    values = {name: value.to(device=device, dtype=dtype) for name, value in values.items()}
    renderer = require("pytorch3d.renderer")
    return renderer.PerspectiveCameras(**values, in_ndc=in_ndc, device=device)


def pytorch3d_values(cameras: Sequence[Camera], *, in_ndc: bool = True) -> dict[str, Tensor]:
    """Returns the arguments of `PerspectiveCameras` without pytorch3d, float64 on the CPU.

    `R` [C, 3, 3], `T` [C, 3], `focal_length` [C, 2], `principal_point` [C, 2], `image_size` [C, 2] as (H, W).
    """
    if not cameras:
        raise UserError("expected at least one camera, got none")
    bent = next((camera for camera in cameras if camera.model != "pinhole"), None)
    if bent is not None:
        raise UserError(f"camera {bent.id} is {bent.model}; PerspectiveCameras are pinholes")
    rows: dict[str, list[np.ndarray]] = {"R": [], "T": [], "focal_length": [], "principal_point": [], "image_size": []}
    for camera in cameras:
        size = np.array([camera.width, camera.height], np.float64)
        focal, center = camera.K[[0, 1], [0, 1]], camera.K[:2, 2]
        if in_ndc:
            half = 0.5 * size.min()
            focal, center = focal / half, -(center - 0.5 * size) / half
        rows["R"].append(camera.viewmat[:3, :3].T * _FLIP)
        rows["T"].append(camera.viewmat[:3, 3] * _FLIP)
        rows["focal_length"].append(focal)
        rows["principal_point"].append(center)
        rows["image_size"].append(size[::-1])
    return {name: torch.from_numpy(np.stack(values)) for name, values in rows.items()}


def from_pytorch3d(
    cameras: Any, *, image_size: tuple[int, int] | None = None, ids: Sequence[str] | None = None
) -> list[Camera]:
    """Returns our cameras of a batch of `PerspectiveCameras`, whichever convention its intrinsics are in.

    Args:
        cameras: What has `R`, `T`, `focal_length`, `principal_point`, `image_size` and `in_ndc()`.
        image_size: (H, W) in pixels, needed where the batch has none.
        ids: A name per camera; None numbers them.
    """
    R, T = (np.asarray(getattr(cameras, name).detach().cpu().double()) for name in ("R", "T"))
    if not hasattr(cameras, "focal_length"):
        raise UserError(f"expected PerspectiveCameras, got {type(cameras).__name__}, which has no focal_length")
    count = len(R)
    stated = getattr(cameras, "image_size", None)
    if image_size is not None:
        sizes = np.tile(np.asarray(image_size, np.float64), (count, 1))
    elif stated is not None:
        sizes = _per_camera(stated, count)
    else:
        raise UserError("these cameras have no image_size; give image_size=(height, width) in pixels")
    focal, center = (_per_camera(getattr(cameras, name), count) for name in ("focal_length", "principal_point"))
    names = [str(k) for k in range(count)] if ids is None else list(ids)
    if len(names) != count:
        raise UserError(f"expected {count} ids, one per camera, got {len(names)}")
    found = []
    for k in range(count):
        height, width = (round(float(value)) for value in sizes[k])
        f, c = focal[k], center[k]
        if cameras.in_ndc():
            half = 0.5 * min(width, height)
            f, c = f * half, 0.5 * np.array([width, height]) - c * half
        viewmat = np.eye(4)
        viewmat[:3, :3] = (R[k] * _FLIP).T
        viewmat[:3, 3] = T[k] * _FLIP
        K = np.array([[f[0], 0.0, c[0]], [0.0, f[1], c[1]], [0.0, 0.0, 1.0]])
        found.append(Camera(names[k], viewmat, K, width, height))
    return found


def to_pointclouds(gaussians: Sequence[Gaussians] | Gaussians, *, least: float = 0.1) -> Any:
    """Returns `pytorch3d.structures.Pointclouds`: centres and, as features, colours 0..1; needs pytorch3d.

    One cloud per set of Gaussians, such as `[model.at(t) for t in times]`; those fainter than `least` are left out.
    """
    many = [gaussians] if isinstance(gaussians, Gaussians) else list(gaussians)
    clouds = [colored_points(state, least=least) for state in many]
    structures = require("pytorch3d.structures")
    return structures.Pointclouds(points=[xyz for xyz, _ in clouds], features=[rgb for _, rgb in clouds])


def _per_camera(value: Any, count: int) -> np.ndarray:
    """Returns a tensor [1 or C, 1 or 2] or [C] of a batch as float64 [C, 2]."""
    array = np.asarray(value.detach().cpu().double() if isinstance(value, Tensor) else value, np.float64)
    array = array.reshape(-1, 1) if array.ndim < 2 else array
    return np.broadcast_to(array, (count, 2))
