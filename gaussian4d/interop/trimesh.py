"""trimesh: Gaussians as a point cloud or as a mesh of ellipsoids, and points from the surface of a mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.records import PointCloud
from ..errors import UserError
from ..gaussians import Gaussians, rotation_matrices
from .points import colored_points

if TYPE_CHECKING:
    import trimesh

__all__ = ["from_trimesh", "to_ellipsoids", "to_trimesh"]


def to_trimesh(gaussians: Gaussians, *, least: float = 0.1) -> trimesh.PointCloud:
    """Returns the centres and colours of the Gaussians whose opacity is at least `least`."""
    import trimesh

    xyz, rgb = colored_points(gaussians, least=least)
    return trimesh.PointCloud(xyz.cpu().double().numpy(), colors=_bytes(rgb.cpu().double().numpy()))


def to_ellipsoids(
    gaussians: Gaussians, *, deviations: float = 1.0, least: float = 0.1, subdivisions: int = 1
) -> trimesh.Trimesh:
    """Returns one mesh with an ellipsoid per Gaussian, coloured: to look at sizes and orientations in any program.

    Args:
        gaussians: Of one instant.
        deviations: Half axes in standard deviations.
        least: Fainter Gaussians are left out.
        subdivisions: 0 makes 20 triangles of each, 1 makes 80, 2 makes 320.
    """
    import trimesh

    shown = gaussians.select(gaussians.opacities >= least)
    ball = trimesh.creation.icosphere(subdivisions=subdivisions)
    xyz, rgb = (value.cpu().double().numpy() for value in colored_points(gaussians, least=least))
    axes = rotation_matrices(shown.quats.detach().cpu().double()).numpy()
    scales = deviations * shown.scales.detach().cpu().double().numpy()
    vertices = np.einsum("nij,nj,vj->nvi", axes, scales, ball.vertices) + xyz[:, None]
    faces = ball.faces[None] + len(ball.vertices) * np.arange(len(xyz))[:, None, None]
    colors = np.repeat(_bytes(rgb), len(ball.vertices), axis=0)
    return trimesh.Trimesh(vertices.reshape(-1, 3), faces.reshape(-1, 3), vertex_colors=colors, process=False)


def from_trimesh(shape: Any, *, count: int = 20_000) -> PointCloud:
    """Returns the points of a `trimesh.PointCloud`, or `count` points spread evenly over the surface of a mesh.

    Vertex or face colours are kept, others are grey. Raises `UserError` for a mesh without faces, or with other
    contents: join a `trimesh.Scene` first (`scene.to_mesh()`).
    """
    import trimesh

    if isinstance(shape, trimesh.PointCloud):
        xyz, rgb = np.asarray(shape.vertices), np.asarray(shape.colors).reshape(-1, 4)[:, :3]
        rgb = rgb if len(rgb) == len(xyz) else np.full((len(xyz), 3), 128)
        return PointCloud(xyz.astype(np.float32), rgb.astype(np.uint8))
    if not isinstance(shape, trimesh.Trimesh) or len(shape.faces) == 0:
        raise UserError(f"expected a mesh or a point cloud of trimesh, got {type(shape).__name__} without faces")
    xyz, faces = trimesh.sample.sample_surface(shape, count, seed=0)[:2]
    rgb = np.full((count, 3), 128, np.uint8)
    visual: Any = shape.visual
    if visual.kind == "vertex":
        corners = trimesh.triangles.points_to_barycentric(shape.triangles[faces], xyz)
        colors = np.asarray(visual.vertex_colors, np.float64)[shape.faces[faces], :3]
        rgb = np.clip(np.round(np.einsum("nk,nkc->nc", corners, colors)), 0, 255).astype(np.uint8)
    elif visual.kind == "face":
        rgb = np.asarray(visual.face_colors)[faces, :3].astype(np.uint8)
    return PointCloud(np.asarray(xyz, np.float32), rgb)


def _bytes(rgb: np.ndarray) -> np.ndarray:
    """Returns colours 0..1 [N, 3] as uint8 [N, 4], opaque."""
    values = np.round(np.clip(rgb, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.concatenate([values, np.full((len(values), 1), 255, np.uint8)], axis=1)
