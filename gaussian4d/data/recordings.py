"""What fixed cameras recorded, a video or a folder of numbered pictures each, as the frames of one clip."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ..conventions import frame_times, numeric_key
from ..errors import UserError
from ..files import hidden
from ..frame_numbers import FrameNumbers
from .clips import common_instants, fit_lens, fit_lens_to_picture
from .images import IMAGE_ENDINGS, header_for
from .named_files import SceneFiles
from .problems import ProblemList
from .records import FrameRecord, ImagePicture, Lens, Split, VideoPicture
from .video import VIDEO_ENDINGS, Video, probe_all


@dataclasses.dataclass(frozen=True)
class Recording:
    """A video, or pictures by their frame number."""

    path: Path
    """The video, or the folder of the pictures."""
    pictures: tuple[tuple[int, Path], ...] = ()
    """(frame number, file) in numeric order; empty for a video."""
    fault: str | None = None
    """What keeps it from being used; raised when a camera uses it, so that folders beside the recording may be odd."""

    @property
    def is_video(self) -> bool:
        return not self.pictures


@dataclasses.dataclass(frozen=True)
class FixedCamera:
    """A camera that does not move, and what it recorded."""

    name: str
    viewmat: np.ndarray
    """[4, 4] world-to-camera, OpenCV axes."""
    lens: Lens
    """At the size of its calibration; width and height 0 where that states none."""
    recording: Recording
    stated_in: Path
    split: Split | None = None
    masks: Path | None = None
    """Folder with a mask for every picture, of the picture's stem."""


@dataclasses.dataclass(frozen=True)
class Clip:
    """The frames of all cameras."""

    frames: list[FrameRecord]
    fps: float | None
    duration: float | None
    """Seconds."""


def recordings_in(place: Path) -> dict[str, Recording]:
    """Returns the recordings in a folder by name: videos by their stem, folders of pictures by theirs.

    A folder may hold its pictures in a subfolder `images`, as 4DGaussians unpacks videos; beside a video of the same
    name it is left out.
    """
    videos: dict[str, Recording] = {}
    folders: dict[str, Recording] = {}
    if not place.is_dir():
        return {}
    for path in sorted(place.iterdir(), key=lambda p: numeric_key(p.name)):
        if hidden(path.name):
            continue
        if path.suffix.lower() in VIDEO_ENDINGS and path.is_file():
            fault = None
            if path.stem in videos:
                fault = (
                    f"{path}: two videos are named {path.stem} ({videos[path.stem].path.name} is the other); every"
                    " camera needs a name of its own: rename or remove one"
                )
            videos[path.stem] = Recording(path, fault=fault)
        elif path.is_dir():
            recording = numbered_pictures(path) or numbered_pictures(path / "images")
            if recording is not None:
                folders[path.name] = recording
    return folders | videos


def numbered_pictures(folder: Path) -> Recording | None:
    """Returns the pictures of a folder in the order of their numbers, None when it holds none with a number."""
    if not folder.is_dir():
        return None
    numbered: dict[int, Path] = {}
    fault = None
    for path in pictures_in(folder):
        number = frame_number(path.stem)
        if number is None:
            continue
        if number in numbered:
            fault = f"{path}: frame {number} exists twice, also as {numbered[number].name}; remove one"
        numbered[number] = path
    return Recording(folder, tuple(sorted(numbered.items())), fault) if numbered else None


def pictures_in(folder: Path) -> list[Path]:
    """Returns the picture files of a folder, sorted by name as text."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_ENDINGS and not hidden(path.name))


def frame_number(stem: str) -> int | None:
    """Returns the last number in a name, None without one."""
    digits = re.findall(r"\d+", stem)
    return int(digits[-1]) if digits else None


def clip_of(cameras: Sequence[FixedCamera], problems: ProblemList, *, fps: float | None = None) -> Clip:
    """Returns the frames of all cameras at their common instants; what is wrong with one goes to `problems`.

    Args:
        cameras: At least one.
        problems: Takes videos and pictures that cannot be used.
        fps: Frame rate of pictures, which state none.
    """
    for camera in cameras:
        if camera.recording.fault is not None:
            raise UserError(camera.recording.fault)
    filmed = [camera for camera in cameras if camera.recording.is_video]
    if filmed and len(filmed) < len(cameras):
        other = next(camera for camera in cameras if not camera.recording.is_video)
        raise UserError(
            f"{other.recording.path}: camera {other.name} has images, but {filmed[0].name} has a video"
            f" ({filmed[0].recording.path.name}); use videos for all cameras, or images for all"
        )
    return _clip_of_videos(cameras, problems) if filmed else _clip_of_pictures(cameras, problems, fps)


def _clip_of_videos(cameras: Sequence[FixedCamera], problems: ProblemList) -> Clip:
    lenses: dict[str, Lens] = {}
    videos: dict[str, Video] = {}
    for camera, found in zip(cameras, probe_all([camera.recording.path for camera in cameras])):
        try:
            if isinstance(found, UserError):
                raise found
            stated = _sized(camera.lens, found.width, found.height)
            lenses[camera.name], videos[camera.name] = fit_lens(stated, found, problems)
        except UserError as error:
            problems.take(camera.recording.path, error)
    if not videos:
        return Clip([], None, None)
    indices, count, fps = common_instants(videos, problems)
    times = frame_times(count)
    frames = [
        _frame(camera, lenses[camera.name], VideoPicture(videos[camera.name], int(indices[camera.name][k])), times[k])
        for camera in cameras
        if camera.name in videos
        for k in range(count)
    ]
    return Clip(frames, fps, (count - 1) / fps if fps and count > 1 else None)


def _clip_of_pictures(cameras: Sequence[FixedCamera], problems: ProblemList, fps: float | None) -> Clip:
    numbers = FrameNumbers.of(number for camera in cameras for number, _ in camera.recording.pictures)
    if gaps := numbers.gaps():
        problems.warning(cameras[0].recording.path if len(cameras) == 1 else _shared_folder(cameras), gaps)
    _warn_of_lacking(cameras, numbers, problems)
    frames = []
    for camera in cameras:
        pictures = camera.recording.pictures
        try:
            header = header_for(pictures[0][1], (round(2 * camera.lens.cx), round(2 * camera.lens.cy)))
            stated = _sized(camera.lens, header.width, header.height)
            lens = fit_lens_to_picture(stated, pictures[0][1], problems)
        except UserError as error:
            problems.take(pictures[0][1], error)
            continue
        masks = None if camera.masks is None else SceneFiles(camera.masks)
        own = [_frame(camera, lens, ImagePicture(path), numbers.time(number), masks) for number, path in pictures]
        unmasked = [frame for frame in own if frame.mask is None]
        if camera.masks is not None and unmasked:
            problems.warning(
                camera.masks,
                f"{len(unmasked)} of {len(own)} images of camera {camera.name} have no mask there (the first is"
                f" {Path(unmasked[0].picture.source).name}) and are used without one; restore the masks",
            )
        frames += own
    return Clip(frames, fps, numbers.intervals / fps if fps and numbers.intervals else None)


def _shared_folder(cameras: Sequence[FixedCamera]) -> Path:
    """Returns the folder in which the recordings of all cameras lie."""
    return Path(os.path.commonpath([camera.recording.path for camera in cameras]))


def _warn_of_lacking(cameras: Sequence[FixedCamera], numbers: FrameNumbers, problems: ProblemList) -> None:
    """Notes which cameras lack frames that others have; cameras that lack the same ones in one line."""
    lacking: dict[tuple[int, ...], list[FixedCamera]] = {}
    for camera in cameras:
        missing = set(numbers.numbers) - {number for number, _ in camera.recording.pictures}
        if missing:
            lacking.setdefault(tuple(sorted(missing)), []).append(camera)
    for missing, those in lacking.items():
        names = ", ".join(camera.name for camera in those[:8]) + (", ..." if len(those) > 8 else "")
        one = len(those) == 1
        problems.warning(
            those[0].recording.path,
            f"camera{'' if one else 's'} {names} {'has' if one else 'have'} {len(numbers.numbers) - len(missing)} of"
            f" {len(numbers.numbers)} frames (the first {'it lacks' if one else 'they lack'} is {missing[0]}); the"
            " others are used, restore the rest",
        )


def _frame(
    camera: FixedCamera, lens: Lens, picture: ImagePicture | VideoPicture, time: float, masks: SceneFiles | None = None
) -> FrameRecord:
    mask = mask_of(masks, picture.path.name) if masks is not None and isinstance(picture, ImagePicture) else None
    return FrameRecord(
        camera.name, camera.viewmat, lens, picture, float(time), camera.split, mask, stated_in=str(camera.stated_in)
    )


def _sized(lens: Lens, width: int, height: int) -> Lens:
    return lens if lens.width and lens.height else dataclasses.replace(lens, width=width, height=height)


def mask_of(masks: SceneFiles, picture: str) -> Path | None:
    """Returns the mask of a picture, `0001.png` or COLMAP's `0001.jpg.png` for `0001.jpg`; None without one."""
    return masks.find(str(PurePosixPath(picture).with_suffix("")), IMAGE_ENDINGS) or masks.find(picture, IMAGE_ENDINGS)
