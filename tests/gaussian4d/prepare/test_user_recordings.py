"""What users film, through `prepare`: each either works, or stops before long work and names the file and the mend."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from filmed import Room, Shot, around, film, write_calibration, write_mp4

from gaussian4d import load_scene
from gaussian4d.data.video import probe
from gaussian4d.errors import UserError
from gaussian4d.prepare import Options, prepare
from gaussian4d.prepare.damage import first_damage
from gaussian4d.prepare.recordings import find_recordings
from gaussian4d.prepare.timeline import common_timeline

SIZE = (96, 72)
RATE = 12.0
COUNT = 10
QUICK = Options(sync="none", points=False)


@pytest.fixture(scope="module")
def frames() -> dict[str, list[np.ndarray]]:
    """What two cameras see of the room."""
    return {camera.id: film(Room(), Shot(camera, 0.3, RATE, COUNT)) for camera in around([0, 25], size=SIZE)}


def two(folder: Path, frames: dict[str, list[np.ndarray]], calibrated: Sequence[float] = (0, 25)) -> Path:
    for name, pictures in frames.items():
        write_mp4(folder / "videos" / f"{name}.mp4", pictures, RATE)
    write_calibration(folder / "calibration", around(calibrated, size=SIZE))
    return folder


def encode(path: Path, pictures: Sequence[np.ndarray], codec: str, pix_fmt: str, ticks: Sequence[int] = ()) -> None:
    """Writes pictures in any pixel format; `ticks` are time stamps in 24ths of a second."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=24 if ticks else int(RATE))
        stream.height, stream.width, stream.pix_fmt = *pictures[0].shape[:2], pix_fmt
        stream.options = {"crf": "12", "x265-params": "log-level=none"} if codec.startswith("libx26") else {}
        for k, picture in enumerate(pictures):
            source = "rgba" if picture.shape[2] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(picture, format=source).reformat(format=pix_fmt)
            if ticks:
                frame.pts, frame.time_base = ticks[k], Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def off(image: np.ndarray, expected: np.ndarray) -> float:
    """Returns the mean difference of brightness: codecs keep colours at half the resolution."""
    return float(np.abs(image[..., :3].astype(float).mean(axis=2) - expected[..., :3].mean(axis=2)).mean())


def test_one_video_shorter_than_the_rest_decides(tmp_path: Path, frames: dict[str, list[np.ndarray]]) -> None:
    two(tmp_path, frames | {"cam2": frames["cam2"][:6]})
    found = prepare(tmp_path, tmp_path / "scene", QUICK)
    assert found.timeline is not None and found.timeline.count == 6
    assert len(load_scene(tmp_path / "scene", downscale=1).times) == 6


def test_a_varying_frame_rate_goes_by_time_stamps(tmp_path: Path, frames: dict[str, list[np.ndarray]]) -> None:
    """The second camera drops every other frame at first: its fourth picture is the seventh of the other."""
    two(tmp_path, frames)
    ticks = [0, 4, 8, 12, 14, 16, 18]
    seen = [frames["cam2"][tick // 2] for tick in ticks]
    encode(tmp_path / "videos" / "cam2.mp4", seen, "libx264", "yuv420p", ticks)
    recordings = find_recordings(tmp_path, None)
    timeline = common_timeline(recordings, {"cam1": 0.0, "cam2": 0.0})
    instants = np.arange(timeline.count) / timeline.fps
    stamps = np.array(ticks) / 24
    nearest = np.abs(stamps[None] - instants[:, None]).min(axis=1)
    np.testing.assert_allclose(np.abs(timeline.seconds["cam2"] - instants), nearest, atol=1e-6)
    np.testing.assert_allclose(timeline.seconds["cam2"], stamps[timeline.indices["cam2"]], atol=1e-6)
    found = prepare(tmp_path, tmp_path / "scene", QUICK)
    assert any("cam2.mp4: the frame rate varies" in note for note in found.notes)
    scene = load_scene(tmp_path / "scene", downscale=1)
    assert found.timeline is not None
    for frame in scene.frames("all"):
        if frame.camera_id == "cam2":
            shown = ticks[found.timeline.indices["cam2"][frame.time_index]] // 2
            # While the balls rest, frames differ by their noise only.
            best = min(off(frame.image, picture) for picture in frames["cam2"])
            assert off(frame.image, frames["cam2"][shown]) < best + 0.3


def test_a_turned_phone_video_is_upright(tmp_path: Path, frames: dict[str, list[np.ndarray]]) -> None:
    on_its_side = [np.ascontiguousarray(np.rot90(picture)) for picture in frames["cam2"]]
    two(tmp_path, frames | {"cam2": on_its_side})
    path = tmp_path / "videos" / "cam2.mp4"
    data = path.read_bytes()
    at = data.index(b"tkhd") + 44  # A quarter turn in the matrix of the track: ISO/IEC 14496-12, 8.3.2.
    matrix = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
    turned = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    path.write_bytes(data[:at] + turned + data[at + 36 :])
    prepare(tmp_path, tmp_path / "scene", QUICK)
    frame = next(f for f in load_scene(tmp_path / "scene", downscale=1).frames("all") if f.camera_id == "cam2")
    assert frame.image.shape == (SIZE[1], SIZE[0], 3)
    assert off(frame.image, frames["cam2"][0]) < 6


def test_ten_bits_and_alpha_are_read(tmp_path: Path, frames: dict[str, list[np.ndarray]]) -> None:
    two(tmp_path, frames)
    encode(tmp_path / "videos" / "cam2.mp4", frames["cam2"], "libx264", "yuv420p10le")
    (tmp_path / "videos" / "cam1.mp4").unlink()
    cut_out = [np.dstack([p, np.full(p.shape[:2], 255 if k else 128, np.uint8)]) for k, p in enumerate(frames["cam1"])]
    encode(tmp_path / "videos" / "cam1.mov", cut_out, "qtrle", "argb")
    prepare(tmp_path, tmp_path / "scene", QUICK)
    scene = load_scene(tmp_path / "scene", downscale=1)
    for frame in scene.frames("all")[:: COUNT // 2]:
        expected = frames[frame.camera_id][frame.time_index]
        assert off(frame.image, expected) < 6


def test_two_videos_of_one_name_are_named(tmp_path: Path, frames: dict[str, list[np.ndarray]]) -> None:
    two(tmp_path, frames)
    write_mp4(tmp_path / "videos" / "cam2.mkv", frames["cam2"], RATE)
    with pytest.raises(UserError, match=r"cam2\.\w+: camera cam2 has a video already .*rename or remove one"):
        prepare(tmp_path, tmp_path / "scene", QUICK)


def damage(path: Path, frame: int, share: float) -> None:
    """Overwrites the end of a packet's payload with noise; its lengths and headers stay whole."""
    with av.open(str(path)) as container:
        entry = sorted(container.streams.video[0].index_entries, key=lambda entry: entry.pos)[frame]
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, int(share * entry.size), dtype=np.uint8)
    data[entry.pos + entry.size - len(noise) : entry.pos + entry.size] = noise.tobytes()
    path.write_bytes(data)


@pytest.mark.parametrize(("codec", "share"), [("libx264", 0.5), ("libx265", 0.9)])
def test_payload_damage_that_the_decoder_paints_over_is_named(
    tmp_path: Path, frames: dict[str, list[np.ndarray]], codec: str, share: float
) -> None:
    """Every second frame is a key frame, without B-frames: nothing but the damaged picture is wrong."""
    two(tmp_path, frames)
    path = tmp_path / "videos" / "cam2.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=12)
        stream.height, stream.width, stream.pix_fmt = SIZE[1], SIZE[0], "yuv420p"
        stream.options = {"g": "2", "bf": "0", "x265-params": "keyint=2:bframes=0:log-level=none"}
        for picture in frames["cam1"]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    assert first_damage(probe(path)) is None
    damage(path, 5, share)
    with pytest.raises(UserError, match=r"cam2\.mp4: frame 5 of 10 \(0\.42 s\) is damaged.*copy the video again"):
        prepare(tmp_path, tmp_path / "scene", QUICK)
    assert not (tmp_path / "scene" / "transforms.json").exists()


def test_easyvolcap_offsets_are_applied(tmp_path: Path, frames: dict[str, list[np.ndarray]]) -> None:
    two(tmp_path, frames)
    (tmp_path / "sync.json").write_text(json.dumps({"cam1": 0.0, "cam2": 0.25}), encoding="utf-8")
    found = prepare(tmp_path, tmp_path / "scene", dataclasses.replace(QUICK, sync="auto"))
    assert found.offsets is not None and found.offsets.seconds == {"cam1": 0.0, "cam2": 0.25}
    assert found.timeline is not None and found.timeline.indices["cam1"][0] == 3
    scene = load_scene(tmp_path / "scene")
    assert scene.seconds(1.0) == pytest.approx(found.timeline.duration)
    (tmp_path / "sync.json").write_text(json.dumps({"cam1": 0.0, "cam2": "soon"}), encoding="utf-8")
    with pytest.raises(UserError, match=r"sync\.json: the offset of cam2 must be a number"):
        prepare(tmp_path, tmp_path / "scene", dataclasses.replace(QUICK, sync="auto"))


def test_background_masks_cover_what_moves(tmp_path: Path) -> None:
    """The large ball of the room fidgets; the mask of a camera finds it where the renderer draws it."""
    camera = around([10], size=(160, 120))[0]
    shot = Shot(camera, 0.0, 5.0, 24)
    write_mp4(tmp_path / "videos" / "cam1.mp4", film(Room(), shot), 5.0)
    bent = {"cam1": (-0.2, 0.05, 0.0, 0.0, 0.0)}
    for name, distortion in (("straight", {}), ("bent", bent)):
        write_calibration(tmp_path / name, [camera], distortion)
        options = Options(calibration=tmp_path / name, sync="none", points=False, masks="background")
        prepare(tmp_path / "videos", tmp_path / f"scene_{name}", options)
        scene = load_scene(tmp_path / f"scene_{name}", downscale=1)
        assert all(frame.mask is not None for frame in scene.frames("all"))
    empty = Room(balls=()).render(camera, [0.0])[0]
    scene = load_scene(tmp_path / "scene_straight", downscale=1)
    hits, marked, covered = 0.0, 0.0, 0.0
    for frame in scene.frames("all"):
        ball = np.abs(Room().render(camera, [frame.time_index / 5.0])[0] - empty).max(axis=2) > 0.5
        assert frame.mask is not None
        hits += float((ball & (frame.mask > 0)).sum())
        marked += float((frame.mask > 0).sum())
        covered += float(ball.sum())
    assert hits / marked > 0.75 and hits / covered > 0.5


def test_a_users_masks_must_be_complete(tmp_path: Path, frames: dict[str, list[np.ndarray]]) -> None:
    from PIL import Image

    two(tmp_path, frames)
    masks = tmp_path / "own"
    masks.mkdir()
    half = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    half[:, :48] = 255
    Image.fromarray(half).save(masks / "cam1.png")
    options = dataclasses.replace(QUICK, masks=str(masks))
    with pytest.raises(UserError, match=r"no masks for camera cam2; add cam2/\*\.png"):
        prepare(tmp_path, tmp_path / "scene", options)
    assert not (tmp_path / "scene" / "transforms.json").exists()
    Image.fromarray(255 - half).save(masks / "cam2.png")
    prepare(tmp_path, tmp_path / "scene", options)
    for frame in load_scene(tmp_path / "scene", downscale=1).frames("all")[::7]:
        expected = half if frame.camera_id == "cam1" else 255 - half
        np.testing.assert_array_equal(frame.mask, expected)
