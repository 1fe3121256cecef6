"""Worlds are a function of their seed, stay where they promise, and their tracks ride on the parts."""

from __future__ import annotations

import numpy as np
import pytest

from gaussian4d.errors import UserError
from gaussian4d.toys import Part, ToyWorld, make_world, ring_cameras, shapes
from gaussian4d.toys.build import RADIUS
from gaussian4d.toys.motions import Hop, Orbit, Slide, Spin, Swing
from gaussian4d.toys.textures import COLORS, PATTERNS, Texture


def picture(seed: int) -> np.ndarray:
    eye = ring_cameras(1, 0, width=32, height=32)[0][0]
    rgb = make_world(seed).render(eye, 0.3, ("rgb",)).rgb
    assert rgb is not None
    return rgb


def test_a_seed_gives_the_same_world_and_another_seed_another() -> None:
    np.testing.assert_array_equal(picture(4), picture(4))
    assert np.abs(picture(4) - picture(5)).max() > 0.2


@pytest.mark.parametrize("seed", range(24))
def test_worlds_stay_inside_their_sphere_above_the_table_and_move(seed: int) -> None:
    world = make_world(seed)
    assert 3 <= len([part for part in world.parts if part.motions]) <= 4
    top = -0.5
    for time in np.linspace(0, 1, 13):
        for part in world.parts:
            T = part.T_world_part(time)
            xyz = part.shape.vertices @ T[:3, :3].T + T[:3, 3]
            assert np.linalg.norm(xyz, axis=1).max() < RADIUS
            if part.motions:
                assert xyz[:, 2].min() > top - 1e-6
    tracks = world.tracks(50)
    assert np.linalg.norm(tracks - tracks[0], axis=-1).max() > 0.2


def test_parts_do_not_meet() -> None:
    for seed in range(12):
        world = make_world(seed)
        movers = [part for part in world.parts if part.motions]
        for time in np.linspace(0, 1, 9):
            eyes = [part.T_world_part(time)[:3, 3] for part in movers]
            sizes = [np.linalg.norm(part.shape.half_size[:2]) for part in movers]
            for i in range(1, len(movers)):
                for j in range(i):
                    gap = np.linalg.norm((eyes[i] - eyes[j])[:2])
                    assert gap > 0.7 * (sizes[i] + sizes[j]), (seed, time, movers[i].name, movers[j].name)


@pytest.mark.parametrize(
    "motion",
    [
        Spin((0.3, 0.2, 1.0), 1.0),
        Orbit((-0.5, 0.2, 0.0), 0.5),
        Swing((1.0, 0.0, 0.0), 0.5, 1.5, 0.2, (0.0, 0.0, 0.4)),
        Hop(0.4, 2.0, 0.1),
        Slide((0.2, 0.1, 0.0), 1.0),
    ],
)
def test_motions_are_rigid_and_smooth(motion) -> None:
    step = 1e-4
    for time in np.linspace(0, 1, 7):
        T = motion.T(time)
        np.testing.assert_allclose(T[:3, :3] @ T[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(T[:3, :3]) == pytest.approx(1.0)
        # Second differences of a twice differentiable motion fall with the square of the step.
        bend = motion.T(time + step) - 2 * T + motion.T(time - step)
        assert np.abs(bend).max() < 200 * step**2


def test_orbit_keeps_its_distance_to_the_pivot_and_comes_back() -> None:
    part = Part(
        "x", shapes.sphere(0.1), Texture("solid", ("red", "red")), (0.8, 0, 0), motions=[Orbit((-0.8, 0, 0), 1)]
    )
    np.testing.assert_allclose(part.T_world_part(0.25)[:3, 3], [0, 0.8, 0], atol=1e-12)
    np.testing.assert_allclose(part.T_world_part(1.0), part.T_world_part(0.0), atol=1e-12)


def test_tracks_are_surface_points_carried_by_their_part() -> None:
    world = make_world(2)
    times = [0.0, 0.25, 0.9]
    owner, local = world.surface_points(40, seed=3)
    tracks = world.tracks(40, seed=3, times=times)
    assert tracks.shape == (3, 40, 3)
    assert set(owner) <= {k for k, part in enumerate(world.parts) if part.motions}
    for k, time in enumerate(times):
        for n in range(40):
            T = world.parts[owner[n]].T_world_part(time)
            np.testing.assert_allclose(tracks[k, n], T[:3, :3] @ local[n] + T[:3, 3], atol=1e-12)
    # Back in the part's frame the points stand still, on the mesh.
    np.testing.assert_allclose(world.part_points(owner[0], tracks[:, 0][1:2], 0.25), local[:1], atol=1e-12)


def test_surface_points_are_even_by_area() -> None:
    box = Part("box", shapes.box((0.1, 0.1, 0.5)), Texture("solid", ("red", "red")), motions=[Hop(0.1, 1.0)])
    table = Part("table", shapes.disc(1.0, 0.05, 0.03), Texture("solid", ("sand", "sand")))
    owner, local = ToyWorld((table, box)).surface_points(4000, seed=1)
    assert (owner == 1).all()
    np.testing.assert_allclose(np.abs(local / [0.1, 0.1, 0.5]).max(axis=1), 1, atol=1e-12)
    caps = np.abs(local[:, 2]) > 0.5 - 1e-9
    assert caps.mean() == pytest.approx(0.08 / 0.88, abs=0.02)
    assert np.abs(local.mean(axis=0)).max() < 0.02


@pytest.mark.parametrize("pattern", PATTERNS)
def test_solid_textures_mix_only_their_two_colours(pattern: str) -> None:
    texture = Texture(pattern, ("red", "white"), "solid", (0.3, 0.4, 0.5))
    colors = texture.color(np.random.default_rng(0).uniform(-1, 1, (500, 3)))
    red, white = np.array(COLORS["red"]), np.array(COLORS["white"])
    weight = ((colors - red) / (white - red)).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(colors, red + weight * (white - red), atol=1e-12)
    assert weight.min() >= -1e-12 and weight.max() <= 1 + 1e-12
    assert (weight.max() - weight.min() < 1e-12) if pattern == "solid" else (weight.max() - weight.min() > 0.95)


@pytest.mark.parametrize("pattern", ["checker", "stripes", "dots"])
@pytest.mark.parametrize(("mapping", "cell"), [("wrap", (6.0, 0.3, 1.0)), ("ball", (12.0, 1.0, 1.0))])
def test_wrapped_textures_have_no_seam(pattern: str, mapping: str, cell: tuple[float, float, float]) -> None:
    texture = Texture(pattern, ("red", "white"), mapping, cell, axis=0)
    z = np.linspace(-0.4, 0.4, 50)
    left, right = (np.stack([np.full(50, -0.5), np.full(50, y), z], axis=1) for y in (-1e-7, 1e-7))
    np.testing.assert_allclose(texture.color(left), texture.color(right), atol=1e-4)


def test_bad_arguments_are_named() -> None:
    with pytest.raises(UserError, match="seed"):
        make_world(-1)
    with pytest.raises(UserError, match="parts"):
        make_world(0, parts=7)
