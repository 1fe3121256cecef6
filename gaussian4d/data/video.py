"""Videos: checked when a scene is loaded, decoded forwards by PyAV.

Frames are numbered in display order, by counting what the decoder yields. Seeking is never used to find a frame: time
stamps of real files are rounded, start anywhere, and are plain wrong in AVI files with B-frames.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError

VIDEO_ENDINGS = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts")

# MPEG-4 part 2 packs skipped and paired frames into odd packets, so only decoding tells how many frames there are;
# it is also the cheapest to decode.
_COUNT_BY_DECODING = {"mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "mpeg1video", "mpeg2video", "h263", "wmv2"}

# Rows or columns darker than this on average (of 255) are the bars of a letterboxed picture.
_BAR_LEVEL = 20.0


@dataclasses.dataclass(frozen=True)
class Bars:
    """Black rows and columns around the first picture of a video."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


@dataclasses.dataclass(frozen=True)
class Video:
    """A video file and what was found in it."""

    path: Path
    width: int
    """Of the decoded, rotated and cropped picture."""
    height: int
    count: int
    """Frames."""
    fps: float | None
    bars: Bars = Bars()
    """Black bars seen in the whole picture."""
    left: int = 0
    """Columns cropped on the left."""
    top: int = 0
    """Rows cropped at the top."""

    def cropped(self, left: int, top: int, width: int, height: int) -> Video:
        """Returns the video with every picture cut to a window."""
        return dataclasses.replace(self, left=self.left + left, top=self.top + top, width=width, height=height)


def probe(path: Path) -> Video:
    """Returns what a video holds; raises `UserError` naming it when it is missing, damaged or truncated.

    Counts its packets against the number or length its header states, and decodes from the last key frame to the end.
    """
    import av.error

    if not path.is_file():
        raise UserError(f"{path}: expected a video here, found no file; restore it or take it out of the scene")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the video is empty; copy it again from its source")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path}: expected a video, found no pictures in it; copy it again from its source")
            stream = container.streams.video[0]
            rate = stream.average_rate or stream.guessed_rate
            fps = float(rate) if rate else None
            stated = _stated_count(container, stream, fps)
            packets = [(p.pts, p.is_keyframe, p.is_corrupt) for p in container.demux(stream) if p.size]
            exact = stream.codec_context.name in _COUNT_BY_DECODING
        count = len(packets)
        if count == 0:
            raise UserError(f"{path}: the video holds no frames; copy it again from its source")
        if (stated is not None and count < stated) or packets[-1][2]:
            raise UserError(_truncated(path, count, stated))
        first, decoded = _first_frame(path, count_all=exact)
        _check_end(path, packets)
        return Video(path, first.shape[1], first.shape[0], decoded if exact else count, fps, _bars(first))
    except av.error.FFmpegError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{path}: the video cannot be decoded ({reason}): it is truncated, damaged or not a video;"
            " copy it again from its source, or export it anew"
        ) from None


def probe_all(paths: Iterable[Path]) -> list[Video | UserError]:
    """Returns for every path its video, or the error that `probe` raised."""

    def one(path: Path) -> Video | UserError:
        try:
            return probe(path)
        except UserError as error:
            return error

    workers = min(8, os.cpu_count() or 1)
    with concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="gaussian4d-probe") as pool:
        return list(pool.map(one, paths))


class Decoder:
    """Decodes one video forwards. Not for several threads at once."""

    def __init__(self, video: Video) -> None:
        self._video = video
        self._container, self._frames = _open(video.path)
        self.position = 0
        """Index of the next frame."""

    def read(self, index: int, wanted: Container[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, uint8 [H, W, 3]) of the wanted frames from the position up to `index`.

        Raises `UserError` naming the video when it ends before `index` or cannot be decoded.
        """
        import av.error

        video = self._video
        while self.position <= index:
            k = self.position
            try:
                frame = next(self._frames)
                picture = _rgb(frame) if k in wanted else None
            except StopIteration:
                raise UserError(_truncated(video.path, k, video.count)) from None
            except av.error.FFmpegError as error:
                raise UserError(
                    f"{video.path}: frame {k} of {video.count} cannot be decoded ({error.strerror}); copy the video"
                    " again from its source, or export it anew"
                ) from None
            self.position += 1
            if picture is not None:
                yield k, picture[video.top : video.top + video.height, video.left : video.left + video.width]

    def close(self) -> None:
        """Frees the decoder's threads and buffers."""
        self._container.close()


def _open(path: Path) -> tuple[Any, Iterator[Any]]:
    import av.error

    container = av.open(str(path))
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return container, iter(container.decode(stream))


def _rgb(frame: Any) -> np.ndarray:
    """Returns a decoded frame as uint8 [H, W, 3], upright.

    Files that do not name their colour matrix are read as players do: BT.709 for HD, BT.601 below.
    """
    unspecified = int(frame.colorspace) == 2
    matrix = ("ITU709" if min(frame.width, frame.height) >= 720 else "ITU601") if unspecified else None
    picture = frame.reformat(format="rgb24", src_colorspace=matrix).to_ndarray()
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def _stated_count(container: Any, stream: Any, fps: float | None) -> int | None:
    """Returns how many frames the header promises, None when it does not say.

    Containers without a frame count (Matroska) state a length; it includes other streams and is rounded, so a
    twentieth of the frames and two more may be missing.
    """
    if stream.frames:
        return stream.frames
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / 1e6
    else:
        return None
    return int(seconds * fps * 0.95 - 2) if fps else None


def _first_frame(path: Path, *, count_all: bool) -> tuple[np.ndarray, int]:
    """Returns the first picture and the number of frames decoded (1 unless `count_all`)."""
    container, frames = _open(path)
    with container:
        frame = next(frames, None)
        if frame is None:
            raise UserError(f"{path}: no frame of the video can be decoded; copy it again from its source")
        picture = _rgb(frame)
        count = 1 + (sum(1 for _ in frames) if count_all else 0)
    return picture, count


def _check_end(path: Path, packets: list[tuple[int | None, bool, bool]]) -> None:
    """Raises `UserError` unless decoding from the last key frame reaches the video's last time stamp."""
    stamps = [pts for pts, _, _ in packets if pts is not None]
    keys = [pts for pts, key, _ in packets if key and pts is not None]
    if not stamps or not keys:
        return
    container, _ = _open(path)
    with container:
        stream = container.streams.video[0]
        container.seek(keys[-1], stream=stream, backward=True)
        last = max((frame.pts for frame in container.decode(stream) if frame.pts is not None), default=None)
    if last is None or last < max(stamps):
        raise UserError(
            f"{path}: the last frames of the video cannot be decoded: it is truncated or damaged;"
            " copy it again from its source, or export it anew"
        )


def _truncated(path: Path, count: int, stated: int | None) -> str:
    promise = f"its header says {stated}" if stated is not None else "its last packet is incomplete"
    return (
        f"{path}: the video ends after {count} frames, {promise}: it is truncated; copy it again from its source,"
        " or export it anew"
    )


def _bars(picture: np.ndarray) -> Bars:
    rows, columns = picture.mean(axis=(1, 2)), picture.mean(axis=(0, 2))

    def dark(levels: np.ndarray) -> int:
        bright = np.flatnonzero(levels > _BAR_LEVEL)
        return int(bright[0]) if len(bright) else 0

    return Bars(dark(columns), dark(rows), dark(columns[::-1]), dark(rows[::-1]))
