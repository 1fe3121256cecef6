"""Calibration files: what is read, names matched to videos, sizes that differ."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_scenes import HEIGHT, WIDTH, assert_dots, dot, opencv_xml, picture, pixel, poses, qualisys_text, write_video

from gaussian4d.data.opencv_storage import read_storage
from gaussian4d.data.videos import match_names
from gaussian4d.errors import UserError
from gaussian4d.scene import load_scene


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "a.yml"
    path.write_text(
        """%YAML:1.0
---
calibration_time: "Tue 01 Jan 2020 10:00:00"
image_width: 64
flags: 0
nested:
   camera_matrix: !!opencv-matrix
      rows: 2
      cols: 2
      dt: d
      data: [ 1., 2.5e+00,
          -3., .Nan ]
   deeper: { }
names:
   - "01"
   - left
flow: [ 1, 2,
    3 ]
after: 1.5
"""
    )
    content = read_storage(path)
    assert content["calibration_time"] == "Tue 01 Jan 2020 10:00:00"
    assert content["image_width"] == 64 and content["after"] == 1.5
    np.testing.assert_array_equal(content["nested"]["camera_matrix"], [[1, 2.5], [-3, np.nan]])
    assert content["names"] == ["01", "left"] and content["flow"] == [1, 2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "%YAML:1.0\n---\na: !!python/object/apply:os.system ['true']\n",
        "%YAML:1.0\na: !!opencv-matrix\n   rows: 100000\n   cols: 100000\n   dt: d\n   data: [ 1. ]\n",
        "%YAML:1.0\na: !!opencv-matrix\n   rows: 2\n   cols: 2\n   dt: d\n   data: [ 1., 2.\n",
        "%YAML:1.0\njust words\n",
        "<opencv_storage><a></opencv_storage>",
    ],
)
def test_hostile_or_broken_storage(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.yml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a\.yml.*restore"):
        read_storage(path)


@pytest.mark.parametrize(
    ("cameras", "videos", "pairs"),
    [
        (["cam1", "cam10"], ["cam10", "cam1"], {"cam1": "cam1", "cam10": "cam10"}),
        (["21234", "21235"], ["Walk_Miqus_1_21235", "Walk_Miqus_2_21234"], {"21234": 1, "21235": 0}),
        (["camera_01", "camera_02"], ["view2", "view1"], {"camera_01": "view1", "camera_02": "view2"}),
        (["cam1"], ["take1_a", "take1_b"], {}),
        (["left", "right"], ["a", "b"], {}),
    ],
)
def test_names(cameras: list[str], videos: list[str], pairs: dict) -> None:
    expected = {camera: videos[v] if isinstance(v, int) else v for camera, v in pairs.items()}
    assert match_names(cameras, videos) == expected


def letterboxed(pose: np.ndarray, k: int) -> np.ndarray:
    """Returns the picture scaled to 60x45 (44 or 46 are even: 46 rows) between black bars, 60x52 in all."""
    u, v = pixel(pose, dot(k))
    inner = picture(u * 60 / WIDTH, v * 46 / HEIGHT, 60, 46)
    full = np.zeros((52, 60, 3), np.uint8)
    full[3:49] = inner
    return full


def test_letterboxed_video(tmp_path: Path) -> None:
    """An export scaled the picture and padded it: intrinsics follow, the bars are cut."""
    for c, pose in enumerate(poses(2)):
        write_video(tmp_path / f"cam{c}.mp4", [letterboxed(pose, k) for k in range(3)])
    (tmp_path / "c.qca.txt").write_text(qualisys_text(poses(2), ["cam0", "cam1"]))
    scene = load_scene(tmp_path)
    assert any("black bars" in problem.message for problem in scene.problems)
    assert_dots(scene, 0.25)
    assert all(frame.image.min() > 20 for frame in scene.frames("all"))


def test_scaled_cut_and_unexplained_sizes(tmp_path: Path) -> None:
    (tmp_path / "c.qca.txt").write_text(qualisys_text(poses(1), ["cam0"]))
    u, v = pixel(poses(1)[0], dot(0))
    write_video(tmp_path / "cam0.mp4", [picture(2 * u, 2 * v, 2 * WIDTH, 2 * HEIGHT)])
    scene = load_scene(tmp_path)
    assert any("scaled" in problem.message for problem in scene.problems)
    assert_dots(scene)
    write_video(tmp_path / "cam0.mp4", [picture(u, v)[:, : WIDTH - 8]])
    scene = load_scene(tmp_path)
    assert any("treated as cropped" in problem.message for problem in scene.problems)
    assert_dots(scene)
    write_video(tmp_path / "cam0.mp4", [picture(u, v, WIDTH + 40, HEIGHT)])
    with pytest.raises(UserError, match=r"cam0\.mp4.*64x48.*104x48.*export"):
        load_scene(tmp_path)


def test_cameras_without_video_and_videos_without_camera_are_named(tmp_path: Path) -> None:
    for name in ("cam0", "extra"):
        write_video(tmp_path / f"{name}.mp4", [picture(*pixel(poses(1)[0], dot(0)))])
    (tmp_path / "cam0.xml").write_text(opencv_xml(poses(1)[0]))
    (tmp_path / "cam7.xml").write_text(opencv_xml(poses(2)[1]))
    scene = load_scene(tmp_path)
    assert list(scene.cameras) == ["cam0"]
    messages = " ".join(map(str, scene.problems))
    assert "cam7 has no video" in messages and "extra.mp4" in messages


def test_folder_per_camera(tmp_path: Path) -> None:
    for c, pose in enumerate(poses(3)):
        write_video(tmp_path / f"cam{c}" / "video.mp4", [picture(*pixel(pose, dot(k))) for k in range(3)])
        (tmp_path / f"cam{c}.xml").write_text(opencv_xml(pose))
    scene = load_scene(tmp_path)
    assert list(scene.cameras) == ["cam0", "cam1", "cam2"]
    assert_dots(scene)
