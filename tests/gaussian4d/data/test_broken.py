"""Broken scenes: one clear message that names the file and the mend, at load time."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tiny_scenes import (
    COUNT,
    HEIGHT,
    WIDTH,
    assert_dots,
    dot,
    dot_video,
    nerfstudio,
    nerfstudio_images,
    opencv_xml,
    picture,
    pixel,
    poses,
    qualisys_text,
    spoil,
    write_dnerf,
    write_panoptic,
    write_video,
)

from gaussian4d.errors import UserError
from gaussian4d.scene import inspect, load_scene


def videos(folder: Path, **options: str) -> Path:
    for c, pose in enumerate(poses()):
        dot_video(folder / f"cam{c}.mp4", pose, count=12, **options)
        (folder / f"cam{c}.xml").write_text(opencv_xml(pose))
    return folder


def fails(folder: Path, *words: str) -> None:
    """Asserts that loading raises one `UserError` with these words, and that `inspect` reports it too."""
    with pytest.raises(UserError) as caught:
        load_scene(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    _, problems = inspect(folder)
    errors = [problem for problem in problems if problem.severity == "error"]
    assert errors and all(word in "\n".join(map(str, errors)) for word in words)


def test_missing_empty_and_unknown_folders(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", "nowhere", "no such folder")
    fails(tmp_path, "empty", "transforms_train.json", "train_meta.json", "Qualisys")
    (tmp_path / "notes.txt").write_text("hello")
    fails(tmp_path, "no scene found", "transforms.json", "OpenCV")
    fails(tmp_path / "notes.txt", "notes.txt", "expected a scene folder")


def test_missing_frame(tmp_path: Path) -> None:
    write_dnerf(tmp_path)
    (tmp_path / "train" / "c1_t3.png").unlink()
    fails(tmp_path, "transforms_train.json", "c1_t3.png", "missing", "restore")
    (tmp_path / "train" / "c0_t0.png").unlink()
    with pytest.raises(
        UserError, match=r"c0_t0\.png is missing.*2 files are missing in total, also c1_t3\.png; --skip"
    ):
        load_scene(tmp_path)
    scene, problems = inspect(tmp_path)
    assert scene is not None and len(problems) == 1, "what is left can still be looked at"


def test_missing_frame_of_panoptic(tmp_path: Path) -> None:
    write_panoptic(tmp_path)
    (tmp_path / "ims" / "1" / "000002.jpg").unlink()
    fails(tmp_path, "train_meta.json", "instant 2", "000002.jpg", "missing")


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(3).tolist(), ("must be 4x4 or 3x4", "3x3")),
        ((2 * np.eye(4)).tolist(), ("last row",)),
        (np.diag([2.0, 2, 2, 1]).tolist(), ("not a rotation",)),
        (np.diag([1.0, 1, -1, 1]).tolist(), ("not a rotation", "determinant -1")),
        ([[float("nan")] * 4] * 3 + [[0, 0, 0, 1]], ("NaN",)),
        ([[1, 2], [3]], ("matrix of numbers",)),
        ("identity", ("matrix of numbers",)),
        (None, ("4x4",)),
    ],
)
def test_wrong_pose(tmp_path: Path, matrix: object, words: tuple[str, ...]) -> None:
    write_dnerf(tmp_path)
    path = tmp_path / "transforms_train.json"
    content = json.loads(path.read_text())
    content["frames"][4]["transform_matrix"] = matrix
    path.write_text(json.dumps(content))
    fails(tmp_path, "transforms_train.json", "frame 4", "transform_matrix", *words)


@pytest.mark.parametrize("value", [0, -5, "wide", None, float("inf")])
def test_wrong_focal_length(tmp_path: Path, value: object) -> None:
    write_dnerf(tmp_path)
    path = tmp_path / "transforms_test.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fl_x": value}))
    fails(tmp_path, "transforms_test.json", "f" if value in (0, -5) else "fl_x")


def test_wrong_intrinsics_of_panoptic(tmp_path: Path) -> None:
    write_panoptic(tmp_path)
    path = tmp_path / "test_meta.json"
    meta = json.loads(path.read_text())
    meta["k"][0][0] = [[1, 0], [0, 1]]
    path.write_text(json.dumps(meta))
    fails(tmp_path, "test_meta.json", "instant 0, camera 2", "k must be 3x3")


def test_size_that_is_not_the_picture_s(tmp_path: Path) -> None:
    write_dnerf(tmp_path)
    path = tmp_path / "transforms_train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"w": 128, "h": 90}))
    fails(tmp_path, f"{WIDTH}x{HEIGHT}", "128x90", "not a resized copy")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "train/../../x.png"])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "scene"
    write_dnerf(folder)
    path = folder / "transforms_train.json"
    content = json.loads(path.read_text())
    content["frames"][0]["file_path"] = name
    path.write_text(json.dumps(content))
    fails(folder, "leads outside", name)
    write_panoptic(tmp_path / "panoptic")
    path = tmp_path / "panoptic" / "train_meta.json"
    meta = json.loads(path.read_text())
    meta["fn"][0][0] = name
    path.write_text(json.dumps(meta))
    fails(tmp_path / "panoptic", "leads outside", name)


def test_json_that_is_not(tmp_path: Path) -> None:
    (tmp_path / "transforms_train.json").write_text("{")
    fails(tmp_path, "transforms_train.json", "not valid JSON")
    (tmp_path / "transforms_train.json").write_text("[]")
    fails(tmp_path, "transforms_train.json", '"frames"')


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_truncated_mp4(tmp_path: Path, share: float) -> None:
    """The index is at the end: nothing can be read."""
    videos(tmp_path)
    cut(tmp_path / "cam1.mp4", share)
    fails(tmp_path, "cam1.mp4", "copy it again")


def test_truncated_streaming_mp4(tmp_path: Path) -> None:
    """The index is at the start and promises more than there is."""
    videos(tmp_path)
    images = [np.random.default_rng(k).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8) for k in range(12)]
    path = write_video(tmp_path / "cam1.mp4", images)
    with av.open(str(path)) as source, av.open(str(tmp_path / "x.mp4"), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    (tmp_path / "x.mp4").rename(path)
    load_scene(tmp_path)
    cut(path, 0.8)
    fails(tmp_path, "cam1.mp4", "truncated", "12")


def test_last_frame_that_cannot_be_decoded(tmp_path: Path) -> None:
    """The file has its full length, its last frame is zeros."""
    videos(tmp_path)
    path = tmp_path / "cam1.mp4"
    with av.open(str(path)) as container:
        last = max(container.streams.video[0].index_entries, key=lambda entry: entry.pos)
    data = bytearray(path.read_bytes())
    data[last.pos : last.pos + last.size] = bytes(last.size)
    path.write_bytes(data)
    fails(tmp_path, "cam1.mp4", "cannot be decoded", "copy it again")


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated_avi_and_matroska(tmp_path: Path, share: float) -> None:
    videos(tmp_path)
    images = [np.random.default_rng(k).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8) for k in range(12)]
    (tmp_path / "cam1.mp4").unlink()
    path = write_video(tmp_path / "cam1.avi", images, codec="mpeg4")
    load_scene(tmp_path)
    cut(path, share)
    fails(tmp_path, "cam1.avi", "truncated")
    path.unlink()
    path = write_video(tmp_path / "cam1.mkv", images * 4)
    load_scene(tmp_path)
    cut(path, share * 0.9)
    fails(tmp_path, "cam1.mkv", "truncated")


def test_a_file_that_is_no_video(tmp_path: Path) -> None:
    videos(tmp_path)
    (tmp_path / "cam2.mp4").write_text("not a video")
    fails(tmp_path, "cam2.mp4", "cannot be decoded")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<rows>3</rows><cols>3</cols>", "<rows>3</rows><cols>2</cols>", ("holds 9 numbers",)),
        ("<data>\n  70 ", "<data>\n  0 ", ("focal lengths must be positive",)),
        ("<data>\n  70 ", "<data>\n  nan ", ("NaN",)),
        ("<data>\n  70 ", "<data>\n  wide ", ("wide",)),
        ("Translation", "Elsewhere", ("rotation and translation",)),
        ("</opencv_storage>", "", ("FileStorage",)),
        ("<opencv_storage>", "<!DOCTYPE x [<!ENTITY a 'b'>]><opencv_storage>", ("entities",)),
    ],
)
def test_wrong_opencv_files(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    videos(tmp_path)
    path = tmp_path / "cam1.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    fails(tmp_path, "cam1.xml", *words)


def test_rotation_that_is_none(tmp_path: Path) -> None:
    videos(tmp_path)
    (tmp_path / "cam1.xml").write_text(opencv_xml(poses()[1], rotation=2 * np.eye(3)))
    fails(tmp_path, "cam1.xml", "camera cam1", "not a rotation")


def test_wrong_qualisys_files(tmp_path: Path) -> None:
    for c, pose in enumerate(poses()):
        dot_video(tmp_path / f"cam{c}.mp4", pose)
    path = tmp_path / "a.qca.txt"
    good = qualisys_text(poses(), ["cam0", "cam1", "cam2"])
    for old, new, word in (
        ('r11="', 'r11="3" was="', "not a rotation"),
        ('focalLengthU="', 'focalLengthU="-', "focal lengths"),
        ('x="', 'x="nan" was="', "finite"),
        ("<intrinsic ", "<other ", "intrinsic"),
        ("</calibration>", "", "XML"),
    ):
        path.write_text(good.replace(old, new, 1))
        fails(tmp_path, "a.qca.txt", word)
    path.write_text(good)
    load_scene(tmp_path)


def test_videos_without_calibration_or_without_a_match(tmp_path: Path) -> None:
    dot_video(tmp_path / "left.mp4", poses()[0])
    fails(tmp_path, "no calibration", "Qualisys")
    (tmp_path / "right.xml").write_text(opencv_xml(poses()[0]))
    fails(tmp_path, "no video name matches", "right", "left")


def test_lengths_and_rates_that_differ(tmp_path: Path) -> None:
    """The common instants are used; a camera of twice the rate gives every second frame."""
    for c, (count, step) in enumerate(((COUNT, 1), (COUNT + 3, 1))):
        images = [picture(*pixel(poses()[c], dot(k // step))) for k in range(count)]
        write_video(tmp_path / f"cam{c}.mp4", images)
        (tmp_path / f"cam{c}.xml").write_text(opencv_xml(poses()[c]))
    scene = load_scene(tmp_path)
    assert len(scene.times) == COUNT
    assert any("frame counts differ" in problem.message for problem in scene.problems)
    images = [picture(*pixel(poses()[1], dot(0) + (dot(1) - dot(0)) * k / 2)) for k in range(2 * COUNT)]
    write_video(tmp_path / "cam1.mp4", images, fps=50)
    scene = load_scene(tmp_path)
    assert len(scene.times) == COUNT and scene.fps == 25
    assert any("frame rates differ" in problem.message for problem in scene.problems)
    assert_dots(scene)


def test_damaged_picture_is_named_when_decoded(tmp_path: Path) -> None:
    write_dnerf(tmp_path)
    spoil(tmp_path / "train" / "c0_t1.png")
    scene = load_scene(tmp_path)
    with pytest.raises(UserError, match=r"c0_t1\.png.*restore"):
        _ = scene.frames()[1].image


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_picture_that_was_cut_is_named_at_load(tmp_path: Path, ending: str) -> None:
    frames = nerfstudio_images(tmp_path)
    for frame in frames:
        path = tmp_path / frame["file_path"]
        frame["file_path"] = str(Path(frame["file_path"]).with_suffix(f".{ending}"))
        Image.open(path).save(tmp_path / frame["file_path"])
    nerfstudio(tmp_path, frames)
    load_scene(tmp_path)
    cut(tmp_path / frames[2]["file_path"], 0.9)
    fails(tmp_path, f"frame_9.{ending}", "ends early", "restore")


def test_points_that_cannot_be_read_are_left_out_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "p.ply").write_text("ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nend_header\n1\n")
    scene = load_scene(nerfstudio(tmp_path, nerfstudio_images(tmp_path), ply_file_path="p.ply"))
    assert scene.points is None
    assert any("p.ply" in problem.message for problem in scene.problems)


def test_times_for_some_frames_only(tmp_path: Path) -> None:
    frames = nerfstudio_images(tmp_path)
    frames[3]["time"] = 0.5
    fails(nerfstudio(tmp_path, frames), "transforms.json", "entry 0", "time")
