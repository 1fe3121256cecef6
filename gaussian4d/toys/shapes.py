"""Closed triangle meshes with vertex normals, centred at the origin, long axis along Z.

Most shapes are lathed: a profile of (radius, height) pieces is turned around Z. Pieces meet in creases, because each
keeps its own normals; inside a piece the normals are smooth.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import trimesh
from jaxtyping import Float, Int


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """A mesh in its own frame. `kind` names the shape for captions; texture mappings depend on it too."""

    kind: str
    vertices: Float[np.ndarray, "V 3"]
    faces: Int[np.ndarray, "F 3"]
    """Counter-clockwise seen from outside."""
    normals: Float[np.ndarray, "V 3"]
    """Unit, outward; creases have one vertex per side."""

    @property
    def half_size(self) -> Float[np.ndarray, " 3"]:
        """[3] largest |coordinate| along each axis."""
        return np.abs(self.vertices).max(axis=0)

    @property
    def radius(self) -> float:
        """Radius of the sphere around the origin that holds the shape."""
        return float(np.linalg.norm(self.vertices, axis=1).max())


def box(half: tuple[float, float, float]) -> Shape:
    """Returns a box with half edges `half`; each face has its own corners, so its normal is exact."""
    vertices, faces, normals = [], [], []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            normal = np.zeros(3)
            normal[axis] = sign
            u, v = np.eye(3)[[(axis + 1) % 3, (axis + 2) % 3]]
            corners = [normal + a * u + b * v for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            first = len(vertices)
            order = ((0, 1, 2), (0, 2, 3)) if sign > 0 else ((0, 2, 1), (0, 3, 2))
            vertices += corners
            normals += [normal] * 4
            faces += [tuple(first + k for k in triangle) for triangle in order]
    return Shape("box", np.array(vertices) * np.array(half), np.array(faces), np.array(normals))


def sphere(radius: float, detail: int = 64) -> Shape:
    """Returns a sphere; the mesh lies inside it by at most radius * (pi / detail)^2."""
    return dataclasses.replace(_arc_lathe(radius, 0.0, detail), kind="sphere")


def capsule(radius: float, half_length: float, detail: int = 64) -> Shape:
    """Returns a cylinder of half length `half_length` with half spheres of `radius` at its ends."""
    return dataclasses.replace(_arc_lathe(radius, half_length, detail), kind="capsule")


def cylinder(radius: float, half_height: float, detail: int = 64) -> Shape:
    """Returns a solid cylinder around Z."""
    r, h = radius, half_height
    pieces = [
        _straight((0.0, -h), (r, -h)),
        _straight((r, -h), (r, h)),
        _straight((r, h), (0.0, h)),
    ]
    return _lathe("cylinder", pieces, detail)


def cone(radius: float, half_height: float, detail: int = 64) -> Shape:
    """Returns a solid cone: base at -half_height, tip at +half_height."""
    r, h = radius, half_height
    # Several rings along the flank: normals interpolate well although all of them meet in the tip.
    flank = _straight((r, -h), (0.0, h), steps=8)
    return _lathe("cone", [_straight((0.0, -h), (r, -h)), flank], detail)


def torus(radius: float, tube: float, detail: int = 64) -> Shape:
    """Returns a ring around Z: `radius` to the middle of the tube, `tube` the tube's radius."""
    angle = np.linspace(-np.pi, np.pi, detail // 2 + 1)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return _lathe("torus", [(np.array([radius, 0.0]) + tube * direction, direction)], detail)


def disc(radius: float, half_height: float, bevel: float, detail: int = 96) -> Shape:
    """Returns a flat cylinder with a rounded upper edge: the ground the toys stand on."""
    r, h = radius, half_height
    angle = np.linspace(0.0, np.pi / 2, 9)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    edge = (np.array([r - bevel, h - bevel]) + bevel * direction, direction)
    pieces = [
        _straight((0.0, -h), (r, -h)),
        _straight((r, -h), (r, h - bevel)),
        edge,
        _straight((r - bevel, h), (0.0, h)),
    ]
    return dataclasses.replace(_lathe("disc", pieces, detail), kind="disc")


def superquadric(half: tuple[float, float, float], e1: float, e2: float, subdivisions: int = 4) -> Shape:
    """Returns |(|x/a|^(2/e2) + |y/b|^(2/e2))^(e2/e1) + |z/c|^(2/e1) = 1| as a star-shaped mesh.

    Args:
        half: (a, b, c), the half sizes.
        e1: Roundness from the equator to the poles: 1 an ellipsoid, towards 0 a box. In (0, 2).
        e2: Roundness around Z.
        subdivisions: Of the icosahedron that gives the directions.

    Source: Barr, "Superquadrics and Angle-Preserving Transformations", 1981 (implicit form and its gradient).
    """
    ball = trimesh.creation.icosphere(subdivisions=subdivisions)
    directions = np.asarray(ball.vertices, dtype=np.float64)
    a = np.array(half, dtype=np.float64)
    vertices = directions * _inside_out(directions / a, e1, e2)[:, None] ** (-e1 / 2)
    x, y, z = np.abs(vertices / a).T
    # Gradient of the implicit form; tiny floors keep 0^p finite on the coordinate planes.
    xy = np.maximum(x ** (2 / e2) + y ** (2 / e2), 1e-30)
    outer = xy ** (e2 / e1 - 1)
    gradient = np.stack([outer * x ** (2 / e2 - 1), outer * y ** (2 / e2 - 1), z ** (2 / e1 - 1)], axis=1)
    normals = np.sign(vertices) * gradient / a
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Shape("superquadric", vertices, np.asarray(ball.faces, dtype=np.int64), normals)


def _inside_out(p: np.ndarray, e1: float, e2: float) -> np.ndarray:
    """Returns the superquadric's implicit value [n] at points [n, 3] in units of its half sizes: 1 on the surface."""
    x, y, z = np.abs(p).T
    return (x ** (2 / e2) + y ** (2 / e2)) ** (e2 / e1) + z ** (2 / e1)


def _arc_lathe(radius: float, half_length: float, detail: int) -> Shape:
    """Returns a capsule (a sphere for `half_length` 0) as one smooth piece."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, detail // 2 + 1)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    direction[[0, -1], 0] = 0.0
    points = radius * direction
    if half_length > 0:
        middle = len(angle) // 2
        lower, upper = points[: middle + 1].copy(), points[middle:].copy()
        lower[:, 1] -= half_length
        upper[:, 1] += half_length
        points = np.concatenate([lower, upper])
        direction = np.concatenate([direction[: middle + 1], direction[middle:]])
    return _lathe("capsule", [(points, direction)], detail)


def _straight(start: tuple[float, float], end: tuple[float, float], steps: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns a straight profile piece: points [steps + 1, 2] and its normal, to the right of the way, repeated."""
    a, b = np.array(start), np.array(end)
    points = a + (b - a) * np.linspace(0.0, 1.0, steps + 1)[:, None]
    way = (b - a) / np.linalg.norm(b - a)
    return points, np.tile([way[1], -way[0]], (steps + 1, 1))


def _lathe(kind: str, pieces: list[tuple[np.ndarray, np.ndarray]], detail: int) -> Shape:
    """Returns the shape that profile pieces sweep around Z.

    A piece is points [m, 2] (radius, height) from bottom to top with normals [m, 2]. The seam repeats its vertices.
    """
    angle = np.linspace(0.0, 2 * np.pi, detail + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    ring[-1] = ring[0]
    vertices, normals, faces, first = [], [], [], 0
    for points, directions in pieces:
        m = len(points)
        for rows, out in ((points, vertices), (directions, normals)):
            xy = rows[:, None, :1] * ring[None]
            z = np.broadcast_to(rows[:, None, 1:], (m, detail + 1, 1))
            out.append(np.concatenate([xy, z], axis=-1).reshape(-1, 3))
        grid = first + np.arange(m * (detail + 1)).reshape(m, detail + 1)
        a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, 1:], grid[1:, :-1]
        lower = np.stack([a, b, c], axis=-1)[points[:-1, 0] > 0]
        upper = np.stack([a, c, d], axis=-1)[points[1:, 0] > 0]
        faces += [lower.reshape(-1, 3), upper.reshape(-1, 3)]
        first += m * (detail + 1)
    return Shape(kind, np.concatenate(vertices), np.concatenate(faces), np.concatenate(normals))
