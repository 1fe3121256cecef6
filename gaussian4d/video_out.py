"""Writing frames as a video: H.264 `.mp4`, VP9 `.webm`, `.gif`, or a folder of PNG files, whole or not at all.

Frames with alpha keep it where the container can: `.webm`, `.mov` (then ProRes 4444), `.gif` (there or not), PNG.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from .errors import UserError
from .files import atomic_write
from .folders import atomic_folder, check_replaceable

# Codecs by ending, best first; the first one that this build of FFmpeg has is used.
_CODECS = {
    ".mp4": ("libx264", "libopenh264", "mpeg4"),
    ".mov": ("libx264", "libopenh264", "mpeg4"),
    ".mkv": ("libx264", "libopenh264", "mpeg4"),
    ".webm": ("libvpx-vp9", "libvpx"),
}
# The same with alpha, and the pixels they take.
_ALPHA = {".webm": ("libvpx-vp9", "yuva420p"), ".mov": ("prores_ks", "yuva444p10le")}
_OPTIONS = {
    "prores_ks": {"profile": "4444", "vendor": "apl0"},
    "libx264": {"crf": "18", "preset": "medium"},
    "libvpx-vp9": {"crf": "24", "b": "0", "row-mt": "1", "cpu-used": "4"},
    "libvpx": {"crf": "8", "b": "8M"},
}

_LARGEST_SIDE = {".mp4": 16384, ".mov": 16384, ".mkv": 16384, ".webm": 65534, ".gif": 65535}
"""Pixels of a side that the codec of an ending can hold; of a folder 65,535, too."""
MOST_PIXELS = 1 << 27
"""Pixels of a picture: FFmpeg takes no more than twice as many, and drawing as many takes some gigabytes."""
FPS_RANGE = (0.01, 1000.0)
"""Beyond it files come out that players do not understand."""

ENDINGS = (*_CODECS, ".gif")
"""File endings that `write_video` knows; a path without an ending becomes a folder of PNG files."""


def write_video(path: str | os.PathLike[str], frames: Iterable[np.ndarray], fps: float) -> int:
    """Returns the number of frames written to `path`.

    Args:
        path: `.mp4`, `.mov`, `.mkv` (H.264), `.webm` (VP9), `.gif`, or no ending for a folder `frame_0000.png`, ...
        frames: uint8 [H, W, 3], or [H, W, 4] with straight alpha, all of one size; consumed one at a time.
        fps: frames per second, positive.

    Video codecs store colour at half resolution, so sizes must be even: an odd picture gets its last row or column
    repeated, which is said once. Raises `UserError` for an unknown ending, one that has no alpha for frames that do, no
    frames, or frames of changing size.
    """
    target = Path(path)
    check_video_path(target)
    check_fps(fps)
    checked = _checked(frames)
    if target.suffix == "":
        return _write_folder(target, checked)
    first = next(checked)
    check_picture_size(target, first.shape[1], first.shape[0])
    checked = itertools.chain([first], checked)
    with atomic_write(target) as temporary:
        if target.suffix.lower() == ".gif":
            return _write_gif(temporary, checked, fps)
        return _write_container(temporary, checked, fps)


def check_video_path(path: str | os.PathLike[str], transparent: bool = False) -> None:
    """Raises `UserError` when `write_video` could not write to `path`. Cheap: ask before rendering."""
    target = Path(path)
    if transparent and target.suffix.lower() in set(_CODECS) - set(_ALPHA):
        raise UserError(
            f"{target}: {target.suffix} has no transparency; use {', '.join(_ALPHA)}, .gif or a folder of pictures"
        )
    if target.suffix and target.suffix.lower() not in ENDINGS:
        raise UserError(
            f"{target}: the ending {target.suffix!r} is not known; use one of {', '.join(ENDINGS)}, "
            "or none for a folder of PNG files"
        )
    if target.suffix and target.is_dir():
        raise UserError(f"{target} is a folder; expected a file name; remove the folder or name another file")
    if not target.suffix:
        check_replaceable(target)


def check_fps(fps: float) -> None:
    """Raises `UserError` for frames per second that no video has."""
    if not FPS_RANGE[0] <= fps <= FPS_RANGE[1]:
        raise UserError(f"a video has {FPS_RANGE[0]:g} to {FPS_RANGE[1]:g} frames per second, got {fps:g}")


def check_picture_size(path: str | os.PathLike[str], width: int, height: int) -> None:
    """Raises `UserError` when pictures of this size are more than the ending of `path` can hold."""
    most = _LARGEST_SIDE.get(Path(path).suffix.lower(), 65535)
    if max(width, height) > most or width * height > MOST_PIXELS:
        raise UserError(
            f"{path}: pictures of {width}x{height} are too large: a side has at most {most:,} pixels there, a picture"
            f" {MOST_PIXELS:,}; make them smaller, or show fewer of them side by side"
        )


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yields the frames as contiguous uint8 [H, W, 3 or 4]; raises when they differ in size or there is none."""
    shape = None
    for frame in frames:
        image = np.ascontiguousarray(frame)
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
            raise UserError(f"frames must be uint8 [H, W, 3] or [H, W, 4], got {image.dtype} {image.shape}")
        shape = shape or image.shape
        if image.shape != shape:
            raise UserError(f"frames must have one size, got {image.shape} after {shape}")
        yield image
    if shape is None:
        raise UserError("a video needs at least one frame, got none")


def _write_container(path: Path, frames: Iterator[np.ndarray], fps: float) -> int:
    import av
    from av.video.stream import VideoStream

    count = 0
    first = _even(next(frames), say=True)
    transparent = first.shape[2] == 4
    if transparent:
        check_video_path(path, transparent=True)
    codec, pixels = _ALPHA[path.suffix.lower()] if transparent else (_codec(path.suffix.lower()), "yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=_OPTIONS.get(codec))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pixels
        # Players guess the matrix from the picture size unless it is written down; 1 is BT.709.
        stream.codec_context.colorspace = 1
        stream.codec_context.color_primaries = 1
        stream.codec_context.color_trc = 1
        stream.codec_context.color_range = 1
        for image in itertools.chain([first], map(_even, frames)):
            frame = av.VideoFrame.from_ndarray(image, format="rgba" if transparent else "rgb24")
            frame = frame.reformat(format=pixels, dst_colorspace="ITU709", dst_color_range="MPEG")
            container.mux(stream.encode(frame))
            count += 1
        container.mux(stream.encode(None))
    return count


def _codec(suffix: str) -> str:
    """Returns the best codec for the ending that this build of FFmpeg can write."""
    import av

    for index, name in enumerate(_CODECS[suffix]):
        try:
            av.Codec(name, "w")
        except ValueError:
            continue
        if index:
            warnings.warn(
                f"this build of FFmpeg has no {_CODECS[suffix][0]}; {name} is used, files are larger or look worse",
                stacklevel=2,
            )
        return name
    raise UserError(f"this build of FFmpeg writes none of {', '.join(_CODECS[suffix])}; choose another ending or .gif")


def _even(image: np.ndarray, say: bool = False) -> np.ndarray:
    """Returns the picture with even sides: an odd side grows by a copy of its last row or column."""
    height, width = image.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return image
    if say:
        padded = f"{width + width % 2}x{height + height % 2}"
        warnings.warn(f"video sizes must be even: {width}x{height} was padded to {padded}", stacklevel=4)
    return np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _write_gif(path: Path, frames: Iterator[np.ndarray], fps: float) -> int:
    from PIL import Image

    count = 1
    image = next(frames)
    # What is transparent shows the frame before, unless that one is told to go.
    disposal = 2 if image.shape[2] == 4 else 0
    first = Image.fromarray(image)

    def rest() -> Iterator[Image.Image]:
        nonlocal count
        for image in frames:
            count += 1
            yield Image.fromarray(image)

    # GIF counts in hundredths of a second.
    duration = max(10 * round(100 / fps), 20)
    first.save(path, save_all=True, append_images=rest(), duration=duration, loop=0, optimize=False, disposal=disposal)
    return count


def _write_folder(folder: Path, frames: Iterator[np.ndarray]) -> int:
    from PIL import Image

    count = 0
    with atomic_folder(folder) as temporary:
        for image in frames:
            Image.fromarray(image).save(temporary / f"frame_{count:04d}.png")
            count += 1
    return count
