"""A plain folder with one video per camera, anywhere below, and a calibration."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..conventions import frame_times, numeric_key
from ..errors import UserError
from ..files import hidden
from .calibration import CalibratedCamera, find_calibrations
from .clips import common_instants, fit_lens
from .problems import ProblemList
from .records import FrameRecord, Lens, SceneRecord, VideoPicture
from .video import VIDEO_ENDINGS, Video, probe_all

looked_for = "one video per camera with a calibration file (Qualisys .qca.txt, OpenCV .xml/.yml)"
# Folders of published scenes often hold such beside their own files.
last = True

CALIBRATION_ENDINGS = (".qca.txt", ".qca", ".xml", ".yml", ".yaml")

# Folders whose videos accompany a recording: plates, calibration takes, masks.
_BESIDE = re.compile(r"background|\bbg\b|plate|calib|intrinsic|extrinsic|mask|segment|empty", re.IGNORECASE)

_MAX_DEPTH = 4
_MAX_FILES = 20_000


def recognises(folder: Path) -> bool:
    """Tells whether a video and what may be a calibration lie in or below the folder."""
    videos = calibrations = False
    for path in _walk(folder):
        videos = videos or path.suffix.lower() in VIDEO_ENDINGS
        calibrations = calibrations or path.name.lower().endswith(CALIBRATION_ENDINGS)
        if videos and calibrations:
            return True
    return False


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`."""
    files = sorted(_walk(folder), key=lambda p: numeric_key(str(p)))
    videos = [path for path in files if path.suffix.lower() in VIDEO_ENDINGS]
    calibrations = find_calibrations([p for p in files if p.name.lower().endswith(CALIBRATION_ENDINGS)], problems)
    if not calibrations:
        problems.raise_errors(folder)
        raise UserError(
            f"{folder}: {len(videos)} videos but no calibration; add a Qualisys .qca.txt or an OpenCV FileStorage"
            " .xml/.yml with intrinsics, rotation and translation of every camera"
        )
    matched, group, cameras = _best_match(folder, videos, calibrations)
    if not matched:
        raise UserError(
            f"{folder}: no video name matches a calibrated camera; cameras are"
            f" {', '.join(camera.name for camera in cameras)}, videos {', '.join(video.stem for video in group)};"
            " name each video after its camera"
        )
    _check_unique(group, matched)
    notes = _leftovers(folder, videos, group, cameras, matched, problems)
    names = sorted(matched, key=numeric_key)
    probed: dict[str, Video] = {}
    for name, found in zip(names, probe_all([matched[name][1] for name in names])):
        if isinstance(found, UserError):
            path = matched[name][1]
            problems.take(path, found)
        else:
            probed[name] = found
    lenses: dict[str, Lens] = {}
    for name in list(probed):
        try:
            lenses[name], probed[name] = _lens(matched[name][0], probed[name], problems)
        except UserError as error:
            problems.take(probed[name].path, error)
            del probed[name]
    if not probed:
        problems.raise_errors(folder)
    indices, count, fps = common_instants(probed, problems)
    times = frame_times(count)
    frames = [
        FrameRecord(
            name,
            matched[name][0].viewmat,
            lenses[name],
            VideoPicture(video, int(indices[name][k])),
            float(times[k]),
            stated_in=str(matched[name][0].file),
        )
        for name, video in probed.items()
        for k in range(count)
    ]
    duration = (count - 1) / fps if fps and count > 1 else None
    return SceneRecord("videos", frames, fps=fps, duration=duration, notes=notes)


def match_names(cameras: Sequence[str], videos: Sequence[str]) -> dict[str, str]:
    """Returns camera -> video by name: equal, then contained as a whole word (a serial), then the same last number.

    A pairing is only made when nothing else could be meant.
    """
    pairs: dict[str, str] = {}
    rules = (_equal, _contains, _same_number)
    for rule in rules:
        free_cameras = [c for c in cameras if c not in pairs]
        free_videos = [v for v in videos if v not in pairs.values()]
        for camera in free_cameras:
            hits = [v for v in free_videos if rule(camera, v)]
            if len(hits) == 1 and sum(rule(other, hits[0]) for other in free_cameras) == 1:
                pairs[camera] = hits[0]
    return pairs


def _equal(camera: str, video: str) -> bool:
    return camera.lower() == video.lower()


def _contains(camera: str, video: str) -> bool:
    return re.search(rf"(?<![0-9a-z]){re.escape(camera.lower())}(?![0-9a-z])", video.lower()) is not None


def _same_number(camera: str, video: str) -> bool:
    a, b = re.findall(r"\d+", camera), re.findall(r"\d+", video)
    return bool(a) and bool(b) and int(a[-1]) == int(b[-1])


def _walk(folder: Path) -> Iterator[Path]:
    """Yields files in and below the folder, to a sane depth and number; no folder twice, whatever links lead to it."""
    seen = 0
    visited: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        here = Path(parent)
        try:
            status = here.stat()
        except OSError:
            continue
        if (status.st_dev, status.st_ino) in visited:
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not hidden(name))
        if len(here.relative_to(folder).parts) >= _MAX_DEPTH:
            folders.clear()
        for name in sorted(names):
            seen += 1
            if seen > _MAX_FILES:
                return
            if not hidden(name):
                yield here / name


def _best_match(
    folder: Path, videos: list[Path], calibrations: list[list[CalibratedCamera]]
) -> tuple[dict[str, tuple[CalibratedCamera, Path]], list[Path], list[CalibratedCamera]]:
    """Returns {camera: (calibration, video)}, the videos and the calibration of the pairing that fits most."""
    groups: dict[Path, list[Path]] = {}
    for path in videos:
        groups.setdefault(path.parent, []).append(path)
    candidates: list[tuple[list[Path], dict[str, Path]]] = [
        (group, {path.stem: path for path in group}) for group in groups.values()
    ]
    # One folder per camera: the folder's name counts.
    candidates.append((videos, {str(path.relative_to(folder).with_suffix("")): path for path in videos}))
    best = None
    for cameras in calibrations:
        by_name = {camera.name: camera for camera in cameras}
        for group, named in candidates:
            pairs = match_names(list(by_name), list(named))
            parent = str(group[0].parent.relative_to(folder)) if len({p.parent for p in group}) == 1 else ""
            score = (len(pairs), not _BESIDE.search(parent), bool(parent), "video" in parent.lower(), len(group))
            if best is None or score > best[0]:
                best = (score, {c: (by_name[c], named[v]) for c, v in pairs.items()}, group, cameras)
    assert best is not None, "called with videos and calibrations"
    return best[1], best[2], best[3]


def _check_unique(group: list[Path], matched: dict[str, tuple[CalibratedCamera, Path]]) -> None:
    """Raises `UserError` when a camera has two videos of its name, such as `cam1.mp4` and `cam1.avi`."""
    for camera, (_, video) in matched.items():
        other = next((path for path in group if path.with_suffix("") == video.with_suffix("") and path != video), None)
        if other is not None:
            raise UserError(
                f"{other}: camera {camera} has two videos of one name, {video.name} is the other; every camera needs"
                " one video of its own: rename or remove one"
            )


def _leftovers(
    folder: Path,
    videos: list[Path],
    group: list[Path],
    cameras: list[CalibratedCamera],
    matched: dict[str, tuple[CalibratedCamera, Path]],
    problems: ProblemList,
) -> list[str]:
    """Warns of cameras without a video and the reverse; returns notes on videos that were not meant."""
    used = {path for _, path in matched.values()}
    for camera in cameras:
        if camera.name not in matched:
            problems.warning(camera.file, f"camera {camera.name} has no video and is ignored; is a video missing?")
    for path in group:
        if path not in used:
            problems.warning(path, "no calibrated camera has this name; the video is ignored")
    beside = sorted({str(path.parent.relative_to(folder)) for path in videos if path not in group})
    return [f"videos in {', '.join(beside)} are not part of the recording and are ignored"] if beside else []


def _lens(camera: CalibratedCamera, video: Video, problems: ProblemList) -> tuple[Lens, Video]:
    width, height = camera.size or (video.width, video.height)
    K = camera.K
    lens = Lens(
        float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]), width, height, camera.model, camera.distortion
    )
    if not (0 <= lens.cx <= width and 0 <= lens.cy <= height):
        problems.warning(
            camera.file,
            f"camera {camera.name}: the principal point ({lens.cx:.0f}, {lens.cy:.0f}) is outside the image"
            f" ({width}x{height}); was it calibrated at another resolution?",
        )
    return fit_lens(lens, video, problems)
