"""Meshes are closed, wound outwards, and as large as asked; embree's hits are exact."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from gaussian4d.toys import shapes
from gaussian4d.toys.raycast import Caster

SHAPES = {
    "box": (shapes.box((0.2, 0.3, 0.5)), 8 * 0.2 * 0.3 * 0.5),
    "sphere": (shapes.sphere(0.5), 4 / 3 * np.pi * 0.5**3),
    "capsule": (shapes.capsule(0.3, 0.4), np.pi * 0.3**2 * 0.8 + 4 / 3 * np.pi * 0.3**3),
    "cylinder": (shapes.cylinder(0.4, 0.3), np.pi * 0.4**2 * 0.6),
    "cone": (shapes.cone(0.4, 0.5), np.pi * 0.4**2 * 1.0 / 3),
    "torus": (shapes.torus(0.4, 0.1), 2 * np.pi**2 * 0.4 * 0.1**2),
    "ellipsoid": (shapes.superquadric((0.2, 0.3, 0.4), 1.0, 1.0), 4 / 3 * np.pi * 0.2 * 0.3 * 0.4),
}


@pytest.mark.parametrize("name", SHAPES)
def test_volume_is_the_solid_s(name: str) -> None:
    shape, volume = SHAPES[name]
    mesh = trimesh.Trimesh(shape.vertices, shape.faces, process=False)
    mesh.merge_vertices(merge_norm=True, merge_tex=True)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(volume, rel=0.015)


@pytest.mark.parametrize("name", SHAPES)
def test_vertex_normals_are_unit_and_agree_with_the_faces(name: str) -> None:
    shape, _ = SHAPES[name]
    np.testing.assert_allclose(np.linalg.norm(shape.normals, axis=1), 1, atol=1e-12)
    corners = shape.vertices[shape.faces]
    face = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    face /= np.linalg.norm(face, axis=1, keepdims=True)
    assert np.einsum("fd,fkd->fk", face, shape.normals[shape.faces]).min() > 0.9


def test_superquadric_vertices_satisfy_the_implicit_equation() -> None:
    a, e1, e2 = np.array([0.3, 0.4, 0.5]), 0.4, 0.7
    x, y, z = np.abs(shapes.superquadric(tuple(a), e1, e2).vertices / a).T
    np.testing.assert_allclose((x ** (2 / e2) + y ** (2 / e2)) ** (e2 / e1) + z ** (2 / e1), 1, rtol=1e-9)


def test_hits_of_a_box_are_exact_in_float64() -> None:
    caster = Caster(shapes.box((0.3, 0.3, 0.3)))
    rng = np.random.default_rng(0)
    origins = np.tile([0.01, 0.02, 4.123456789012], (200, 1))
    directions = np.concatenate([rng.uniform(-0.05, 0.05, (200, 2)), -np.ones((200, 1))], axis=1)
    hits = caster.cast(origins, directions)
    assert len(hits.rays) == 200
    exact = caster.exact_t(hits, origins, directions)
    np.testing.assert_allclose(exact, 3.823456789012, rtol=0, atol=1e-12)
    np.testing.assert_allclose(caster.normals(hits), np.tile([0, 0, 1], (200, 1)), atol=1e-6)
