"""Videos of several cameras as one clip: the same instants in all of them, pictures that match their calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import UserError
from .images import header_for
from .problems import ProblemList
from .records import Lens
from .video import Video

# Relative difference below which two frame rates are the same: 30000/1001 and 29.97.
_SAME_RATE = 1e-3

# Codecs cut pictures to multiples of 16 or 8 pixels.
_CODEC_CUT = 16


def common_instants(
    videos: Mapping[str, Video], problems: ProblemList
) -> tuple[dict[str, np.ndarray], int, float | None]:
    """Returns for every camera the frame number at each common instant, the number of instants, and the frame rate.

    All videos start together. Rates that differ or vary: the instants are those of the slowest video, evenly spaced,
    and cameras give their nearest frame. Lengths that differ: the shortest decides. Whatever is odd about a video is
    noted as a warning.
    """
    for video in videos.values():
        for warning in video.warnings:
            problems.warning(video.path, warning)
    rates = {name: video.fps for name, video in videos.items() if video.fps}
    counts = {name: video.count for name, video in videos.items()}
    slowest = min(rates.values()) if rates else None
    differ = slowest is not None and max(rates.values()) > slowest * (1 + _SAME_RATE)
    varies = any(video.stamps is not None for video in videos.values())
    if slowest is not None and len(rates) == len(videos) and (differ or varies):
        seconds = {name: _seconds(video, rates[name]) for name, video in videos.items()}
        count = min(math.floor(float(of[-1]) * slowest + 1e-6) + 1 for of in seconds.values())
        instants = np.arange(count) / slowest
        indices = {name: _nearest(of, instants) for name, of in seconds.items()}
        if differ:
            listed = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
            problems.warning(
                next(iter(videos.values())).path.parent,
                f"frame rates differ ({listed}): {count} instants at {slowest:g} a second, other cameras by their"
                " nearest frame",
            )
        return indices, count, slowest
    count = min(counts.values())
    if max(counts.values()) != count:
        listed = ", ".join(f"{name} {number}" for name, number in counts.items())
        problems.warning(
            next(iter(videos.values())).path.parent,
            f"frame counts differ ({listed}): the first {count} frames of each are used; check that all start together",
        )
    return {name: np.arange(count) for name in videos}, count, slowest


def _seconds(video: Video, rate: float) -> np.ndarray:
    """Returns the seconds [count] of every frame since the first."""
    return np.arange(video.count) / rate if video.stamps is None else np.array(video.stamps)


def _nearest(seconds: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """Returns for every instant the index of the frame nearest to it; halfway between two, the later one."""
    middles = 0.5 * (seconds[1:] + seconds[:-1])
    return np.searchsorted(middles, instants + 1e-9)


def fit_lens(lens: Lens, video: Video, problems: ProblemList) -> tuple[Lens, Video]:
    """Returns the lens for the video's pictures, and the video cut to them, when it was calibrated at another size.

    A video of the same shape was scaled. One with black bars was scaled and letterboxed by an export; the bars are
    cut. One that lacks up to 16 pixels was cut by a codec. Anything else raises `UserError`.
    """
    w, h = lens.width, lens.height
    if (video.width, video.height) == (w, h):
        return lens, video
    calibrated = f"the calibration is for {w}x{h}, the video is {video.width}x{video.height}"
    sx, sy = video.width / w, video.height / h
    if abs(sx / sy - 1) < 2e-3:
        problems.warning(video.path, f"{calibrated}: intrinsics are rescaled")
        return _moved(lens, sx, sy, 0.0, 0.0, video.width, video.height), video
    scale = min(sx, sy)
    # Exporters scale to even sizes and pad both sides alike.
    content_w = video.width if sx <= sy else 2 * round(w * scale / 2)
    content_h = video.height if sy <= sx else 2 * round(h * scale / 2)
    pad_x, pad_y = (video.width - content_w) / 2, (video.height - content_h) / 2
    bars = video.bars
    sides = ((bars.left, pad_x), (bars.right, pad_x), (bars.top, pad_y), (bars.bottom, pad_y))
    if all(abs(seen - pad) <= 1.5 for seen, pad in sides if pad > 0):
        # One more row or column goes, it may be mixed with the bar.
        left, top = (math.ceil(pad) + 1 if pad > 0 else 0 for pad in (pad_x, pad_y))
        window = video.cropped(left, top, video.width - 2 * left, video.height - 2 * top)
        problems.warning(video.path, f"{calibrated} with black bars: rescaled to {content_w}x{content_h}, bars cropped")
        fitted = _moved(lens, content_w / w, content_h / h, pad_x - left, pad_y - top, window.width, window.height)
        return fitted, window
    if 0 <= w - video.width <= _CODEC_CUT and 0 <= h - video.height <= _CODEC_CUT:
        problems.warning(video.path, f"{calibrated}: treated as cropped on the right and at the bottom")
        return _moved(lens, 1.0, 1.0, 0.0, 0.0, video.width, video.height), video
    if (w, h) == (video.height, video.width):
        raise UserError(
            f"{video.path}: {calibrated}: one of them is rotated by 90 degrees; videos are rotated by their rotation"
            " metadata, so calibrate with upright images, or remove the rotation from the video"
        )
    raise UserError(
        f"{video.path}: {calibrated}, which neither scaling nor cropping explains; export the video at {w}x{h} or"
        " calibrate at its size"
    )


def fit_lens_to_picture(lens: Lens, path: Path, problems: ProblemList) -> Lens:
    """Returns the lens for pictures of the size of `path`, scaled when they are a smaller or larger copy.

    A picture counts as turned upright where that fits the calibration better (`header_for`). Raises `UserError` when
    the shape differs, or the picture cannot be read.
    """
    w, h = lens.width, lens.height
    header = header_for(path, (w, h))
    if (header.width, header.height) == (w, h):
        return lens
    calibrated = f"the calibration is for {w}x{h}, the image is {header.width}x{header.height}"
    scale = min(header.width / w, header.height / h)
    # Whoever shrinks 1079 rows by two gets 539 or 540.
    if abs(w * scale - header.width) > 1 or abs(h * scale - header.height) > 1:
        side = ": one of them is rotated by 90 degrees" if (w, h) == (header.height, header.width) else ""
        raise UserError(
            f"{path}: {calibrated}, not a resized copy{side}; export the images at {w}x{h} or calibrate at their size"
        )
    problems.warning(path, f"{calibrated}: intrinsics are rescaled")
    return _moved(lens, header.width / w, header.height / h, 0.0, 0.0, header.width, header.height)


def _moved(lens: Lens, sx: float, sy: float, dx: float, dy: float, width: int, height: int) -> Lens:
    return Lens(
        lens.fx * sx, lens.fy * sy, lens.cx * sx + dx, lens.cy * sy + dy, width, height, lens.model, lens.distortion
    )
