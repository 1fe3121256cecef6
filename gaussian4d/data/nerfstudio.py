"""nerfstudio scenes: `transforms.json` with intrinsics (global or per frame) and OpenGL camera-to-world matrices.

Beyond nerfstudio's own keys we read `duration_seconds` (from clip time 0 to 1) and, per frame, `time` (clip time in
[0, 1], or seconds), `frame_index`, `camera_id`, and videos: an entry of `frames`, or of a list `cameras`, whose `video`
or `file_path` is a video stands for all of its frames, or for the one that `frame_index` names.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..conventions import frame_times, invert_rigid, opencv_from_opengl
from ..errors import UserError
from ..files import read_json
from ..frame_numbers import FrameNumbers
from .clips import common_instants
from .images import IMAGE_ENDINGS
from .named_files import SceneFiles
from .point_files import stated_points
from .problems import ProblemList
from .records import FrameRecord, ImagePicture, SceneRecord, Split, VideoPicture
from .stated_lens import StatedLenses, merged, say_what_is_not_read
from .values import number, pose
from .video import VIDEO_ENDINGS, Video, probe_all

looked_for = "transforms.json (nerfstudio)"

_READ = (
    "frames", "cameras", "fps", "duration_seconds", "ply_file_path", "train_filenames", "val_filenames",
    "test_filenames", "file_path", "video", "transform_matrix", "mask_path", "time", "frame_index", "camera_id",
    "camera", "id", "name",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One checked entry: where it is, what it shows."""

    where: str
    fields: dict[str, Any]
    """The entry's own values over the file's global ones."""
    own: dict[str, Any]
    path: Path
    viewmat: np.ndarray
    mask: Path | None

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_ENDINGS


def recognises(folder: Path) -> bool:
    """Tells whether the folder holds a nerfstudio scene."""
    return (folder / "transforms.json").is_file()


def read(folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the scene in `folder`."""
    path = folder / "transforms.json"
    content = read_json(path)
    listed = [] if not isinstance(content, dict) else [*_list(content, "cameras"), *_list(content, "frames")]
    if not listed:
        raise UserError(f'{path}: expected an object with a non-empty list "frames" (or "cameras"); restore the file')
    entries: list[_Entry] = []
    named = SceneFiles(folder, problems, path)
    for index, item in enumerate(listed):
        where = f"entry {index}"
        try:
            entries.append(_entry(named, content, item, where))
        except UserError as error:
            problems.entry(path, where, error)
    notes = say_what_is_not_read(path, [content, *listed], _READ, problems)
    fps = _rate(path, content, problems)
    frames, fps, duration = _frames(path, entries, fps, problems)
    frames = _with_splits(folder, path, content, frames, problems)
    duration = _stated_duration(path, content, problems) or duration
    points = stated_points(SceneFiles(folder, problems, path), path, content, problems)
    return SceneRecord("nerfstudio", frames, fps=fps, duration=duration, points=points, notes=notes)


def _list(content: dict[str, Any], key: str) -> list[Any]:
    value = content.get(key)
    return value if isinstance(value, list) else []


def _rate(path: Path, content: dict[str, Any], problems: ProblemList) -> float | None:
    if "fps" not in content:
        return None
    try:
        fps = number(content["fps"], "fps")
        if fps <= 0:
            raise UserError(f"fps must be positive, got {fps:g}; correct it")
        return fps
    except UserError as error:
        problems.error(path, str(error))
        return None


def _stated_duration(path: Path, content: dict[str, Any], problems: ProblemList) -> float | None:
    """Returns the seconds between clip time 0 and 1 that the file states, None when it does not."""
    if "duration_seconds" not in content:
        return None
    try:
        duration = number(content["duration_seconds"], "duration_seconds")
        if duration <= 0:
            raise UserError(f"duration_seconds must be positive, got {duration:g}; correct or remove it")
        return duration
    except UserError as error:
        problems.error(path, str(error))
        return None


def _entry(named: SceneFiles, content: dict[str, Any], item: Any, where: str) -> _Entry:
    if not isinstance(item, dict):
        raise UserError('expected an object with "file_path" and "transform_matrix"')
    name = item.get("video", item.get("file_path"))
    if not isinstance(name, str):
        raise UserError('expected "file_path" (or "video") with a file name')
    if Path(name).suffix.lower() in VIDEO_ENDINGS:
        path = named.file(name, "video")
    else:
        path = named.picture(name)
    viewmat = invert_rigid(opencv_from_opengl(pose(item.get("transform_matrix"), "transform_matrix")))
    mask = None
    if item.get("mask_path"):
        mask = named.file(str(item["mask_path"]), "mask")
    fields = merged({key: value for key, value in content.items() if key not in ("frames", "cameras")}, item)
    return _Entry(where, fields, item, path, viewmat, mask)


def _frames(
    path: Path, entries: list[_Entry], fps: float | None, problems: ProblemList
) -> tuple[list[FrameRecord], float | None, float | None]:
    """Returns the frames with their times, the frame rate and the duration."""
    clips = [entry for entry in entries if entry.is_video and "frame_index" not in entry.own]
    videos = _probe({entry.path for entry in entries if entry.is_video}, problems)
    names = _camera_names(entries)
    frames: list[FrameRecord] = []
    lenses = StatedLenses(path, problems)
    count = 0
    if clips:
        _check_unique(path, clips, names, problems)
        named = {names[id(entry)]: videos[entry.path] for entry in clips if entry.path in videos}
        indices, count, rate = common_instants(named, problems) if named else ({}, 0, None)
        fps = fps or rate
        times = frame_times(count)
        for entry in clips:
            name = names[id(entry)]
            if name not in named:
                continue
            with _reporting(path, entry, problems):
                video = named[name]
                lens, video = lenses.of_video(entry.fields, video)
                frames += [
                    FrameRecord(
                        name, entry.viewmat, lens, VideoPicture(video, int(indices[name][k])), float(times[k]),
                        stated_in=str(path),
                    )
                    for k in range(count)
                ]  # fmt: skip
    singles = [entry for entry in entries if not (entry.is_video and "frame_index" not in entry.own)]
    stated, span = _times(path, singles, count, problems)
    for entry, time in zip(singles, stated):
        with _reporting(path, entry, problems):
            frames.append(_single(path, entry, names[id(entry)], time, videos, lenses))
    duration = None
    if count > 1 and fps:
        duration = (count - 1) / fps
    elif span and fps:
        duration = span / fps
    return frames, fps, duration


def _check_unique(path: Path, clips: list[_Entry], names: dict[int, str], problems: ProblemList) -> None:
    """Notes two videos of one camera name."""
    seen: dict[str, _Entry] = {}
    for entry in clips:
        first = seen.setdefault(names[id(entry)], entry)
        if first is not entry:
            problems.error(
                path,
                f"{entry.where}: camera {names[id(entry)]} has a video already ({first.path.name}, {first.where});"
                " every camera needs a unique name: rename one",
            )


def _single(
    path: Path,
    entry: _Entry,
    name: str,
    time: float,
    videos: dict[Path, Video],
    lenses: StatedLenses,
) -> FrameRecord:
    """Returns the record of an entry that is one picture."""
    if entry.is_video:
        if entry.path not in videos:
            raise UserError(f"the video {entry.path} cannot be used")
        video = videos[entry.path]
        index = int(number(entry.own["frame_index"], "frame_index"))
        if not 0 <= index < video.count:
            raise UserError(f"frame_index {index} is outside the {video.count} frames of {entry.path.name}; correct it")
        lens, video = lenses.of_video(entry.fields, video)
        picture = VideoPicture(video, index)
        return FrameRecord(name, entry.viewmat, lens, picture, time, mask=entry.mask, stated_in=str(path))
    lens = lenses.of_picture(entry.fields, entry.path, name)
    return FrameRecord(name, entry.viewmat, lens, ImagePicture(entry.path), time, mask=entry.mask, stated_in=str(path))


def _probe(paths: set[Path], problems: ProblemList) -> dict[Path, Video]:
    ordered = sorted(paths)
    videos: dict[Path, Video] = {}
    for path, found in zip(ordered, probe_all(ordered)):
        if isinstance(found, UserError):
            problems.take(path, found)
        else:
            videos[path] = found
    return videos


def _times(
    path: Path, entries: list[_Entry], clip_count: int, problems: ProblemList
) -> tuple[list[float], float | None]:
    """Returns the clip time of every single picture and, when they come from frame numbers, how many frames they span.

    Stated times win; else frame numbers (`frame_index`, then the last number in the file name) are spread evenly.
    """
    if not entries:
        return [], None
    stated = ["time" in entry.own for entry in entries]
    if all(stated):
        times = []
        for entry in entries:
            try:
                times.append(number(entry.own["time"], "time"))
            except UserError as error:
                problems.error(path, f"{entry.where}: {error}")
                times.append(0.0)
        return times, None
    if any(stated):
        missing = entries[stated.index(False)]
        raise UserError(f'{path}: {missing.where} has no "time", but other frames do; give every frame a time, or none')
    if all("frame_index" in entry.own for entry in entries):
        numbers = [int(number(entry.own["frame_index"], "frame_index")) for entry in entries]
    else:
        found = [re.findall(r"\d+", entry.path.stem) for entry in entries]
        if not all(found):
            problems.warning(
                path, "not all frames have a time, frame_index or numbered name: treated as a single instant"
            )
            return [0.0] * len(entries), None
        numbers = [int(digits[-1]) for digits in found]
    if clip_count:
        return [k / max(clip_count - 1, 1) for k in numbers], None
    found_numbers = FrameNumbers.of(numbers)
    if gaps := found_numbers.gaps():
        problems.warning(path, gaps)
    span = max(numbers) - min(numbers)
    return [found_numbers.time(k) for k in numbers], float(span) or None


def _camera_names(entries: list[_Entry]) -> dict[int, str]:
    """Returns for every entry (by its `id`) the name of its camera.

    Stated names win. Else entries of one folder that share a pose are one fixed camera, named by the folder when only
    that camera is in it; every other picture is a camera of its own.
    """
    names: dict[int, str] = {}
    groups: dict[tuple[Path, bytes], list[_Entry]] = {}
    for entry in entries:
        stated = next((entry.own[key] for key in ("camera_id", "camera", "id", "name") if key in entry.own), None)
        if isinstance(stated, str | int) and not isinstance(stated, bool):
            names[id(entry)] = str(stated)
        elif entry.is_video:
            names[id(entry)] = entry.path.stem
        else:
            key = (entry.path.parent, np.round(entry.viewmat, 9).tobytes())
            groups.setdefault(key, []).append(entry)
    per_folder: dict[Path, int] = {}
    for folder, _ in groups:
        per_folder[folder] = per_folder.get(folder, 0) + 1
    taken = set(names.values())
    for position, ((folder, _), members) in enumerate(groups.items()):
        if len(members) > 1:
            name = folder.name if per_folder[folder] == 1 else f"camera_{position}"
        else:
            name = members[0].path.stem
        while name in taken:
            name = f"{folder.name}_{name}" if f"{folder.name}_{name}" not in taken else f"{name}_{position}"
        taken.add(name)
        names.update({id(member): name for member in members})
    return names


def _with_splits(
    folder: Path, path: Path, content: dict[str, Any], frames: list[FrameRecord], problems: ProblemList
) -> list[FrameRecord]:
    """Returns the frames with the splits that `train_filenames`, `val_filenames`, `test_filenames` state."""
    files: dict[Path, Split] = {}
    named = SceneFiles(folder, problems, path)
    stated = [split for split in ("train", "val", "test") if _list(content, f"{split}_filenames")]
    for split in stated:
        # As nerfstudio does: without test pictures, the validation pictures are the test.
        meant = "test" if split == "val" and "test" not in stated else split
        for name in _list(content, f"{split}_filenames"):
            # One that is not there is no frame's picture either.
            if (file := named.find(str(name), IMAGE_ENDINGS)) is not None:
                files[file] = cast(Split, meant)
    if not files:
        return frames
    result, unlisted = [], 0
    for frame in frames:
        own = frame.picture.path if isinstance(frame.picture, ImagePicture) else frame.picture.video.path
        split = files.get(own)
        unlisted += split is None
        if split is not None:
            result.append(dataclasses.replace(frame, split=split))
    if unlisted:
        problems.warning(path, f"{unlisted} frames are in none of the *_filenames lists and are ignored")
    return result


class _reporting:
    """Turns a `UserError` inside the block into a problem of the entry."""

    def __init__(self, path: Path, entry: _Entry, problems: ProblemList) -> None:
        self._path, self._entry, self._problems = path, entry, problems

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, UserError):
            self._problems.entry(self._path, self._entry.where, error)
            return True
        return False
