"""Surfaces out of grids, meshes out of Gaussians on a ball whose size, colour and motion are known, and their files."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.io.glb import Document
from gaussian4d.mesh import Mesh, followed_mesh, fuse, surface, write_followed_mesh, write_mesh
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import FreeTime, PerFrame, Static
from gaussian4d.motion.per_frame import PerFrameConfig
from gaussian4d.paths import cameras_around

RADIUS = 0.5
VELOCITY = (0.2, 0.1, -0.1)


def grid(function, count: int = 24) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns (values, points, spacing) of `function` on a grid over -1 .. 1."""
    axis = np.linspace(-1, 1, count)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    return function(points), points, axis[1] - axis[0]


def test_the_surface_of_a_ball_in_a_grid() -> None:
    values, points, spacing = grid(lambda p: np.linalg.norm(p - [0.1, 0, 0], axis=-1) - 0.6)
    mesh = surface(values, np.ones(values.shape, bool), 0.5 + 0.5 * points, points[0, 0, 0], spacing)
    radii = np.linalg.norm(mesh.vertices - [0.1, 0, 0], axis=1)
    assert np.abs(radii - 0.6).max() < 0.1 * spacing
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    # Positive: triangles are anticlockwise from outside.
    assert solid.is_watertight and solid.volume == pytest.approx(4 / 3 * math.pi * 0.6**3, rel=0.03)
    assert np.abs(mesh.colors - (0.5 + 0.5 * mesh.vertices)).max() < spacing


def test_what_is_not_known_holds_no_surface() -> None:
    values, points, spacing = grid(lambda p: p[..., 0] + 0.01)
    known = points[..., 1] > 0
    mesh = surface(values, known, np.zeros((*values.shape, 3)), points[0, 0, 0], spacing)
    assert len(mesh.faces) and np.allclose(mesh.vertices[:, 0], -0.01)
    assert mesh.vertices[:, 1].min() > 0 and mesh.vertices[:, 1].max() > 0.9
    assert (
        len(surface(np.ones((4, 4, 4)), np.ones((4, 4, 4), bool), np.zeros((4, 4, 4, 3)), np.zeros(3), 1.0).faces) == 0
    )


def test_crumbs_are_swept_up() -> None:
    def two(p: np.ndarray) -> np.ndarray:
        return np.minimum(np.linalg.norm(p, axis=-1) - 0.5, np.linalg.norm(p - 0.8, axis=-1) - 0.06)

    values, points, spacing = grid(two, 40)
    mesh = surface(values, np.ones(values.shape, bool), np.zeros((*values.shape, 3)), points[0, 0, 0], spacing)
    kept = mesh.without_crumbs()
    assert mesh.vertices.max() > 0.7 and kept.vertices.max() < 0.55
    assert trimesh.Trimesh(kept.vertices, kept.faces, process=False).is_watertight


def ball(moving: bool = True, count: int = 3000) -> DynamicGaussians:
    """Flat, opaque Gaussians on a ball around the origin at time 0, red above and green below."""
    k = np.arange(count) + 0.5
    polar, angle = np.arccos(1 - 2 * k / count), math.pi * (1 + 5**0.5) * k
    normals = np.stack([np.cos(angle) * np.sin(polar), np.sin(angle) * np.sin(polar), np.cos(polar)], axis=1)
    # Turn the short z axis to the normal: the half way vector of both, as a quaternion.
    quats = np.concatenate([1 + normals[:, 2:], -normals[:, 1:2], normals[:, :1], np.zeros((count, 1))], axis=1)
    colors = np.where(normals[:, 2:] > 0, [[1.0, 0, 0]], [[0, 1.0, 0]])
    params = {
        "means": RADIUS * normals,
        "quats": quats,
        "scales": np.log([[0.025, 0.025, 0.002]]).repeat(count, 0),
        "opacities": np.full(count, 6.0),
        "sh0": ((colors - 0.5) / 0.28209479177387814)[:, None],
        "shN": np.zeros((count, 0, 3)),
    }
    if moving:
        params |= {
            "velocities": np.tile(VELOCITY, (count, 1)),
            "times": np.zeros(count),
            "durations": np.full(count, 5.0),
        }
    table = {name: torch.tensor(value, dtype=torch.float32) for name, value in params.items()}
    return DynamicGaussians(table, FreeTime() if moving else Static(), times=np.array([0.0, 0.5, 1.0]))


@pytest.fixture(scope="module")
def cameras() -> list[Camera]:
    """A ring around the ball, and one camera below it."""
    ring = cameras_around(np.array([[0, 0, -RADIUS], [0, 0, RADIUS]]), width=96, height=96, count=8)
    below = Camera.look_at(
        np.array([0.01, 0, -1.6]), np.zeros(3), np.array([0, 1.0, 0]), width=96, height=96, focal=80.0
    )
    return [*ring, below]


def test_a_fused_ball_has_its_size_place_and_colour(cameras: list[Camera]) -> None:
    time = 0.5
    mesh = fuse(ball(), time, cameras, detail=40)
    center = np.array(VELOCITY) * time
    radii = np.linalg.norm(mesh.vertices - center, axis=1)
    spacing = 2.16 * RADIUS / 39
    assert np.abs(radii - RADIUS).mean() < 0.4 * spacing and np.abs(radii - RADIUS).max() < 2.0 * spacing
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert solid.area == pytest.approx(4 * math.pi * RADIUS**2, rel=0.1)
    outward = ((solid.triangles_center - center) * solid.face_normals).sum(axis=1) > 0
    assert outward.mean() > 0.97
    above = mesh.vertices[:, 2] > center[2] + 0.1
    below = mesh.vertices[:, 2] < center[2] - 0.1
    assert mesh.colors[above].mean(axis=0) == pytest.approx([1, 0, 0], abs=0.15)
    assert mesh.colors[below].mean(axis=0) == pytest.approx([0, 1, 0], abs=0.15)
    with pytest.raises(UserError, match="detail"):
        fuse(ball(), time, cameras, detail=3)


def test_a_followed_mesh_moves_as_the_gaussians_and_plays_in_gltf(cameras: list[Camera], tmp_path: Path) -> None:
    model = ball()
    followed = followed_mesh(model, 0.5, [0.0, 0.5, 1.0], cameras, detail=24)
    for row, time in enumerate(followed.times):
        expected = followed.mesh.vertices + (time - 0.5) * np.array(VELOCITY)
        assert np.abs(followed.positions[row] - expected).max() < 1e-3
    write_followed_mesh(tmp_path / "a.glb", followed, 4.0, vertical_axis="z")
    document = Document(tmp_path / "a.glb")
    primitive = document.json["meshes"][0]["primitives"][0]
    base = document.accessor(primitive["attributes"]["POSITION"], 3)
    last = base + document.accessor(primitive["targets"][2]["POSITION"], 3)
    # y up: the world's z goes to y, x to z, y to x.
    assert np.allclose(last, followed.positions[2][:, [1, 2, 0]], atol=1e-6)
    sampler = document.json["animations"][0]["samplers"][0]
    assert document.accessor(sampler["input"], 1)[:, 0].tolist() == [0.0, 2.0, 4.0]
    assert document.accessor(sampler["output"], 1).reshape(3, 3).tolist() == np.eye(3).tolist()
    separate = DynamicGaussians(
        {**ball(False, 100).params, "instants": torch.zeros(100)}, PerFrame(PerFrameConfig((0.0,)))
    )
    with pytest.raises(UserError, match="tracks"):
        followed_mesh(separate, 0.0, [0.0, 1.0], cameras, detail=24)


def test_a_mesh_file_is_what_another_reader_finds(tmp_path: Path) -> None:
    box = trimesh.creation.box((2, 4, 6))
    colors = np.tile([0.5, 1.0, 0.0], (len(box.vertices), 1))
    write_mesh(tmp_path / "a.glb", Mesh(np.asarray(box.vertices), np.asarray(box.faces), colors), vertical_axis="z")
    again = trimesh.load(tmp_path / "a.glb", force="mesh")
    assert again.extents.tolist() == pytest.approx([4, 6, 2]) and again.volume == pytest.approx(48)
    # Half grey of a screen is 0.214 of linear light.
    document = Document(tmp_path / "a.glb")
    place = document.json["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]
    assert document.accessor(place, 3)[0].tolist() == pytest.approx([0.2140, 1.0, 0.0], abs=1e-4)
    with pytest.raises(UserError, match="no faces"):
        write_mesh(tmp_path / "b.glb", Mesh(np.zeros((0, 3)), np.zeros((0, 3), int), np.zeros((0, 3))))
