"""The surface in a grid of signed distances: naive surface nets, the dual of marching cubes.

Every cell of eight grid points whose signs differ gets one vertex, the mean of the points where its edges cross zero;
every grid edge whose ends differ in sign gets one quadrilateral between the vertices of the four cells around it.
Gibson, "Constrained Elastic Surface Nets", 1998; the averaging is Whited's and Lysenko's simplification.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


@dataclasses.dataclass
class Mesh:
    """Triangles with a colour per vertex."""

    vertices: Float[np.ndarray, "V 3"]
    """World units."""
    faces: Int[np.ndarray, "F 3"]
    """Rows of `vertices`, anticlockwise seen from outside, where distances are positive."""
    colors: Float[np.ndarray, "V 3"]
    """0..1, as they are shown on a screen (sRGB)."""

    def without_crumbs(self, share: float = 0.02) -> Mesh:
        """Returns the mesh without connected pieces of fewer faces than `share` of the largest one's."""
        if len(self.faces) == 0:
            return self
        count = len(self.vertices)
        ends = np.concatenate([self.faces[:, :2], self.faces[:, 1:]])
        graph = coo_matrix((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(count, count))
        labels = connected_components(graph, directed=False)[1]
        sizes = np.bincount(labels[self.faces[:, 0]], minlength=labels.max() + 1)
        keep = sizes[labels] >= share * sizes.max()
        renumbered = np.cumsum(keep) - 1
        faces = renumbered[self.faces[keep[self.faces[:, 0]]]]
        return Mesh(self.vertices[keep], faces, self.colors[keep])


# The eight corners of a cell, and its twelve edges as pairs of corners.
_CORNERS = np.array([(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)])
_EDGES = [(a, b) for a in range(8) for b in range(a + 1, 8) if np.abs(_CORNERS[a] - _CORNERS[b]).sum() == 1]


def surface(
    distances: Float[np.ndarray, "X Y Z"],
    known: np.ndarray,
    colors: Float[np.ndarray, "X Y Z 3"],
    origin: Float[np.ndarray, "3"],
    spacing: float,
) -> Mesh:
    """Returns the surface where `distances` are zero.

    Args:
        distances: At grid points, positive outside.
        known: bool [X, Y, Z]: cells with a corner that is not known hold no surface.
        colors: At grid points, 0..1.
        origin: World position of grid point (0, 0, 0).
        spacing: World units between grid points.
    """
    shape = np.array(distances.shape) - 1
    inside = distances < 0
    corners = [tuple(slice(int(c), int(c + n)) for c, n in zip(corner, shape)) for corner in _CORNERS]
    negative = sum(inside[corner].astype(np.int8) for corner in corners)
    all_known = np.logical_and.reduce([known[corner] for corner in corners])
    cells = np.argwhere((negative > 0) & (negative < 8) & all_known)
    if len(cells) == 0:
        return Mesh(np.zeros((0, 3)), np.zeros((0, 3), np.int64), np.zeros((0, 3)))
    at = [tuple((cells + corner).T) for corner in _CORNERS]
    values = np.stack([distances[place] for place in at], axis=1)
    total, count = np.zeros((len(cells), 3)), np.zeros(len(cells))
    for a, b in _EDGES:
        crosses = (values[:, a] < 0) != (values[:, b] < 0)
        part = np.where(crosses, values[:, a] / np.where(crosses, values[:, a] - values[:, b], 1.0), 0.0)
        point = _CORNERS[a] + part[:, None] * (_CORNERS[b] - _CORNERS[a])
        total += np.where(crosses[:, None], point, 0.0)
        count += crosses
    # Colours count as much as their grid point is near the surface.
    nearness = 1.0 / (np.abs(values) + 1e-3)
    shades = np.stack([colors[place] for place in at], axis=1)
    shade = (shades * nearness[..., None]).sum(axis=1) / nearness.sum(axis=1, keepdims=True)
    vertices = origin + spacing * (cells + total / count[:, None])
    number = np.full(tuple(shape), -1, np.int64)
    number[tuple(cells.T)] = np.arange(len(cells))
    return Mesh(vertices, _faces(inside, number), np.clip(shade, 0.0, 1.0))


def _faces(inside: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Returns two triangles for each grid edge that changes sign between four cells with a vertex."""
    found = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        near, far = [slice(None)] * 3, [slice(None)] * 3
        near[axis], far[axis] = slice(0, -1), slice(1, None)
        edges = np.argwhere(inside[tuple(near)] != inside[tuple(far)])
        # Edges on the border of the grid have fewer than four cells around them.
        most = np.array(number.shape)
        edges = edges[((edges[:, [u, v]] >= 1) & (edges[:, [u, v]] < most[[u, v]])).all(axis=1)]
        around = []
        for du, dv in ((1, 1), (0, 1), (0, 0), (1, 0)):
            cell = edges.copy()
            cell[:, u] -= du
            cell[:, v] -= dv
            around.append(number[tuple(cell.T)])
        quads = np.stack(around, axis=1)
        outward = inside[tuple(edges.T)]
        quads = np.where(outward[:, None], quads, quads[:, ::-1])
        found.append(quads[(quads >= 0).all(axis=1)])
    quads = np.concatenate(found)
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
