"""From a user's file to the framed pictures that everything else works on."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gaussian4d.errors import UserError

from .matting import Matte, cut_out, read_mask
from .pictures import MAX_SIDE, Picture, count_frames, read_picture
from .recentre import recentre
from .videos import FRAME_SIDE, frame_files, read_clip


@dataclasses.dataclass(frozen=True)
class Subject:
    """One object to make an asset of, as pictures."""

    name: str
    """For folders and messages."""
    frames: Float[np.ndarray, "T 4 S S"]
    """float32, premultiplied RGBA; T is 1 for a still picture."""
    fps: float | None = None
    """Of the frames, where the source says."""
    notes: tuple[str, ...] = ()
    """What was done to the input and what is odd about it, one sentence each."""
    fingerprint: str = ""
    """Changes when the content of the files does."""


def load_image(
    path: Path, *, mask: Path | None = None, matte: Matte = "auto", share: float = 0.8, size: int | None = None
) -> Subject:
    """Returns the object in the picture at `path`; see `matting.cut_out` and `recentre.recentre`.

    Raises:
        UserError: naming the file: missing, damaged, of no use, or not to be cut out.
    """
    frames = count_frames(path)
    notes = [f"it holds {frames} frames, the first is used; give it as --video for its motion"] if frames > 1 else []
    picture = read_picture(path)
    return _subject(path, [picture], [*notes, *picture.notes], mask, matte, share, size, MAX_SIDE, None)


def load_video(
    path: Path,
    *,
    frames: int = 16,
    mask: Path | None = None,
    matte: Matte = "auto",
    share: float = 0.8,
    size: int | None = None,
) -> Subject:
    """Returns the object in the video at `path` at no more than `frames` even instants, framed alike in all.

    `mask` is one file for all frames, or a folder with a mask for every frame of the source. A video of one frame is
    an image, which a note says.

    Raises:
        UserError: see `load_image`.
    """
    clip = read_clip(path, frames)
    notes = list(clip.notes)
    if clip.total == 1:
        notes.append("it has one frame and is treated as an image")
    elif clip.total > len(clip.pictures):
        notes.append(f"{len(clip.pictures)} of its {clip.total} frames are used, evenly spread (--frames)")
    return _subject(path, clip.pictures, notes, mask, matte, share, size, FRAME_SIDE, clip.fps)


def fingerprint(paths: Sequence[Path]) -> str:
    """Returns a hash of the content of files, and of the files in folders."""
    digest = hashlib.sha256()
    for path in paths:
        for file in frame_files(path) if path.is_dir() else [path]:
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:20]


def _subject(
    path: Path,
    pictures: Sequence[Picture],
    notes: list[str],
    mask: Path | None,
    matte: Matte,
    share: float,
    size: int | None,
    max_side: int,
    fps: float | None,
) -> Subject:
    masks = None if mask is None else _masks(mask, pictures, max_side)
    cut, how = cut_out(pictures, path, masks=masks, matte=matte)
    try:
        framed = recentre(cut, share=share, size=size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    sources = [path] if mask is None else [path, mask]
    return Subject(path.stem, framed.frames, fps, (*notes, *how, *framed.notes), fingerprint(sources))


def _masks(path: Path, pictures: Sequence[Picture], max_side: int) -> list[np.ndarray]:
    shape = pictures[0].pixels.shape[:2]
    if not path.is_dir():
        return [read_mask(path, (shape[0], shape[1]), max_side)] * len(pictures)
    from .videos import chosen

    files = frame_files(path)
    if len(files) < len(pictures):
        raise UserError(f"--mask {path}: expected a mask for each of {len(pictures)} frames, got {len(files)}")
    return [read_mask(files[index], (shape[0], shape[1]), max_side) for index in chosen(len(files), len(pictures))]
