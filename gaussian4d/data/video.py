"""Videos: checked when a scene is loaded, decoded forwards by PyAV.

Frames are numbered in display order, by counting what the decoder yields. Seeking is never used to find a frame: time
stamps of real files are rounded, start anywhere, and are plain wrong in AVI files with B-frames.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import os
import warnings
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .packets import packet_check

VIDEO_ENDINGS = (
    ".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts", ".m2ts", ".m2t",
    ".mod", ".tod", ".mxf", ".vob", ".3gp", ".ogv", ".asf", ".h264", ".264", ".h265", ".265", ".hevc",
)  # fmt: skip

# Streams as they were sent, without an index: seeking lands anywhere, a recording may begin between key frames or end
# in a torn packet, and two fields of one frame may be two packets. Only decoding them forwards tells what is there.
_STREAMS = {"mpegts", "mpeg", "mpegvideo", "h264", "hevc"}
_TS_SYNC = 0x47

# Containers whose time stamps are not those of the frames when some are predicted from later ones.
_STAMPS_OF_NO_USE = {"avi", "mxf", "mxf_opatom"}

# MPEG-4 part 2 packs skipped and paired frames into odd packets, so only decoding tells how many frames there are;
# it is also the cheapest to decode. VP8, VP9 and AV1 hide frames in packets too, and refuse damaged ones, which nothing
# but decoding shows.
COUNTED_BY_DECODING = {"mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "mpeg1video", "mpeg2video", "h263", "wmv2"} | {
    "vp8", "vp9", "av1", "libdav1d",
}  # fmt: skip

# Share of a frame's duration that a time stamp may be off an even spacing: rounding stays far below, one dropped frame
# is a whole one.
_UNEVEN = 0.6

# Transfer characteristics (ITU-T H.273) of high dynamic range.
_HDR = {16: "PQ", 18: "HLG"}

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
    alpha: bool = False
    """Whether pictures have an alpha channel; they are decoded to four channels then."""
    stamps: tuple[float, ...] | None = None
    """Seconds of every frame since the first, for videos whose frames are not evenly spaced; else None."""
    pts: tuple[int, ...] | None = None
    """Time stamp of every frame in display order, None where the file's are of no use."""
    warnings: tuple[str, ...] = ()
    """What is odd about the video and how it is read."""

    def cropped(self, left: int, top: int, width: int, height: int) -> Video:
        """Returns the video with every picture cut to a window."""
        return dataclasses.replace(self, left=self.left + left, top=self.top + top, width=width, height=height)


def probe(path: Path) -> Video:
    """Returns what a video holds; raises `UserError` naming it when it is missing, damaged or truncated.

    Counts its packets against the number or length its header states, and decodes from the last key frame to the end.
    """
    import av.error

    if not path.is_file():
        raise UserError(f"{path}: expected a video, found no file; restore it or remove it from the scene")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the video is empty; copy it again from its source")
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise UserError(f"{path}: expected a video, found no video stream; copy it again from its source")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise UserError(f"{path}: the video codec is unknown or the file is damaged; convert it to H.264")
            rate = stream.average_rate or stream.guessed_rate
            fps = float(rate) if rate else None
            stated = _stated_count(container, stream, fps)
            exact = stream.codec_context.name in COUNTED_BY_DECODING
            streamed = container.format.name in _STREAMS
            fault = packet_check(stream)
            packets, hidden, torn = [], 0, None
            for p in container.demux(stream):
                # Phones cut a clip without encoding it anew: what was cut stays in the file, marked to be left out.
                hidden += bool(p.size and p.is_discard)
                if not p.size or p.is_discard:
                    continue
                reason = fault(p) if torn is None else None
                torn = torn if reason is None else (len(packets), reason)
                packets.append((p.pts, p.is_keyframe, p.is_corrupt))
            stated = None if stated is None else stated - hidden
            pts = _pts(container.format.name, packets) if not (exact or streamed) else None
            tick = float(stream.time_base or 0)
            odd = _oddities(stream)
            torn_off = container.format.name == "mpegts" and _ends_inside_a_packet(path)
        count = len(packets)
        if count == 0:
            raise UserError(f"{path}: the video holds no frames; copy it again from its source")
        if torn_off:
            raise UserError(
                f"{path}: the video ends after {count} frames in the middle of a packet: it is truncated; copy it again"
                " from its source, or remux what is there (ffmpeg -i FILE -c copy NEW.ts)"
            )
        if (stated is not None and count < stated) or packets[-1][2]:
            raise UserError(_truncated(path, count, stated))
        if torn is not None:
            raise UserError(_damaged(path, *torn))
        first, shown, hdr = _first_frame(path, all_frames=exact or streamed)
        if exact or streamed:
            count = len(shown)
        if not streamed:
            _check_end(path, packets)
        else:
            # Program streams of MPEG-2 state times for some frames only.
            pts = None if exact else _ascending(shown)
            odd += _streamed_oddities(path, packets, pts)
        stamps = uneven_stamps(pts, tick)
        if stamps is not None:
            odd += (_varying(stamps),)
            fps = (count - 1) / stamps[-1]
        return Video(
            path, first.shape[1], first.shape[0], count, fps, _bars(first[..., :3]),
            alpha=first.shape[2] == 4, stamps=stamps, pts=pts, warnings=odd + hdr,
        )  # fmt: skip
    except av.error.FFmpegError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"{path}: the video cannot be decoded ({reason}): it is truncated, damaged or not a video;"
            " copy it again from its source, or export it again"
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
        self._mended = False

    def read(self, index: int, wanted: Container[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, uint8 [H, W, 3], or [H, W, 4] with alpha) of the wanted frames up to `index`.

        Raises `UserError` naming the video when it ends before `index` or cannot be decoded.
        """
        import av.error

        video = self._video
        while self.position <= index:
            k = self.position
            try:
                frame = next(self._frames)
                self._check(frame, k)
                picture = _rgb(frame) if k in wanted else None
            except StopIteration:
                raise UserError(_truncated(video.path, k, video.count)) from None
            except av.error.FFmpegError as error:
                raise UserError(
                    f"{video.path}: frame {k} of {video.count} cannot be decoded ({error.strerror}); copy the video"
                    " again from its source, or export it again"
                ) from None
            self.position += 1
            if picture is not None:
                yield k, picture[video.top : video.top + video.height, video.left : video.left + video.width]

    def _check(self, frame: Any, k: int) -> None:
        """Raises `UserError` when the decoder left frame `k` out; warns once of one that it mended."""
        video = self._video
        if video.pts is not None and frame.pts is not None and frame.pts > video.pts[k] and frame.pts in video.pts[k:]:
            raise UserError(_damaged(video.path, k, "the decoder drops it"))
        if frame.is_corrupt and not self._mended:
            self._mended = True
            warnings.warn(
                f"{video.path}: frame {k} of {video.count} is damaged, and the decoder concealed the damage; copy the"
                " video again from its source",
                stacklevel=2,
            )

    def close(self) -> None:
        """Frees the decoder's threads and buffers."""
        self._container.close()


def _open(path: Path) -> tuple[Any, Iterator[Any]]:
    import av.error

    container = av.open(str(path), metadata_errors="replace")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return container, iter(container.decode(stream))


def _rgb(frame: Any) -> np.ndarray:
    """Returns a decoded frame as uint8 [H, W, 3], or [H, W, 4] when it has alpha, upright.

    Files that do not name their colour matrix are read as players do: BT.709 for HD, BT.601 below.
    """
    unspecified = int(frame.colorspace) == 2
    matrix = ("ITU709" if min(frame.width, frame.height) >= 720 else "ITU601") if unspecified else None
    alpha = any(component.is_alpha for component in frame.format.components)
    picture = frame.reformat(format="rgba" if alpha else "rgb24", src_colorspace=matrix).to_ndarray()
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


def _pts(container: str, packets: list[tuple[int | None, bool, bool]]) -> tuple[int, ...] | None:
    """Returns the time stamps in display order, None unless every frame has one of its own."""
    stamps = sorted(pts for pts, _, _ in packets if pts is not None)
    if container in _STAMPS_OF_NO_USE or len(stamps) != len(packets) or len(set(stamps)) != len(stamps):
        return None
    return tuple(stamps)


def uneven_stamps(pts: tuple[int, ...] | None, time_base: float) -> tuple[float, ...] | None:
    """Returns the seconds of every frame since the first when they are further than `_UNEVEN` off an even spacing."""
    if pts is None or len(pts) < 3 or time_base <= 0:
        return None
    seconds = (np.array(pts, dtype=np.float64) - pts[0]) * time_base
    step = seconds[-1] / (len(seconds) - 1)
    off = np.abs(seconds - step * np.arange(len(seconds))).max()
    return tuple(float(second) for second in seconds) if off > _UNEVEN * step else None


def _varying(stamps: tuple[float, ...]) -> str:
    steps = np.diff(stamps)
    return (
        f"the frame rate varies ({1 / steps.max():.3g} to {1 / max(steps.min(), 1e-6):.3g} a second): the frame"
        " nearest to each instant is used; export at a constant rate for exact times"
    )


def _oddities(stream: Any) -> tuple[str, ...]:
    """Returns what the header says that changes how the video is read, one sentence each."""
    if stream.codec_context.name in ("vp8", "vp9") and str(stream.metadata.get("alpha_mode", "0")) == "1":
        return ("alpha in VP8 and VP9 is not supported and ignored; use ProRes 4444 or PNG images to keep it",)
    return ()


def _first_frame(path: Path, *, all_frames: bool) -> tuple[np.ndarray, list[int | None], tuple[str, ...]]:
    """Returns the first picture, the time stamps of the frames that were decoded, and a warning if it is HDR.

    One frame is decoded, or with `all_frames` every one.
    """
    import av.error

    container, frames = _open(path)
    with container:
        frame = next(frames, None)
        if frame is None:
            raise UserError(f"{path}: no frame of the video can be decoded; copy it again from its source")
        picture, size = _rgb(frame), (frame.width, frame.height)
        transfer = _HDR.get(int(frame.color_trc))
        shown, sound = [frame.pts], True
        try:
            while all_frames and (frame := next(frames, None)) is not None:
                if (frame.width, frame.height) != size:
                    raise UserError(
                        f"{path}: frame {len(shown)} is {frame.width}x{frame.height}, the frames before it are"
                        f" {size[0]}x{size[1]}; split the video there, or export it again at one size"
                    )
                shown.append(frame.pts)
                sound = not frame.is_corrupt
        except av.error.FFmpegError as error:
            raise UserError(_damaged(path, len(shown), error.strerror or str(error))) from None
        if not sound:
            raise UserError(_end_lost(path))
    hdr = f"HDR ({transfer}) is read without tone mapping, so colours look flat; export as SDR (BT.709) to avoid it"
    return picture, shown, (hdr,) if transfer else ()


def _ascending(stamps: list[int | None]) -> tuple[int, ...] | None:
    """Returns the time stamps, None unless each is later than the one before: streams that were joined start anew."""
    known = [stamp for stamp in stamps if stamp is not None]
    late = all(a < b for a, b in itertools.pairwise(known))
    return tuple(known) if late and len(known) == len(stamps) else None


def _streamed_oddities(
    path: Path, packets: list[tuple[int | None, bool, bool]], pts: tuple[int, ...] | None
) -> tuple[str, ...]:
    """Returns what decoding a stream forwards left out; raises `UserError` when that is its end."""
    odd = []
    if pts is not None:
        sent = {stamp for stamp, _, _ in packets if stamp is not None}
        if sent and pts[-1] < max(sent):
            raise UserError(_end_lost(path))
        if early := sum(stamp < pts[0] for stamp in sent):
            odd.append(
                f"the recording starts between key frames: its first {early} frames depend on earlier ones and"
                " are left out; check that all cameras start together"
            )
    if torn := sum(corrupt for _, _, corrupt in packets):
        odd.append(f"{torn} of {len(packets)} packets lost data in transmission: the decoder conceals the damage")
    return tuple(odd)


def _ends_inside_a_packet(path: Path) -> bool:
    """Tells whether the packets of a transport stream, all of one size, do not fill the file."""
    with path.open("rb") as file:
        head = file.read(5 * 204)
    # Plain, with a time code before each (.m2ts), and with a checksum behind each.
    for size, first in ((188, 0), (192, 4), (204, 0)):
        marks = head[first::size]
        if len(marks) > 3 and all(mark == _TS_SYNC for mark in marks):
            return path.stat().st_size % size != 0
    return False


def _check_end(path: Path, packets: list[tuple[int | None, bool, bool]]) -> None:
    """Raises `UserError` unless decoding from the last key frame reaches the video's last time stamp."""
    stamps = [pts for pts, _, _ in packets if pts is not None]
    keys = [pts for pts, key, _ in packets if key and pts is not None]
    if not stamps or not keys:
        return
    last = _last_stamp(path, keys[-1])
    if last is None or last < max(stamps):
        # Where the index is not exact, seeking lands somewhere behind the key frame.
        last = _last_stamp(path, None)
    if last is None or last < max(stamps):
        raise UserError(_end_lost(path))


def _last_stamp(path: Path, start: int | None) -> int | None:
    """Returns the last time stamp that decoding from the key frame at `start`, or from the beginning, comes to."""
    import av.error

    container, _ = _open(path)
    with container:
        stream = container.streams.video[0]
        try:
            if start is not None:
                container.seek(start, stream=stream, backward=True)
            return max((frame.pts for frame in container.decode(stream) if frame.pts is not None), default=None)
        except av.error.FFmpegError:
            if start is None:
                raise
            return None


def _end_lost(path: Path) -> str:
    return (
        f"{path}: the last frames of the video cannot be decoded: it is truncated or damaged;"
        " copy it again from its source, or export it again"
    )


def _damaged(path: Path, frame: int, reason: str) -> str:
    return (
        f"{path}: frame {frame} cannot be decoded, it is damaged ({reason}); copy it again from its source, or export"
        " the video again without that part"
    )


def _truncated(path: Path, count: int, stated: int | None) -> str:
    promise = f"its header says {stated}" if stated is not None else "its last packet is incomplete"
    return (
        f"{path}: the video ends after {count} frames, {promise}: it is truncated; copy it again from its source,"
        " or export it again"
    )


def _bars(picture: np.ndarray) -> Bars:
    rows, columns = picture.mean(axis=(1, 2)), picture.mean(axis=(0, 2))

    def dark(levels: np.ndarray) -> int:
        bright = np.flatnonzero(levels > _BAR_LEVEL)
        return int(bright[0]) if len(bright) else 0

    return Bars(dark(columns), dark(rows), dark(columns[::-1]), dark(rows[::-1]))
