"""What transforms files state of lenses, one rule for both kinds; what contradicts itself; pictures stored lying."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts import ply, rewrite_json, write_easyvolcap, write_technicolor
from PIL import Image
from test_lenses_and_headers import TURNS, lying, one_error
from tiny_scenes import FOCAL, HEIGHT, WIDTH, assert_dots, nerfstudio, nerfstudio_images, write_dnerf

from gaussian4d.cli import main
from gaussian4d.data import assemble
from gaussian4d.errors import UserError
from gaussian4d.prepare.recordings import find_recordings
from gaussian4d.scene import Problem, Scene, inspect, load_scene

LENS = ("camera_angle_x", "fl_x", "fl_y", "cx", "cy", "w", "h")


@pytest.fixture(params=["dnerf", "nerfstudio"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Returns a function that writes a scene whose file, or whose every frame, states these fields and no others."""

    def write(frame: dict[str, object] | None = None, /, **top: object) -> Path:
        def change(content: dict[str, Any]) -> None:
            for name in LENS:
                content.pop(name, None)
            content.update(top)
            for entry in content["frames"]:
                entry.update(frame or {})

        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        if request.param == "dnerf":
            write_dnerf(folder, count=3)
        else:
            nerfstudio(folder, nerfstudio_images(folder))
        for path in folder.glob("transforms*.json"):
            rewrite_json(path, change)
        return folder

    return write


def read(folder: Path) -> tuple[Scene, list[Problem]]:
    scene, problems = inspect(folder)
    assert scene is not None and not [problem for problem in problems if problem.severity == "error"], problems
    return scene, problems


def focal(scene: Scene) -> tuple[float, float]:
    K = scene.frames("all")[0].camera.K
    return float(K[0, 0]), float(K[1, 1])


def angle(length: float, size: int = WIDTH) -> float:
    return 2 * math.atan(0.5 * size / length)


def test_a_frame_s_field_of_view_counts_before_the_file_s_focal_lengths(written: Any) -> None:
    scene, problems = read(written({"camera_angle_x": angle(90)}, fl_x=70.0, fl_y=70.0))
    assert focal(scene) == pytest.approx((90, 90)) and not problems


def test_two_focal_lengths_that_differ_are_said_once(written: Any) -> None:
    scene, problems = read(written(camera_angle_x=angle(90), fl_x=70.0))
    assert focal(scene) == pytest.approx((70, 70))
    assert len(problems) == 1 and "camera_angle_x implies a focal length of 90" in problems[0].message
    _, problems = read(written(camera_angle_x=angle(70.2), fl_x=70.0))
    assert not problems


def test_one_axis_is_enough(written: Any) -> None:
    assert focal(read(written(camera_angle_y=angle(90, HEIGHT)))[0]) == pytest.approx((90, 90))
    assert focal(read(written(fl_y=80.0))[0]) == pytest.approx((80, 80))


def test_distortion_as_a_list(written: Any) -> None:
    scene, problems = read(written({"distortion_params": [-0.05, 0, 0, 0, 0.01, 0]}, fl_x=70.0))
    assert not problems and focal(scene)[0] != pytest.approx(70, abs=0.1)
    named, _ = read(written({"k1": -0.05, "p1": 0.01}, fl_x=70.0))
    assert focal(named) == focal(scene)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"camera_model": "PINHOLE", "k1": -0.05}, "PINHOLE has no distortion"),
        ({"camera_model": "OPENCV", "is_fisheye": True}, "contradict each other"),
        ({"camera_model": "OPENCV_FISHEYE", "p1": 0.01}, "fisheye model has no p1"),
        ({"distortion_params": [0.01, 0, 0, 0], "k1": 0.2}, "contradict each other"),
        ({"cx": 62.0, "cy": 24.0}, "far from the centre"),
        ({"K": [[70, 0, 32], [0, 70, 24], [0, 0, 1]]}, "not supported, ignored"),
        ({"skew": 0.1}, "not supported, ignored"),
    ],
)
def test_contradictions_and_what_is_not_used_are_one_line(written: Any, fields: dict[str, Any], said: str) -> None:
    _, problems = read(written(fl_x=70.0, **fields))
    assert len(problems) == 1 and said in problems[0].message, problems


@pytest.mark.parametrize(
    "fields",
    [
        {"orthographic": True},
        {"ftheta_p0": 1.0},
        {"camera_model": "THIN_PRISM"},
        {"k4": 0.1},
        {"fl_x": "70"},
        {},
    ],
)
def test_a_lens_that_cannot_be_read_is_one_line(written: Any, fields: dict[str, Any]) -> None:
    folder = written(**({"fl_x": 70.0} | fields if fields else {}))
    one_error(folder, "the same for")


def test_smaller_copies_are_taken_with_their_lens(written: Any) -> None:
    scene, problems = read(written(w=2 * WIDTH, h=2 * HEIGHT, fl_x=2 * FOCAL))
    assert focal(scene) == pytest.approx((FOCAL, FOCAL))
    assert len(problems) == 1 and "intrinsics are rescaled" in problems[0].message


def test_another_shape_is_one_line(written: Any) -> None:
    one_error(written(w=100, h=HEIGHT, fl_x=70.0), "100x48", "64x48")


@pytest.mark.parametrize("stated", [True, False])
def test_an_odd_picture_of_a_camera_is_no_camera_of_its_own(tmp_path: Path, stated: bool) -> None:
    write_dnerf(tmp_path, count=3)
    if stated:
        for path in tmp_path.glob("transforms*.json"):
            rewrite_json(path, lambda content: content.update(w=WIDTH, h=HEIGHT))
    path = tmp_path / "train" / "c1_t2.png"
    with Image.open(path) as image:
        small = image.resize((WIDTH // 2, HEIGHT // 2))
    small.save(path)
    one_error(tmp_path, "c1_t2.png", "32x24")


def test_masks_of_dnerf_are_read(tmp_path: Path) -> None:
    write_dnerf(tmp_path, count=3)
    half = np.zeros((HEIGHT, WIDTH), np.uint8)
    half[:10] = 255
    Image.fromarray(half).save(tmp_path / "mask.png")
    rewrite_json(
        tmp_path / "transforms_train.json", lambda content: [e.update(mask_path="mask.png") for e in content["frames"]]
    )
    mask = load_scene(tmp_path).frames("train")[0].mask
    assert mask is not None
    np.testing.assert_array_equal(mask, half)


def write_without_sizes(folder: Path) -> None:
    """EasyVolcap's layout, without the height and width of any camera."""
    write_easyvolcap(folder)
    lines = (folder / "intri.yml").read_text().splitlines(keepends=True)
    (folder / "intri.yml").write_text("".join(line for line in lines if not line.startswith(("H_", "W_"))))


@pytest.mark.parametrize("write", [write_easyvolcap, write_without_sizes, write_technicolor])
def test_calibrations_beside_the_pictures_mean_the_upright_ones(tmp_path: Path, write: Any) -> None:
    write(tmp_path)
    jpegs = [
        path for path in sorted(tmp_path.rglob("*")) if path.suffix in (".png", ".jpg") and "mask" not in str(path)
    ]
    for path in jpegs:
        exif = Image.Exif()
        exif[0x0112] = 6
        with Image.open(path) as image:
            turned = image.transpose(TURNS[6])
        turned.save(path, exif=exif, **({"quality": 97} if path.suffix == ".jpg" else {}))
    scene, problems = read(tmp_path)
    assert_dots(scene, tolerance=0.4)
    assert sum("rotated by its EXIF" in problem.message for problem in problems) == 1


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_what_no_size_tells_goes_with_the_other_pictures(tmp_path: Path, orientation: int) -> None:
    frames = nerfstudio_images(tmp_path)
    nerfstudio(tmp_path, frames)
    upright = lying(tmp_path / "cam0", orientation)
    _, problems = read(tmp_path)
    assert len(problems) == 1 and "no size shows" in problems[0].message
    upright |= lying(tmp_path / "cam1", 6)
    scene, problems = read(tmp_path)
    assert len(problems) == 1 and "rotated by its EXIF" in problems[0].message
    for frame in scene.frames("all"):
        np.testing.assert_array_equal(frame.image, upright[Path(frame.source)])


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("made_of", ["stored", "upright"])
@pytest.mark.parametrize("stated", ["stored", "upright"])
def test_masks_without_an_orientation_lie_on_their_picture(
    tmp_path: Path, orientation: int, made_of: str, stated: str
) -> None:
    frames = nerfstudio_images(tmp_path)
    lying(tmp_path, orientation)
    mark = np.zeros((HEIGHT, WIDTH), np.uint8)
    mark[:7, :20] = 255
    stored = np.asarray(Image.fromarray(mark).transpose(TURNS[orientation]))
    Image.fromarray(mark if made_of == "upright" else stored).save(tmp_path / "m.png")
    for frame in frames:
        frame["mask_path"] = "m.png"
    w, h = (WIDTH, HEIGHT) if stated == "upright" else (HEIGHT, WIDTH)
    nerfstudio(tmp_path, frames, w=w, h=h, cx=w / 2, cy=h / 2)
    mask = read(tmp_path)[0].frames("all")[0].mask
    assert mask is not None
    np.testing.assert_array_equal(mask, mark if stated == "upright" else stored)


def test_pictures_without_alpha_among_others_are_said(tmp_path: Path) -> None:
    write_dnerf(tmp_path, count=3)
    path = tmp_path / "train" / "c1_t2.png"
    with Image.open(path) as image:
        opaque = image.convert("RGB")
    opaque.save(path)
    _, problems = read(tmp_path)
    assert len(problems) == 1 and "c1_t2.png" in problems[0].file and "no alpha channel" in problems[0].message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_dnerf(tmp_path, count=3)
    path = tmp_path / "train" / "c1_t2.png"
    load_scene(tmp_path)
    path.unlink()
    path.mkdir()
    one_error(tmp_path, "c1_t2")


def test_every_file_is_counted_while_it_is_looked_at(tmp_path: Path) -> None:
    write_dnerf(tmp_path, count=3)
    told: list[tuple[int, int]] = []
    token = assemble.on_header.set(lambda done, total: told.append((done, total)))
    try:
        inspect(tmp_path)
    finally:
        assemble.on_header.reset(token)
    assert told == [(k, 9) for k in range(1, 10)]


@pytest.mark.parametrize("odd", [3, None])
def test_prepare_names_an_odd_picture_before_the_work(tmp_path: Path, odd: int | None) -> None:
    for c in range(2):
        for k in range(5):
            (tmp_path / f"cam{c}").mkdir(exist_ok=True)
            size = (32, 24) if c and k == odd else (WIDTH, HEIGHT)
            Image.new("RGB", size).save(tmp_path / f"cam{c}" / f"{k}.png")
    if odd is None:
        assert [recording.count for recording in find_recordings(tmp_path, 25)] == [5, 5]
    else:
        with pytest.raises(UserError, match=r"3\.png.*32x24.*64x48"):
            find_recordings(tmp_path, 25)


def test_info_says_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dnerf(tmp_path, count=3)
    content = json.loads((tmp_path / "transforms_train.json").read_text())
    (tmp_path / "transforms_train.json").write_text(json.dumps(content | {"fl_x": 200.0}))
    assert main(["info", str(tmp_path)]) == 0
    assert "fl_x is 200, which is used" in capsys.readouterr().out


def test_what_is_not_read_is_a_note(written: Any) -> None:
    scene, problems = read(written({"timestamp": 3.0}, fl_x=70.0, aabb_scale=4, applied_transform=[[1]]))
    assert not problems
    assert [note for note in scene.notes if "aabb_scale" in note and "timestamp" in note]
    assert len([note for note in scene.notes if "applied_transform" in note]) == 1
    assert not [note for note in read(written(fl_x=70.0))[0].notes if "not read" in note]


def test_points_that_a_file_names(written: Any) -> None:
    folder = written(fl_x=70.0, ply_file_path="cloud.ply")
    ply(folder / "cloud.ply", [(1, 2, 3, 4, 5, 6)])
    points = read(folder)[0].points
    assert points is not None and points.xyz.tolist() == [[1, 2, 3]]
