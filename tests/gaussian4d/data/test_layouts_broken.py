"""Every published layout, broken: one message at load time that names the file and the mend."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import (
    LAYOUTS,
    rewrite_json,
    save,
    save_clip,
    shot,
    write_colmap_text,
    write_easyvolcap,
)
from PIL import Image
from tiny_scenes import write_video

from gaussian4d.errors import UserError
from gaussian4d.scene import inspect, load_scene

WRITERS = {layout.name: layout.write for layout in LAYOUTS}


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def change_array(path: Path, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    array = np.load(path)
    changed = change(array)
    np.save(path, array if changed is None else changed)


def pickled(path: Path) -> None:
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def set_nan(array: np.ndarray) -> None:
    array[1, 3] = np.nan


def double(array: np.ndarray) -> None:
    array[2, [0, 5, 10]] *= 2


def duplicate_image(folder: Path) -> None:
    path = folder / "sparse" / "0" / "images.bin"
    data = path.read_bytes().replace(b"cam01.png", b"cam00.png")
    path.write_bytes(data)


def patch_bytes(path: Path, at: int, data: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[at : at + len(data)] = data
    path.write_bytes(bytes(content))


def nerfies_camera(key: str, value: object) -> Callable[[Path], None]:
    return lambda f: rewrite_json(f / "camera" / "left_3.json", lambda c: c.update({key: value}))


NPY = "poses_bounds.npy"
IMAGES_BIN, CAMERAS_BIN = "sparse/0/images.bin", "sparse/0/cameras.bin"
TEXT_IMAGES = "sparse/images.txt"

# What breaks, how, and the words of the message.
BROKEN: list[tuple[str, str, Callable[[Path], object], tuple[str, ...]]] = [
    ("n3dv", "missing video", lambda f: (f / "cam02.mp4").unlink(), (NPY, "3 cameras", "2 (cam00, cam10", "restore")),
    ("n3dv", "cut array", lambda f: cut(f / NPY, 300), (NPY, "N x 17", "restore")),
    ("n3dv", "columns", lambda f: change_array(f / NPY, lambda a: a[:, :15]), (NPY, "(3, 15)", "N x 17")),
    ("n3dv", "rows", lambda f: change_array(f / NPY, lambda a: a[:2]), (NPY, "2 cameras", "remove")),
    ("n3dv", "NaN", lambda f: change_array(f / NPY, set_nan), (NPY, "row 1", "NaN", "restore")),
    ("n3dv", "no rotation", lambda f: change_array(f / NPY, double), (NPY, "row 2", "cam10", "not a rotation")),
    ("n3dv", "pickled objects", lambda f: pickled(f / NPY), (NPY, "N x 17")),
    (
        "n3dv",
        "two videos of a name",
        lambda f: write_video(f / "cam02.avi", [shot(1, 0)], codec="mpeg4"),
        ("cam02", "two videos", "rename"),
    ),
    ("n3dv_unpacked", "picture twice", lambda f: save(f / "cam01/images/00003.png", shot(1, 3)), ("3.png", "twice")),
    ("colmap_videos", "no cameras", lambda f: (f / CAMERAS_BIN).unlink(), ("sparse/0", "cameras.bin", "copy")),
    ("colmap_videos", "no images", lambda f: (f / IMAGES_BIN).unlink(), ("sparse/0", "images.bin", "copy")),
    ("colmap_videos", "cut images", lambda f: cut(f / IMAGES_BIN, 200), (IMAGES_BIN, "copy it again")),
    ("colmap_videos", "cut cameras", lambda f: cut(f / CAMERAS_BIN, 50), (CAMERAS_BIN, "copy it again")),
    (
        "colmap_videos",
        "count beyond the file",
        lambda f: patch_bytes(f / IMAGES_BIN, 0, struct.pack("<Q", 1 << 60)),
        (IMAGES_BIN, f"{1 << 60} entries", "room for"),
    ),
    (
        "colmap_videos",
        "count too low",
        lambda f: patch_bytes(f / IMAGES_BIN, 0, struct.pack("<Q", 2)),
        (IMAGES_BIN, "left over"),
    ),
    (
        "colmap_videos",
        "unknown model",
        lambda f: patch_bytes(f / CAMERAS_BIN, 12, struct.pack("<i", 99)),
        (CAMERAS_BIN, "unknown model 99"),
    ),
    (
        "colmap_videos",
        "NaN pose",
        lambda f: patch_bytes(f / IMAGES_BIN, 12, struct.pack("<d", float("nan"))),
        (IMAGES_BIN, "cam02.png", "NaN", "again"),
    ),
    ("colmap_videos", "image twice", duplicate_image, (IMAGES_BIN, "cam00.png", "twice")),
    (
        "colmap_frames",
        "unsupported lens",
        lambda f: write_colmap_text(f / "sparse/0", "FOV 64 48 70 70 32 24 0.9"),
        ("cameras.txt", "FOV", "image_undistorter"),
    ),
    (
        "colmap_frames",
        "parameters",
        lambda f: write_colmap_text(f / "sparse/0", "OPENCV 64 48 70 70 32 24"),
        ("cameras.txt", "OPENCV with 4 parameters"),
    ),
    (
        "colmap_folders",
        "count",
        lambda f: replace(f / TEXT_IMAGES, "images: 3", "images: 4"),
        (TEXT_IMAGES, "states 4"),
    ),
    ("colmap_folders", "cut line", lambda f: cut(f / TEXT_IMAGES, 250), (TEXT_IMAGES, "copy it again")),
    (
        "colmap_folders",
        "path that leads outside",
        lambda f: (
            [replace(f / TEXT_IMAGES, f"cam{n:02d}/0.png", "../../x/0.png") for n in (0,)]
            and [(p.unlink(), None) for p in (f / "images").rglob("*.png")]
        ),
        ("../../x/0.png", "leads outside"),
    ),
    ("nerfies", "no metadata", lambda f: (f / "metadata.json").unlink(), ("metadata.json", "found none")),
    ("nerfies", "cut dataset", lambda f: cut(f / "dataset.json", 60), ("dataset.json", "not valid JSON", "restore")),
    ("nerfies", "missing camera", lambda f: (f / "camera/left_3.json").unlink(), ("left_3.json", "found none")),
    ("nerfies", "missing picture", lambda f: (f / "rgb/2x/val_4.png").unlink(), ("rgb/2x/val_4.png", "restore")),
    (
        "nerfies",
        "unknown id",
        lambda f: rewrite_json(f / "dataset.json", lambda d: d["val_ids"].append("nobody")),
        ("dataset.json", "nobody"),
    ),
    (
        "nerfies",
        "no instant",
        lambda f: rewrite_json(f / "metadata.json", lambda d: d.pop("val_4")),
        ("metadata.json", "val_4", "no entry"),
    ),
    (
        "nerfies",
        "path that leads outside",
        lambda f: rewrite_json(f / "dataset.json", lambda d: d["ids"].append("../../etc/passwd")),
        ("dataset.json", "../../etc/passwd"),
    ),
    ("nerfies", "NaN", nerfies_camera("orientation", [[float("nan")] * 3] * 3), ("left_3.json", "orientation", "NaN")),
    ("nerfies", "mirrored", nerfies_camera("orientation", [[1, 0, 0], [0, 1, 0], [0, 0, -1]]), ("not a rotation",)),
    ("nerfies", "size", nerfies_camera("image_size", [100, 90]), ("left_3.json", "100x90", "50x45", "64x48")),
    ("nerfies", "skew", nerfies_camera("skew", 5.0), ("left_3.json", "skew")),
    ("dycheck", "no training split", lambda f: (f / "splits/train.json").unlink(), ("splits/train.json", "found none")),
    (
        "dycheck",
        "lengths",
        lambda f: rewrite_json(f / "splits/val.json", lambda d: d["time_ids"].pop()),
        ("splits/val.json", "24, 24 and 23", "restore"),
    ),
    (
        "dycheck",
        "NaN time",
        lambda f: rewrite_json(f / "splits/val.json", lambda d: d["time_ids"].__setitem__(0, float("nan"))),
        ("splits/val.json", "finite number"),
    ),
    ("dycheck", "factor", lambda f: rewrite_json(f / "extra.json", lambda d: d.update(factor=0)), ("extra.json",)),
    (
        "technicolor",
        "missing rows",
        lambda f: cut(f / "cameras_parameters.txt", 900),
        ("cameras_parameters.txt", "camera 10", "restore"),
    ),
    (
        "technicolor",
        "NaN",
        lambda f: replace(f / "cameras_parameters.txt", "\n70.0", "\nnan"),
        ("cameras_parameters.txt", "camera 00", "12 finite numbers"),
    ),
    (
        "technicolor",
        "distorted release",
        lambda f: replace(f / "cameras_parameters.txt", " 1.0 0.0 ", " 1.0 0.0 0.1 0.2 "),
        ("camera 00", "undistorted one"),
    ),
    ("technicolor", "two scenes", lambda f: save(f / "Train_undist_95_00.png", shot(0, 0)), ("twice",)),
    ("easyvolcap", "no extrinsics", lambda f: (f / "extri.yml").unlink(), ("extri.yml", "restore")),
    ("easyvolcap", "NaN", lambda f: replace(f / "intri.yml", "[ 70.0", "[ .nan"), ("intri.yml", "camera 00", "NaN")),
    (
        "easyvolcap",
        "wrong count",
        lambda f: replace(f / "extri.yml", "rows: 3\n   cols: 3", "rows: 3\n   cols: 4"),
        ("extri.yml", "holds 9 numbers"),
    ),
    (
        "easyvolcap",
        "camera twice",
        lambda f: replace(f / "intri.yml", "K_01:", "K_00:"),
        ("intri.yml", "K_00 is stated twice"),
    ),
    (
        "easyvolcap",
        "mask size",
        lambda f: save(f / "masks/02/0.png", np.zeros((9, 9), np.uint8)),
        ("masks/02/0.png", "9x9", "64x48", "same size"),
    ),
    (
        "easyvolcap",
        "code",
        lambda f: replace(f / "intri.yml", "!!opencv-matrix", "!!python/object/apply:os.system"),
        ("intri.yml", "!!python/object/apply:os.system"),
    ),
    (
        "easyvolcap_videos",
        "size",
        lambda f: replace(f / "intri.yml", "H_01: 48.", "H_01: 30."),
        ("01.mp4", "64x30", "64x48", "calibrate"),
    ),
    ("multipleview", "no model", lambda f: [p.unlink() for p in (f / "sparse_").iterdir()], ("sparse_", "cameras.bin")),
    (
        "multipleview",
        "cut model",
        lambda f: cut(f / "sparse_/images.bin", 100),
        ("sparse_/images.bin", "copy it again"),
    ),
    (
        "multipleview",
        "size",
        lambda f: Image.new("RGB", (20, 48)).save(f / "cam02" / "frame_00001.jpg"),
        ("frame_00001.jpg", "64x48", "20x48"),
    ),
    ("multipleview", "mixed", lambda f: save_clip(f / "cam02.mp4", 1), ("cam01", "images, but cam02 has a video")),
]


@pytest.mark.parametrize(
    ("layout", "mutate", "words"), [(row[0], *row[2:]) for row in BROKEN], ids=[f"{row[0]}-{row[1]}" for row in BROKEN]
)
def test_broken_layout(
    layout: str, mutate: Callable[[Path], object], words: tuple[str, ...], tmp_path: Path, written: dict[str, Path]
) -> None:
    folder = tmp_path / "scene"
    _copy(written, layout, folder, tmp_path)
    mutate(folder)
    with pytest.raises(UserError) as caught:
        load_scene(folder)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert "more; `gaussian4d info" not in str(caught.value), "one mistake, one error"
    _, problems = inspect(folder)
    assert [problem.severity for problem in problems].count("error") == 1


@pytest.fixture(scope="module")
def written() -> dict[str, Path]:
    """Layouts that are on disk already, by name."""
    return {}


def _copy(written: dict[str, Path], layout: str, folder: Path, tmp_path: Path) -> None:
    """Puts a fresh copy of a layout at `folder`; each is drawn once."""
    if layout not in written:
        original = tmp_path / "original"
        original.mkdir()
        WRITERS[layout](original)
        written[layout] = original
    shutil.copytree(written[layout], folder)


def test_points_that_cannot_be_read_are_left_out_with_a_warning(tmp_path: Path) -> None:
    for layout, name in (
        ("colmap_videos", "sparse/0/points3D.bin"),
        ("colmap_folders", "sparse/points3D.txt"),
        ("multipleview", "points3D_multipleview.ply"),
        ("nerfies", "points.npy"),
    ):
        folder = tmp_path / layout
        folder.mkdir()
        WRITERS[layout](folder)
        points = load_scene(folder).points
        assert points is not None and len(points) == 1, layout
        cut(folder / name, 55)
        scene = load_scene(folder)
        assert scene.points is None, layout
        assert any(Path(name).name in str(problem) and "ignored" in str(problem) for problem in scene.problems), layout


def test_cameras_without_recording_and_the_reverse_are_named(tmp_path: Path) -> None:
    write_easyvolcap(tmp_path, videos=True)
    (tmp_path / "videos" / "02.mp4").rename(tmp_path / "videos" / "07.mp4")
    (tmp_path / "sync.json").write_text("{}")
    scene = load_scene(tmp_path)
    assert list(scene.cameras) == ["00", "01"]
    text = "\n".join(map(str, scene.problems))
    assert "camera 02 has no pictures" in text and "07.mp4" in text and "sync.json" in text
