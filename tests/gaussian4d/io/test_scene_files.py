"""Cameras as nerfstudio and COLMAP files and point tracks: read again by our own readers, and numbers by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussian4d.conventions import opencv_from_opengl
from gaussian4d.data.colmap_model import read_model, read_model_points
from gaussian4d.data.records import PointCloud
from gaussian4d.errors import UserError
from gaussian4d.io.camera_files import picture_names, write_colmap, write_transforms
from gaussian4d.io.track_file import points_of, write_tracks
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import FreeTime, PerFrame
from gaussian4d.motion.per_frame import PerFrameConfig
from gaussian4d.scene import Scene, load_scene
from gaussian4d.toys import write_scene

POINTS = PointCloud(np.float32([[0.1, -2.5, 3.0], [1e-3, 0, 7]]), np.uint8([[1, 2, 3], [255, 0, 9]]))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("data") / "toy"
    return load_scene(write_scene(folder, 0, 2, 1, 3, width=24, height=20, samples=1, threads=1))


def assert_same_frames(again: Scene, scene: Scene, *, splits: bool) -> None:
    """Asserts that `again` has the frames of `scene`: cameras, times, pixels and, where the format says, splits."""
    found = {(frame.camera_id, frame.time_index): frame for frame in again.frames("all")}
    assert len(found) == len(scene.frames("all"))
    for frame in scene.frames("all"):
        other = found[frame.camera_id, frame.time_index]
        assert other.time == pytest.approx(frame.time, abs=1e-9)
        assert np.allclose(other.camera.viewmat, frame.camera.viewmat, atol=1e-9)
        assert np.allclose(other.camera.K, frame.camera.K, atol=1e-9)
        assert np.array_equal(other.image, frame.image)
        assert not splits or other.split == frame.split


def test_transforms_with_pictures_are_the_scene_again(scene: Scene, tmp_path: Path) -> None:
    assert write_transforms(tmp_path / "transforms.json", scene, points=POINTS, pictures=True) == 9
    again = load_scene(tmp_path)
    assert again.format == "nerfstudio" and again.fps == scene.fps and again.duration == scene.duration
    assert_same_frames(again, scene, splits=True)
    assert again.points is not None and np.array_equal(again.points.xyz, POINTS.xyz)
    assert np.array_equal(again.points.rgb, POINTS.rgb)
    with pytest.raises(UserError, match="would be lost"):
        write_transforms(tmp_path / "transforms.json", scene, pictures=True)


def test_transforms_hold_opengl_cameras(scene: Scene, tmp_path: Path) -> None:
    write_transforms(tmp_path / "a.json", scene)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]
    entry = json.loads((tmp_path / "a.json").read_text())["frames"][0]
    camera = scene.frames("all")[0].camera
    T = np.array(entry["transform_matrix"])
    # nerfstudio's cameras look along their own -z; the toys' look at the origin.
    forward = -camera.position / np.linalg.norm(camera.position)
    assert np.allclose(-T[:3, 2], forward, atol=1e-6) and np.allclose(T[:3, 3], camera.position)
    assert np.allclose(opencv_from_opengl(T), camera.T_world_camera)


def test_colmap_with_pictures_is_the_scene_again(scene: Scene, tmp_path: Path) -> None:
    assert write_colmap(tmp_path / "c", scene, points=POINTS, pictures=True) == 9
    again = load_scene(tmp_path / "c", test_every=0)
    assert again.format == "colmap"
    assert_same_frames(again, scene, splits=False)
    write_colmap(tmp_path / "c", scene)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["sparse"]


def test_colmap_text_is_what_another_program_reads(scene: Scene, tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    write_colmap(tmp_path, scene, points=POINTS)
    model = pycolmap.Reconstruction(str(tmp_path / "sparse" / "0"))
    ours = {image.name: image for image in read_model(tmp_path / "sparse" / "0")}
    assert {image.name for image in model.images.values()} == set(ours) == set(picture_names(scene.frames("all")))
    for image in model.images.values():
        pose = image.cam_from_world() if callable(image.cam_from_world) else image.cam_from_world
        assert np.allclose(pose.matrix(), ours[image.name].viewmat[:3], atol=1e-9)
        assert np.allclose(image.camera.calibration_matrix(), ours[image.name].lens.K)
    assert sorted(point.xyz.tolist() for point in model.points3D.values()) == sorted(POINTS.xyz.astype(float).tolist())
    cloud = read_model_points(tmp_path / "sparse" / "0")
    assert cloud is not None and np.array_equal(cloud.rgb, POINTS.rgb)


def test_a_camera_of_one_picture_keeps_its_time(scene: Scene, tmp_path: Path) -> None:
    frames = [frame for k, frame in enumerate(scene.frames("all")) if frame.time_index == k // 3 % 3]
    part = scene.part(0, 3)
    part._frames = frames
    write_colmap(tmp_path / "c", part, pictures=True)
    again = load_scene(tmp_path / "c", test_every=0)
    assert sorted(frame.time for frame in again.frames("all")) == [0.0, 0.5, 1.0]
    for frame in again.frames("all"):
        original = next(one for one in frames if one.time == frame.time)
        assert frame.camera_id.startswith(f"{original.camera_id}_")
        assert np.allclose(frame.camera.viewmat, original.camera.viewmat, atol=1e-9)
        assert np.array_equal(frame.image, original.image)


def test_names_that_fall_together_are_refused(scene: Scene) -> None:
    class Named:
        def __init__(self, camera_id: str) -> None:
            self.camera_id, self.time_index = camera_id, 3

    assert picture_names([Named("../a b"), Named("c")]) == ["_a_b_00003.png", "c_00003.png"]  # type: ignore[list-item]
    with pytest.raises(UserError, match="a_b_00003"):
        picture_names([Named("a b"), Named("a/b")])  # type: ignore[list-item]


def moving(count: int = 6) -> DynamicGaussians:
    rng = np.random.default_rng(0)
    params = {
        "means": torch.from_numpy(rng.normal(size=(count, 3)).astype(np.float32)),
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(count, 1),
        "scales": torch.full((count, 3), -3.0),
        "opacities": torch.full((count,), 3.0),
        "sh0": torch.zeros(count, 1, 3),
        "shN": torch.zeros(count, 0, 3),
        "velocities": torch.tensor([[1.0, -2.0, 0.5]]).repeat(count, 1),
        "times": torch.full((count,), 0.5),
        "durations": torch.full((count,), 3.0),
    }
    params["opacities"][1] = -9.0
    params["sh0"][0] = 0.5 / 0.28209479177387814
    return DynamicGaussians(params, FreeTime(), times=np.array([0.0, 0.25, 1.0]), fps=2.0)


def test_tracks_go_where_the_gaussians_go(tmp_path: Path) -> None:
    model = moving()
    write_tracks(tmp_path / "t.npz", model, start=0.25)
    with np.load(tmp_path / "t.npz") as file:
        found = dict(file)
    assert found["xyz"].dtype == np.float32 and found["xyz"].shape == (3, 5, 3)
    assert found["times"].tolist() == [0.0, 0.25, 1.0] and found["start"] == 0.25 and found["fps"] == 2.0
    seen = [0, 2, 3, 4, 5]
    for row, time in enumerate((0.0, 0.25, 1.0)):
        expected = model.params["means"][seen].numpy() + (time - 0.5) * np.array([1.0, -2.0, 0.5])
        assert np.allclose(found["xyz"][row], expected, atol=1e-4)
    assert found["rgb"].tolist() == [[255] * 3] + [[128] * 3] * 4
    assert write_tracks(tmp_path / "t.npz", model, count=2, times=[0.5]).shape == (1, 2, 3)


def test_tracks_that_cannot_be(tmp_path: Path) -> None:
    model = moving()
    instants = PerFrame(PerFrameConfig(times=(0.0,)))
    separate = DynamicGaussians({**model.params, "instants": torch.zeros(6)}, instants)
    with pytest.raises(UserError, match="tracks"):
        write_tracks(tmp_path / "t.npz", separate)
    with pytest.raises(UserError, match="at least 1"):
        write_tracks(tmp_path / "t.npz", model, count=0)
    model.params["opacities"][:] = -9.0
    with pytest.raises(UserError, match="--time"):
        points_of(model, 0.0)
    assert not list(tmp_path.iterdir())
