"""Rays against one mesh in its own frame, through embree; the hit is then made exact in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Float, Int

from .shapes import Shape


@dataclasses.dataclass
class Hits:
    """First hits of the rays that hit at all, as embree finds them (float32)."""

    rays: Int[np.ndarray, " M"]
    """Which rays."""
    t: Float[np.ndarray, " M"]
    """Ray parameter: hit = origin + t * direction."""
    triangles: Int[np.ndarray, " M"]
    uv: Float[np.ndarray, "M 2"]
    """Weights of the triangle's second and third corner."""

    def only(self, keep: np.ndarray) -> Hits:
        """Returns the hits that a mask or an index array [M] keeps."""
        return Hits(self.rays[keep], self.t[keep], self.triangles[keep], self.uv[keep])


class Caster:
    """A mesh with its acceleration structure, built once: moving a part moves the rays, not the mesh."""

    def __init__(self, shape: Shape) -> None:
        corners = shape.vertices[shape.faces]
        edges = corners[:, 1:] - corners[:, :1]
        self._corners = corners[:, 0]
        self._planes = np.cross(edges[:, 0], edges[:, 1])
        # n(u, v) = n0 + u (n1 - n0) + v (n2 - n0)
        normals = shape.normals[shape.faces].astype(np.float32)
        self._n0, self._du, self._dv = normals[:, 0], normals[:, 1] - normals[:, 0], normals[:, 2] - normals[:, 0]
        self._scene = EmbreeScene()
        # The mesh object owns the buffers the scene reads, so it must live as long.
        self._mesh = TriangleMesh(self._scene, corners.astype(np.float32))

    def cast(self, origins: Float[np.ndarray, "N 3"], directions: Float[np.ndarray, "N 3"]) -> Hits:
        """Returns the first hits of rays in the mesh's frame; directions need no unit length."""
        o = np.ascontiguousarray(origins, dtype=np.float32)
        d = np.ascontiguousarray(directions, dtype=np.float32)
        found = self._scene.run(o, d, query="INTERSECT", output=True)
        rays = np.flatnonzero(found["primID"] >= 0)
        uv = np.stack([found["u"][rays], found["v"][rays]], axis=1)
        return Hits(rays, found["tfar"][rays], found["primID"][rays], uv)

    def normals(self, hits: Hits) -> Float[np.ndarray, "M 3"]:
        """Returns unit outward normals in the mesh's frame, interpolated between the triangle's corners."""
        n, u, v = hits.triangles, hits.uv[:, :1], hits.uv[:, 1:]
        normals = self._n0[n] + u * self._du[n] + v * self._dv[n]
        return normals / np.sqrt(np.einsum("ij,ij->i", normals, normals))[:, None]

    def exact_t(
        self, hits: Hits, origins: Float[np.ndarray, "M 3"], directions: Float[np.ndarray, "M 3"]
    ) -> Float[np.ndarray, " M"]:
        """Returns the ray parameters in float64: each ray against the plane of the triangle that embree found."""
        planes = self._planes[hits.triangles]
        slope = np.einsum("ij,ij->i", directions, planes)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.einsum("ij,ij->i", self._corners[hits.triangles] - origins, planes) / slope
        # Grazing rays, whose plane equation is ill-conditioned, keep embree's distance.
        return np.where(np.abs(t - hits.t) < 1e-3 * hits.t, t, hits.t)
