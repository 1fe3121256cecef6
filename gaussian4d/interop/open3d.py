"""Open3D: point clouds with normals, and pinhole cameras for its visualiser, its reconstruction and its odometry.

Open3D's cameras have OpenCV's axes and its extrinsics are world-to-camera, but the pixel in column i and row j stands
at (i, j), not at (i + 0.5, j + 0.5): its principal point is half a pixel less than ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..cameras import Camera
from ..data.records import PointCloud
from ..errors import UserError
from ..gaussians import Gaussians
from ..optional import require
from ..rendering import facing_normals
from .points import colored_points

__all__ = ["from_open3d", "from_open3d_camera", "intrinsics_of", "to_open3d", "to_open3d_camera"]


def to_open3d(gaussians: Gaussians, *, least: float = 0.1, camera: Camera | None = None) -> Any:
    """Returns an `open3d.geometry.PointCloud` of centres, colours and normals; needs open3d.

    Args:
        gaussians: Of one instant.
        least: Fainter Gaussians are left out.
        camera: Normals, the shortest axes of the Gaussians, are turned towards it; None gives no normals.
    """
    open3d = require("open3d")
    xyz, rgb = colored_points(gaussians, least=least)
    cloud = open3d.geometry.PointCloud()
    cloud.points = open3d.utility.Vector3dVector(xyz.cpu().double().numpy())
    cloud.colors = open3d.utility.Vector3dVector(rgb.cpu().double().numpy())
    if camera is not None:
        shown = gaussians.select(gaussians.opacities >= least)
        normals = facing_normals(shown, shown.means.new_tensor(camera.position))
        cloud.normals = open3d.utility.Vector3dVector(normals.detach().cpu().double().numpy())
    return cloud


def from_open3d(cloud: Any) -> PointCloud:
    """Returns the points of an `open3d.geometry.PointCloud` (or of a mesh's vertices), grey where it has no colours."""
    points = cloud.points if hasattr(cloud, "points") else cloud.vertices
    colors = cloud.colors if hasattr(cloud, "colors") else cloud.vertex_colors
    xyz = np.asarray(points, np.float32).reshape(-1, 3)
    rgb = np.asarray(colors, np.float64).reshape(-1, 3)
    if len(rgb) != len(xyz):
        rgb = np.full(xyz.shape, 0.5)
    return PointCloud(xyz, np.round(np.clip(rgb, 0.0, 1.0) * 255.0).astype(np.uint8))


def intrinsics_of(camera: Camera) -> np.ndarray:
    """Returns K [3, 3] as Open3D means it: the principal point half a pixel less. Raises for other than pinholes."""
    if camera.model != "pinhole":
        raise UserError(f"camera {camera.id} is {camera.model}; Open3D's cameras are pinholes")
    K = camera.K.copy()
    K[:2, 2] -= 0.5
    return K


def to_open3d_camera(camera: Camera) -> Any:
    """Returns `open3d.camera.PinholeCameraParameters`; needs open3d."""
    open3d = require("open3d")
    found = open3d.camera.PinholeCameraParameters()
    found.intrinsic = open3d.camera.PinholeCameraIntrinsic(camera.width, camera.height, intrinsics_of(camera))
    found.extrinsic = camera.viewmat
    return found


def from_open3d_camera(parameters: Any, id: str = "camera") -> Camera:
    """Returns our camera of `open3d.camera.PinholeCameraParameters`."""
    K = np.array(parameters.intrinsic.intrinsic_matrix, np.float64)
    K[:2, 2] += 0.5
    viewmat = np.array(parameters.extrinsic, np.float64)
    return Camera(id, viewmat, K, int(parameters.intrinsic.width), int(parameters.intrinsic.height))
