"""Lenses stated for a frame, orientation against the stated size, headers of every file before the work, streams."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
from layouts import rewrite_json, shot, write_colmap_text
from PIL import Image
from tiny_scenes import (
    COUNT,
    FOCAL,
    HEIGHT,
    WIDTH,
    dot_video,
    nerfstudio,
    nerfstudio_images,
    poses,
    write_dnerf,
)

from gaussian4d.cli import main
from gaussian4d.data.video import Decoder, probe
from gaussian4d.errors import UserError
from gaussian4d.scene import inspect, load_scene


def dnerf(folder: Path, **more: object) -> Path:
    """Writes a D-NeRF scene; the fields are added to the first training frame."""
    write_dnerf(folder, count=2)
    rewrite_json(folder / "transforms_train.json", lambda content: content["frames"][0].update(more))
    return folder


def test_a_frame_of_dnerf_may_state_its_lens(tmp_path: Path) -> None:
    fields = {"fl_x": 50.0, "fl_y": 51.0, "cx": 30.0, "cy": 25.0, "k1": -0.1}
    scene = load_scene(dnerf(tmp_path, **fields))
    first, second = scene.frames("train")[:2]
    assert first.camera.K[0, 0] != pytest.approx(FOCAL, abs=5) and second.camera.K[0, 0] == pytest.approx(FOCAL)
    assert any("distortion removed" in note for note in scene.notes)


def test_both_kinds_of_file_mean_the_same_lens(tmp_path: Path) -> None:
    fields = {
        "camera_model": "OPENCV_FISHEYE", "k1": 0.02, "k2": -0.01, "fl_x": 40.0, "fl_y": 41.0, "cx": 31.0, "cy": 23.0,
        "w": WIDTH, "h": HEIGHT,
    }  # fmt: skip
    write_dnerf(tmp_path / "d", count=2)
    for split in ("train", "test"):
        rewrite_json(tmp_path / "d" / f"transforms_{split}.json", lambda content: content.update(fields))
    (tmp_path / "n").mkdir()
    nerfstudio(tmp_path / "n", nerfstudio_images(tmp_path / "n"), **fields)
    d, n = (load_scene(tmp_path / name).frames("train")[0].camera for name in "dn")
    np.testing.assert_allclose(d.K, n.K)


def test_a_field_of_view_along_y(tmp_path: Path) -> None:
    scene = load_scene(dnerf(tmp_path, camera_angle_y=2 * math.atan(0.5 * HEIGHT / 55.0)))
    assert scene.frames("train")[0].camera.K[1, 1] == pytest.approx(55.0)


@pytest.mark.parametrize("model", ["EQUIRECTANGULAR", "ORTHOPHOTO"])
def test_a_model_that_cannot_be_honoured_is_refused_in_both(tmp_path: Path, model: str) -> None:
    with pytest.raises(UserError, match=model):
        load_scene(dnerf(tmp_path / "d", camera_model=model))
    (tmp_path / "n").mkdir()
    with pytest.raises(UserError, match=model):
        load_scene(nerfstudio(tmp_path / "n", nerfstudio_images(tmp_path / "n"), camera_model=model))


def test_what_is_stated_and_not_used_is_said_once(tmp_path: Path) -> None:
    nerfstudio(tmp_path, nerfstudio_images(tmp_path, depth_file_path="d.png", rolling_shutter_time=0.01))
    _, problems = inspect(tmp_path)
    said = [str(problem) for problem in problems]
    assert len(said) == 1 and "depth_file_path" in said[0] and "rolling_shutter_time" in said[0]


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
"""How a picture is stored whose EXIF orientation turns it back."""


def lying(folder: Path, orientation: int) -> dict[Path, np.ndarray]:
    """Stores every picture turned, with the orientation that turns it back; returns the upright pictures."""
    upright = {}
    for path in sorted(folder.rglob("*.png")):
        with Image.open(path) as image:
            upright[path] = np.asarray(image)
            exif = Image.Exif()
            exif[0x0112] = orientation
            image.transpose(TURNS[orientation]).save(path, exif=exif)
    return upright


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("stated", [True, False])
def test_the_upright_picture_is_read_where_its_size_is_stated_or_none(
    tmp_path: Path, orientation: int, stated: bool
) -> None:
    nerfstudio(tmp_path, nerfstudio_images(tmp_path))
    if not stated:
        rewrite_json(tmp_path / "transforms.json", lambda content: [content.pop(key) for key in ("w", "h", "cx", "cy")])
    upright = lying(tmp_path, orientation)
    scene, problems = inspect(tmp_path)
    assert scene is not None
    said = [problem.message for problem in problems]
    assert len(said) == 1 and "rotated by its EXIF" in said[0] and f"{2 * COUNT} images" in said[0]
    for frame in scene.frames("all"):
        np.testing.assert_array_equal(frame.image, upright[Path(frame.source)])


@pytest.mark.parametrize("orientation", [3, 6])
def test_the_stored_picture_is_read_where_its_size_is_stated(tmp_path: Path, orientation: int) -> None:
    frames = nerfstudio_images(tmp_path)
    lying(tmp_path, orientation)
    w, h = (WIDTH, HEIGHT) if orientation == 3 else (HEIGHT, WIDTH)
    nerfstudio(tmp_path, frames, w=w, h=h, cx=w / 2, cy=h / 2)
    scene, problems = inspect(tmp_path)
    assert scene is not None and scene.frames("all")[0].image.shape[:2] == (h, w)
    assert [problem.message for problem in problems if "read as stored" in problem.message]


def test_colmap_means_the_stored_picture(tmp_path: Path) -> None:
    write_colmap_text(tmp_path / "sparse" / "0", f"PINHOLE {HEIGHT} {WIDTH} {FOCAL} {FOCAL} {HEIGHT / 2} {WIDTH / 2}")
    (tmp_path / "images").mkdir()
    for c in range(3):
        Image.fromarray(shot(c, 0)).save(tmp_path / "images" / f"cam{c:02d}.png")
    lying(tmp_path, 6)
    scene, problems = inspect(tmp_path)
    assert scene is not None and scene.frames("all")[0].image.shape[:2] == (WIDTH, HEIGHT)
    assert not [problem for problem in problems if "EXIF" in problem.message]


def test_masks_go_with_their_pictures(tmp_path: Path) -> None:
    frames = nerfstudio_images(tmp_path)
    half = np.zeros((HEIGHT, WIDTH), np.uint8)
    half[: HEIGHT // 2] = 255
    for k, frame in enumerate(frames):
        frame["mask_path"] = f"m{k}.png"
        Image.fromarray(half).save(tmp_path / f"m{k}.png")
    nerfstudio(tmp_path, frames)
    lying(tmp_path, 6)
    mask = load_scene(tmp_path).frames("all")[0].mask
    assert mask is not None
    np.testing.assert_array_equal(mask, half)


def one_error(folder: Path, *words: str) -> None:
    _, problems = inspect(folder)
    errors = [str(problem) for problem in problems if problem.severity == "error"]
    assert len(errors) == 1 and all(word in errors[0] for word in words), errors
    assert main(["info", str(folder)]) == 2


@pytest.mark.parametrize("count", [1, 3])
def test_odd_pictures_late_in_a_clip_are_named_before_the_work(tmp_path: Path, count: int) -> None:
    nerfstudio(tmp_path, nerfstudio_images(tmp_path))
    for k in range(count):
        path = tmp_path / "cam1" / f"frame_{9 + k}.png"
        with Image.open(path) as image:
            small = image.resize((32, 24))
        small.save(path)
    one_error(tmp_path, "frame_9.png", "32x24", "64x48", *(["2 more", "frame_11.png"] if count > 1 else []))


def test_odd_masks_late_in_a_clip_are_named_before_the_work(tmp_path: Path) -> None:
    frames = nerfstudio_images(tmp_path)
    for k, frame in enumerate(frames):
        frame["mask_path"] = f"m{k}.png"
        Image.new("L", (32, 24) if k == 4 else (WIDTH, HEIGHT), 255).save(tmp_path / f"m{k}.png")
    one_error(nerfstudio(tmp_path, frames), "m4.png", "32x24")


def test_files_that_are_no_pictures_are_one_line(tmp_path: Path) -> None:
    nerfstudio(tmp_path, nerfstudio_images(tmp_path))
    for k in (9, 10, 11):
        (tmp_path / "cam1" / f"frame_{k}.png").write_bytes(b"no picture")
    one_error(tmp_path, "3 files in total", "frame_11.png")


@pytest.mark.parametrize("ending", [".ts", ".MTS", ".m2ts"])
@pytest.mark.parametrize(
    ("codec", "options"), [("libx264", {"bf": "2", "g": "6"}), ("libx265", {}), ("mpeg2video", {"bf": "2"})]
)
def test_transport_streams(tmp_path: Path, ending: str, codec: str, options: dict[str, str]) -> None:
    path = tmp_path / f"cam{ending}"
    plain = tmp_path / "cam.mpegts"
    with av.open(str(plain), "w", format="mpegts") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.options = WIDTH, HEIGHT, "yuv420p", options
        for k in range(24):
            frame = av.VideoFrame.from_ndarray(np.full((HEIGHT, WIDTH, 3), 10 * k, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    plain.rename(path)
    video = probe(path)
    assert video.count == 24
    levels = [picture.mean() for _, picture in Decoder(video).read(23, range(24))]
    np.testing.assert_allclose(levels, 10.0 * np.arange(24), atol=8)


def test_a_truncated_video_is_still_refused(tmp_path: Path) -> None:
    video = dot_video(tmp_path / "a.mp4", poses()[0])
    data = video.read_bytes()
    video.write_bytes(data[: int(0.7 * len(data))])
    with pytest.raises(UserError):
        probe(video)


def test_many_pictures_are_looked_at_quickly_enough_to_wait_for(tmp_path: Path) -> None:
    """No time is asserted: every header is read once, and no picture decoded."""
    nerfstudio(tmp_path, nerfstudio_images(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "load", lambda self: pytest.fail("a picture was decoded"))
        inspect(tmp_path)
