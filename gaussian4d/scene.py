"""A scene: cameras, times and lazily decoded frames of any supported dataset, or of what Python gives."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .cameras import Camera
from .data.assemble import Assembled, FramePlan, assemble
from .data.frames import CacheCounts, FrameStore
from .data.given import assemble_given, checked_cameras, checked_points, checked_times, moved_to_origin
from .data.placing import note as offset_note
from .data.placing import place
from .data.problems import ListedError, Problem, ProblemList
from .data.recognise import read_scene
from .data.records import PointCloud
from .data.sources import FrameData, FrameSource, GivenFrames, GivenPicture
from .errors import UserError

__all__ = [
    "Frame",
    "FrameData",
    "FrameSource",
    "PointCloud",
    "Problem",
    "Scene",
    "inspect",
    "load_recorded",
    "load_scene",
]

_SPLITS = ("train", "test", "val")


class Frame:
    """One picture of a scene; `camera, time, image = frame` unpacks it. Pixels are decoded on first use."""

    __slots__ = ("_given", "_key", "_store", "camera", "has_covisible", "source", "split", "time", "time_index")

    camera: Camera
    """The pinhole camera of the served (undistorted, downscaled) picture."""
    time: float
    """Clip time in [0, 1]."""
    time_index: int
    """Index of `time` in the `times` of the whole scene."""
    split: str
    """`train`, `test` or `val`."""
    source: str
    """The file it comes from, `FILE#INDEX` for a video, `NAME#INDEX` for frames given in Python."""
    has_covisible: bool
    """Whether `covisible` is not None; reads no file."""

    def __init__(self, plan: FramePlan, store: FrameStore, key: int) -> None:
        self.camera = plan.camera
        self.time = plan.time
        self.time_index = plan.time_index
        self.split = plan.split
        self.source = plan.job.picture.source
        self.has_covisible = plan.job.covisible is not None
        # Files state no share; asking about it need not decode them.
        self._given = isinstance(plan.job.picture, GivenPicture)
        self._store = store
        self._key = key

    @property
    def camera_id(self) -> str:
        return self.camera.id

    @property
    def image(self) -> np.ndarray:
        """uint8 [H, W, 3], or [H, W, 4] with straight alpha. Shared with the cache: copy before writing."""
        return self._store.get(self._key).image

    @property
    def mask(self) -> np.ndarray | None:
        """Foreground uint8 [H, W], 0 to 255, from the data's masks or else the alpha; None when it has neither."""
        pixels = self._store.get(self._key)
        if pixels.mask is not None:
            return pixels.mask
        return pixels.image[..., 3] if pixels.image.shape[-1] == 4 else None

    @property
    def covisible(self) -> np.ndarray | None:
        """uint8 [H, W], 255 where training frames saw what this frame shows; None where the data does not say."""
        return self._store.covisible(self._key)

    @property
    def depth(self) -> np.ndarray | None:
        """float32 [H, W], camera z in world units, 0 where it is not known; None where the data does not say."""
        return self._store.get(self._key).depth if self._given else None

    @property
    def weight(self) -> np.ndarray | None:
        """float32 [H, W] in 0..1, how much each pixel counts; None where the data does not say: all count in full."""
        return self._store.get(self._key).weight if self._given else None

    @property
    def share(self) -> float:
        """How much the frame counts, 0 or more; 1 where the data does not say."""
        return self._store.get(self._key).share if self._given else 1.0

    def __iter__(self) -> Iterator[Camera | float | np.ndarray]:
        yield self.camera
        yield self.time
        yield self.image

    def __repr__(self) -> str:
        return f"Frame(camera={self.camera.id!r}, time={self.time:.4f}, split={self.split!r}, source={self.source!r})"


class Cameras(Mapping[str, Camera]):
    """The cameras of a scene by id, in their order of appearance.

    A whole number finds the camera whose id it is ("3", else "03"); where no id is a number it is a position.
    """

    def __init__(self, cameras: Iterable[Camera]) -> None:
        self._by_id = {camera.id: camera for camera in cameras}

    def __getitem__(self, key: str | int) -> Camera:
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            numbered = {int(id): id for id in reversed(self._by_id) if id.isdigit()}
            if not numbered and -len(self) <= key < len(self):
                return list(self._by_id.values())[key]
            key = str(key) if str(key) in self._by_id else numbered.get(int(key), str(key))
        if key not in self._by_id:
            shown = ", ".join(list(self._by_id)[:8]) + (", ..." if len(self) > 8 else "")
            raise KeyError(f"no camera {key!r}; the scene has {shown}")
        return self._by_id[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_id)

    def __len__(self) -> int:
        return len(self._by_id)

    def __repr__(self) -> str:
        return f"Cameras({', '.join(self._by_id)})"


class Scene:
    """Cameras, times and frames of one dataset. Made by `load_scene`, or by `Scene.from_frames`."""

    def __init__(
        self,
        path: Path,
        format: str,
        assembled: Assembled,
        points: PointCloud | None,
        problems: Iterable[Problem],
        options: dict[str, Any],
        offset: np.ndarray | None = None,
    ) -> None:
        self.path = path
        self.offset: np.ndarray = np.zeros(3) if offset is None else offset
        """[3] float64: a place in the recorded world is the place in the scene (its cameras and points) + offset; zero
        unless the scene stands far from the origin (`offsets`)."""
        self.options = options
        """The arguments with which `load_scene` gives the same frames again; a run keeps them. Where `has_files` is
        False they only say that frames were given in Python."""
        self.format: str = format
        """`dnerf`, `panoptic`, `nerfstudio`, `n3dv`, `nerfies`, `dycheck`, `technicolor`, `easyvolcap`, `multipleview`,
        `colmap`, `llff` or `videos`; `frames` for those given in Python."""
        self.times = assembled.times
        """[T] sorted distinct clip times of the selected frames."""
        self.fps = assembled.fps
        self.duration = assembled.duration
        """Seconds between clip times 0 and 1, None when the data does not know."""
        self.points = points
        self.has_alpha = assembled.has_alpha
        self.downscale = assembled.factor
        """Factor between the files' pictures and the served ones."""
        self.split_note = assembled.split_note
        """How the test frames were chosen, one sentence."""
        self.notes = assembled.notes
        """Other choices made while reading, one sentence each."""
        self.problems = list(problems)
        self._store = FrameStore([plan.job for plan in assembled.plans], int(options["cache_mb"] * 2**20))
        self._frames = [Frame(plan, self._store, key) for key, plan in enumerate(assembled.plans)]
        self.cameras = Cameras(frame.camera for frame in self._frames)

    @classmethod
    def from_frames(
        cls,
        images: Any,
        cameras: Camera | Sequence[Camera],
        times: Sequence[float],
        *,
        alpha: Any = None,
        mask: Any = None,
        depth: Any = None,
        weight: Any = None,
        share: Sequence[float] | None = None,
        split: str | Sequence[str] | None = None,
        test_every: int = 0,
        points: Any = None,
        fps: float | None = None,
        duration: float | None = None,
        name: str = "frames given in Python",
        cache_mb: float = 1024,
    ) -> Scene:
        """Returns a scene of frames that Python gives; it fits and evaluates like one of files.

        Pictures are uint8 or floats in 0..1, [H, W, 3], or [H, W, 4] with straight alpha; they may be numpy arrays or
        torch tensors. They are served as they are: undistorted and as large as their cameras say. Cameras and points
        far from the origin are moved to it, as those of files are: see `offset`.

        Args:
            images: The F pictures: an array [F, H, W, C]; a sequence, data set or `FrameSource`, asked for a frame when
                it is first needed; a function of the frame's index; or an iterable, used up at once, of which what
                exceeds `cache_mb` goes to a scratch file. Each gives pictures, or `FrameData` with what else is known.
            cameras: One for all frames, or one for each. A camera that moves may keep its id.
            times: Clip times in 0..1, one for each frame.
            alpha: Straight alpha [H, W] for each frame, beside pictures of three channels.
            mask: Foreground [H, W] for each frame, where it is not 0. Of this and what follows, a frame may have None.
            depth: Camera z [H, W] in world units for each frame, 0 or NaN where it is not known.
            weight: How much each pixel counts, [H, W] in 0..1, for each frame.
            share: How much each frame counts, 0 or more; multiplied with what `FrameData` says.
            split: `train`, `test` or `val`, for each frame or for all; None trains on all, but for `test_every`.
            test_every: Every so many instants, one is the test, as in `load_scene`; 0 holds nothing out.
            points: Where a fit starts: [P, 3], a pair of that and colours [P, 3], or a `PointCloud`.
            fps: Frames per second of the clip.
            duration: Seconds between clip times 0 and 1.
            name: For messages.
            cache_mb: As in `load_scene`.

        Raises:
            UserError: for counts, sizes, types or values that do not fit together; what a frame's own pixels have wrong
                is said when the frame is first asked for.
        """
        moments = checked_times(times)
        columns = {"alpha": alpha, "mask": mask, "depth": depth, "weight": weight}
        placed, cloud, offset = moved_to_origin(checked_cameras(cameras, len(moments)), checked_points(points))
        given = GivenFrames(name, images, placed, columns, share)
        stated = [split] * len(moments) if isinstance(split, str) else split
        assembled = assemble_given(given, moments, stated, test_every, fps=fps, duration=duration)
        if np.any(offset):
            assembled.notes.append(offset_note(offset))
        options = {"path": name, "python": True, "cache_mb": cache_mb}
        scene = cls(Path(name), "frames", assembled, cloud, [], options, offset)
        # Only now is the first frame asked for: what is wrong with the rest is said before any work.
        scene.has_alpha = given.begin(scene._store)
        return scene

    @property
    def has_files(self) -> bool:
        """Whether `load_scene` with `options` gives the frames again; not when they were given in Python."""
        return not self.options.get("python", False)

    def fingerprint(self) -> str:
        """Returns a short text that differs for other cameras, times, sizes or splits; no pixel is looked at."""
        digest = hashlib.sha256(f"{len(self._frames)} {self.has_alpha}".encode())
        for frame in self._frames:
            camera = frame.camera
            said = [frame.split, frame.time.hex(), camera.id, camera.model, str(camera.width), str(camera.height)]
            digest.update("\0".join(said).encode())
            # Adding 0 makes -0 the 0 that it equals.
            digest.update(b"".join((matrix + 0.0).astype("<f8").tobytes() for matrix in (camera.viewmat, camera.K)))
        return digest.hexdigest()[:20]

    def likeness(self) -> str:
        """Returns a short text like `fingerprint`, of rounded numbers: the same on every machine."""
        digest = hashlib.sha256(f"{len(self._frames)} {self.has_alpha}".encode())
        reach = max(float(np.abs(camera.viewmat[:3, 3]).max()) for camera in self.cameras.values()) or 1.0
        for frame in self._frames:
            camera = frame.camera
            said = [frame.split, f"{frame.time:.8f}", camera.id, camera.model, str(camera.width), str(camera.height)]
            digest.update("\0".join(said).encode("utf-8", "backslashreplace"))
            parts = (camera.viewmat[:3, :3], camera.viewmat[:3, 3] / reach, camera.K / camera.width)
            digest.update(b"".join((np.rint(part * 1e6) + 0.0).astype("<f8").tobytes() for part in parts))
        return digest.hexdigest()[:20]

    def frames(self, split: Literal["train", "test", "val", "all"] = "train") -> Sequence[Frame]:
        """Returns the frames of a split, ordered by the data; nothing is decoded.

        `all` is train, then test, then val.
        """
        if split == "all":
            return list(self._frames)
        if split not in _SPLITS:
            raise UserError(f"split must be train, test, val or all, got {split!r}")
        return [frame for frame in self._frames if frame.split == split]

    def part(self, start: int, stop: int) -> Scene:
        """Returns the scene with only the instants `start` to `stop - 1` of `times`; splits and clip times stay.

        Both share the cache of frames. Of the points, those of other instants are left out.
        """
        assert "part" not in self.options, "a part has no parts"
        if not 0 <= start < stop <= len(self.times):
            raise UserError(f"part must lie within the {len(self.times)} instants of {self.path}, got {start}:{stop}")
        scene = copy.copy(self)
        scene.options = {**self.options, "part": [start, stop]}
        scene.times = self.times[start:stop]
        scene._frames = [frame for frame in self._frames if start <= frame.time_index < stop]
        scene.cameras = Cameras(frame.camera for frame in scene._frames)
        if self.points is not None and self.points.times is not None:
            moments = np.asarray(self.points.times, dtype=np.float64)
            nearest = np.searchsorted(0.5 * (self.times[1:] + self.times[:-1]), moments)
            chosen = np.isnan(moments) | ((nearest >= start) & (nearest < stop))
            scene.points = PointCloud(self.points.xyz[chosen], self.points.rgb[chosen], moments[chosen])
        return scene

    def seconds(self, time: float) -> float | None:
        """Returns the seconds from the clip's start to clip time `time`, None when the data does not know."""
        return None if self.duration is None else time * self.duration

    def prefetch(self, frames: Iterable[Frame]) -> None:
        """Hints that these frames are wanted next: a background thread decodes them in order. Returns at once."""
        self._store.prefetch(frame._key for frame in frames)

    @property
    def cache_counts(self) -> CacheCounts:
        """What the frame cache has done so far."""
        return self._store.counts

    def __repr__(self) -> str:
        return (
            f"Scene({str(self.path)!r}, format={self.format!r}, cameras={len(self.cameras)}, times={len(self.times)},"
            f" frames={len(self._frames)})"
        )


def load_scene(
    path: str | os.PathLike[str],
    *,
    downscale: float | None = None,
    frames: str | None = None,
    cache_mb: float = 1024,
    test_every: int = 8,
    part: Sequence[int] | None = None,
    offset: Sequence[float] | None = None,
    skip_missing: bool = False,
) -> Scene:
    """Returns the scene in a folder; its format is recognised. Raises `UserError` at the first thing that is broken.

    Args:
        path: Folder of a scene; the README lists the formats.
        downscale: Factor, at least 1, by which pictures and intrinsics shrink; area averaged. None takes the factor
            that published figures for the format use (N3DV, HyperNeRF, DyCheck), else the smallest of 1, 2, 3, 4, 6,
            8, ... with which the largest picture has at most 345,600 pixels (720x480).
        frames: `START:STOP:STEP`, a Python slice of the instants of all splits. Times stay those of the full clip.
        cache_mb: Memory for decoded frames; what does not fit is kept in a scratch file.
        test_every: Where the data states no split, every `test_every`-th instant, from `test_every // 2` on, is test
            for all cameras; 0 holds nothing out.
        part: (start, stop): of all that, only these instants (see `Scene.part`); how a run of one window loads.
        offset: Place of the recorded world, x y z, that becomes the scene's origin (`Scene.offset`). None takes one
            where the cameras stand far from the origin compared with their distances, else 0 0 0.
        skip_missing: Leave out, and count, the frames whose pictures a list names and the folder lacks.
    """
    problems = ProblemList(skip_missing)
    scene = _load(Path(path), problems, downscale, frames, cache_mb, test_every, offset)
    problems.raise_errors(Path(path))
    return scene if part is None else scene.part(*part)


def load_recorded(options: Mapping[str, Any]) -> Scene:
    """Returns the scene that a run was fitted to, from what its config.json keeps of it: a path and `Scene.options`.

    Raises:
        UserError: when it cannot be read, or was given in Python and lies in no file.
    """
    options = dict(options)
    if options.pop("python", False):
        raise UserError(
            f"this run was fitted to frames given in Python ({options.get('path')}), which lie in no file; pass"
            " scene=Scene.from_frames(...) with the same frames"
        )
    # Runs from before there were offsets were fitted where the data stood.
    options.setdefault("offset", (0.0, 0.0, 0.0))
    return load_scene(options.pop("path"), **options)


def inspect(
    path: str | os.PathLike[str],
    *,
    downscale: float | None = None,
    frames: str | None = None,
    cache_mb: float = 1024,
    test_every: int = 8,
    skip_missing: bool = False,
) -> tuple[Scene | None, list[Problem]]:
    """Returns what can be read of a scene (None when nothing can) and every problem seen, errors first."""
    problems = ProblemList(skip_missing)
    scene = None
    try:
        scene = _load(Path(path), problems, downscale, frames, cache_mb, test_every, None)
    except ListedError:
        pass
    except UserError as error:
        problems.take(Path(path), error)
    return scene, sorted(problems, key=lambda problem: problem.severity != "error")


def _load(
    path: Path,
    problems: ProblemList,
    downscale: float | None,
    frames: str | None,
    cache_mb: float,
    test_every: int,
    offset: Sequence[float] | None,
) -> Scene:
    try:
        record = read_scene(path, problems)
    finally:
        problems.settle()
    if not record.frames:
        # The reasons are listed already; they say more than "no frames" would.
        problems.raise_errors(path)
        raise UserError(f"{path}: no usable frame in this {record.format} scene; fix the problems listed above")
    record, moved = place(record, offset, path, problems)
    assembled = assemble(record, path, problems, downscale=downscale, frames=frames, test_every=test_every)
    options = {
        "downscale": assembled.factor,
        "frames": frames,
        "cache_mb": cache_mb,
        "test_every": test_every,
        "offset": [float(x) for x in moved],
    }
    if problems.skip_missing:
        options["skip_missing"] = True
    return Scene(path, record.format, assembled, record.points, problems, options, moved)
