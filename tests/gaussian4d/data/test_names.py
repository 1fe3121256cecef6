"""Files are found by the names that lists have; one cause is one line; models and folders as programs leave them."""

from __future__ import annotations

import codecs
import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layouts import LAYOUTS, llff_rows, rewrite_json, save, shot, write_colmap_binary, write_colmap_text
from PIL import Image
from tiny_scenes import COUNT, nerfstudio, nerfstudio_images, write_dnerf, write_panoptic

from gaussian4d.cli import main
from gaussian4d.data.named_files import SceneFiles
from gaussian4d.errors import UserError
from gaussian4d.scene import inspect, load_scene


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    (tmp_path / "s").mkdir()
    return nerfstudio(tmp_path / "s", nerfstudio_images(tmp_path / "s"))


def rename(folder: Path, change: Callable[[str], str]) -> None:
    """Changes every file_path of a transforms.json."""
    rewrite_json(
        folder / "transforms.json",
        lambda content: [frame.update(file_path=change(frame["file_path"])) for frame in content["frames"]],
    )


def warned(folder: Path, *words: str) -> None:
    """Asserts that the scene is read whole and that one warning has all the words."""
    scene, problems = inspect(folder)
    assert scene is not None and len(scene.frames("all")) == 2 * COUNT
    fitting = [problem for problem in problems if all(word in problem.message for word in words)]
    assert len(fitting) == 1 and fitting[0].severity == "warning"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda name: name.replace("/", "\\"), "with backslashes"),
        (lambda name: "C:\\Users\\me\\scene\\" + name.replace("/", "\\"), "by absolute paths of another computer"),
        (lambda name: "/Volumes/Disk/scene/" + name, "by absolute paths of another computer"),
        (lambda name: "/" + name, "by absolute paths of another computer"),
        (lambda name: "~/scene/" + name, "by absolute paths of another computer"),
        (lambda name: name.replace(".png", ".PNG"), "in different case or accents"),
        (lambda name: name.upper(), "in different case or accents"),
        (lambda name: name.replace(".png", ".jpg"), "with a different extension"),
        (lambda name: name.replace("cam", "%63am"), "URL escapes"),
        (lambda name: "file:///home/me/clip/" + name.replace("cam", "%63am"), "file://"),
        (lambda name: "file:///C:/my%20clip/" + name, "file://"),
        (lambda name: "file:/C:/clip/" + name, "file://"),
        (lambda name: "FILE://localhost/clip/" + name, "file://"),
        (lambda name: "file://" + name, "file://"),
    ],
)
def test_names_of_other_systems_are_understood_and_said_once(
    scene: Path, change: Callable[[str], str], words: str
) -> None:
    rename(scene, change)
    warned(scene, words, f"{2 * COUNT} files are")


@pytest.mark.parametrize("change", [lambda name: "./" + name, lambda name: name[:-4], lambda name: f"x/../{name}"])
def test_names_that_need_no_word(scene: Path, change: Callable[[str], str]) -> None:
    rename(scene, change)
    found, problems = inspect(scene)
    assert found is not None and not problems


def test_an_absolute_path_into_the_scene_is_its_own(scene: Path) -> None:
    rename(scene, lambda name: str(scene.absolute() / name))
    found, problems = inspect(scene)
    assert found is not None and not problems


def test_accents_composed_in_another_way(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "caf\u00e9.png") for form in ("NFC", "NFD"))
    save(tmp_path / apart, shot(0, 0))
    assert SceneFiles(tmp_path).picture(composed).name == apart


def test_a_smaller_copy_of_the_folder(tmp_path: Path) -> None:
    write_colmap_text(tmp_path / "sparse" / "0")
    for c in range(3):
        save(tmp_path / "images_4" / f"cam{c:02d}.png", shot(c, 0)[::4, ::4])
        save(tmp_path / "images_2" / f"cam{c:02d}.png", shot(c, 0)[::2, ::2])
    found, problems = inspect(tmp_path)
    assert found is not None and [problem.severity for problem in problems].count("error") == 0
    assert {(frame.camera.width, frame.camera.height) for frame in found.frames("all")} == {(32, 24)}
    assert any("images_2" in problem.message for problem in problems)


@pytest.mark.parametrize(("there", "listed", "step"), [("images_2", "images", 2), ("images", "images_8", 1)])
def test_a_list_of_pictures_of_another_size(scene: Path, there: str, listed: str, step: int) -> None:
    before = load_scene(scene).cameras["cam0"]
    for camera in ("cam0", "cam1"):
        for path in (scene / camera).iterdir():
            save(scene / there / camera / path.name, np.asarray(Image.open(path))[::step, ::step])
        shutil.rmtree(scene / camera)
    rename(scene, lambda name: f"{listed}/{name}")
    factor = 8 if listed == "images_8" else 1
    keys = ("w", "h", "fl_x", "fl_y", "cx", "cy")
    rewrite_json(
        scene / "transforms.json",
        lambda content: [
            each.update({key: each[key] / factor for key in keys if key in each})
            for each in (content, *content["frames"])
        ],
    )
    warned(scene, "only exists at another size", f"{2 * COUNT} files are")
    camera = load_scene(scene).cameras["cam0"]
    assert camera.width == 64 // step and np.allclose(camera.K[:2], before.K[:2] / step)


def test_a_copy_of_another_size_is_of_pictures_only(scene: Path) -> None:
    shutil.copytree(scene / "cam1", scene / "view_2")
    rename(scene, lambda name: name.replace("cam1", "view_4"))
    with pytest.raises(UserError, match="missing"):
        load_scene(scene)


@pytest.mark.parametrize("name", ["", "  ", "./"])
def test_an_empty_name(scene: Path, name: str) -> None:
    rewrite_json(scene / "transforms.json", lambda content: content["frames"][0].update(file_path=name))
    with pytest.raises(UserError, match="expected the name of a picture"):
        load_scene(scene)


def test_a_name_too_long_for_a_file(scene: Path) -> None:
    rewrite_json(scene / "transforms.json", lambda content: content["frames"][0].update(file_path="x/" + 300 * "y"))
    with pytest.raises(UserError, match="missing"):
        load_scene(scene)


def test_a_file_of_that_name_in_another_folder_is_named_not_taken(tmp_path: Path) -> None:
    write_colmap_binary(tmp_path / "sparse" / "0")
    for c in range(3):
        save(tmp_path / "images" / "left" / f"cam{c:02d}.png", shot(c, 0))
    with pytest.raises(UserError, match=r"images/left/cam00\.png is there"):
        load_scene(tmp_path)


@pytest.mark.parametrize("name", ["../s/cam0/frame_7.png", "/etc/passwd", "cam0/../../x.png", "..\\s\\x.png"])
def test_a_name_that_leads_out_is_refused(scene: Path, name: str) -> None:
    rewrite_json(scene / "transforms.json", lambda content: content["frames"][0].update(file_path=name))
    with pytest.raises(UserError, match="outside"):
        load_scene(scene)


def test_links_of_the_user_are_followed(scene: Path, tmp_path: Path) -> None:
    shutil.move(scene / "cam0", tmp_path / "store")
    (scene / "cam0").symlink_to(tmp_path / "store", target_is_directory=True)
    shutil.move(scene / "cam1" / "frame_7.png", tmp_path / "one.png")
    (scene / "cam1" / "frame_7.png").symlink_to(tmp_path / "one.png")
    found, problems = inspect(scene)
    assert found is not None and not problems and found.frames("all")[0].image.any()


def test_two_files_of_one_name_are_named(scene: Path) -> None:
    for ending in (".JPG", ".Jpg"):
        shutil.copyfile(scene / "cam0" / "frame_7.png", scene / "cam0" / f"frame_7{ending}")
    (scene / "cam0" / "frame_7.png").unlink()
    with pytest.raises(UserError, match=r"frame_7\.JPG, frame_7\.Jpg are there"):
        load_scene(scene)


def test_missing_files_of_another_computer_are_one_line(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rename(scene, lambda name: "D:\\data\\other\\" + name.replace("cam", "view").replace("/", "\\"))
    assert main(["info", str(scene)]) == 2
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if line.startswith("error")]
    assert len(lines) == 1 and "another computer" in lines[0]


def test_dnerf_and_panoptic_take_the_same_names(tmp_path: Path) -> None:
    write_dnerf(tmp_path / "d", count=2)
    rewrite_json(
        tmp_path / "d" / "transforms_train.json",
        lambda content: [f.update(file_path=f["file_path"].replace("/", "\\")) for f in content["frames"]],
    )
    assert len(load_scene(tmp_path / "d").frames("all")) == 6
    write_panoptic(tmp_path / "p", count=2)
    rewrite_json(
        tmp_path / "p" / "train_meta.json",
        lambda content: content.update(fn=[[name.replace(".jpg", ".JPG") for name in row] for row in content["fn"]]),
    )
    found = load_scene(tmp_path / "p")
    assert len(found.frames("all")) == 6 and found.frames("train")[0].mask is not None


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ],
)
def test_byte_order_marks(scene: Path, mark: bytes, encoding: str) -> None:
    path = scene / "transforms.json"
    path.write_bytes(mark + path.read_text().replace("\n", "\r\n").encode(encoding))
    assert len(load_scene(scene).frames("all")) == 2 * COUNT


@pytest.mark.parametrize("name", [layout.name for layout in LAYOUTS])
def test_every_text_may_have_a_mark_and_every_folder_hidden_files(tmp_path: Path, name: str) -> None:
    layout = next(layout for layout in LAYOUTS if layout.name == name)
    (tmp_path / "s").mkdir()
    layout.write(tmp_path / "s")
    before = load_scene(tmp_path / "s")
    for path in list((tmp_path / "s").rglob("*")):
        if path.suffix in (".json", ".txt", ".yml"):
            path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
        if path.is_file():
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2")
    (tmp_path / "s" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "s" / "__MACOSX").mkdir()
    after = load_scene(tmp_path / "s")
    assert after.fingerprint() == before.fingerprint()


def colmap(folder: Path, lines: Callable[[list[str]], list[str]] = lambda lines: lines) -> Path:
    """Writes a text model, its images.txt changed, and three pictures."""
    model = folder / "sparse" / "0"
    write_colmap_text(model)
    path = model / "images.txt"
    path.write_text("\n".join(lines(path.read_text().splitlines())) + "\n")
    for c in range(3):
        save(folder / "images" / f"cam{c:02d}.png", shot(c, 0))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [line for line in lines if line.strip()],
        lambda lines: [line for line in lines if len(line.split()) > 5],
        lambda lines: ["", *lines, ""],
        lambda lines: ["  " + line + " \t" for line in lines],
        lambda lines: [line for line in lines if not line.startswith("#")],
    ],
    ids=["no empty lines", "no lines of points", "more empty lines", "indented", "no comments"],
)
def test_variants_of_colmap_text_lose_no_image(tmp_path: Path, change: Callable[[list[str]], list[str]]) -> None:
    assert len(load_scene(colmap(tmp_path, change)).frames("all")) == 3


def test_sizes_with_a_decimal_point(tmp_path: Path) -> None:
    path = colmap(tmp_path) / "sparse" / "0" / "cameras.txt"
    path.write_text(path.read_text().replace("64 48", "64.0 48.0"))
    assert len(load_scene(tmp_path).frames("all")) == 3


@pytest.mark.parametrize("registered", ["cam{}.PNG", "cam{}", "CAM{}.png", "cam{}.jpg"])
def test_registered_names(tmp_path: Path, registered: str) -> None:
    write_colmap_binary(tmp_path / "sparse" / "0", registered)
    for c in range(3):
        save(tmp_path / "images" / f"cam{c:02d}.png", shot(c, 0))
    assert len(load_scene(tmp_path).frames("all")) == 3


@pytest.mark.parametrize("write", [write_colmap_text, write_colmap_binary])
def test_names_in_another_encoding(tmp_path: Path, write: Callable[..., None]) -> None:
    write(tmp_path / "sparse" / "0")
    path = next((tmp_path / "sparse" / "0").glob("images.*"))
    room = "\u623f\u95f4".encode("gbk")
    path.write_bytes(path.read_bytes().replace(b"cam", room))
    (tmp_path / "images").mkdir()
    for c in range(3):
        save(tmp_path / "x.png", shot(c, 0))
        (tmp_path / "x.png").rename(tmp_path / "images" / (os.fsdecode(room) + f"{c:02d}.png"))
    assert len(load_scene(tmp_path).frames("all")) == 3


@pytest.mark.parametrize(("encoding", "room"), [("gbk", "\u623f\u95f4"), ("latin-1", "caf\u00e9"), ("cp932", "\u732b")])
def test_names_that_a_copy_has_turned_to_utf8(tmp_path: Path, encoding: str, room: str) -> None:
    write_colmap_text(tmp_path / "sparse" / "0")
    path = tmp_path / "sparse" / "0" / "images.txt"
    path.write_bytes(path.read_bytes().replace(b"cam", room.encode(encoding)))
    for c in range(3):
        save(tmp_path / "images" / f"{room}{c:02d}.png", shot(c, 0))
    found, problems = inspect(tmp_path)
    assert found is not None and len(found.frames("all")) == 3
    assert [problem for problem in problems if "3 files are listed in an encoding other than UTF-8" in problem.message]
    (tmp_path / "images" / f"{room}00.png").unlink()
    with pytest.raises(UserError, match="encoding other than UTF-8"):
        load_scene(tmp_path)


def test_of_several_models_the_largest_is_read(tmp_path: Path) -> None:
    colmap(tmp_path)
    small = tmp_path / "sparse" / "0"
    shutil.copytree(small, tmp_path / "sparse" / "1")
    lines = (small / "images.txt").read_text().replace("images: 3", "images: 1").splitlines()
    (small / "images.txt").write_text("\n".join(lines[:4]) + "\n")
    found, problems = inspect(tmp_path)
    assert found is not None and len(found.frames("all")) == 3
    said = [problem.message for problem in problems if "models" in problem.message]
    assert len(said) == 1 and "sparse/1 with 3" in said[0] and "sparse/0 (1)" in said[0]


def test_points_of_3dgs_beside_a_model(tmp_path: Path) -> None:
    colmap(tmp_path)
    model = tmp_path / "sparse" / "0"
    (model / "points3D.txt").unlink()
    head = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
    (model / "points3D.ply").write_text(head + "1 2 3\n")
    points = load_scene(tmp_path).points
    assert points is not None
    np.testing.assert_array_equal(points.xyz, [[1, 2, 3]])


def llff(folder: Path, place: str = "images", step: int = 1) -> Path:
    for c in range(3):
        save(folder / place / f"IMG_{c}.png", shot(c, 0)[::step, ::step])
    np.save(folder / "poses_bounds.npy", llff_rows())
    return folder


def test_mip_nerf_360_is_read_by_its_model(tmp_path: Path) -> None:
    colmap(llff(tmp_path))
    assert load_scene(tmp_path).format == "colmap"


@pytest.mark.parametrize(("place", "step"), [("images", 1), ("images_2", 2)])
def test_plain_llff(tmp_path: Path, place: str, step: int) -> None:
    found = load_scene(llff(tmp_path, place, step), downscale=1)
    assert found.format == "llff" and len(found.cameras) == 3 and len(found.times) == 1
    assert {camera.width for camera in found.cameras.values()} == {64 // step}


def test_llff_with_a_picture_too_few(tmp_path: Path) -> None:
    (llff(tmp_path) / "images" / "IMG_1.png").unlink()
    with pytest.raises(UserError, match=r"states 3 cameras.* has 2 pictures"):
        load_scene(tmp_path)


def test_what_a_folder_without_a_scene_holds_is_said(tmp_path: Path, scene: Path) -> None:
    with pytest.raises(UserError, match="there is one in s"):
        load_scene(scene.parent)
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "notes.txt").write_text(json.dumps({}))
    with pytest.raises(UserError, match=r"it contains notes\.txt"):
        load_scene(tmp_path / "v")
