"""Foreground masks of every instant: a user's, or what differs from the camera's usual picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from ..conventions import numeric_key
from ..data.images import IMAGE_ENDINGS, read_mask
from ..data.recordings import pictures_in
from ..data.resample import Resampling
from ..errors import UserError
from ..folders import atomic_folder
from .calibrate import PlacedCamera
from .recordings import Recording
from .timeline import Timeline
from .write import Written

BACKGROUND = "background"

# Pictures, spread over the clip, whose median is a camera's usual picture.
_SAMPLES = 25
# Levels of 255 that a pixel must differ from it, and how many times the camera's own noise.
_LEAST_LEVELS = 18.0
_NOISE = 6.0
# Smaller pieces, as a share of the picture, are noise, leaves, screens.
_LEAST_PIECE = 5e-4


def write_masks(
    out: Path,
    users: Mapping[str, Sequence[Path]] | None,
    recordings: Sequence[Recording],
    cameras: Mapping[str, PlacedCamera],
    written: Mapping[str, Written],
    timeline: Timeline,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[str]]:
    """Returns, per camera, the mask file of every instant inside `out`, after writing them all to `out/masks`.

    Masks are white on the foreground, and go the same way as the pictures: cut and undistorted where those were.

    Args:
        out: The scene.
        users: What `user_masks` found; None subtracts the background.
        recordings: All cameras.
        cameras: Their lenses.
        written: What became of their pictures.
        timeline: Which frame shows which instant.
        progress: Called with (masks done, masks in all).
    """
    total, done = timeline.count * len(recordings), 0
    files: dict[str, list[str]] = {}
    with atomic_folder(out / "masks", replaceable=".*") as folder:
        for recording in recordings:
            indices = [int(k) for k in timeline.indices[recording.name]]
            masks = _background(recording, indices) if users is None else _read(users[recording.name], indices)
            (folder / recording.name).mkdir()
            resampling = Resampling(cameras[recording.name].lens, 1.0)
            matrix = resampling.matrix() if written[recording.name].straightened else None
            files[recording.name] = []
            for instant, mask in enumerate(masks):
                mask = _as_written(mask, recording, cameras[recording.name], written[recording.name])
                if matrix is not None:
                    mask = resampling.apply(mask, matrix)
                lens = written[recording.name].lens
                name = f"{instant:06d}.png"
                binary = np.where(mask[: lens.height, : lens.width] > 127, 255, 0).astype(np.uint8)
                Image.fromarray(binary).save(folder / recording.name / name, optimize=False)
                files[recording.name].append(f"masks/{recording.name}/{name}")
                done += 1
                if progress is not None:
                    progress(done, total)
    return files


def user_masks(folder: Path, recordings: Sequence[Recording]) -> dict[str, list[Path]]:
    """Returns the mask of every frame of every camera.

    The folder holds CAMERA/*.png, as many as the camera has frames or one for all, or CAMERA.png. Raises `UserError`
    when some are missing or of another size.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: expected a folder with masks, one folder per camera; or say --masks {BACKGROUND}")
    found: dict[str, list[Path]] = {}
    for recording in recordings:
        own = folder / recording.name
        whole = [path for ending in IMAGE_ENDINGS if (path := folder / f"{recording.name}{ending}").is_file()]
        paths = pictures_in(own) if own.is_dir() else whole
        paths.sort(key=lambda path: numeric_key(path.name))
        if not paths:
            raise UserError(f"{own}: no masks for camera {recording.name}; add {recording.name}/*.png")
        if len(paths) not in (1, recording.count):
            raise UserError(
                f"{own}: {len(paths)} masks for {recording.count} frames; expected one per frame, or one for all"
            )
        size = read_mask(paths[0]).shape
        if size != (recording.height, recording.width):
            raise UserError(
                f"{paths[0]}: the mask is {size[1]}x{size[0]}, the recording {recording.width}x{recording.height}; make"
                " them the same size"
            )
        found[recording.name] = paths if len(paths) > 1 else paths * recording.count
    return found


def background_mask(picture: np.ndarray, usual: np.ndarray, noise: float) -> np.ndarray:
    """Returns uint8 [H, W], 255 where `picture` uint8 [H, W, 3] is something else than the `usual` one.

    A change of brightness of the whole picture is taken out first. `noise`: standard deviation of still pixels, levels.
    """
    difference = picture.astype(np.float32) - usual.astype(np.float32)
    difference -= np.median(difference[::4, ::4], axis=(0, 1))
    moved = ndimage.uniform_filter(np.abs(difference).max(axis=2), 3) > max(_LEAST_LEVELS, _NOISE * noise)
    moved = ndimage.binary_closing(ndimage.binary_opening(moved), iterations=3)
    pieces = np.zeros(moved.shape, dtype=np.int32)
    ndimage.label(ndimage.binary_fill_holes(moved), output=pieces)
    keep = np.bincount(pieces.reshape(-1)) >= max(4.0, _LEAST_PIECE * pieces.size)
    keep[0] = False
    return np.where(keep[pieces], 255, 0).astype(np.uint8)


def _background(recording: Recording, indices: list[int]) -> Iterator[np.ndarray]:
    chosen = [indices[k] for k in np.unique(np.linspace(0, len(indices) - 1, _SAMPLES).round().astype(int))]
    samples = np.stack([picture for _, picture in recording.frames(chosen)])
    usual = np.median(samples, axis=0).astype(np.uint8)
    # Most pixels stand still most of the time: the median deviation is noise (1.48 of it a standard deviation).
    noise = 1.48 * float(np.median(np.abs(samples[:, ::4, ::4].astype(np.int16) - usual[::4, ::4])))
    wanted: dict[int, int] = {}
    for index in indices:
        wanted[index] = wanted.get(index, 0) + 1
    for index, picture in recording.frames(indices):
        mask = background_mask(picture, usual, noise)
        for _ in range(wanted[index]):
            yield mask


def _read(paths: Sequence[Path], indices: list[int]) -> Iterator[np.ndarray]:
    for index in indices:
        yield read_mask(paths[index])


def _as_written(mask: np.ndarray, recording: Recording, camera: PlacedCamera, written: Written) -> np.ndarray:
    if mask.shape != (recording.height, recording.width):
        raise UserError(
            f"{recording.path}: a mask is {mask.shape[1]}x{mask.shape[0]}, the recording"
            f" {recording.width}x{recording.height}; they must be the same size"
        )
    window = camera.video
    if not written.encoded or window is None:
        return mask
    return mask[window.top : window.top + window.height, window.left : window.left + window.width]
