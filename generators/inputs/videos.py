"""Moving pictures as frames evenly spread over the clip: a video, an animated picture, a folder of frames."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np

from gaussian4d.errors import UserError

from .pictures import Picture, count_frames, decode, from_bytes, open_picture, read_picture

FRAME_SIDE = 768
"""Longest side of a frame after decoding, in pixels: several are in memory together."""
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Of the frames in a folder."""
ANIMATED = (".gif", ".webp", ".png", ".apng")
"""Of single files that may hold several frames."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """The chosen frames of a video."""

    pictures: tuple[Picture, ...]
    """All of one size, evenly spread over the clip."""
    total: int
    """Frames the source has."""
    fps: float | None
    """Of the chosen frames, where the source says."""
    notes: tuple[str, ...] = ()


def read_clip(path: Path, frames: int) -> Clip:
    """Returns at most `frames` frames of the video at `path`, the first and the last among them.

    Args:
        path: A video file, an animated GIF, WebP or PNG, a still picture (one frame), or a folder of pictures, which
            are taken in the order of the numbers in their names.
        frames: Most frames to take, at least 1.

    Raises:
        UserError: nothing there, damaged, no frames, or frames of different sizes.
    """
    if frames < 1:
        raise UserError(f"expected at least 1 frame, got {frames}")
    if path.is_dir():
        return _folder(path, frames)
    if not path.is_file():
        raise UserError(
            f"{path}: expected a video, an animated picture or a folder of frames, found none; check the path"
        )
    if path.suffix.lower() in ANIMATED or path.suffix.lower() in ENDINGS:
        return _animated(path, frames)
    return _video(path, frames)


def chosen(total: int, frames: int) -> list[int]:
    """Returns the indices of at most `frames` of `total` frames, as even as whole numbers allow."""
    return np.linspace(0, total - 1, min(total, frames)).round().astype(int).tolist()


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Returns a sorting key by which frame_2 comes before frame_10."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def frame_files(folder: Path) -> list[Path]:
    """Returns the pictures in `folder` in numeric order."""
    files = [file for file in folder.iterdir() if file.suffix.lower() in ENDINGS and not file.name.startswith(".")]
    return sorted(files, key=lambda file: natural_key(file.name))


def _folder(folder: Path, frames: int) -> Clip:
    files = frame_files(folder)
    if not files:
        raise UserError(f"{folder}: expected frames such as 000.png, 001.png, found no pictures; check the path")
    others = sum(1 for file in folder.iterdir() if not file.name.startswith(".")) - len(files)
    notes = [f"{others} other files in it are not looked at"] if others else []
    pictures = [read_picture(files[index], max_side=FRAME_SIDE) for index in chosen(len(files), frames)]
    first = pictures[0].pixels.shape
    for index, picture in zip(chosen(len(files), frames), pictures, strict=True):
        if picture.pixels.shape != first:
            height, width = picture.pixels.shape[:2]
            raise UserError(
                f"{folder}: frames must have one size, {files[index].name} is {width}x{height} after"
                f" {first[1]}x{first[0]}; take it out, or resize it"
            )
    return Clip(tuple(pictures), len(files), None, (*notes, *pictures[0].notes))


def _animated(path: Path, frames: int) -> Clip:
    total = count_frames(path)
    pictures, seconds = [], 0.0
    with open_picture(path) as image:
        for index in chosen(total, frames):
            try:
                image.seek(index)
            except (EOFError, OSError, SyntaxError) as error:
                raise UserError(f"{path}: frame {index} of {total} is damaged ({error}); export it again") from None
            pictures.append(decode(image, path, max_side=FRAME_SIDE))
            seconds += float(image.info.get("duration", 0.0) or 0.0) / 1000.0
    # Frames may be shown for different times; on average is near enough for the speed of playing.
    per_frame = seconds / len(pictures)
    rate = len(pictures) / total / per_frame if per_frame > 0 and total > 1 else None
    return Clip(tuple(pictures), total, rate, pictures[0].notes)


def _video(path: Path, frames: int) -> Clip:
    from gaussian4d.data.video import Decoder, probe

    video = probe(path)
    indices = chosen(video.count, frames)
    decoder = Decoder(video)
    try:
        pixels = [from_bytes(frame, max_side=FRAME_SIDE) for _, frame in decoder.read(indices[-1], set(indices))]
    finally:
        decoder.close()
    notes = list(video.warnings)
    if max(video.width, video.height) > FRAME_SIDE:
        notes.append(f"it is {video.width}x{video.height}: read at {pixels[0].shape[1]}x{pixels[0].shape[0]}")
    pictures = tuple(Picture(frame, bool(frame[..., 3].min() < 1.0 - 0.5 / 255.0)) for frame in pixels)
    rate = None if video.fps is None or video.count < 2 else video.fps * (len(indices) - 1) / (video.count - 1)
    return Clip(pictures, video.count, rate, tuple(notes))
