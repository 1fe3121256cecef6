"""Scenes far from the origin: double precision on the way in, an offset, the same fit as at the origin."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaussian4d import Scene, evaluate, fit, load_scene
from gaussian4d.cameras import Camera
from gaussian4d.conventions import opengl_from_opencv
from gaussian4d.data.point_files import read_points, write_points
from gaussian4d.data.records import PointCloud
from gaussian4d.errors import UserError
from gaussian4d.offsets import moved_camera, offset_for
from gaussian4d.run_folder import RunFolder
from gaussian4d.scene import inspect

UTM = np.array([500_000.0, 5_000_000.0, 120.0])
SIZE, INSTANTS = 20, 4


def cameras(count: int, at: np.ndarray) -> list[Camera]:
    """Returns cameras in a ring around `at`."""
    ring = []
    for k in range(count):
        angle = 2 * np.pi * k / count + 0.1
        place = np.array([3 * np.cos(angle), 3 * np.sin(angle), 0.9 - 1.7 * (k % 2)])
        up = np.array([0.0, 0.0, 1.0])
        camera = Camera.look_at(place, np.zeros(3), up, width=SIZE, height=SIZE, focal=1.6 * SIZE, id=f"c{k}")
        ring.append(moved_camera(camera, at))
    return ring


def ball(camera: Camera, at: np.ndarray, time: float) -> np.ndarray:
    """Returns uint8 [H, W, 3]: a soft blob where a ball that moves along x is seen."""
    x, y, z = camera.viewmat[:3, :3] @ (at + [0.4 * time - 0.2, 0.1, 0.0]) + camera.viewmat[:3, 3]
    u, v = camera.K[0, 0] * x / z + camera.K[0, 2], camera.K[1, 1] * y / z + camera.K[1, 2]
    grid = np.arange(SIZE) + 0.5
    blob = np.exp(-0.5 * ((grid[None] - u) ** 2 + (grid[:, None] - v) ** 2) / 3.0**2)
    return np.round(255 * blob[..., None] * [1.0, 0.6, 0.2]).astype(np.uint8)


def write_scene(folder: Path, at: np.ndarray, single: bool = False) -> Path:
    """Writes a nerfstudio scene with points; with `single`, poses went through 32-bit floats."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for camera in cameras(6, at):
        for k in range(INSTANTS):
            name = f"images/{camera.id}_{k}.png"
            Image.fromarray(ball(camera, at, k / (INSTANTS - 1))).save(folder / name)
            pose = opengl_from_opencv(camera.T_world_camera)
            pose = pose.astype(np.float32).astype(np.float64) if single else pose
            entries.append(
                {
                    "file_path": name, "camera_id": camera.id, "time": k / (INSTANTS - 1), "w": SIZE, "h": SIZE,
                    "fl_x": float(camera.K[0, 0]), "cx": SIZE / 2, "cy": SIZE / 2, "transform_matrix": pose.tolist(),
                }
            )  # fmt: skip
    xyz = np.random.default_rng(0).uniform(-0.4, 0.4, (60, 3)) + at
    write_points(folder / "points.ply", PointCloud(xyz, np.full((60, 3), 200, np.uint8)))
    (folder / "transforms.json").write_text(json.dumps({"ply_file_path": "points.ply", "frames": entries}))
    return folder


@pytest.mark.parametrize(
    ("center", "size", "expected"),
    [
        ([500_000, 5_000_000, 120], 30.0, [500_000, 5_000_000, 120]),
        ([4_075_000.3, 931_800.6, 4_801_570.2], 3.0, [4_075_000, 931_801, 4_801_570]),
        ([0, 0, 5000], 4.0, [0, 0, 5000]),
        ([0, 0, 900], 0.5, [0, 0, 0]),
        ([0, 0, 5000], 80.0, [0, 0, 0]),
    ],
)
def test_far_is_more_than_a_thousand_and_a_hundred_times_the_size(
    center: list[float], size: float, expected: list[float]
) -> None:
    around = size * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]])
    offset = offset_for(np.array(center) + around)
    assert np.abs(offset - expected).max() <= 5
    assert (offset == np.round(offset)).all() and (np.any(offset) == np.any(expected))


def test_the_offset_is_that_of_the_cameras_and_all_is_relative_to_it(tmp_path: Path) -> None:
    near, far = (load_scene(write_scene(tmp_path / name, at)) for name, at in (("a", np.zeros(3)), ("b", UTM)))
    assert not near.offset.any() and far.offset.dtype == np.float64
    assert np.abs(far.offset - UTM).max() < 3.0
    shift = UTM - far.offset
    for a, b in zip(near.frames("all"), far.frames("all")):
        assert np.allclose(moved_camera(a.camera, shift).viewmat, b.camera.viewmat, rtol=0, atol=1e-8)
    assert near.points is not None and far.points is not None and far.points.xyz.dtype == np.float32
    assert np.abs(near.points.xyz + shift - far.points.xyz).max() < 1e-6
    assert any("far from the origin" in note for note in far.notes) and not far.problems
    assert not any("far from the origin" in note for note in near.notes)


def test_the_same_fit_far_away_gives_the_same_figures(tmp_path: Path) -> None:
    figures, opened = [], []
    for name, at in (("near", np.zeros(3)), ("far", UTM), ("ecef", np.array([-2_700_000.0, 4_500_000.0, 6_000_000.0]))):
        scene = load_scene(write_scene(tmp_path / name, at), test_every=2)
        out = tmp_path / f"run_{name}"
        fit(scene, "quick", out, max_steps=260, seed=1)
        run = RunFolder(out)
        figures.append(evaluate(out)["psnr"])
        opened.append((scene, run.scene(), run.model()))
    assert figures[0] > 18 and np.ptp(figures) < 0.2, figures
    for scene, again, model in opened[1:]:
        assert np.array_equal(scene.offset, again.offset) and scene.fingerprint() == again.fingerprint()
        assert model.meta["offset"] == scene.offset.tolist()
    assert "offset" not in opened[0][2].meta


def test_a_run_keeps_the_offset_though_cameras_are_lost(tmp_path: Path) -> None:
    folder = write_scene(tmp_path / "far", UTM)
    scene = load_scene(folder, offset=(500_000, 5_000_000, 0))
    assert scene.offset.tolist() == [500_000.0, 5_000_000.0, 0.0] == scene.options["offset"]
    with pytest.raises(UserError, match="three finite numbers"):
        load_scene(folder, offset=(1.0, float("nan"), 0.0))


def test_places_that_went_through_32_bit_floats_are_said(tmp_path: Path) -> None:
    scene, problems = inspect(write_scene(tmp_path / "far", UTM, single=True))
    assert scene is not None
    said = [problem.message for problem in problems]
    assert len(said) == 1 and "multiples of 0.5" in said[0] and "double precision" in said[0]
    file = tmp_path / "far" / "points.ply"
    cloud = read_points(file)
    assert cloud.xyz.dtype == np.float64
    shutil.rmtree(tmp_path / "far")
    folder = write_scene(tmp_path / "far", UTM)
    write_points(file, PointCloud(cloud.xyz.astype(np.float32), cloud.rgb))
    _, problems = inspect(folder)
    assert len(problems) == 1 and "32-bit floats" in problems[0].message and "points" in problems[0].message


def test_frames_from_python_are_moved_too_and_coarse_points_refused() -> None:
    ring = cameras(4, UTM)
    pictures = np.stack([ball(camera, UTM, 0.0) for camera in ring])
    points = np.random.default_rng(0).uniform(-0.4, 0.4, (8, 3)) + UTM
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scene = Scene.from_frames(pictures, ring, [0.0] * 4, points=points)
    assert scene.offset.any() and scene.points is not None
    for frame, camera in zip(scene.frames("all"), ring):
        assert np.allclose(moved_camera(frame.camera, scene.offset).position, camera.position, atol=1e-8)
    assert np.abs(scene.points.xyz + scene.offset - points).max() < 1e-6
    with pytest.raises(UserError, match="float32, which has steps of 0"):
        Scene.from_frames(pictures, ring, [0.0] * 4, points=points.astype(np.float32))
