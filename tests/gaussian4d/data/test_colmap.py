"""COLMAP models: every lens, binary against text, and the ways recordings lie beside a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from layouts import FRAMES, POINT, save, shot, write_colmap_binary, write_colmap_text
from scipy.spatial.transform import Rotation
from tiny_scenes import FOCAL, HEIGHT, WIDTH, assert_dots, brown, dot, dot_video, picture, pixel, poses

from gaussian4d.data.colmap_model import lens_of, read_model, read_model_points
from gaussian4d.data.lens import project_distorted
from gaussian4d.errors import UserError
from gaussian4d.scene import load_scene


def theta_scale(x: float, y: float, *k: float) -> float:
    """Returns the factor from undistorted to distorted coordinates of the equidistant fisheye."""
    r = np.hypot(x, y)
    t = np.arctan(r)
    return t * (1 + sum(c * t ** (2 * n + 2) for n, c in enumerate(k))) / r


def full(x: float, y: float, k: tuple[float, ...]) -> tuple[float, float]:
    """Returns the distorted coordinates of FULL_OPENCV, k1 k2 p1 p2 k3 k4 k5 k6."""
    k1, k2, p1, p2, k3, k4, k5, k6 = k
    r2 = x * x + y * y
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


X, Y = 0.31, -0.22


@pytest.mark.parametrize(
    ("model", "params", "expected"),
    [
        ("SIMPLE_PINHOLE", (50, 30, 20), (50 * X + 30, 50 * Y + 20)),
        ("PINHOLE", (50, 60, 30, 20), (50 * X + 30, 60 * Y + 20)),
        ("SIMPLE_RADIAL", (50, 30, 20, 0.1), np.array(brown((0.1, 0, 0, 0, 0), X, Y)) * 50 + [30, 20]),
        ("RADIAL", (50, 30, 20, 0.1, -0.3), np.array(brown((0.1, -0.3, 0, 0, 0), X, Y)) * 50 + [30, 20]),
        (
            "OPENCV",
            (50, 60, 30, 20, 0.1, -0.3, 0.02, -0.03),
            np.array(brown((0.1, -0.3, 0.02, -0.03, 0), X, Y)) * [50, 60] + [30, 20],
        ),
        (
            "FULL_OPENCV",
            (50, 60, 30, 20, 0.1, -0.3, 0.02, -0.03, 0.2, 0.05, -0.1, 0.07),
            np.array(full(X, Y, (0.1, -0.3, 0.02, -0.03, 0.2, 0.05, -0.1, 0.07))) * [50, 60] + [30, 20],
        ),
        ("SIMPLE_FISHEYE", (50, 30, 20), np.array([X, Y]) * theta_scale(X, Y) * 50 + [30, 20]),
        ("FISHEYE", (50, 60, 30, 20), np.array([X, Y]) * theta_scale(X, Y) * [50, 60] + [30, 20]),
        ("SIMPLE_RADIAL_FISHEYE", (50, 30, 20, 0.2), np.array([X, Y]) * theta_scale(X, Y, 0.2) * 50 + [30, 20]),
        (
            "RADIAL_FISHEYE",
            (50, 30, 20, 0.2, -0.1),
            np.array([X, Y]) * theta_scale(X, Y, 0.2, -0.1) * 50 + [30, 20],
        ),
        (
            "OPENCV_FISHEYE",
            (50, 60, 30, 20, 0.2, -0.1, 0.05, 0.3),
            np.array([X, Y]) * theta_scale(X, Y, 0.2, -0.1, 0.05, 0.3) * [50, 60] + [30, 20],
        ),
    ],
)
def test_lens_models(model: str, params: tuple[float, ...], expected: np.ndarray) -> None:
    """By the formulas of COLMAP's documentation; pycolmap 4.2.1 gave the same pixels to 1e-14."""
    lens = lens_of(model, 64, 48, params)
    np.testing.assert_allclose(project_distorted(lens, np.array([X, Y])), expected, atol=1e-9)


@pytest.mark.parametrize("model", ["FOV", "THIN_PRISM_FISHEYE", "DIVISION", "EUCM", "EQUIRECTANGULAR"])
def test_lenses_that_cannot_be_undistorted_are_refused(model: str) -> None:
    with pytest.raises(UserError, match=rf"{model} is not supported.*image_undistorter"):
        lens_of(model, 64, 48, (50, 50, 32, 24, 0.1))


def test_binary_and_text_hold_the_same(tmp_path: Path) -> None:
    write_colmap_text(tmp_path / "text")
    write_colmap_binary(tmp_path / "binary")
    text, binary = read_model(tmp_path / "text"), read_model(tmp_path / "binary")
    assert [image.name for image in text] == [image.name for image in binary] == ["cam02.png", "cam00.png", "cam01.png"]
    for a, b in zip(text, binary):
        np.testing.assert_array_equal(a.viewmat, b.viewmat)
        assert a.lens == b.lens
    for model in ("text", "binary"):
        points = read_model_points(tmp_path / model)
        assert points is not None
        np.testing.assert_allclose(points.xyz, POINT[None], rtol=1e-6)
        np.testing.assert_array_equal(points.rgb, [[9, 8, 7]])


def moving_model(model: Path, names: list[str], pose_of: list[np.ndarray]) -> None:
    """Writes a text model of one lens and a pose per picture."""
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"1 SIMPLE_PINHOLE {WIDTH} {HEIGHT} {FOCAL} {WIDTH / 2} {HEIGHT / 2}\n")
    lines = []
    for number, (name, pose) in enumerate(zip(names, pose_of)):
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        lines += [f"{number + 1} {' '.join(repr(float(v)) for v in (w, x, y, z, *pose[:3, 3]))} 1 {name}", ""]
    (model / "images.txt").write_text("\n".join(lines) + "\n")


def test_registered_pictures_of_a_moving_camera_are_frames(tmp_path: Path) -> None:
    around = poses(FRAMES)
    moving_model(tmp_path / "sparse" / "0", [f"shot_{k + 5}.png" for k in range(FRAMES)], around)
    for k in range(FRAMES):
        save(tmp_path / "images" / f"shot_{k + 5}.png", picture(*pixel(around[k], dot(k))))
    scene = load_scene(tmp_path)
    np.testing.assert_allclose(scene.times, np.arange(FRAMES) / (FRAMES - 1))
    assert len(scene.cameras) == FRAMES
    assert_dots(scene)
    assert any("timed by the number" in note for note in scene.notes)
    (tmp_path / "images" / "shot_10.png").unlink()
    with pytest.raises(UserError, match=r"shot_10\.png is missing.*restore"):
        load_scene(tmp_path)


def test_two_moving_cameras_are_not_taken_for_folders_per_frame(tmp_path: Path) -> None:
    names = [f"cam{c}/{k}.png" for c in range(2) for k in range(4)]
    moving_model(tmp_path / "sparse", names, [poses()[c] for c in range(2) for _ in range(4)])
    for c in range(2):
        for k in range(4):
            save(tmp_path / "images" / f"cam{c}" / f"{k}.png", shot(c, k))
    scene = load_scene(tmp_path)
    assert list(scene.cameras) == ["cam0", "cam1"] and len(scene.times) == 4
    assert_dots(scene)


def test_folders_per_frame_with_names_without_numbers(tmp_path: Path) -> None:
    """Also: what lies beside the recording may be odd, here two files of one number."""
    moving_model(tmp_path / "sparse", ["left.png", "right.png"], poses(2))
    for c, name in enumerate(("left", "right")):
        for k in range(FRAMES):
            save(tmp_path / "frames" / str(k) / f"{name}.png", shot(c, k))
        save(tmp_path / "depth" / f"{name}_1.png", shot(c, 0))
    scene = load_scene(tmp_path)
    assert list(scene.cameras) == ["left", "right"] and len(scene.times) == FRAMES
    assert_dots(scene)


def test_pictures_without_numbers_are_one_instant(tmp_path: Path) -> None:
    moving_model(tmp_path / "sparse", ["left.png", "right.png"], poses(2))
    for c, name in enumerate(("left", "right")):
        save(tmp_path / f"{name}.png", picture(*pixel(poses()[c], dot(0))))
    scene = load_scene(tmp_path)
    assert len(scene.times) == 1 and list(scene.cameras) == ["left", "right"]
    assert any("single instant" in problem.message for problem in scene.problems)
    assert_dots(scene)


def test_a_calibration_for_another_resolution_is_scaled(tmp_path: Path) -> None:
    """COLMAP ran on pictures twice as large as the frames."""
    lens = f"PINHOLE {2 * WIDTH} {2 * HEIGHT} {2 * FOCAL} {2 * FOCAL} {WIDTH} {HEIGHT}"
    write_colmap_text(tmp_path / "sparse", lens, name="cam{}/0.png")
    for c in range(3):
        for k in range(2):
            save(tmp_path / "images" / f"cam{c:02d}" / f"{k}.png", shot(c, k))
    scene = load_scene(tmp_path)
    assert scene.cameras["cam00"].K[0, 0] == pytest.approx(FOCAL)
    said = [problem.message for problem in scene.problems if "intrinsics are rescaled" in problem.message]
    assert len(said) == 1 and "the same for 2 more: cam01/0.png, cam02/0.png" in said[0]
    assert_dots(scene)


def test_two_images_of_one_camera_are_refused(tmp_path: Path) -> None:
    moving_model(tmp_path / "sparse", ["a/cam00.png", "b/cam00.png"], poses(2))
    dot_video(tmp_path / "cam00.mp4", poses()[0])
    with pytest.raises(UserError, match="several registered images are of the camera cam00"):
        load_scene(tmp_path)
