"""Cameras from a calibration that the user has."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..data.calibration import find_calibrations, find_intrinsics
from ..data.clips import fit_lens
from ..data.problems import ProblemList
from ..data.records import Lens
from ..data.video import Video
from ..data.videos import CALIBRATION_ENDINGS, match_names
from ..errors import UserError
from ..files import hidden
from .recordings import Recording


@dataclasses.dataclass(frozen=True)
class PlacedCamera:
    """A fixed camera: where it stands and how its pictures come about."""

    name: str
    viewmat: np.ndarray
    """[4, 4] world-to-camera, OpenCV axes."""
    lens: Lens
    """Of the recorded pictures, or of the window of them that `video` is cut to."""
    video: Video | None = None
    """The recording's video, cut when bars were found; None for pictures."""


def find_calibration_files(source: Path, calibration: Path | None) -> list[Path]:
    """Returns the files that may hold a calibration: the given file or folder, else those in and below the source."""
    if calibration is not None and not calibration.exists():
        raise UserError(f"{calibration}: no such calibration; give a file or folder, or leave --calibration out")
    place = source if calibration is None else calibration
    if place.is_file():
        return [place] if calibration is not None else []
    found = [path for pattern in ("*", "*/*", "*/*/*") for path in place.glob(pattern)]
    return [
        path
        for path in found
        if path.is_file() and not hidden(path.name) and path.name.lower().endswith(CALIBRATION_ENDINGS)
    ]


def calibrated_cameras(
    files: Sequence[Path], recordings: Sequence[Recording], problems: ProblemList
) -> dict[str, PlacedCamera]:
    """Returns the camera of every recording, empty when the files hold no calibration.

    Raises `UserError` when a recording has no camera in the calibration, or its pictures do not fit it.
    """
    calibrations = find_calibrations(files, problems)
    problems.raise_errors(files[0] if files else "")
    if not calibrations:
        return {}
    names = [recording.name for recording in recordings]
    paired = [(match_names([c.name for c in cameras], names), cameras) for cameras in calibrations]
    pairs, cameras = max(paired, key=lambda pair: len(pair[0]))
    by_recording = {recording: camera for camera, recording in pairs.items()}
    unmatched = [name for name in names if name not in by_recording]
    if unmatched:
        raise UserError(
            f"{cameras[0].file}: no camera for the recording {', '.join(unmatched)}; the calibration names"
            f" {', '.join(camera.name for camera in cameras)}: name each recording after its camera, or take it away"
        )
    by_name = {camera.name: camera for camera in cameras}
    placed = {}
    for recording in recordings:
        camera = by_name[by_recording[recording.name]]
        width, height = camera.size or (recording.width, recording.height)
        K = camera.K
        lens = Lens(
            float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]), width, height, camera.model,
            camera.distortion,
        )  # fmt: skip
        video = recording.video
        if video is not None:
            lens, video = fit_lens(lens, video, problems)
        elif (width, height) != (recording.width, recording.height):
            raise UserError(
                f"{recording.path}: the calibration is for {width}x{height}, the pictures are"
                f" {recording.width}x{recording.height}; export them at that size, or calibrate at theirs"
            )
        placed[recording.name] = PlacedCamera(recording.name, camera.viewmat, lens, video)
    return placed


def known_lenses(
    files: Sequence[Path], recordings: Sequence[Recording], problems: ProblemList
) -> tuple[dict[str, Lens], str]:
    """Returns the lenses that calibration files without any pose state, and the file; empty when there are none.

    One lens without a recording of its name is every recording's: cameras of one kind and setting.
    """
    stated = find_intrinsics(files)
    if not stated:
        return {}, ""
    by_name = {lens.name: lens for lens in stated}
    names = [recording.name for recording in recordings]
    by_recording = {name: by_name[lens] for lens, name in match_names(list(by_name), names).items()}
    if len(stated) == 1 and not by_recording:
        by_recording = dict.fromkeys(names, stated[0])
    lenses = {}
    for recording in recordings:
        if recording.name not in by_recording:
            continue
        found = by_recording[recording.name]
        width, height = found.size or (recording.width, recording.height)
        K = found.K
        lens = Lens(
            float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]), width, height, found.model,
            found.distortion,
        )  # fmt: skip
        if recording.video is not None:
            lens, video = fit_lens(lens, recording.video, problems)
            if (video.left, video.top) != (recording.video.left, recording.video.top):
                raise UserError(
                    f"{recording.path}: the video has black bars, and its lens was calibrated without; cameras cannot"
                    " be solved from it with that lens: export the video without bars"
                )
        elif (width, height) != (recording.width, recording.height):
            raise UserError(
                f"{recording.path}: the lens was calibrated at {width}x{height}, the pictures are"
                f" {recording.width}x{recording.height}; export them at that size, or calibrate at theirs"
            )
        lenses[recording.name] = lens
    return lenses, ", ".join(sorted({lens.file.name for lens in stated}))
