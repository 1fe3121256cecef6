"""Where a fit starts: the frame it works in, the hull, the surroundings, the settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.fitting.config import FitConfig
from gaussian4d.fitting.hull import carve
from gaussian4d.fitting.initialise import initial_params, initial_points, instant_groups
from gaussian4d.fitting.normalise import Normalisation
from gaussian4d.fitting.presets import preset_config
from gaussian4d.fitting.sampler import FrameSampler
from gaussian4d.fitting.schedule import progress_of, resolution_at, sh_degree_at
from gaussian4d.fitting.surroundings import agreement, surrounding_points
from gaussian4d.fitting.views import View, project, seen_by
from gaussian4d.motion import MOTIONS, is_shared, make_motion
from gaussian4d.scene import load_scene


def silent(message: str) -> None:
    pass


def test_normalisation_puts_the_ring_around_the_origin(ring: Callable[..., list[Camera]]) -> None:
    shift, size = np.array([10.0, -4.0, 2.0]), 7.0
    cameras = []
    for camera in ring(6):
        viewmat = camera.viewmat.copy()
        viewmat[:3, 3] = viewmat[:3, 3] * size - viewmat[:3, :3] @ shift
        cameras.append(camera.transformed(viewmat))
    normalisation = Normalisation.from_cameras(cameras)
    np.testing.assert_allclose(normalisation.centre, shift, atol=1e-6)
    inside = [normalisation.camera(camera) for camera in cameras]
    np.testing.assert_allclose([np.linalg.norm(camera.position) for camera in inside], 1.0)
    # The same point falls on the same pixel in both frames.
    world = shift + np.array([[0.3, 0.2, -0.1]])
    for before, after in zip(cameras, inside):
        np.testing.assert_allclose(project(before, world)[0], project(after, normalisation.points(world))[0], atol=1e-6)


def test_normalisation_of_parallel_cameras_is_in_front_of_them() -> None:
    rig = [
        Camera.look_at(
            np.array([x, 0.0, 0.0]), np.array([x, 5.0, 0.0]), np.array([0.0, 0.0, 1.0]), width=8, height=8, focal=8
        )
        for x in (-1.0, 0.0, 1.0)
    ]
    assert Normalisation.from_cameras(rig).centre[1] > 0


@pytest.mark.parametrize("name", ["static", "dual-domain", "free-time"])
def test_normalisation_is_undone_for_every_column(name: str) -> None:
    motion = make_motion(name)
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "means": (3,),
        "quats": (4,),
        "scales": (3,),
        "opacities": (),
        "sh0": (1, 3),
        "shN": (3, 3),
        **motion.columns(),
    }
    params = {key: torch.randn(7, *shape, generator=generator, dtype=torch.float64) for key, shape in shapes.items()}
    normalisation = Normalisation(np.array([1.0, 2.0, 3.0]), 0.25)
    for time in (0.0, 0.6):
        inside = motion.at(params, time)
        world = motion.at(normalisation.undo(params, motion), time)
        torch.testing.assert_close(
            (world.means - torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)) * 0.25, inside.means
        )
        torch.testing.assert_close(world.scales * 0.25, inside.scales)
        torch.testing.assert_close(world.opacities, inside.opacities)


def test_hull_of_a_ball(ball_scene: Path) -> None:
    from gaussian4d.fitting.views import view_of

    scene = load_scene(ball_scene)
    frames = [frame for frame in scene.frames("all") if frame.time == 0.0]
    normalisation = Normalisation.from_cameras([frame.camera for frame in frames])
    xyz, rgb, _ = carve([view_of(frame, normalisation) for frame in frames], 1.0, 0.95, 6)
    assert len(xyz) > 100
    world = xyz / normalisation.scale + normalisation.centre
    distance = np.linalg.norm(world - np.array([-0.25, 0.0, 0.1]), axis=1)
    # The hull contains the ball and, seen from six sides, bulges out of it, but not far.
    assert distance.min() > 0.5 - 0.15 and distance.max() < 0.75
    # The ball's colour is its normal, so colours must vary with the position.
    assert np.corrcoef(world[:, 0], rgb[:, 0])[0, 1] > 0.5


def test_hull_without_masks_or_views_is_empty(ring: Callable[..., list[Camera]]) -> None:
    views = [View(camera, np.zeros((24, 24, 3)), None, 0.0, camera.id) for camera in ring(4)]
    assert len(carve(views, 1.0, 0.9, 3)[0]) == 0
    views = [View(camera, np.zeros((24, 24, 3)), np.zeros((24, 24)), 0.0, camera.id) for camera in ring(4)]
    assert len(carve(views, 1.0, 0.9, 3)[0]) == 0


def test_surroundings_are_seen_by_three_cameras_and_coloured(ring: Callable[..., list[Camera]]) -> None:
    # Wide lenses: cameras see past each other.
    rig = ring(6, focal=0.5)
    normalisation = Normalisation.from_cameras(rig)
    views = [
        View(normalisation.camera(camera), np.full((24, 24, 3), 0.1 * k), None, 0.5, camera.id)
        for k, camera in enumerate(rig)
    ]
    xyz, rgb = surrounding_points(views, 200, 3, (0.9, 3.0), np.random.default_rng(0))
    assert 0 < len(xyz) <= 200
    assert seen_by(views, xyz).min() >= 3
    assert rgb.min() >= 0.0 and rgb.max() <= 0.5
    assert (np.linalg.norm(xyz, axis=1) > 0.9).any() and (np.linalg.norm(xyz, axis=1) < 0.9).any()
    colors, spread, seen = agreement(views, xyz)
    assert np.all(spread[seen >= 3] < 0.5) and colors.shape == xyz.shape


@pytest.mark.parametrize("name", [*MOTIONS.choices(), "windows"])
def test_start_of_a_fit_has_every_column(ball_scene: Path, name: str) -> None:
    scene = load_scene(ball_scene)
    frames = scene.frames("train")
    normalisation = Normalisation.from_cameras([frame.camera for frame in frames])
    config = FitConfig(motion=name, max_steps=10).replace({"init.points": 300, "init.instants": 4})
    motion = make_motion(name)
    points = initial_points(scene, frames, normalisation, config, 0, silent)
    params = initial_params(points, motion, config)
    n = len(points)
    assert 100 < n <= 300
    assert all(torch.isfinite(value).all() for value in params.values())
    assert all(value.shape[0] == n for name, value in params.items() if not is_shared(name))
    assert set(motion.columns()) | set(motion.shared_shapes()) <= set(params)
    if motion.windowed:
        assert sorted(set(params["times"].tolist())) == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0])
        deviation = config.init.duration / 3 * (math.sqrt(2) if name == "spacetime" else 1.0)
        torch.testing.assert_close(params["durations"], torch.full((n,), math.log(deviation)))
    if name == "hexplane":
        low, high = params["shared.bounds"]
        assert torch.all(low < params["means"].amin(0)) and torch.all(params["means"].amax(0) < high)
        other = initial_params(points, motion, config.replace(seed=1))
        assert not torch.equal(other["shared.space.0"], params["shared.space.0"])


def test_one_moving_camera_gives_windows_of_successive_frames(write_ball: Callable[..., Path], tmp_path: Path) -> None:
    scene = load_scene(write_ball(tmp_path / "mono", cameras=5, instants=2, test=()))
    by_camera = {frame.camera_id: frame for frame in scene.frames("train")}
    frames = list(by_camera.values())
    for k, frame in enumerate(frames):
        frame.time = k / 4
    groups, allowed = instant_groups(frames, 3)
    assert allowed < 0.95 and all(len(group) == 5 for group in groups)


def test_sampler_sees_every_frame_once_per_epoch_and_resumes() -> None:
    generator = torch.Generator().manual_seed(1)
    sampler = FrameSampler(5, generator)
    ahead = sampler.upcoming(8)
    drawn = [sampler.next() for _ in range(7)]
    assert drawn == ahead[:7]
    tensors, values = sampler.state()
    state = generator.get_state()
    rest = [sampler.next() for _ in range(13)]
    assert sorted(drawn[:5]) == list(range(5)) and sorted(drawn[5:] + rest[:3]) == list(range(5))
    again = torch.Generator()
    other = FrameSampler(5, again)
    other.load_state(tensors, values)
    again.set_state(state)
    assert [other.next() for _ in range(13)] == rest


def test_schedules() -> None:
    assert progress_of(50, 30.0, 100, 10.0) == 0.5
    assert progress_of(50, 540.0, 100, 10.0) == pytest.approx(0.9, rel=0.02)
    assert progress_of(200, 0.0, 100, None) == 1.0
    assert [resolution_at(((0.0, 4.0), (0.2, 2.0), (0.5, 1.0)), p) for p in (0.1, 0.3, 0.9)] == [4.0, 2.0, 1.0]
    assert [sh_degree_at(2, 0.2, p) for p in (0.1, 0.25, 0.45, 1.0)] == [0, 1, 2, 2]
    assert sh_degree_at(0, 0.2, 1.0) == 0


def test_settings_survive_json_and_reject_nonsense() -> None:
    config = FitConfig(max_steps=7, motion="dual-domain", motion_config={"means_poly": 2})
    import json

    assert FitConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for settings, word in (
        ({"max_steps": None}, "end"),
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": 1, "motion": "fluid"}, "free-time"),
        ({"max_steps": 1, "background": "green"}, "white"),
        ({"max_steps": 1, "motion_config": {"x": 1}}, "static_duration"),
    ):
        with pytest.raises(UserError, match=word):
            FitConfig(**settings)
    with pytest.raises(UserError, match="unknown fit setting learning_rate"):
        config.replace(learning_rate=1.0)


def test_presets_fit_the_scene(ball_scene: Path, write_ball: Callable[..., Path], tmp_path: Path) -> None:
    scene = load_scene(ball_scene)
    config = preset_config("quick", scene, {})
    assert (config.motion, config.background, config.exposure) == ("dual-domain", "random", False)
    assert preset_config("quick", scene, {"motion": "static"}).motion == "static"
    assert preset_config("balanced", scene, {"max_steps": 5}).motion == "free-time"
    for motion, moving in (("free-time", True), ("spacetime", True), ("dual-domain", False), ("static", False)):
        assert preset_config("balanced", scene, {"motion": motion}).init.velocities == moving
    assert not preset_config("balanced", scene, {"motion": "free-time", "init_velocities": False}).init.velocities
    limited = preset_config("balanced", scene, {"max_minutes": 2.0})
    assert limited.max_minutes == 2.0 and limited.max_steps is None
    both = preset_config("balanced", scene, {"max_minutes": 2.0, "max_steps": 9})
    assert both.max_steps == 9
    still = load_scene(write_ball(tmp_path / "still", instants=1))
    assert preset_config("best", still, {}).motion == "static"
