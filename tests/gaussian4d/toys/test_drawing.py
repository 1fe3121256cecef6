"""Buffers against closed forms and against each other."""

from __future__ import annotations

import numpy as np
import pytest

from gaussian4d.cameras import Camera
from gaussian4d.conventions import invert_rigid
from gaussian4d.errors import UserError
from gaussian4d.toys import Part, ToyWorld, make_world, shapes
from gaussian4d.toys.motions import Slide, rotation
from gaussian4d.toys.textures import COLORS, Texture
from gaussian4d.toys.world import Light

PLAIN = Texture("solid", ("red", "red"))


def camera(eye: tuple[float, float, float] = (3.0, -2.0, 1.5), size: int = 65, focal: float = 90.0) -> Camera:
    return Camera.look_at(np.array(eye), np.zeros(3), np.array([0.0, 0, 1]), width=size, height=size, focal=focal)


def test_sphere_depth_normal_and_place_at_the_centre() -> None:
    world = ToyWorld((Part("ball", shapes.sphere(0.5, detail=128), PLAIN),))
    eye = camera()
    view = world.render(eye)
    distance = np.linalg.norm(eye.position)
    assert view.depth is not None and view.normal is not None and view.xyz is not None
    assert view.depth[32, 32, 0] == pytest.approx(distance - 0.5, abs=5e-4)
    np.testing.assert_allclose(view.normal[32, 32], -eye.forward, atol=0.02)
    hit = view.depth[..., 0] > 0
    radii = np.linalg.norm(view.xyz[hit], axis=-1)
    assert radii.min() > 0.5 * (1 - (np.pi / 128) ** 2) and radii.max() < 0.5 + 1e-6
    np.testing.assert_allclose(view.normal[hit], view.xyz[hit] / 0.5, atol=0.01)


def test_turned_box_shows_its_face_normal_and_lambertian_colour() -> None:
    turn = rotation((0.0, 0.0, 1.0), 0.3)
    light = Light(direction=(1.0, 0.0, 0.0), sun=0.5, sky=0.4, bounce=0.2)
    world = ToyWorld((Part("box", shapes.box((0.4, 0.4, 0.4)), PLAIN, rest=turn),), light)
    view = world.render(camera((4.0, 0.0, 0.0)))
    face = np.array([np.cos(0.3), np.sin(0.3), 0.0])
    assert view.normal is not None and view.rgb is not None
    np.testing.assert_allclose(view.normal[32, 32], face, atol=1e-6)
    np.testing.assert_allclose(view.rgb[32, 32], np.array(COLORS["red"]) * (0.3 + 0.5 * np.cos(0.3)), atol=1e-6)


def test_coverage_of_a_disc_is_its_area_and_colour_stays_straight() -> None:
    world = ToyWorld((Part("disc", shapes.cylinder(0.4, 0.001, detail=256), PLAIN),))
    above = camera((0.0, 0.0, 4.0), focal=100.0)
    one, many = (world.render(above, buffers=("rgb", "alpha"), samples=n) for n in (1, 16))
    radius = 100.0 * 0.4 / (4.0 - 0.001)
    assert many.alpha is not None and one.alpha is not None and many.rgb is not None
    assert many.alpha.sum() == pytest.approx(np.pi * radius**2, rel=0.002)
    assert set(np.unique(one.alpha)) == {0.0, 1.0}
    assert ((many.alpha > 0) & (many.alpha < 1)).sum() > 50
    covered = many.rgb[many.alpha[..., 0] > 0]
    # The rim's wall is seen at a grazing angle at most; the top's colour is not mixed with any background.
    np.testing.assert_allclose(covered, np.broadcast_to(np.median(covered, axis=0), covered.shape), atol=1e-5)
    assert (many.rgb[many.alpha[..., 0] == 0] == 0).all()


def test_nearest_part_wins() -> None:
    far = Part("far", shapes.sphere(0.5), Texture("solid", ("blue", "blue")))
    near = Part("near", shapes.box((0.05, 0.05, 0.05)), PLAIN, position=(0.9, -0.6, 0.45))
    for parts in ((far, near), (near, far)):
        view = ToyWorld(parts).render(camera())
        assert view.rgb is not None and view.depth is not None
        assert view.rgb[32, 32, 0] > view.rgb[32, 32, 2]
        assert view.depth[32, 32, 0] < np.linalg.norm(camera().position) - 1.0


def test_depth_and_xyz_agree_through_unprojection() -> None:
    eye = camera(size=48, focal=60.0)
    view = make_world(3).render(eye, 0.4, ("depth", "xyz"))
    assert view.depth is not None and view.xyz is not None and view.rgb is None
    rows, columns = np.nonzero(view.depth[..., 0])
    assert len(rows) > 300
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], axis=1)
    local = pixels @ np.linalg.inv(eye.K).T * view.depth[rows, columns]
    T = eye.T_world_camera
    np.testing.assert_allclose(local @ T[:3, :3].T + T[:3, 3], view.xyz[rows, columns], atol=1e-5)
    assert (view.xyz[view.depth[..., 0] == 0] == 0).all()


def test_flow_is_the_projected_motion_of_the_same_surface_point() -> None:
    world = make_world(5)
    eye = camera(size=48, focal=60.0)
    time, later = 0.3, 0.37
    view = world.render(eye, time, ("xyz", "flow", "depth"), flow_to=later)
    assert view.xyz is not None and view.flow is not None and view.depth is not None
    seen = 0
    for index, part in enumerate(world.parts):
        # Which part a point belongs to is found from geometry alone: its distance to the part's triangles' planes.
        local = world.part_points(index, view.xyz.reshape(-1, 3).astype(np.float64), time)
        mine = (view.depth.ravel() > 0) & (_distance(part, local) < 1e-5)
        T = part.T_world_part(later) @ invert_rigid(part.T_world_part(time))
        start = view.xyz.reshape(-1, 3)[mine]
        end = start @ T[:3, :3].T + T[:3, 3]
        expected = _pixels(eye, end) - _pixels(eye, start)
        np.testing.assert_allclose(view.flow.reshape(-1, 2)[mine], expected, atol=1e-3)
        if part.motions and mine.any():
            seen += 1
            assert np.abs(expected).max() > 0.5
    assert seen >= 2


def test_flow_defaults_to_one_frame_later() -> None:
    part = Part("ball", shapes.sphere(0.5), PLAIN, motions=[Slide((0.0, 0.3, 0.0), 0.5)])
    world = ToyWorld((part,), instants=11)
    eye = camera((4.0, 0.0, 0.0))
    default, explicit = world.render(eye, 0.2, ("flow",)), world.render(eye, 0.2, ("flow",), flow_to=0.3)
    assert default.flow is not None and explicit.flow is not None
    np.testing.assert_allclose(default.flow, explicit.flow, atol=1e-6)
    moved = 0.3 * (np.sin(np.pi * 0.3) - np.sin(np.pi * 0.2))
    depth = 3.5
    np.testing.assert_allclose(explicit.flow[32, 32], [90 * moved / depth, 0], atol=0.05)


def test_camera_inside_a_part_s_box_still_sees() -> None:
    # The table spans the whole picture and reaches behind the eye.
    table = Part("table", shapes.disc(2.0, 0.05, 0.03), PLAIN)
    eye = Camera.look_at(np.array([0.0, 0, 0.5]), np.array([1.0, 0, 0.1]), np.array([0.0, 0, 1]),
                         width=16, height=16, focal=8.0)  # fmt: skip
    view = ToyWorld((table,)).render(eye)
    assert view.alpha is not None and view.alpha[-1].min() == 1.0


@pytest.mark.parametrize("change", [{"buffers": ("rgb", "colour")}, {"samples": 0}])
def test_wrong_settings_are_named(change: dict) -> None:
    with pytest.raises(UserError, match="expected"):
        ToyWorld((Part("ball", shapes.sphere(0.5), PLAIN),)).render(camera(), **change)


def _pixels(eye: Camera, world: np.ndarray) -> np.ndarray:
    p = (world @ eye.viewmat[:3, :3].T + eye.viewmat[:3, 3]) @ eye.K.T
    return p[:, :2] / p[:, 2:]


def _distance(part: Part, local: np.ndarray) -> np.ndarray:
    """Distance of points [N, 3] to the part's surface, by trimesh."""
    import trimesh

    mesh = trimesh.Trimesh(part.shape.vertices, part.shape.faces, process=False)
    near = np.linalg.norm(local, axis=1) <= part.shape.radius + 1e-3
    out = np.full(len(local), np.inf)
    if near.any():
        out[near] = trimesh.proximity.closest_point_naive(mesh, local[near])[1]
    return out
