"""What users' own videos are like: uneven, turned, deep, transparent, damaged. Each works, or stops at load."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from layouts import save, write_n3dv_unpacked
from PIL import Image
from tiny_scenes import (
    FOCAL,
    HEIGHT,
    WIDTH,
    assert_dots,
    dot,
    dot_video,
    find_dot,
    nerfstudio,
    nerfstudio_images,
    opencv_xml,
    opengl,
    picture,
    pixel,
    poses,
    qualisys_text,
    write_video,
)

from gaussian4d.data.packets import nal_fault
from gaussian4d.data.video import Decoder, probe, uneven_stamps
from gaussian4d.errors import UserError
from gaussian4d.scene import Scene, load_scene

COUNT = 12


def shots(c: int, count: int = COUNT) -> list[np.ndarray]:
    return [picture(*pixel(poses()[c], dot(k))) for k in range(count)]


def scene_of(folder: Path, odd: Callable[[Path], object], count: int = COUNT) -> Path:
    """Writes two cameras with OpenCV calibrations; `odd` makes the video of the second."""
    write_video(folder / "cam0.mp4", shots(0, count))
    odd(folder / "cam1.mp4")
    for c in range(2):
        (folder / f"cam{c}.xml").write_text(opencv_xml(poses()[c]))
    return folder


def says(scene: Scene, *words: str) -> bool:
    return any(all(word in str(problem) for word in words) for problem in scene.problems)


def encode(
    path: Path, frames: Sequence[np.ndarray], codec: str, pix_fmt: str, source: str = "rgb24", **attributes: int
) -> None:
    """Writes frames in a pixel format, with attributes of the codec context."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pix_fmt
        stream.options = {"crf": "4"} if codec.startswith("libx26") else {}
        for key, value in attributes.items():
            setattr(stream.codec_context, key, value)
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format=source).reformat(format=pix_fmt)))
        container.mux(stream.encode())


def test_a_shorter_video_decides(tmp_path: Path) -> None:
    scene = load_scene(scene_of(tmp_path, lambda path: write_video(path, shots(1, 7))))
    assert len(scene.times) == 7 and says(scene, "frame counts differ", "cam0 12, cam1 7", "start together")
    assert_dots(scene)


def variable(path: Path, ticks: Sequence[int], c: int = 1) -> None:
    """Writes a video whose frames have the given time stamps, in fiftieths of a second; the dot moves with time."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=50)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.options, stream.codec_context.time_base = {"crf": "8"}, Fraction(1, 50)
        for tick in ticks:
            image = picture(*pixel(poses()[c], dot(0) + (dot(1) - dot(0)) * tick / 2))
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, 50)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_variable_frame_rate_goes_by_time_stamps(tmp_path: Path) -> None:
    """Twelve frames at 25 a second beside a video that runs at 50 first, drops frames, and catches up."""
    ticks = [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 20, 21, 22]
    scene = load_scene(scene_of(tmp_path, lambda path: variable(path, ticks)))
    assert scene.fps == 25 and len(scene.times) == 12
    assert says(scene, "cam1.mp4", "frame rate varies", "25 to 50", "constant rate")
    assert_dots(scene)


def test_rounded_stamps_are_even_and_dropped_frames_are_not() -> None:
    even = tuple(round(k * 1000 / 30) for k in range(300))
    assert uneven_stamps(even, 1e-3) is None
    dropped = tuple(k + (k > 5) for k in range(30))
    found = uneven_stamps(dropped, 0.04)
    assert found is not None and found[5] == pytest.approx(0.2) and found[6] == pytest.approx(0.28)
    assert uneven_stamps(None, 0.04) is None


def turn(path: Path) -> None:
    """Sets a quarter turn, clockwise, in the header of an mp4: the matrix of its track (ISO/IEC 14496-12, 8.3.2)."""
    data = path.read_bytes()
    at = data.index(b"tkhd") + 44
    matrix = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
    path.write_bytes(data[:at] + b"".join(value.to_bytes(4, "big", signed=True) for value in matrix) + data[at + 36 :])


def test_a_turned_phone_video_is_upright(tmp_path: Path) -> None:
    def on_its_side(path: Path) -> None:
        write_video(path, [np.ascontiguousarray(np.rot90(image)) for image in shots(1)])
        turn(path)

    scene = load_scene(scene_of(tmp_path, on_its_side))
    assert scene.frames("all")[0].image.shape == (HEIGHT, WIDTH, 3)
    assert_dots(scene)


def test_a_calibration_on_its_side_is_explained(tmp_path: Path) -> None:
    """The video is turned upright; the calibration was made with pictures as they lie in the file."""
    scene_of(tmp_path, lambda path: (write_video(path, shots(1)), turn(path)))
    (tmp_path / "cam1.xml").write_text(
        opencv_xml(poses()[1]).replace(
            "<opencv_storage>", f"<opencv_storage><width>{WIDTH}</width><height>{HEIGHT}</height>"
        )
    )
    with pytest.raises(UserError, match=rf"cam1\.mp4.*{WIDTH}x{HEIGHT}.*{HEIGHT}x{WIDTH}.*rotated by 90 degrees"):
        load_scene(tmp_path)


@pytest.mark.parametrize(("codec", "pix_fmt"), [("libx264", "yuv420p10le"), ("libx265", "yuv420p10le")])
def test_ten_bits_are_read_as_eight(tmp_path: Path, codec: str, pix_fmt: str) -> None:
    scene = load_scene(scene_of(tmp_path, lambda path: encode(path, shots(1), codec, pix_fmt)))
    assert_dots(scene)
    assert not scene.problems
    deep = next(frame for frame in scene.frames("all") if frame.camera_id == "cam1")
    assert deep.image.dtype == np.uint8
    assert np.abs(deep.image.astype(int) - shots(1)[0]).mean() < 3


@pytest.mark.parametrize(("trc", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_read_with_a_warning(tmp_path: Path, trc: int, name: str) -> None:
    def hdr(path: Path) -> None:
        encode(path, shots(1), "libx265", "yuv420p10le", color_trc=trc, color_primaries=9, colorspace=9)

    scene = load_scene(scene_of(tmp_path, hdr))
    assert says(scene, "cam1.mp4", f"HDR ({name})", "export as SDR")
    assert_dots(scene)


def transparent(c: int) -> list[np.ndarray]:
    """Returns RGBA pictures, transparent away from the dot."""
    return [np.dstack([image, np.where(image[..., 0] > 60, 255, 0).astype(np.uint8)]) for image in shots(c)]


def test_alpha_of_videos_is_served_when_all_have_it(tmp_path: Path) -> None:
    for c in range(2):
        encode(tmp_path / f"cam{c}.mov", transparent(c), "png", "rgba", source="rgba")
        (tmp_path / f"cam{c}.xml").write_text(opencv_xml(poses()[c]))
    scene = load_scene(tmp_path)
    assert scene.has_alpha
    frame = scene.frames("all")[3]
    assert frame.image.shape == (HEIGHT, WIDTH, 4)
    np.testing.assert_array_equal(frame.image, transparent(0)[frame.time_index])
    np.testing.assert_array_equal(frame.mask, frame.image[..., 3])


def test_alpha_of_one_video_is_dropped_with_a_warning(tmp_path: Path) -> None:
    scene_of(tmp_path, lambda path: None)
    encode(tmp_path / "cam1.mov", transparent(1), "png", "rgba", source="rgba")
    scene = load_scene(tmp_path)
    assert not scene.has_alpha and says(scene, "cam1.mov", "alpha", "cam0.mp4")
    assert all(frame.image.shape == (HEIGHT, WIDTH, 3) for frame in scene.frames("all"))
    assert_dots(scene)


def test_alpha_of_pictures_of_one_camera_is_dropped_with_a_warning(tmp_path: Path) -> None:
    frames = nerfstudio_images(tmp_path)
    first = tmp_path / frames[0]["file_path"]
    Image.open(first).convert("RGBA").save(first)
    scene = load_scene(nerfstudio(tmp_path, frames))
    assert not scene.has_alpha and says(scene, first.name, "alpha is ignored")


def test_a_calibration_for_half_the_resolution_is_scaled_and_another_shape_refused(tmp_path: Path) -> None:
    sized = "<opencv_storage><image_width>{}</image_width><image_height>{}</image_height>"
    scene_of(tmp_path, lambda path: write_video(path, shots(1)))
    text = opencv_xml(poses()[1]).replace("<opencv_storage>", sized.format(WIDTH // 2, HEIGHT // 2))
    for old, new in (("70 ", "35 "), ("31.5 ", "15.5 "), ("23.5 ", "11.5 ")):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "cam1.xml").write_text(text)
    scene = load_scene(tmp_path)
    assert scene.cameras["cam1"].K[0, 0] == pytest.approx(FOCAL)
    assert says(scene, "cam1.mp4", "32x24", "intrinsics are rescaled")
    assert_dots(scene)
    (tmp_path / "cam1.xml").write_text(text.replace(sized.format(32, 24), sized.format(80, 24)))
    with pytest.raises(UserError, match=r"cam1\.mp4.*80x24.*calibrate at its size"):
        load_scene(tmp_path)


def test_a_calibration_of_another_shape_is_refused_for_pictures(tmp_path: Path) -> None:
    write_n3dv_unpacked(tmp_path)
    rows = np.load(tmp_path / "poses_bounds.npy")
    rows[:, 4] = 40
    np.save(tmp_path / "poses_bounds.npy", rows)
    with pytest.raises(UserError, match=r"0\.png.*64x40.*64x48.*calibrate at their size"):
        load_scene(tmp_path)


def test_two_videos_of_one_camera(tmp_path: Path) -> None:
    scene_of(tmp_path, lambda path: write_video(path, shots(1)))
    write_video(tmp_path / "cam1.avi", shots(1), codec="mpeg4")
    with pytest.raises(UserError, match=r"cam1\.(mp4|avi).*two videos of one name.*rename"):
        load_scene(tmp_path)


def test_two_calibrations_of_one_camera(tmp_path: Path) -> None:
    scene_of(tmp_path, lambda path: write_video(path, shots(1)))
    (tmp_path / "cam1.yml").write_text((tmp_path / "cam1.xml").read_text())
    with pytest.raises(UserError, match=r"camera cam1 has intrinsics in cam1\.xml too.*rename"):
        load_scene(tmp_path)


def test_a_camera_twice_in_a_qualisys_calibration(tmp_path: Path) -> None:
    for c in range(2):
        dot_video(tmp_path / f"cam{c}.mp4", poses()[c])
    (tmp_path / "a.qca.txt").write_text(qualisys_text(poses(), ["cam0", "cam1", "cam1"]))
    with pytest.raises(UserError, match=r"a\.qca\.txt.*camera cam1 is listed twice.*rename"):
        load_scene(tmp_path)


def test_a_camera_name_twice_in_a_nerfstudio_file(tmp_path: Path) -> None:
    entries = []
    for c in range(2):
        dot_video(tmp_path / f"v{c}.mp4", poses()[c])
        entries.append({"file_path": f"v{c}.mp4", "camera_id": "cam", "transform_matrix": opengl(poses()[c])})
    with pytest.raises(UserError, match=r"transforms\.json.*camera cam has a video already \(v0\.mp4.*rename"):
        load_scene(nerfstudio(tmp_path, entries))
    pictures = [{"file_path": f"{c}.png", "camera_id": "cam", "time": 0.5, **entries[c]} for c in range(2)]
    for c in range(2):
        pictures[c]["file_path"] = f"{c}.png"
        save(tmp_path / f"{c}.png", shots(c)[0])
    with pytest.raises(UserError, match=r"transforms\.json.*camera cam has two images at instant 0.*rename"):
        load_scene(nerfstudio(tmp_path, pictures))


def damage(path: Path, frame: int, how: str) -> None:
    """Overwrites one packet of an mp4: with zeros, or its payload with noise."""
    with av.open(str(path)) as container:
        entry = sorted(container.streams.video[0].index_entries, key=lambda entry: entry.pos)[frame]
    data = bytearray(path.read_bytes())
    if how == "zeros":
        data[entry.pos : entry.pos + entry.size] = bytes(entry.size)
    else:
        noise = np.random.default_rng(0).integers(0, 256, entry.size - 12, dtype=np.uint8)
        data[entry.pos + 12 : entry.pos + entry.size] = noise.tobytes()
    path.write_bytes(data)


def noise_shots(count: int = COUNT) -> list[np.ndarray]:
    """Returns pictures whose every packet is large."""
    return [np.random.default_rng(k).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8) for k in range(count)]


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_frame_of_zeros_in_the_middle_is_named_at_load(tmp_path: Path, codec: str) -> None:
    """A key frame every four frames: nothing after the damage depends on it, so decoding the end would not tell."""
    options = {"g": "4", "bf": "0"} if codec == "libx264" else {"x265-params": "keyint=4:bframes=0:log-level=none"}
    scene_of(tmp_path, lambda path: write_video(path, noise_shots(), codec=codec, **options))
    load_scene(tmp_path)
    damage(tmp_path / "cam1.mp4", 5, "zeros")
    with pytest.raises(UserError, match=r"cam1\.mp4: frame 5 cannot be decoded.*copy it again"):
        load_scene(tmp_path)


@pytest.mark.parametrize(("name", "codec"), [("cam1.webm", "libvpx-vp9"), ("cam1.avi", "mpeg4")])
def test_a_damaged_frame_of_codecs_that_only_decoding_checks(tmp_path: Path, name: str, codec: str) -> None:
    scene_of(tmp_path, lambda path: None)
    path = write_video(tmp_path / name, noise_shots(), codec=codec)
    load_scene(tmp_path)
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0) if packet.size][5]
    data = path.read_bytes()
    assert data.count(packet) == 1
    path.write_bytes(data.replace(packet, bytes(len(packet))))
    with pytest.raises(UserError, match=rf"{name}: .*(decoded|truncated).*copy it again"):
        load_scene(tmp_path)


def test_a_frame_of_noise_in_the_middle_keeps_the_others_in_place(tmp_path: Path) -> None:
    """The container is whole; the decoder mends the frame, and the frames after it keep their numbers."""
    scene_of(tmp_path, lambda path: write_video(path, shots(1), g="4", bf="0"))
    damage(tmp_path / "cam1.mp4", 5, "noise")
    scene = load_scene(tmp_path)
    frames = [frame for frame in scene.frames("all") if frame.camera_id == "cam1"]
    with pytest.warns(UserWarning, match=r"cam1\.mp4: frame 5 of 12 is damaged.*copy the video again"):
        images = {frame.time_index: frame.image for frame in frames}
    assert len(images) == COUNT
    for k in (*range(5), *range(8, COUNT)):
        np.testing.assert_allclose(find_dot(images[k]), pixel(poses()[1], dot(k)), atol=0.15)


def test_a_frame_that_the_decoder_leaves_out_does_not_shift_the_others(tmp_path: Path) -> None:
    """As a decoder does that skips what it cannot read; its picture never comes, and the next is not taken for it."""
    video = probe(write_video(tmp_path / "a.mp4", shots(0), bf="0"))
    assert video.pts is not None and len(video.pts) == COUNT
    step = video.pts[1] - video.pts[0]
    shifted = dataclasses.replace(video, pts=tuple(p if k < 6 else p - step // 2 for k, p in enumerate(video.pts)))
    assert len(list(Decoder(shifted).read(COUNT - 1, range(COUNT)))) == COUNT, "stamps of no frame say nothing"
    lost = dataclasses.replace(video, pts=(*video.pts[:6], video.pts[6] - step // 2, *video.pts[6:]), count=COUNT + 1)
    with pytest.raises(UserError, match=r"frame 6 cannot be decoded.*drops it"):
        list(Decoder(lost).read(COUNT, range(COUNT + 1)))


def test_packets_by_hand() -> None:
    def unit(header: int, length: int = 5) -> bytes:
        return length.to_bytes(4, "big") + bytes([header]) + bytes(length - 1)

    assert nal_fault(unit(0x67) + unit(0x65), 4, hevc=False) is None
    assert nal_fault(unit(0x41) + unit(0x06), 4, hevc=False) is None
    assert nal_fault(unit(0x26, 9), 4, hevc=True) is None
    assert nal_fault(unit(0x65)[:-1], 4, hevc=False) == "its packet is torn"
    assert nal_fault(unit(0x65) + b"\0\0", 4, hevc=False) == "its packet is torn"
    assert nal_fault(bytes(20), 4, hevc=False) == "its packet is torn"
    assert nal_fault(unit(0xE5), 4, hevc=False) == "its packet holds no picture"
    assert nal_fault(unit(0x67), 4, hevc=False) == "its packet holds no picture"
    assert nal_fault(b"", 4, hevc=False) == "its packet holds no picture"


def test_a_clip_trimmed_without_encoding_counts_what_is_shown(tmp_path: Path) -> None:
    """Phones cut by an edit list: the frames before the cut stay in the file and are decoded, but not shown."""
    path = write_video(tmp_path / "a.mp4", shots(0), bf="0")
    data = path.read_bytes()
    at = data.index(b"elst")
    media_time = int.from_bytes(data[at + 16 : at + 20], "big")
    with av.open(str(path)) as container:
        pts = sorted(packet.pts for packet in container.demux(video=0) if packet.size)
    start = media_time + pts[4] - pts[0]
    path.write_bytes(data[: at + 16] + start.to_bytes(4, "big") + data[at + 20 :])
    video = probe(path)
    assert video.count == COUNT - 4
    shown = [image for _, image in Decoder(video).read(video.count - 1, range(video.count))]
    for k, image in enumerate(shown):
        np.testing.assert_allclose(find_dot(image), pixel(poses()[0], dot(k + 4)), atol=0.15)
