"""From videos to a scene that loads: with a calibration, without one, and refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from filmed import Room, Shot, around, film, write_calibration, write_mp4

from gaussian4d import load_scene
from gaussian4d.cli.app import main
from gaussian4d.data.lens import project_distorted, undistorted_lens
from gaussian4d.data.records import Lens
from gaussian4d.errors import UserError
from gaussian4d.prepare import Options, prepare
from gaussian4d.prepare.geometry import align_cameras
from gaussian4d.prepare.undistort import undistort_pixels

needs_pycolmap = pytest.mark.skipif(
    importlib.util.find_spec("pycolmap") is None, reason='pycolmap is not installed: pip install "pycolmap>=4.2"'
)

STARTS = {"cam1": 0.0, "cam2": 0.4, "cam3": 0.2}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cameras with different starts and rates, and their calibration."""
    folder = tmp_path_factory.mktemp("calibrated")
    cameras = around([0, 25, 50], size=(160, 120))
    for camera, rate in zip(cameras, (30.0, 25.0, 30.0)):
        shot = Shot(camera, STARTS[camera.id], rate, int(1.2 * rate))
        write_mp4(folder / "videos" / f"{camera.id}.mp4", film(Room(), shot), rate)
    write_calibration(folder / "calibration", cameras)
    return folder


def test_calibrated_videos_become_a_scene(calibrated: Path, tmp_path: Path) -> None:
    out = tmp_path / "scene"
    found = prepare(calibrated, out, Options(offsets=STARTS, instants=4))
    scene = load_scene(out, downscale=1)
    assert scene.problems == []
    assert scene.fps == 25
    assert found.timeline is not None and len(scene.times) == found.timeline.count
    for camera in around([0, 25, 50], size=(160, 120)):
        np.testing.assert_allclose(scene.cameras[camera.id].viewmat, camera.viewmat, atol=1e-6)
        np.testing.assert_allclose(scene.cameras[camera.id].K, camera.K, atol=1e-6)
        # Straight lenses: the recorded file itself, not a copy that was encoded again.
        recorded = calibrated / "videos" / f"{camera.id}.mp4"
        assert (out / "videos" / recorded.name).read_bytes() == recorded.read_bytes()
    # Pictures of one instant show the room as it was then, in every camera.
    for frame in scene.frames("all")[::17]:
        camera = next(c for c in around([0, 25, 50], size=(160, 120)) if c.id == frame.camera_id)
        instant = found.timeline.start + frame.time * found.timeline.duration
        expected = Room().render(camera, [instant])[0]
        assert np.abs(frame.image - expected).mean() < 14
        assert frame.source.endswith(f"#{found.timeline.indices[frame.camera_id][frame.time_index]}")
    late = next(frame for frame in scene.frames("all") if frame.camera_id == "cam1" and frame.time > 0.9)
    camera = around([0], size=(160, 120))[0]
    seen = STARTS["cam2"] + late.time * found.timeline.duration
    now, earlier = Room().render(camera, [seen, seen - 0.5])
    moved = np.abs(now - earlier).max(axis=-1) > 40
    assert np.abs(late.image - now)[moved].mean() < 0.5 * np.abs(late.image - earlier)[moved].mean()
    assert (out / "contact_sheet.png").stat().st_size > 1000
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "| cam2 | 160x120 | 30 | 25 | 0.4000 |" in report


@needs_pycolmap
def test_points_lie_on_the_room_and_those_of_the_balls_have_times(
    calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Options(offsets=STARTS, instants=4)
    found = prepare(calibrated, tmp_path / "scene", options)
    # Pictures this small give too few points for a fit to start from.
    assert load_scene(tmp_path / "scene").points is None
    assert any("too few points" in note for note in found.notes)
    monkeypatch.setattr("gaussian4d.prepare.points.LEAST_POINTS", 100)
    prepare(calibrated, tmp_path / "scene", options)
    points = load_scene(tmp_path / "scene").points
    assert points is not None and points.times is not None and len(points) >= 100
    still = points.xyz[np.isnan(points.times)]
    # Still points: on the floor or a wall, or on a boulder above the floor.
    off = np.min([np.abs(still[:, 2] + 0.6), np.abs(still[:, 0] + 2.5), np.abs(still[:, 1] + 2.5)], axis=0)
    assert np.median(off) < 0.03
    timed = ~np.isnan(points.times)
    assert 5 < timed.sum() < 0.6 * len(points)
    assert points.times[timed].min() >= 0 and points.times[timed].max() <= 1


def test_a_bent_lens_is_undistorted_and_encoded_again(calibrated: Path, tmp_path: Path) -> None:
    bent = (-0.2, 0.05, 0.0, 0.0, 0.0)
    cameras = around([0, 25, 50], size=(160, 120))
    write_calibration(tmp_path / "calibration", cameras, {"cam1": bent})
    options = Options(calibration=tmp_path / "calibration", offsets=STARTS, points=False)
    prepare(calibrated / "videos", tmp_path / "scene", options)
    frames = json.loads((tmp_path / "scene" / "transforms.json").read_text(encoding="utf-8"))["frames"]
    first = next(entry for entry in frames if entry["camera_id"] == "cam1")
    lens = Lens(*(float(cameras[0].K[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))), 160, 120, "brown", bent)
    assert first["fl_x"] == pytest.approx(undistorted_lens(lens).fx)
    assert first["camera_model"] == "PINHOLE"
    recorded = (calibrated / "videos" / "cam1.mp4").read_bytes()
    assert (tmp_path / "scene" / "videos" / "cam1.mp4").read_bytes() != recorded
    assert (tmp_path / "scene" / "videos" / "cam2.mp4").read_bytes() != recorded
    kept = prepare(calibrated / "videos", tmp_path / "kept", Options(**{**vars(options), "keep_lens": True}))
    assert kept.failure == "" and (tmp_path / "kept" / "videos" / "cam1.mp4").read_bytes() == recorded
    straight = load_scene(tmp_path / "scene", downscale=1).cameras["cam1"]
    np.testing.assert_allclose(load_scene(tmp_path / "kept", downscale=1).cameras["cam1"].K, straight.K, atol=1e-3)


def test_pixels_are_undistorted_to_where_the_forward_model_bends_them_from() -> None:
    lens = Lens(150.0, 150.0, 81.0, 59.0, 160, 120, "brown", (-0.25, 0.06, 0.001, -0.002, 0.0))
    straight = undistorted_lens(lens)
    xy = np.random.default_rng(0).uniform(-0.4, 0.4, (50, 2))
    found = undistort_pixels(lens, project_distorted(lens, xy))
    np.testing.assert_allclose(found, xy * [straight.fx, straight.fy] + [straight.cx, straight.cy], atol=0.02)


@needs_pycolmap
def test_cameras_of_a_textured_room_are_solved_from_the_videos_alone(tmp_path: Path) -> None:
    cameras = around([0, 22, 44, 66], size=(240, 180))
    for camera in cameras:
        write_mp4(tmp_path / "videos" / f"{camera.id}.mp4", film(Room(), Shot(camera, 0.3, 6.0, 6)), 6)
    found = prepare(tmp_path / "videos", tmp_path / "scene", Options(sync="none", instants=4, points=False))
    scene = load_scene(tmp_path / "scene", downscale=1)
    degrees, share = align_cameras(
        np.stack([scene.cameras[camera.id].viewmat for camera in cameras]),
        np.stack([camera.viewmat for camera in cameras]),
    )
    assert degrees.max() < 0.5 and share.max() < 0.03
    for camera in cameras:
        assert scene.cameras[camera.id].K[0, 0] == pytest.approx(camera.K[0, 0], rel=0.04)
        assert found.reprojection[camera.id] < 1.0


@needs_pycolmap
def test_a_room_without_texture_is_refused_and_nothing_is_left_that_loads(tmp_path: Path) -> None:
    for camera in around([0, 22, 44], size=(160, 120)):
        shot = Shot(camera, 0.3, 6.0, 6)
        write_mp4(tmp_path / "videos" / f"{camera.id}.mp4", film(Room(textured=False), shot), 6)
    with pytest.raises(UserError, match=r"videos: the cameras cannot be trusted: .*--calibration"):
        prepare(tmp_path / "videos", tmp_path / "scene", Options(sync="none", instants=2))
    assert not (tmp_path / "scene" / "transforms.json").exists()
    assert "**No scene was made.**" in (tmp_path / "scene" / "report.md").read_text(encoding="utf-8")


def test_finished_stages_are_kept(calibrated: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = Options(offsets=STARTS, points=False)
    prepare(calibrated, tmp_path / "scene", options)
    prepare(calibrated, tmp_path / "scene", options, say=said.append)
    assert "synchronise: kept from an earlier run" in said
    said.clear()
    prepare(calibrated, tmp_path / "scene", Options(offsets=STARTS | {"cam2": 0.36}, points=False), say=said.append)
    assert "synchronise: kept from an earlier run" not in said


def test_a_folder_that_holds_something_else_is_not_touched(calibrated: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(UserError, match=r"holds 'mine.txt'"):
        prepare(calibrated, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_recording_without_a_calibrated_camera_is_named(calibrated: Path, tmp_path: Path) -> None:
    write_calibration(tmp_path / "calibration", around([0, 25], size=(160, 120)))
    with pytest.raises(UserError, match=r"cam1\.xml: no camera for the recording cam3"):
        prepare(calibrated / "videos", tmp_path / "scene", Options(calibration=tmp_path / "calibration"))


def test_the_command_refuses_in_one_line_with_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(tmp_path / "nothing"), "--out", str(tmp_path / "scene")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "nothing: no such file or folder" in error
    (tmp_path / "empty").mkdir()
    assert main(["prepare", str(tmp_path / "empty"), "--out", str(tmp_path / "scene"), "--offsets", "cam1"]) == 2
    assert "--offsets takes CAMERA=SECONDS, got 'cam1'" in capsys.readouterr().err
    assert not (tmp_path / "scene").exists()
