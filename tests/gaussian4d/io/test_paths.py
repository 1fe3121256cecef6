"""Camera paths: where they go, what they look at, and times that never leave the clip."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.paths import (
    CameraPath,
    cameras_around,
    clip_times,
    load_path,
    orbit_path,
    rig_from_cameras,
    spiral_path,
)
from gaussian4d.recorded_paths import dataset_path

CENTER = np.array([2.0, -1.0, 5.0])


def rig(angles: np.ndarray, up: tuple = (0.0, 0.0, 1.0), radius: float = 4.0, height: float = 1.5) -> list[Camera]:
    """Returns cameras at `angles` degrees around CENTER, level, looking at it."""
    z = np.array(up) / np.linalg.norm(up)
    x = np.cross(z, [0.3, -0.8, 0.52])
    x /= np.linalg.norm(x)
    y = np.cross(z, x)
    cameras = []
    for index, angle in enumerate(np.radians(angles)):
        place = CENTER + radius * (np.cos(angle) * x + np.sin(angle) * y) + height * z
        cameras.append(Camera.look_at(place, CENTER, z, width=60, height=40, focal=50.0, id=str(index)))
    return cameras


def off_target(path: CameraPath, target: np.ndarray) -> float:
    """Returns the largest distance of a path's viewing axes from `target`."""
    offsets = [np.linalg.norm(np.cross(target - camera.position, camera.forward)) for camera, _ in path]
    return float(max(offsets))


@pytest.mark.parametrize("up", [(0.0, 0.0, 1.0), (0.0, -1.0, 0.0), (0.4, 0.5, 0.7)])
def test_the_rig_of_a_ring_is_recovered(up: tuple) -> None:
    found = rig_from_cameras(rig(np.arange(0, 360, 40), up))
    assert np.allclose(found.center, CENTER, atol=1e-9)
    assert np.allclose(found.up, np.array(up) / np.linalg.norm(up), atol=1e-9)
    assert found.place(123.0) == pytest.approx((4.0, 1.5)) and found.distance == pytest.approx(np.hypot(4.0, 1.5))
    assert found.arc == 360.0


def test_up_of_an_arc_that_looks_down_does_not_lean() -> None:
    # All cameras on one side look down steeply: the mean of their own up directions leans by half the pitch.
    cameras = rig(np.linspace(-40, 40, 7), height=6.0)
    mean = np.mean([camera.up for camera in cameras], axis=0)
    assert (mean / np.linalg.norm(mean))[2] < 0.8
    assert rig_from_cameras(cameras).up[2] > 0.999


def test_an_orbit_circles_the_centre_once_and_closes() -> None:
    path = orbit_path(rig(np.arange(0, 360, 36)), 24)
    offsets = np.array([camera.position - CENTER for camera, _ in path])
    assert np.allclose(np.linalg.norm(offsets[:, :2], axis=1), 4.0) and np.allclose(offsets[:, 2], 1.5)
    angles = np.unwrap(np.arctan2(offsets[:, 1], offsets[:, 0]))
    assert np.allclose(np.abs(np.diff(angles)), 2 * np.pi / 24)
    assert off_target(path, CENTER) < 1e-9
    assert all(camera.up[2] > 0 for camera, _ in path)


def test_an_orbit_of_an_arc_stays_inside_it_and_swings_back() -> None:
    covered = np.linspace(-35, 35, 6)
    cameras = rig(covered)
    path = orbit_path(cameras, 40)

    def azimuth(camera: Camera) -> float:
        offset = camera.position - CENTER
        return float(np.degrees(np.arctan2(offset[1], offset[0])))

    base = np.array([azimuth(camera) for camera in cameras])
    swung = np.array([azimuth(camera) for camera, _ in path])
    low, high = sorted((base[0], base[-1]))
    assert low - 1e-6 <= swung.min() < low + 2 and high - 2 < swung.max() <= high + 1e-6
    assert (np.diff(swung) > 0).any() and (np.diff(swung) < 0).any()


def test_a_gap_too_wide_to_cross_makes_an_arc() -> None:
    assert rig_from_cameras(rig(np.arange(0, 360, 40))).arc == 360.0
    assert rig_from_cameras(rig(np.array([0, 40, 80, 120]))).arc == pytest.approx(120.0)
    assert rig_from_cameras(rig(np.array([0, 90, 180, 270]))).arc == 0.0


@pytest.mark.parametrize("turn", [0.0, 77.0, 180.0, 301.0])
def test_the_orbit_keeps_to_the_largest_group_of_cameras(turn: float) -> None:
    # Two groups that face each other, with 100 degrees and more between them.
    cameras = rig(np.array([0.0, 30.0, 150.0, 180.0, 200.0]) + turn)
    found = rig_from_cameras(cameras)
    assert found.arc == pytest.approx(50.0)
    group = np.array([camera.position for camera in cameras[2:]])
    for camera, _ in orbit_path(cameras, 20):
        assert np.linalg.norm(group - camera.position, axis=1).min() < 2 * 4.0 * np.sin(np.radians(15.5 / 2))
    # Of equal groups the narrower, whose middle is seen better.
    assert rig_from_cameras(rig(np.array([0.0, 70.0, 170.0, 210.0]) + turn)).arc == pytest.approx(40.0)


def test_an_arc_between_two_cameras_passes_through_both() -> None:
    near, far = rig(np.array([0.0]), height=1.0)[0], rig(np.array([40.0]), radius=6.0, height=3.0)[0]
    path = orbit_path([near, far], 401)
    places = np.array([camera.position for camera, _ in path])
    for camera in (near, far):
        assert np.linalg.norm(places - camera.position, axis=1).min() < 0.05


def test_one_camera_still_moves_a_little() -> None:
    path = orbit_path(rig(np.array([0.0])), 12)
    places = np.array([camera.position for camera, _ in path])
    assert 0 < np.ptp(places, axis=0).max() < 3.0


def test_parallel_cameras_have_a_centre_in_front() -> None:
    row = [
        Camera.look_at(
            np.array([x, 0.0, 0.0]), np.array([x, 10.0, 0.0]), np.array([0, 0, 1.0]), width=8, height=8, focal=8
        )
        for x in (-1.0, 0.0, 1.0)
    ]
    assert rig_from_cameras(row).center[1] > 1.0
    assert all(camera.forward[1] > 0.5 for camera, _ in orbit_path(row, 8))


@pytest.mark.parametrize("make", [orbit_path, spiral_path])
def test_times_sweep_the_clip_while_the_camera_moves(make) -> None:
    path = make(rig(np.arange(0, 360, 36)), 17)
    times = [time for _, time in path]
    assert times[0] == 0.0 and times[-1] == 1.0 and np.all(np.diff(times) > 0)
    places = np.array([camera.position for camera, _ in path])
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).min() > 0


def test_spiral_keeps_near_its_camera_and_on_the_centre() -> None:
    cameras = rig(np.linspace(-20, 20, 5))
    path = spiral_path(cameras, 30)
    assert max(np.linalg.norm(camera.position - cameras[2].position) for camera, _ in path) < 1.2
    assert off_target(path, CENTER) < 1e-9


def test_size_of_the_pictures_keeps_everything_in_view() -> None:
    cameras = rig(np.arange(0, 360, 36))
    same = orbit_path(cameras, 1)[0][0]
    assert (same.width, same.height, same.K[1, 1]) == (60, 40, 50.0)
    double = orbit_path(cameras, 1, width=120)[0][0]
    assert (double.width, double.height) == (120, 80) and double.K[1, 1] == pytest.approx(100.0)
    square = orbit_path(cameras, 1, width=60, height=60)[0][0]
    assert square.K[0, 0] == pytest.approx(50.0)


def test_no_cameras_is_said() -> None:
    with pytest.raises(UserError, match="at least one camera"):
        orbit_path([], 4)


def test_cameras_around_see_all_points() -> None:
    points = np.random.default_rng(0).normal(size=(500, 3)) * 0.2 + CENTER
    for camera in cameras_around(points):
        local = points @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
        pixels = local[:, :2] / local[:, 2:] * camera.K[0, 0] + camera.K[:2, 2]
        seen = (pixels > 0).all(axis=1) & (pixels < [camera.width, camera.height]).all(axis=1) & (local[:, 2] > 0)
        assert seen.mean() > 0.9


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_clip_times(count: int) -> None:
    times = clip_times(count)
    assert len(times) == count and np.all((times >= 0) & (times <= 1))
    assert count < 2 or (times[0] == 0 and times[-1] == 1)


class FakeFrame:
    def __init__(self, camera: Camera, time: float) -> None:
        self.camera, self.time = camera, time


class FakeScene:
    path = "fake"

    def __init__(self, frames: list[FakeFrame], times: int) -> None:
        self._frames, self.times = frames, np.linspace(0, 1, times)

    def frames(self, split: str) -> list[FakeFrame]:
        return self._frames if split == "test" else []


def test_dataset_path_plays_the_clip_from_every_still_camera() -> None:
    cameras = rig(np.array([0.0, 90.0]))
    scene = FakeScene([FakeFrame(camera, k / 3) for camera in cameras for k in range(4)], 4)
    path = dataset_path(scene)  # type: ignore[arg-type]
    assert [camera.id for camera, _ in path] == ["0"] * 4 + ["1"] * 4
    assert np.allclose([time for _, time in path], np.tile(np.linspace(0, 1, 4), 2))
    assert len(dataset_path(scene, 11)) == 11  # type: ignore[arg-type]


def test_dataset_path_of_a_moving_camera_keeps_its_times() -> None:
    cameras = rig(np.arange(0.0, 60.0, 10.0))
    frames = [FakeFrame(camera, time) for camera, time in zip(cameras, (0.5, 0.1, 0.9, 0.3, 0.7, 0.0))]
    path = dataset_path(FakeScene(frames, 6))  # type: ignore[arg-type]
    assert [time for _, time in path] == [0.0, 0.1, 0.3, 0.5, 0.7, 0.9]
    assert [camera.id for camera, _ in path] == ["5", "1", "3", "0", "4", "2"]


def keyframes(tmp_path: Path, data: object) -> Path:
    file = tmp_path / "path.json"
    file.write_text(json.dumps(data))
    return file


KEYS = [
    {"position": [4, 0, 1], "look_at": [0, 0, 0], "fov": 40, "time": 0.2},
    {"position": [0, 4, 1], "look_at": [0, 0, 0], "fov": 60, "time": 1.0},
    {"position": [-4, 0, 1], "look_at": [0, 0, 0], "fov": 60, "time": 1.0},
    {"position": [0, -4, 1], "look_at": [0, 0, 0], "fov": 20, "time": 0.0},
]


def test_keyframes_are_met_and_times_stay_between_them(tmp_path: Path) -> None:
    path = load_path(keyframes(tmp_path, {"width": 64, "height": 48, "keyframes": KEYS}), 31)
    assert len(path) == 31
    for index, key in zip((0, 10, 20, 30), KEYS):
        camera, time = path[index]
        assert np.allclose(camera.position, key["position"], atol=1e-9) and time == pytest.approx(key["time"])
        fov = 2 * np.degrees(np.arctan(0.5 * camera.height / camera.K[1, 1]))
        assert fov == pytest.approx(key["fov"])
        towards = -np.array(key["position"]) / np.linalg.norm(key["position"])
        assert np.allclose(camera.forward, towards, atol=1e-9)
    # A smoothed time would overshoot 1 between the two keyframes at 1.
    times = np.array([time for _, time in path])
    assert times.min() >= 0 and times.max() <= 1 and np.allclose(times[10:21], 1.0)


def test_a_matrix_keyframe_equals_look_at(tmp_path: Path) -> None:
    camera = Camera.look_at(np.array([4.0, 0, 1]), np.zeros(3), np.array([0, 0, 1.0]), width=64, height=48, focal=50)
    key = {"T_world_camera": camera.T_world_camera.tolist()}
    (loaded, time), *rest = load_path(keyframes(tmp_path, {"keyframes": [key]}))
    assert rest == [] and time == 0.0
    assert np.allclose(loaded.viewmat, camera.viewmat)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "keyframes"),
        ({"keyframes": []}, "at least one"),
        ({"keyframes": [3]}, "keyframe 0 must be an object"),
        ({"keyframes": [{"position": [0, 0, 0]}]}, "keyframe 0 needs"),
        ({"keyframes": [KEYS[0] | {"time": 1.5}]}, "time must be a number between 0 and 1"),
        ({"keyframes": [KEYS[0] | {"fov": 0}]}, "fov must be"),
        ({"keyframes": [KEYS[0] | {"position": [1, 2]}]}, "position must be 3 finite numbers"),
        ({"keyframes": [KEYS[0] | {"look_at": KEYS[0]["position"]}]}, "must differ"),
        ({"keyframes": [{"T_world_camera": np.diag([2.0, 2, 2, 1]).tolist()}]}, "not a rotation"),
        ({"keyframes": [{"T_world_camera": np.zeros((4, 4)).tolist()}]}, "not a rotation"),
        ({"width": -3, "keyframes": KEYS}, "width must be"),
    ],
)
def test_bad_path_files_are_refused(tmp_path: Path, data: object, match: str) -> None:
    with pytest.raises(UserError, match=match):
        load_path(keyframes(tmp_path, data))
