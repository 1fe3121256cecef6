"""Videos: written by PyAV, read back by PyAV; colours, counts, sizes, nothing half-written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from gaussian4d.errors import UserError
from gaussian4d.video_out import write_video

COLOURS = [(200, 40, 60), (40, 200, 60), (40, 60, 200), (230, 230, 230), (20, 20, 20)]


def frames(width: int = 64, height: int = 48) -> Iterator[np.ndarray]:
    for colour in COLOURS:
        yield np.full((height, width, 3), colour, np.uint8)


def read(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm", "gif"])
def test_colours_and_count_survive(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    assert write_video(path, frames(), 10) == len(COLOURS)
    decoded = read(path)
    assert len(decoded) == len(COLOURS)
    for picture, colour in zip(decoded, COLOURS):
        assert picture.shape == (48, 64, 3)
        assert np.abs(picture[24, 32].astype(int) - colour).max() <= 8, (ending, picture[24, 32], colour)


def test_mp4_is_what_browsers_play(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", frames(), 29.97)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.colorspace == 1
        assert float(stream.average_rate) == pytest.approx(29.97, abs=0.01)


def test_odd_sizes_are_padded_with_their_edge_and_said_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="63x47 was padded to 64x48") as caught:
        write_video(tmp_path / "a.mp4", frames(63, 47), 10)
    assert len(caught) == 1
    picture = read(tmp_path / "a.mp4")[0]
    assert picture.shape == (48, 64, 3)
    assert np.abs(picture[-1, -1].astype(int) - COLOURS[0]).max() <= 8


def test_a_folder_of_png_is_exact(tmp_path: Path) -> None:
    assert write_video(tmp_path / "out", frames(63, 47), 10) == len(COLOURS)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == [f"frame_{i:04d}.png" for i in range(len(COLOURS))]
    assert np.asarray(Image.open(files[2])).shape == (47, 63, 3)
    assert tuple(np.asarray(Image.open(files[2]))[0, 0]) == COLOURS[2]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "folder"])
def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path: Path, name: str) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from frames()
        raise RuntimeError("the renderer broke")

    with pytest.raises(RuntimeError, match="the renderer broke"):
        write_video(tmp_path / name, broken(), 10)
    assert list(tmp_path.iterdir()) == []
    if "." in name:
        (tmp_path / name).write_bytes(b"old")
        with pytest.raises(RuntimeError):
            write_video(tmp_path / name, broken(), 10)
        assert (tmp_path / name).read_bytes() == b"old"


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "frame_0000.png").write_bytes(b"a recording")
    with pytest.raises(UserError, match="would be lost"):
        write_video(tmp_path / "out", frames(), 10)
    assert (tmp_path / "out" / "frame_0000.png").read_bytes() == b"a recording"


@pytest.mark.parametrize(
    ("name", "content", "fps", "match"),
    [
        ("a.avi", [np.zeros((4, 4, 3), np.uint8)], 10, "ending '.avi' is not known"),
        ("a.mp4", [], 10, "at least one frame"),
        ("a.mp4", [np.zeros((4, 4, 3), np.uint8), np.zeros((6, 4, 3), np.uint8)], 10, "one size"),
        ("a.mp4", [np.zeros((4, 4, 3), np.float32)], 10, "uint8"),
        ("a.mp4", [np.zeros((4, 4, 3), np.uint8)], 0, "frames per second, got 0"),
    ],
)
def test_what_makes_no_video_is_refused(tmp_path: Path, name: str, content: list, fps: float, match: str) -> None:
    with pytest.raises(UserError, match=match):
        write_video(tmp_path / name, content, fps)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("empty", [0, 2])
def test_a_transparent_gif_shows_each_frame_alone(tmp_path: Path, empty: int) -> None:
    pictures = np.zeros((5, 40, 64, 4), np.uint8)
    for index, picture in enumerate(pictures):
        if index != empty:  # one frame holds nothing at all
            picture[10:20, 10 * index + 2 : 10 * index + 14] = (*COLOURS[index], 255)
    write_video(tmp_path / "a.gif", iter(pictures), 10)
    with Image.open(tmp_path / "a.gif") as image:
        decoded = [np.asarray(frame.convert("RGBA")) for frame in ImageSequence.Iterator(image)]
    assert len(decoded) == len(pictures)
    for found, given in zip(decoded, pictures):
        inside = given[..., 3] > 0
        assert np.array_equal(found[..., 3] > 0, inside)
        assert np.abs(found[inside].astype(int) - given[inside]).max(initial=0) <= 8
