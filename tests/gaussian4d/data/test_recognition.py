"""Folders are taken by what a reader needs of them, and what is none is told by what it holds."""

from __future__ import annotations

import codecs
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import (
    LAYOUTS,
    llff_rows,
    ply,
    save,
    save_clip,
    shot,
    write_colmap_binary,
    write_colmap_text,
    write_n3dv,
)
from tiny_scenes import COUNT, dot_video, nerfstudio, nerfstudio_images, opencv_xml, poses, write_dnerf, write_panoptic

from gaussian4d.errors import UserError
from gaussian4d.scene import inspect, load_scene


def colmap(folder: Path, at: str = "sparse/0", pictures: str = "images", write: Callable = write_colmap_text) -> Path:
    write(folder / at)
    for c in range(3):
        save(folder / pictures / f"cam{c:02d}.png", shot(c, 0))
    return folder


def calibrated(folder: Path, videos: Path | None = None) -> Path:
    """Writes OpenCV's calibration of three cameras and their videos, these at `videos` where it is given."""
    (videos or folder).mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    for c, pose in enumerate(poses()):
        dot_video((videos or folder) / f"cam{c}.mp4", pose)
        (folder / f"cam{c}.xml").write_text(opencv_xml(pose))
    return folder


def lines(folder: Path, *words: str, severity: str = "warning") -> list[str]:
    """Returns the messages that have all the words."""
    _, problems = inspect(folder)
    return [p.message for p in problems if p.severity == severity and all(word in p.message for word in words)]


@pytest.mark.parametrize(
    ("at", "pictures"),
    [
        ("sparse/0", "images"), ("sparse", "images"), ("sparse/7", "images"), ("Sparse/0", "images"),
        ("sparse/0", "Images"), ("sparse/0", "input"), ("distorted/sparse/0", "input"), ("dense/sparse", "images"),
        ("dense/sparse", "dense/images"), ("dense/sparse/0", "images"), (".", "images"), (".", "."),
    ],
)  # fmt: skip
def test_places_of_models_and_pictures(tmp_path: Path, at: str, pictures: str) -> None:
    scene, problems = inspect(colmap(tmp_path, at, pictures))
    assert scene is not None and scene.format == "colmap" and len(scene.frames("all")) == 3
    assert not [problem for problem in problems if "models" in problem.message]


@pytest.mark.parametrize(
    ("model", "pictures", "other"), [("dense", "dense/images", "images"), ("distorted", "input", "images")]
)
def test_pictures_of_the_model_and_not_their_other_copy(tmp_path: Path, model: str, pictures: str, other: str) -> None:
    colmap(tmp_path, f"{model}/sparse", pictures)
    for c in range(3):
        save(tmp_path / other / f"cam{c:02d}.png", shot(c, 5))
    for frame in load_scene(tmp_path, downscale=1).frames("all"):
        np.testing.assert_array_equal(frame.image, shot(int(frame.camera.id[3:]), 0))


def test_newer_files_beside_a_model_change_nothing(tmp_path: Path) -> None:
    colmap(tmp_path, write=write_colmap_binary)
    for name in ("rigs.bin", "frames.bin"):
        (tmp_path / "sparse/0" / name).write_bytes(bytes(8))
    assert len(load_scene(tmp_path).frames("all")) == 3


def test_a_model_in_two_forms_that_differ_is_said(tmp_path: Path) -> None:
    colmap(tmp_path, write=write_colmap_binary)
    write_colmap_text(tmp_path / "sparse/0")
    assert not lines(tmp_path, "images.txt")
    path = tmp_path / "sparse/0/images.txt"
    path.write_text("\n".join(path.read_text().splitlines()[2:4]) + "\n")
    assert lines(tmp_path, "images.bin with 3", "not images.txt with 1")


def test_a_comment_that_states_fewer_images_loses_none(tmp_path: Path) -> None:
    path = colmap(tmp_path) / "sparse/0/images.txt"
    path.write_text(path.read_text().replace("images: 3", "images: 0"))
    assert len(load_scene(tmp_path).frames("all")) == 3


def test_points_of_3dgs_beside_an_empty_file(tmp_path: Path) -> None:
    colmap(tmp_path)
    (tmp_path / "sparse/0/points3D.txt").write_text("# 3D point list\n")
    assert load_scene(tmp_path).points is None
    ply(tmp_path / "sparse/0/points3D.ply", [(1, 2, 3, 4, 5, 6)])
    points = load_scene(tmp_path).points
    assert points is not None and points.xyz.tolist() == [[1, 2, 3]]


def test_left_out_recordings_are_one_line(tmp_path: Path) -> None:
    write_colmap_text(tmp_path / "sparse/0")
    save_clip(tmp_path / "videos" / "cam00.mp4", 0, 3)
    assert len(lines(tmp_path, "no video or folder in videos")) == 1
    assert lines(tmp_path, "image cam01.png", "the same for 1 more: cam02.png")


def test_pictures_of_another_shape_are_one_line(tmp_path: Path) -> None:
    colmap(tmp_path)
    for c in range(3):
        save(tmp_path / "images" / f"cam{c:02d}.png", shot(c, 0)[:20])
    assert len(lines(tmp_path, severity="error")) == 1
    assert lines(tmp_path, "not a resized copy", "the same for 2 more: cam01.png, cam02.png", severity="error")


@pytest.mark.parametrize("beside", ["__MACOSX", "@eaDir", ".thumbs"])
def test_folders_of_systems_are_no_frames(tmp_path: Path, beside: str) -> None:
    write_colmap_text(tmp_path / "sparse/0")
    for k in range(2):
        for c in range(3):
            save(tmp_path / "images" / f"{k:06d}" / f"cam{c:02d}.png", shot(c, k))
    (tmp_path / "images" / beside).mkdir()
    assert len(load_scene(tmp_path).frames("all")) == 6


def test_videos_behind_a_link(tmp_path: Path) -> None:
    calibrated(tmp_path / "s", tmp_path / "store")
    (tmp_path / "s" / "videos").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "s" / "again").symlink_to(tmp_path / "s", target_is_directory=True)
    assert len(load_scene(tmp_path / "s").cameras) == 3


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8-sig"])
def test_calibrations_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    for path in calibrated(tmp_path).glob("*.xml"):
        text = path.read_text().replace("<opencv_storage>", "<opencv_storage><!-- f\u00fcr -->")
        path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert len(load_scene(tmp_path).cameras) == 3


@pytest.mark.parametrize(
    "name", ["poses_bounds_multipleview.npy", "cameras_parameters.txt", "poses_bounds.npy", "images.txt"]
)
def test_one_file_of_another_layout_hides_no_scene(tmp_path: Path, name: str) -> None:
    colmap(tmp_path) if name != "images.txt" else calibrated(tmp_path)
    np.save(tmp_path / "x.npy", llff_rows())
    (tmp_path / "x.npy").rename(tmp_path / name)
    assert load_scene(tmp_path).format == ("colmap" if name != "images.txt" else "videos")


@pytest.mark.parametrize("ending", [".PNG", ".Jpg"])
def test_endings_of_ids_and_masks(tmp_path: Path, ending: str) -> None:
    layout = next(layout for layout in LAYOUTS if layout.format == "nerfies")
    (tmp_path / "h").mkdir()
    layout.write(tmp_path / "h")
    count = len(load_scene(tmp_path / "h").frames("all"))
    for path in list((tmp_path / "h" / "rgb").rglob("*.png")):
        path.rename(path.with_suffix(ending))
    assert len(load_scene(tmp_path / "h").frames("all")) == count

    write_panoptic(tmp_path / "p", count=2)
    masked = [frame.mask is not None for frame in load_scene(tmp_path / "p").frames("all")]
    for path in list((tmp_path / "p" / "seg").rglob("*.png")):
        path.rename(path.with_suffix(ending))
    assert any(masked)
    assert [frame.mask is not None for frame in load_scene(tmp_path / "p").frames("all")] == masked


@pytest.mark.parametrize("mask", ["0.PNG", "0.jpg.png"])
def test_masks_as_programs_name_them(tmp_path: Path, mask: str) -> None:
    layout = next(layout for layout in LAYOUTS if layout.name == "easyvolcap")
    layout.write(tmp_path)
    shutil.rmtree(tmp_path / "masks", ignore_errors=True)
    save(tmp_path / "masks" / "00" / mask, np.full((48, 64), 255, np.uint8))
    found = load_scene(tmp_path).frames("all")
    assert len([frame for frame in found if frame.mask is not None]) == 1


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_list_without_frames(tmp_path: Path, split: str) -> None:
    write_dnerf(tmp_path, count=2)
    (tmp_path / f"transforms_{split}.json").write_bytes(codecs.BOM_UTF8 + b'{"frames": []}')
    assert load_scene(tmp_path).frames("train")
    assert bool(lines(tmp_path, "no test frames", "lists none")) == (split == "test")


def test_frames_that_are_listed_twice(tmp_path: Path) -> None:
    nerfstudio(tmp_path, nerfstudio_images(tmp_path))
    path = tmp_path / "transforms.json"
    content = json.loads(path.read_text())
    content["frames"] += json.loads(json.dumps(content["frames"]))
    path.write_text(json.dumps(content))
    assert len(load_scene(tmp_path).frames("all")) == 2 * COUNT
    assert lines(tmp_path, f"{2 * COUNT} pictures are listed twice")
    content["frames"][-1]["transform_matrix"] = np.eye(4).tolist()
    path.write_text(json.dumps(content))
    assert lines(tmp_path, "1 picture is listed twice, with different cameras")


def test_one_mistake_in_every_entry_is_one_line(tmp_path: Path) -> None:
    nerfstudio(tmp_path, nerfstudio_images(tmp_path))
    path = tmp_path / "transforms.json"
    content = json.loads(path.read_text())
    for index, frame in enumerate(content["frames"]):
        frame["transform_matrix"] = [[2 + index, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    content["frames"][3]["transform_matrix"] = "none"
    path.write_text(json.dumps(content))
    said = lines(tmp_path, severity="error")
    assert len(said) == 2 and "the same for 8 more: 1, 2, 4, 5, 6, 7, ..." in said[0] and "entry 3" in said[1]


def none(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_scene(folder)
    return str(caught.value).partition("; looked for")[0]


def test_what_is_no_scene_is_told_by_what_it_holds(tmp_path: Path) -> None:
    for name in ("coffee", "steak"):
        (tmp_path / "two" / name).mkdir(parents=True)
        write_n3dv(tmp_path / "two" / name)
    assert "there are 2: coffee, steak" in none(tmp_path / "two")
    colmap(tmp_path / "c")
    assert f"but {tmp_path / 'c'} is a scene: pass that folder" in none(tmp_path / "c" / "images")
    assert f"the scene {tmp_path / 'c'}; give that folder" in none(tmp_path / "c" / "sparse" / "0")
    for part in ("images", "cameras"):
        (tmp_path / "c" / "sparse" / "0" / f"{part}.txt").unlink()
    assert "sparse/ lacks its cameras and images" in none(tmp_path / "c")
    shutil.rmtree(tmp_path / "c" / "sparse")
    assert "images but no cameras" in none(tmp_path / "c")
    (tmp_path / "c" / "database.db").write_bytes(b"SQLite")
    assert "a COLMAP database, but no model" in none(tmp_path / "c")
    (tmp_path / "b").mkdir()
    np.save(tmp_path / "b" / "poses_bounds.npy", llff_rows())
    assert "neither cam00.mp4" in none(tmp_path / "b")
    write_dnerf(tmp_path / "d", count=2)
    (tmp_path / "d" / "transforms_train.json").unlink()
    assert "there is no transforms_train.json" in none(tmp_path / "d")


def test_a_file_in_place_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "transforms.json").write_text("{}")
    assert f"got a file; pass {tmp_path}" in none(tmp_path / "transforms.json")
    (tmp_path / "scene.zip").write_bytes(b"PK")
    assert "unpack it" in none(tmp_path / "scene.zip")


def test_masks_of_registered_images_are_read(tmp_path: Path) -> None:
    colmap(tmp_path)
    for c, name in enumerate(("cam00.png", "cam01.png.png")):
        save(tmp_path / "masks" / name, np.full((48, 64), 255 * (c + 1) // 2, np.uint8))
    found = {frame.camera.id: frame.mask for frame in load_scene(tmp_path).frames("all")}
    assert [mask is not None for _, mask in sorted(found.items())] == [True, True, False]
    assert lines(tmp_path, "1 of 3 images have no mask")


def test_what_is_not_registered_is_said(tmp_path: Path) -> None:
    colmap(tmp_path / "a")
    assert not lines(tmp_path / "a", "not registered")
    save(tmp_path / "a" / "images" / "other.png", shot(0, 0))
    assert lines(tmp_path / "a", "1 file or folder is not registered", "other.png")
    write_colmap_text(tmp_path / "b" / "sparse/0")
    for c in range(4):
        save_clip(tmp_path / "b" / "videos" / f"cam{c:02d}.mp4", c % 3, 3)
    assert lines(tmp_path / "b", "1 file or folder is not registered", "cam03")
