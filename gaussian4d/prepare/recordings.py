"""What the cameras recorded: a video each, or a folder of numbered pictures each."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..conventions import numeric_key
from ..data.images import ImageHeader, read_header, read_image
from ..data.recordings import pictures_in
from ..data.video import VIDEO_ENDINGS, Decoder, Video, probe_all
from ..errors import UserError
from ..files import hidden

# Folders that lie beside a recording without being one.
_BESIDE = re.compile(r"background|\bbg\b|plate|calib|intrinsic|extrinsic|mask|\bseg\b|segment|empty", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Recording:
    """The frames of one camera, from its own start."""

    name: str
    path: Path
    """The video, or the folder of the pictures."""
    fps: float
    count: int
    width: int
    height: int
    video: Video | None = None
    pictures: tuple[Path, ...] = ()

    @property
    def stamps(self) -> np.ndarray:
        """[count] seconds of every frame since the first: a varying frame rate's own, else evenly spaced."""
        if self.video is not None and self.video.stamps is not None:
            # A rate that the user gave replaces the stated one, and the stamps stretch with it.
            stated = np.array(self.video.stamps)
            return stated * ((self.count - 1) / self.fps / stated[-1])
        return np.arange(self.count) / self.fps

    @property
    def seconds(self) -> float:
        """From the first frame to the last."""
        return (self.count - 1) / self.fps

    def frames(self, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (index, uint8 [H, W, 3]) of the wanted frames in ascending order."""
        wanted = sorted(set(indices))
        if not wanted:
            return
        if self.video is None:
            for index in wanted:
                yield index, read_image(self.pictures[index], alpha=False)
            return
        decoder = Decoder(self.video)
        try:
            for index, picture in decoder.read(wanted[-1], set(wanted)):
                yield index, picture[..., :3]
        finally:
            decoder.close()


def find_recordings(source: Path, fps: float | None) -> list[Recording]:
    """Returns the recordings in `source`, by name in numeric order.

    Args:
        source: A video, a folder of videos (or with one folder that holds them), or a folder with one folder of
            pictures per camera.
        fps: Frame rate of pictures, which state none; and of videos in place of what they state.

    Raises:
        UserError: Nothing was found, two videos share a name, a video is damaged, or a rate is not known.
    """
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; give the folder that holds one video per camera")
    if source.is_file():
        return _videos([source], fps)
    videos = _videos_below(source)
    if videos:
        return _videos(videos, fps)
    found = _picture_folders(source, fps)
    if not found:
        raise UserError(
            f"{source}: expected one video per camera ({', '.join(VIDEO_ENDINGS[:5])}, ...) or one folder of pictures"
            " per camera, found neither; give the folder that holds them"
        )
    return found


def _videos_below(source: Path) -> list[Path]:
    """Returns the videos of the folder that holds most of them: the source or one not further than two below it."""
    groups: dict[Path, list[Path]] = {}
    for pattern in ("*", "*/*", "*/*/*"):
        for path in source.glob(pattern):
            below = path.relative_to(source).parts
            beside = any(map(hidden, below)) or any(map(_BESIDE.search, below[:-1]))
            if path.suffix.lower() in VIDEO_ENDINGS and path.is_file() and not beside:
                groups.setdefault(path.parent, []).append(path)
    if not groups:
        return []
    # One folder per camera with one video in it is a recording too, named by the folders.
    if len(groups) > 1 and all(len(group) == 1 for group in groups.values()):
        return [path for group in groups.values() for path in group]
    return max(groups.values(), key=len)


def _videos(paths: list[Path], fps: float | None) -> list[Recording]:
    stems = [path.stem for path in paths]
    by_folder = len(set(stems)) < len(stems) and len({path.parent for path in paths}) == len(paths)
    recordings: dict[str, Recording] = {}
    ordered = sorted(paths, key=lambda path: numeric_key(str(path)))
    for path, found in zip(ordered, probe_all(ordered)):
        if isinstance(found, UserError):
            raise found
        name = path.parent.name if by_folder else path.stem
        if name in recordings:
            raise UserError(
                f"{path}: camera {name} has a video already ({recordings[name].path.name}); every camera needs a"
                " name of its own: rename or remove one"
            )
        rate = fps or found.fps
        if not rate:
            raise UserError(f"{path}: the video states no frame rate; give it with --fps")
        if found.count < 2:
            raise UserError(f"{path}: the video has a single frame; expected a recording of at least two")
        recordings[name] = Recording(name, path, rate, found.count, found.width, found.height, video=found)
    return list(recordings.values())


def _picture_folders(source: Path, fps: float | None) -> list[Recording]:
    folders = [path for path in source.iterdir() if path.is_dir() and not hidden(path.name)]
    result = []
    for folder in sorted(folders, key=lambda path: numeric_key(path.name)):
        if _BESIDE.search(folder.name):
            continue
        pictures = pictures_in(folder)
        if len(pictures) < 2:
            continue
        pictures.sort(key=lambda path: numeric_key(path.name))
        header = _common_header(pictures)
        rate = fps or 30.0
        result.append(
            Recording(folder.name, folder, rate, len(pictures), header.width, header.height, pictures=tuple(pictures))
        )
    return result


def _common_header(pictures: list[Path]) -> ImageHeader:
    """Returns the header that all pictures of a camera have the size of; raises `UserError` when some have another."""
    with concurrent.futures.ThreadPoolExecutor(8, thread_name_prefix="gaussian4d-headers") as pool:
        headers = list(pool.map(read_header, pictures))
    first = headers[0]
    odd = [
        (path, header)
        for path, header in zip(pictures, headers)
        if (header.width, header.height) != (first.width, first.height)
    ]
    if odd:
        path, header = odd[0]
        more = f"; so are {len(odd) - 1} more, such as {odd[-1][0].name}" if len(odd) > 1 else ""
        raise UserError(
            f"{path}: the picture is {header.width}x{header.height}, {pictures[0].name} of the same camera is"
            f" {first.width}x{first.height}{more}; they must be the same size"
        )
    return first
