"""Writes the scene: videos, `transforms.json`, points. Each appears whole, and `transforms.json` last."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..conventions import frame_times, invert_rigid, opengl_from_opencv
from ..data.point_files import write_points
from ..data.records import Lens, PointCloud
from ..data.resample import Resampling
from ..files import write_json
from ..folders import atomic_folder
from ..video_out import write_video
from .calibrate import PlacedCamera
from .exposure import Exposure
from .moving import Path3d
from .recordings import Recording
from .stages import Stages, fingerprint
from .synchronise import Offsets
from .timeline import Timeline

_BROWN_KEYS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
_FISHEYE_KEYS = ("k1", "k2", "k3", "k4")


@dataclasses.dataclass(frozen=True)
class Written:
    """Where one camera's frames are, for `transforms.json`."""

    lens: Lens
    files: list[str]
    """One name per instant, inside the scene's folder."""
    indices: list[int] | None
    """Frame of the video per instant, None for pictures."""
    encoded: bool
    """Cut to the camera's window and encoded again."""
    straightened: bool = False
    """Undistorted, too."""


def write_recordings(
    out: Path,
    recordings: Sequence[Recording],
    cameras: Mapping[str, PlacedCamera],
    timeline: Timeline,
    keep_lens: bool,
    stages: Stages,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Written]:
    """Returns what was written to `out/videos` (or `out/images`) for every camera.

    A video is linked or copied as it is when its lens is straight; else, or when bars are cut, its common instants are
    undistorted and encoded again. Pictures are linked or copied.

    Args:
        stages: Keep every video that was encoded.
        keep_lens: Copy videos of bent lenses too, and leave undistorting to the reader of `transforms.json`.
        progress: Called with (frames done, frames in all).
    """
    videos = recordings[0].video is not None
    written = {}
    total, done = timeline.count * len(recordings), 0

    def count() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    with atomic_folder(out / ("videos" if videos else "images"), replaceable=".*") as folder:
        for recording in recordings:
            camera = cameras[recording.name]
            indices = timeline.indices[recording.name]
            if recording.video is None:
                written[recording.name] = _pictures(folder, recording, camera.lens, indices, count)
            elif _needs_encoding(recording, camera, keep_lens):
                name = f"{recording.name}.mp4"
                before = done
                lens = _encoded(recording, camera, timeline, keep_lens, stages, folder / name, count)
                done = before + len(indices)
                written[recording.name] = Written(
                    lens,
                    [f"videos/{name}"] * len(indices),
                    list(range(len(indices))),
                    True,
                    straightened=not keep_lens,
                )
            else:
                name = f"{recording.name}{recording.path.suffix.lower()}"
                link_or_copy(recording.path, folder / name)
                done += len(indices) - 1
                count()
                written[recording.name] = Written(
                    camera.lens, [f"videos/{name}"] * len(indices), [int(k) for k in indices], False
                )
    return written


def _needs_encoding(recording: Recording, camera: PlacedCamera, keep_lens: bool) -> bool:
    whole = (camera.lens.width, camera.lens.height) == (recording.width, recording.height)
    return not whole or not (keep_lens or camera.lens.straight)


def _encoded(
    recording: Recording,
    camera: PlacedCamera,
    timeline: Timeline,
    keep_lens: bool,
    stages: Stages,
    target: Path,
    count: Callable[[], None],
) -> Lens:
    """Returns the lens of the video `target`, which holds the common instants only; a kept one is linked."""
    indices = timeline.indices[recording.name]
    lens, frames = _undistorted(recording, camera, indices, keep_lens, count)
    kept = stages.folder / "encoded" / target.name
    assert camera.video is not None
    window = [camera.video.left, camera.video.top, camera.video.width, camera.video.height]
    made_from = [fingerprint([recording.path]), dataclasses.asdict(camera.lens), window, keep_lens, timeline.fps]

    def encode() -> int:
        return write_video(kept, frames, timeline.fps)

    stages.run(f"video_{recording.name}", [*made_from, [int(k) for k in indices]], encode, needs=kept)
    link_or_copy(kept, target)
    return lens


def _undistorted(
    recording: Recording, camera: PlacedCamera, indices: np.ndarray, keep_lens: bool, count: Callable[[], None]
) -> tuple[Lens, Iterator[np.ndarray]]:
    """Returns the lens and the pictures of the encoded video; sides are cut to even numbers, as codecs need them."""
    resampling = Resampling(camera.lens, 1.0)
    straight = camera.lens if keep_lens else resampling.pinhole()
    width, height = straight.width // 2 * 2, straight.height // 2 * 2
    lens = dataclasses.replace(straight, width=width, height=height)
    window = dataclasses.replace(recording, video=camera.video)

    def pictures() -> Iterator[np.ndarray]:
        matrix = None if keep_lens else resampling.matrix()
        for _, picture in window.frames(int(k) for k in indices):
            straightened = picture if keep_lens else resampling.apply(np.ascontiguousarray(picture), matrix)
            yield straightened[:height, :width]
            count()

    return lens, pictures()


def _pictures(
    folder: Path, recording: Recording, lens: Lens, indices: np.ndarray, count: Callable[[], None]
) -> Written:
    (folder / recording.name).mkdir()
    files = []
    for index in indices:
        source = recording.pictures[index]
        link_or_copy(source, folder / recording.name / source.name)
        files.append(f"images/{recording.name}/{source.name}")
        count()
    return Written(lens, files, None, False)


def link_or_copy(source: Path, target: Path) -> None:
    """Makes `target` the same file as `source`, or a copy where links are not possible (another disk)."""
    real = source.resolve()
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def write_transforms(
    out: Path,
    cameras: Mapping[str, PlacedCamera],
    written: Mapping[str, Written],
    timeline: Timeline,
    offsets: Offsets,
    *,
    exact_times: bool,
    points: PointCloud | None,
    masks: Mapping[str, Sequence[str]] = {},
    exposures: Mapping[str, Exposure] = {},
) -> None:
    """Writes `out/points.ply` and then `out/transforms.json`, which makes the folder a scene.

    `time` is the clip time of the instant that a frame belongs to; `seconds` is when it was taken, after the first
    instant. With `exact_times`, `time` is the latter's clip time. `exposure` says, per camera and channel, what makes
    its colours (0..255) those of the mean camera: gain * colour + offset.
    """
    duration = timeline.duration
    frames = []
    for name, files in written.items():
        T = opengl_from_opencv(invert_rigid(cameras[name].viewmat)).tolist()
        lens = _lens_fields(files.lens)
        times = frame_times(timeline.count)
        if exact_times:
            times = np.clip(timeline.seconds[name] / duration, 0.0, 1.0)
        for k in range(timeline.count):
            entry: dict[str, Any] = {"file_path": files.files[k], "camera_id": name, "time": float(times[k])}
            if files.indices is not None:
                entry["frame_index"] = files.indices[k]
            entry["seconds"] = float(timeline.seconds[name][k])
            if name in masks:
                entry["mask_path"] = masks[name][k]
            frames.append(entry | lens | {"transform_matrix": T})
    content: dict[str, Any] = {
        "fps": timeline.fps,
        "duration_seconds": duration,
        "synchronisation": {
            "method": offsets.method,
            "offset_seconds": offsets.seconds,
            "confidence": offsets.confidence,
            "first_instant_seconds": timeline.start,
        },
        "frames": frames,
    }
    if exposures:
        content["exposure"] = {
            name: {"gain": list(found.gain), "offset": list(found.offset)} for name, found in exposures.items()
        }
    if points is not None:
        write_points(out / "points.ply", points)
        content["ply_file_path"] = "points.ply"
    else:
        (out / "points.ply").unlink(missing_ok=True)
    write_json(out / "transforms.json", content)


def write_path(
    out: Path, recording: Recording, path: Path3d, masks: Mapping[str, Sequence[str]], points: PointCloud | None
) -> None:
    """Writes the video of a moving camera and its `transforms.json`: a camera of its own for every frame."""
    with atomic_folder(out / "videos", replaceable=".*") as folder:
        name = f"{recording.name}{recording.path.suffix.lower()}"
        link_or_copy(recording.path, folder / name)
    stamps = recording.stamps[path.first : path.first + len(path.viewmats)]
    seconds = stamps - stamps[0]
    lens = _lens_fields(path.lens)
    frames = []
    for k, viewmat in enumerate(path.viewmats):
        entry: dict[str, Any] = {
            "file_path": f"videos/{name}", "camera_id": f"frame_{path.first + k:05d}",
            "time": float(seconds[k] / seconds[-1]), "frame_index": path.first + k, "seconds": float(seconds[k]),
        }  # fmt: skip
        if recording.name in masks:
            entry["mask_path"] = masks[recording.name][k]
        T = opengl_from_opencv(invert_rigid(viewmat)).tolist()
        frames.append(entry | lens | {"transform_matrix": T})
    content: dict[str, Any] = {
        "fps": (len(seconds) - 1) / float(seconds[-1]),
        "duration_seconds": float(seconds[-1]),
        "frames": frames,
    }
    if points is not None:
        write_points(out / "points.ply", points)
        content["ply_file_path"] = "points.ply"
    else:
        (out / "points.ply").unlink(missing_ok=True)
    write_json(out / "transforms.json", content)


def _lens_fields(lens: Lens) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "w": lens.width, "h": lens.height, "fl_x": lens.fx, "fl_y": lens.fy, "cx": lens.cx, "cy": lens.cy
    }  # fmt: skip
    if lens.straight:
        return fields | {"camera_model": "PINHOLE"}
    if lens.model == "fisheye":
        return fields | {"camera_model": "OPENCV_FISHEYE"} | dict(zip(_FISHEYE_KEYS, lens.distortion))
    model = "FULL_OPENCV" if any(lens.distortion[5:]) else "OPENCV"
    return fields | {"camera_model": model} | dict(zip(_BROWN_KEYS, lens.distortion))
