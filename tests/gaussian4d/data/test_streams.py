"""Streams without an index: decoded forwards, wherever they begin; what was cut off or lost is said."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from gaussian4d.data.video import VIDEO_ENDINGS, Decoder, probe
from gaussian4d.errors import UserError

COUNT = 30
PACKET = 188
CODECS = {
    "h264": ("libx264", {"bf": "2", "g": "10"}),
    "h264 open": ("libx264", {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=2:scenecut=0"}),
    "h264 interlaced": ("libx264", {"bf": "2", "g": "10", "flags": "+ildct+ilme"}),
    "hevc": ("libx265", {"x265-params": "log-level=error:keyint=10:min-keyint=10"}),
    "mpeg2": ("mpeg2video", {"bf": "2", "g": "10"}),
}


def stream(path: Path, kind: str, format: str = "mpegts", first: int = 0, height: int = 48) -> Path:
    """Writes noisy frames, number k of grey 6 k + 20; noise makes every frame several packets long."""
    codec, options = CODECS[kind]
    with av.open(str(path), "w", format=format) as container:
        video = container.add_stream(codec, rate=25)
        video.width, video.height, video.pix_fmt, video.options = 64, height, "yuv420p", options
        for k in range(COUNT):
            noise = np.random.default_rng(k).normal(6 * k + 20, 30, (height, 64, 3))
            frame = av.VideoFrame.from_ndarray(np.clip(noise, 0, 255).astype(np.uint8), format="rgb24")
            frame.pts = first + k
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def levels(path: Path) -> np.ndarray:
    """Returns the mean grey of every frame."""
    video = probe(path)
    decoder = Decoder(video)
    found = [picture.mean() for _, picture in decoder.read(video.count - 1, range(video.count))]
    decoder.close()
    return np.array(found)


@pytest.mark.parametrize("kind", list(CODECS))
@pytest.mark.parametrize("first", [0, 25 * 100, 25 * 3600 * 27])
def test_streams_are_whole_wherever_their_clock_begins(tmp_path: Path, kind: str, first: int) -> None:
    found = levels(stream(tmp_path / "cam.ts", kind, first=first))
    assert len(found) == COUNT
    np.testing.assert_allclose(found, 6.0 * np.arange(COUNT) + 20, atol=12)


@pytest.mark.parametrize(
    ("ending", "format", "kind"),
    [
        ("mpg", "vob", "h264"), ("mpg", "vob", "mpeg2"), ("vob", "vob", "mpeg2"), ("mxf", "mxf", "h264"),
        ("mxf", "mxf", "mpeg2"), ("264", "h264", "h264"), ("hevc", "hevc", "hevc"),
    ],
)  # fmt: skip
def test_other_containers_of_recorders(tmp_path: Path, ending: str, format: str, kind: str) -> None:
    path = stream(tmp_path / f"cam.{ending}", kind, format)
    assert probe(path).warnings == () and f".{ending}" in VIDEO_ENDINGS
    np.testing.assert_allclose(levels(path), 6.0 * np.arange(COUNT) + 20, atol=12)


@pytest.mark.parametrize("kind", list(CODECS))
def test_a_stream_may_begin_between_key_frames(tmp_path: Path, kind: str) -> None:
    path = stream(tmp_path / "cam.ts", kind)
    data = path.read_bytes()
    start = int(0.4 * len(data)) // PACKET * PACKET
    path.write_bytes(data[: 3 * PACKET] + data[start:])
    found = levels(path)
    assert COUNT / 3 <= len(found) < COUNT
    np.testing.assert_allclose(found[-10:], 6.0 * np.arange(COUNT)[-10:] + 20, atol=12)
    if kind != "mpeg2":
        assert any("between key frames" in warning for warning in probe(path).warnings)


@pytest.mark.parametrize("kind", list(CODECS))
def test_streams_one_behind_the_other_are_one(tmp_path: Path, kind: str) -> None:
    path = stream(tmp_path / "cam.ts", kind)
    path.write_bytes(2 * path.read_bytes())
    found = levels(path)
    assert len(found) == 2 * COUNT
    np.testing.assert_allclose(found, np.tile(6.0 * np.arange(COUNT) + 20, 2), atol=12)


@pytest.mark.parametrize("kind", list(CODECS))
@pytest.mark.parametrize("share", [0.5, 0.7, 0.95])
def test_a_stream_that_was_cut_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = stream(tmp_path / "cam.ts", kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data)) // PACKET * PACKET + 57])
    with pytest.raises(UserError, match="truncated"):
        probe(path)


def test_lost_packets_are_said(tmp_path: Path) -> None:
    path = stream(tmp_path / "cam.ts", "h264")
    data = path.read_bytes()
    middle = len(data) // 2 // PACKET * PACKET
    path.write_bytes(data[:middle] + data[middle + 3 * PACKET :])
    assert any("lost data" in warning for warning in probe(path).warnings)


def test_a_size_that_changes_is_named_before_the_work(tmp_path: Path) -> None:
    first, second = stream(tmp_path / "a.ts", "h264"), stream(tmp_path / "b.ts", "h264", first=COUNT, height=64)
    (tmp_path / "two.ts").write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(UserError, match=f"frame {COUNT} is 64x64"):
        probe(tmp_path / "two.ts")
