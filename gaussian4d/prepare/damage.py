"""Damage inside videos that only decoding shows: every frame of every camera, once, before any long work.

A decoder hides what it cannot read: it paints over torn blocks and goes on. Asked to stop instead (FFmpeg's
`err_detect=explode`), it tells. Damage to the coefficients of a picture may decode to another valid picture; nothing
shows that.
"""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable, Sequence

from ..data.video import COUNTED_BY_DECODING, Video
from ..errors import UserError
from .recordings import Recording

# Decoders that stop only at real damage. Others name a whole file damaged for a harmless oddity.
_STRICT = ("h264", "hevc")


def refuse_damaged(recordings: Sequence[Recording], progress: Callable[[int, int], None] | None = None) -> None:
    """Raises `UserError` that names every damaged video, its first damaged frame and what to do.

    `progress` is called with (videos read, videos in all).
    """
    videos = [recording.video for recording in recordings if recording.video is not None]
    found = []
    with concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for done, (video, fault) in enumerate(zip(videos, pool.map(first_damage, videos)), start=1):
            if fault is not None:
                index, reason = fault
                at = f" ({index / video.fps:.2f} s)" if video.fps else ""
                found.append(f"{video.path}: frame {index} of {video.count}{at} is damaged ({reason})")
            if progress is not None:
                progress(done, len(videos))
    if found:
        raise UserError(
            "; ".join(found) + "; copy the video again from its source, or export it again without that part, or leave"
            " the camera out"
        )


def first_damage(video: Video) -> tuple[int, str] | None:
    """Returns (about which frame, why) of the first damage that decoding shows, None when the video is whole."""
    import av
    import av.error

    with av.open(str(video.path), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        if codec.name in COUNTED_BY_DECODING:
            # Opening the video has decoded all of it.
            return None
        # Threads that decode frames ahead of time would report an error late.
        stream.thread_type = "SLICE"
        if codec.name in _STRICT:
            codec.options = {**codec.options, "err_detect": "crccheck+bitstream+buffer+explode"}
        count = 0
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    if frame.is_corrupt and count:
                        return count, "the decoder mended it"
                    count += 1
            except av.error.EOFError:
                break
            except av.error.FFmpegError as error:
                # Recordings that were cut begin with frames whose references are gone; those are not shown.
                if count:
                    return count, error.strerror or str(error)
        return (count, "the decoder drops it") if count < video.count else None
