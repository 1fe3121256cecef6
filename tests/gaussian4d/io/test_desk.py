"""The render desk: what frames show, that a stopped render goes on, transparency, EXR, crop, recorded pictures."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from gaussian4d.cameras import Camera
from gaussian4d.crop import CropBox, crop_model
from gaussian4d.desk import Desk, Shot, check_target, frames_folder, render_to
from gaussian4d.errors import UserError
from gaussian4d.io.exr import write_exr
from gaussian4d.keyframes import Keyframe, KeyframePath
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import FreeTime
from gaussian4d.paths import retimed
from gaussian4d.recorded_paths import interpolated_path, still_path
from gaussian4d.rendering import render
from gaussian4d.truth import through
from gaussian4d.video_out import write_video

UP = np.array([0.0, 0.0, 1.0])
CAMERA = Camera.look_at(np.array([0.0, -4.0, 0.0]), np.zeros(3), UP, width=24, height=16, focal=20.0, id="front")
ALL = ("rgb", "depth", "normal", "alpha", "flow", "velocity", "lifetime")


def model() -> DynamicGaussians:
    """A red blob that stays and a green one that passes to the right and is there for a short while."""
    params = {
        "means": torch.tensor([[-0.5, 0.0, 0.0], [0.5, 0.0, 0.0]]),
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(2, 1),
        "scales": torch.tensor([[0.25, 0.1, 0.25]]).repeat(2, 1).log(),
        "opacities": torch.full((2,), 6.0),
        "sh0": (torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[:, None] - 0.5) / 0.28209479177387814,
        "shN": torch.zeros(2, 0, 3),
        "velocities": torch.tensor([[0.0, 0, 0], [1.0, 0, 0]]),
        "times": torch.tensor([0.5, 0.5]),
        "durations": torch.tensor([math.inf, math.log(0.1)]),
    }
    return DynamicGaussians(params, FreeTime(), times=np.linspace(0, 1, 11), fps=10.0)


def desk(shot: Shot, count: int = 3) -> Desk:
    return Desk(model(), retimed(still_path(CAMERA, count), 0.5, 0.5), shot)


def test_every_buffer_shows_what_it_means() -> None:
    frame = desk(Shot(ALL, layout="files"), 1).frame(0)
    assert tuple(frame) == ALL
    left = {name: picture[8, 9].astype(int) for name, picture in frame.items()}
    right = {name: picture[8, 14].astype(int) for name, picture in frame.items()}
    assert left["rgb"].argmax() == 0 and right["rgb"].argmax() == 1
    # What rests is white in flow and grey in velocity; what goes right is red in both.
    assert left["flow"].min() > 0.9 * left["flow"].max() and right["flow"][0] > 1.5 * right["flow"][1:].max()
    assert np.ptp(left["velocity"]) <= 3 and right["velocity"][0] > right["velocity"][1] + 60
    # The normal points at the camera, along -y: green is low.
    assert left["normal"][1] < 60 and left["alpha"].min() > 200
    # Permanent is bright, short-lived is dark.
    assert left["lifetime"].sum() > 2 * right["lifetime"].sum() > 0
    assert not frame["depth"][0, 0].any() and frame["depth"][8, 9].any()


def test_layouts() -> None:
    row, grid = (desk(Shot(ALL[:3], layout=layout), 1).frame(0)[""] for layout in ("row", "grid"))
    assert row.shape == (16, 72, 3) and grid.shape == (32, 48, 3)
    assert np.array_equal(row[:, 48:], grid[16:, :24]) and not grid[16:, 24:].any()


def test_one_scale_for_all_frames() -> None:
    # Alone, the short-lived blob at its time and the far one later would each get a scale of their own.
    path = [
        (CAMERA, 0.5),
        (Camera.look_at(np.array([0, -9.0, 0]), np.zeros(3), UP, width=24, height=16, focal=45.0), 0),
    ]
    whole = Desk(model(), path, Shot(("depth",)))
    near, far = (whole.frame(k)[""][8, 9].astype(int).sum() for k in (0, 1))
    assert near > 3 * max(far, 1)


def test_a_stopped_render_goes_on_and_draws_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, drawn = tmp_path / "a.mp4", []
    real = Desk.frame
    monkeypatch.setattr(Desk, "frame", lambda self, index: drawn.append(index) or real(self, index))
    assert render_to(out, desk(Shot(), 5), 5.0, stop=lambda: len(drawn) == 2) == []
    assert not out.exists() and frames_folder(out).is_dir()
    assert render_to(out, desk(Shot(), 5), 5.0, resume=True) == [out]
    assert drawn == [0, 1, 2, 3, 4] and not frames_folder(out).exists()
    with av.open(str(out)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    # Frames of another shot, or without resume, are not taken.
    drawn.clear()
    render_to(out, desk(Shot(), 5), 5.0, stop=lambda: len(drawn) == 2)
    render_to(out, desk(Shot(background=(1.0, 1.0, 1.0)), 5), 5.0, resume=True)
    assert drawn == [0, 1, 0, 1, 2, 3, 4]


def test_each_buffer_in_its_own_file(tmp_path: Path) -> None:
    written = render_to(tmp_path / "a.gif", desk(Shot(("rgb", "alpha"), layout="files")), 10.0)
    assert [file.name for file in written] == ["a_rgb.gif", "a_alpha.gif"] and all(file.exists() for file in written)


def test_transparent_pictures_laid_on_a_colour_are_the_rendering_on_it(tmp_path: Path) -> None:
    (folder,) = render_to(tmp_path / "png", desk(Shot(transparent=True), 1), 10.0)
    picture = np.asarray(Image.open(folder / "frame_0000.png")).astype(float)
    assert picture.shape == (16, 24, 4) and picture[0, 0, 3] == 0
    alpha = picture[..., 3:] / 255
    laid = picture[..., :3] * alpha + 255 * np.array([0.0, 0.4, 1.0]) * (1 - alpha)
    expected = render(model(), CAMERA, 0.5, background=(0.0, 0.4, 1.0)).rgb
    assert np.abs(laid - 255 * expected.clamp(0, 1).numpy()).max() < 3
    with pytest.raises(UserError, match="no transparency"):
        check_target(tmp_path / "a.mp4", Shot(transparent=True))


@pytest.mark.parametrize("ending", [".webm", ".mov", ".gif"])
def test_containers_keep_alpha(tmp_path: Path, ending: str) -> None:
    picture = np.full((32, 32, 4), 200, np.uint8)
    picture[:, :16, 3], picture[:, 16:, 3] = 0, 255
    write_video(tmp_path / f"a{ending}", [picture, picture], 10.0)
    if ending == ".gif":
        back = np.asarray(Image.open(tmp_path / "a.gif").convert("RGBA"))
    else:
        with av.open(str(tmp_path / f"a{ending}")) as container:
            stream = container.streams.video[0]
            # FFmpeg's own VP9 decoder drops alpha; the library's keeps it.
            decoder = av.CodecContext.create("libvpx-vp9", "r") if ending == ".webm" else stream.codec_context
            frames = [frame for packet in container.demux(stream) for frame in decoder.decode(packet)]
        back = frames[0].to_ndarray(format="rgba")
    assert back[16, 4, 3] < 10 and back[16, 28, 3] > 245


def test_exr_is_read_back_by_ffmpeg(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(37, 53, 4)).astype(np.float32)
    values[:20] = 1.0
    write_exr(tmp_path / "a.exr", {name: values[..., k] for k, name in enumerate("RGBA")})
    with av.open(str(tmp_path / "a.exr")) as container:
        assert np.array_equal(next(container.decode(video=0)).to_ndarray(), values)
    (folder,) = render_to(tmp_path / "floats", desk(Shot(("rgb", "depth"), exr=True), 1), 10.0)
    content = (folder / "frame_0000.exr").read_bytes()
    assert all(name + b"\0" in content[:200] for name in (b"B", b"G", b"R", b"Z"))


def test_a_crop_box_keeps_whole_gaussians(tmp_path: Path) -> None:
    half = math.sqrt(0.5)
    # Turned a quarter around z, its long side lies along x: the green blob passes through it, the red one does not.
    box = CropBox((0.9, 0.0, 0.0), (0.4, 1.4, 0.4), (half, 0.0, 0.0, half))
    box.save(tmp_path / "crop.json")
    cropped = crop_model(model(), CropBox.load(tmp_path / "crop.json"))
    assert len(cropped) == 1 and cropped.params["velocities"].tolist() == [[1.0, 0.0, 0.0]]
    # Without stated instants the whole clip is looked at, not its start alone.
    assert len(crop_model(dataclasses.replace(model(), times=None), box)) == 1
    with pytest.raises(UserError, match="holds no Gaussian"):
        crop_model(model(), CropBox((0.0, 5.0, 0.0), (1.0, 1.0, 1.0)))
    (tmp_path / "bad.json").write_text('{"center": [0, 0, 0], "size": [1, -1, 1]}')
    with pytest.raises(UserError, match="size must be positive"):
        CropBox.load(tmp_path / "bad.json")


def test_a_recorded_picture_through_another_lens() -> None:
    image = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    assert through(image, CAMERA, CAMERA) is image
    # Half the view, same pixels: the middle of the picture. Twice the view: black around it.
    middle = Camera("m", CAMERA.viewmat, [[20, 0, 6], [0, 20, 4], [0, 0, 1]], 12, 8)
    assert np.array_equal(through(image, CAMERA, middle), image[4:12, 6:18])
    wide = Camera("w", CAMERA.viewmat, [[20, 0, 24], [0, 20, 16], [0, 0, 1]], 48, 32)
    seen = through(image, CAMERA, wide)
    assert not seen[:7].any() and np.array_equal(seen[10:22, 15:33], image[2:14, 3:21])


def keys(*times: float) -> tuple[Keyframe, ...]:
    poses = [np.eye(4) for _ in times]
    for k, pose in enumerate(poses):
        angle = k * math.pi / 2
        pose[:3, :3] = [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
        pose[:3, 3] = [math.cos(angle), math.sin(angle), 0.3 * k]
    return tuple(Keyframe(pose, 50.0, time) for pose, time in zip(poses, times))


def test_a_loop_meets_its_start_without_a_kink(tmp_path: Path) -> None:
    KeyframePath(keys(0.0, 0.4, 0.8, 0.9), loop=True).save(tmp_path / "p.json")
    path = KeyframePath.load(tmp_path / "p.json").cameras(400)
    places = np.array([camera.position for camera, _ in path])
    steps = np.diff(np.concatenate([places, places[:2]]), axis=0)
    assert np.linalg.norm(np.diff(steps, axis=0), axis=1).max() < 0.01
    times = np.array([time for _, time in path])
    # The clip plays on to its end, not backwards.
    assert np.all(np.diff(times) >= 0) and times.max() <= 1.0 and times[-1] > 0.99


@pytest.mark.parametrize("loop", [False, True])
def test_smoothness_bends_between_the_keyframes_only(loop: bool) -> None:
    paths = {
        s: KeyframePath(keys(0.0, 1.0, 1.0, 0.0), smoothness=s, loop=loop).cameras(40 if loop else 31) for s in (0, 1)
    }
    for k in range(4):
        assert np.allclose(paths[0][10 * k][0].viewmat, paths[1][10 * k][0].viewmat, atol=1e-9)
    assert any(np.abs(a.viewmat - b.viewmat).max() > 0.01 for (a, _), (b, _) in zip(paths[0], paths[1]))
    straight = np.array([camera.position for camera, _ in paths[0]])
    assert np.allclose(np.diff(straight[:11], n=2, axis=0), 0, atol=1e-12)
    assert all(0.0 <= time <= 1.0 for _, time in paths[1]) and all(t == 1.0 for _, t in paths[1][10:21])


def test_a_flight_passes_the_recorded_cameras() -> None:
    ring = [
        Camera.look_at(
            np.array([4 * math.cos(a), 4 * math.sin(a), 1.0]), np.zeros(3), UP, width=24, height=16, focal=20
        )
        for a in np.radians([0, 36, 108, 72, 144, 324, 180, 216, 252, 288])
    ]
    path = interpolated_path(ring, 200)
    places = np.array([camera.position for camera, _ in path])
    assert all(np.linalg.norm(places - camera.position, axis=1).min() < 0.1 for camera in ring)
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 0.3
    assert path[0][0].K[1, 1] == pytest.approx(20.0) and [path[0][1], path[-1][1]] == [0.0, 1.0]
