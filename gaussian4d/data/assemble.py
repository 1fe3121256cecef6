"""Records become a scene's frames: times, splits, cameras, resampling."""

from __future__ import annotations

import concurrent.futures
import contextvars
import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..cameras import Camera
from ..errors import UserError
from .frames import FrameJob
from .images import ImageHeader, check_end, read_header
from .problems import ProblemList
from .records import FrameRecord, ImagePicture, Lens, Picture, SceneRecord, Split, VideoPicture
from .resample import Resampling, automatic_factor

on_header: contextvars.ContextVar[Callable[[int, int], None]] = contextvars.ContextVar(
    "on_header", default=lambda done, total: None
)
"""Called with the number of frames whose files have been looked at, and of all; commands show progress by it."""

# Frames per second of what may be a recording.
_RATES = (0.05, 10_000.0)

# Times nearer than this are one instant.
_SAME_INSTANT = 1e-6


@dataclasses.dataclass(frozen=True)
class FramePlan:
    """One frame, ready to be served."""

    camera: Camera
    time: float
    time_index: int
    split: Split
    job: FrameJob


@dataclasses.dataclass(frozen=True)
class Assembled:
    """Everything a `Scene` needs."""

    plans: list[FramePlan]
    times: np.ndarray
    """[T] sorted distinct clip times."""
    fps: float | None
    duration: float | None
    factor: float
    has_alpha: bool
    split_note: str
    notes: list[str]


def assemble(
    record: SceneRecord,
    folder: Path,
    problems: ProblemList,
    *,
    downscale: float | None,
    frames: str | None,
    test_every: int,
) -> Assembled:
    """Returns the frames of a scene from what its reader found; problems go to `problems`."""
    if not record.frames:
        raise UserError(f"{folder}: no usable frame in this {record.format} scene; fix the problems listed above")
    record = _without_repeats(_clip_times(record, folder, problems), folder, problems)
    all_times = distinct_times(np.array([frame.time for frame in record.frames]))
    kept = all_times[parse_frames(frames, len(all_times))]
    index_of = {float(time): k for k, time in enumerate(kept)}
    chosen: list[tuple[FrameRecord, int]] = []
    for frame, instant in zip(record.frames, snapped([frame.time for frame in record.frames], all_times)):
        time = float(all_times[instant])
        if time in index_of:
            chosen.append((dataclasses.replace(frame, time=time), index_of[time]))
    splits, split_note = choose_splits(
        [frame.split for frame, _ in chosen], [k for _, k in chosen], len(kept), test_every
    )
    factor = _factor([frame.lens for frame, _ in chosen], record.downscale if downscale is None else downscale)
    alpha = _alpha([frame for frame, _ in chosen], problems)
    checked = _checked([frame for frame, _ in chosen], record.format, problems)
    chosen = [(frame, k) for frame, (_, k) in zip(checked, chosen)]
    _check_names(chosen, splits, problems)
    plans = _plans(chosen, splits, factor, alpha, problems)
    order = {"train": 0, "test": 1, "val": 2}
    plans.sort(key=lambda plan: order[plan.split])
    notes = list(record.notes) + _size_notes(chosen, factor, downscale, record)
    return Assembled(plans, kept, record.fps, record.duration, factor, alpha, split_note, notes)


def parse_frames(text: str | None, count: int) -> np.ndarray:
    """Returns the indices that `START:STOP:STEP` (a Python slice, each part optional) selects of `count` instants."""
    if text is None:
        return np.arange(count)
    if not re.fullmatch(r"-?\d*(:-?\d*){1,2}", text.strip()):
        raise UserError(f'frames must be START:STOP:STEP, such as "0:100:2" or "::4", got {text!r}')
    parts = [int(part) if part not in ("", "-") else None for part in text.strip().split(":")]
    step = parts[2] if len(parts) > 2 else None
    if step is not None and step < 1:
        raise UserError(f"the step of frames must be at least 1, got {text!r}")
    indices = np.arange(count)[slice(parts[0], parts[1], step)]
    if len(indices) == 0:
        raise UserError(f"frames {text!r} selects none of the {count} instants; choose within 0:{count}")
    return indices


def _clip_times(record: SceneRecord, folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the record with all times in [0, 1].

    Times in there stay as they are, though they end before 1: what is played begins and ends with them (`span`).
    Others are seconds, unless they count frames (0, 1, 2, ...) or would mean a rate that no camera has, as
    milliseconds do: then how long the clip lasts is only known if the data state it otherwise.
    """
    times = np.array([frame.time for frame in record.frames])
    low, high = float(times.min()), float(times.max())
    if low >= 0 and high <= 1 + _SAME_INSTANT:
        return record
    # From the first on, whatever it is: seconds since 1970 would else all be the same instant.
    span = high - low or 1.0
    distinct = distinct_times(times)
    steps = np.diff(distinct)
    fps, duration = record.fps, record.duration
    whole = bool(np.all(np.abs(distinct - np.rint(distinct)) < _SAME_INSTANT))
    rate = len(steps) / span
    if whole and low >= 0 and len(steps) and steps.min() == 1.0:
        unit, duration = "frame numbers", duration or (span / fps if fps else None)
    elif not _RATES[0] <= rate <= _RATES[1]:
        unit = "of an unknown unit"
    else:
        unit, duration = "seconds", duration or span
        if fps is None and len(steps) and steps.max() - steps.min() < 1e-3 * steps.mean():
            fps = rate
    problems.warning(
        folder,
        f"times run from {low:.10g} to {high:.10g} ({unit}), expected 0 to 1; shifted to start at 0 and divided by"
        f" {span:g}",
    )
    moved = [dataclasses.replace(frame, time=(frame.time - low) / span) for frame in record.frames]
    return dataclasses.replace(record, frames=moved, duration=duration, fps=fps)


def _without_repeats(record: SceneRecord, folder: Path, problems: ProblemList) -> SceneRecord:
    """Returns the record without frames that are listed again, which would count twice; says so, and what is odd."""
    kept: list[FrameRecord] = []
    poses: dict[tuple[Picture, Split | None], FrameRecord] = {}
    repeated, odd = [], []
    for frame in record.frames:
        first = poses.setdefault((frame.picture, frame.split), frame)
        if first is not frame and first.lens == frame.lens and np.array_equal(first.viewmat, frame.viewmat):
            if abs(first.time - frame.time) <= _SAME_INSTANT:
                repeated.append(frame)
                continue
        elif first is not frame:
            odd.append(frame)
        kept.append(frame)
    for frames, what in ((repeated, "listed twice; used once"), (odd, "listed twice, with different cameras")):
        if frames:
            source = Path(frames[0].picture.source).name
            many = "1 picture is" if len(frames) == 1 else f"{len(frames)} pictures are"
            problems.warning(frames[0].stated_in or folder, f"{many} {what} (first: {source})")
    return dataclasses.replace(record, frames=kept) if repeated else record


def distinct_times(times: np.ndarray) -> np.ndarray:
    """Returns the sorted times without those that repeat an earlier one."""
    ordered = np.sort(times)
    return ordered[np.concatenate([[True], np.diff(ordered) > _SAME_INSTANT])]


def snapped(times: Sequence[float] | np.ndarray, instants: np.ndarray) -> np.ndarray:
    """Returns the index of each time's instant, of those that `distinct_times` gave."""
    return np.searchsorted(0.5 * (instants[1:] + instants[:-1]), times)


def choose_splits(
    stated: Sequence[Split | None], instant_of: Sequence[int], instants: int, test_every: int
) -> tuple[list[Split], str]:
    """Returns the split of every frame and a sentence on how it was chosen.

    Args:
        stated: What the data says of each frame.
        instant_of: Index of each frame's instant.
        instants: How many there are.
        test_every: See `load_scene`.
    """
    if any(split is not None for split in stated):
        return [split or "train" for split in stated], "training and test frames as stated by the data"
    if test_every < 1:
        return ["train"] * len(stated), "all frames are for training; no test frames (test_every is 0)"
    if instants == 1:
        note = f"one instant: every {test_every}th picture, from number {test_every // 2} on, is held out as test"
        return ["test" if k % test_every == test_every // 2 else "train" for k in range(len(stated))], note
    held = {k for k in range(instants) if k % test_every == test_every // 2}
    if test_every == 1:
        held = set()
    note = f"instants {test_every // 2}, {test_every // 2 + test_every}, ... of all cameras are held out as test"
    note += f" ({len(held)} of {instants})"
    return ["test" if k in held else "train" for k in instant_of], note


def _factor(lenses: list[Lens], downscale: float | None) -> float:
    if downscale is not None:
        return float(downscale)
    return float(max(automatic_factor(lens.width, lens.height) for lens in set(lenses)))


def _alpha(frames: list[FrameRecord], problems: ProblemList) -> bool:
    """Tells whether the scene has alpha, by the first picture of every camera; all of them must have it."""
    firsts: dict[str, Picture] = {}
    for frame in frames:
        firsts.setdefault(frame.camera_id, frame.picture)
    found: dict[Path, bool] = {}
    for picture in firsts.values():
        if isinstance(picture, VideoPicture):
            found[picture.video.path] = picture.video.alpha
            continue
        try:
            found[picture.path] = read_header(picture.path).alpha
        except UserError as error:
            problems.take(picture.path, error)
    if any(found.values()) and not all(found.values()):
        with_alpha, without = (next(path for path, alpha in found.items() if alpha is kind) for kind in (True, False))
        problems.warning(
            with_alpha,
            f"has an alpha channel, {without} has none: alpha is ignored; give every camera one, or none",
        )
    return bool(found) and all(found.values())


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What the headers of a frame's files say."""

    picture: ImageHeader | None = None
    mask: ImageHeader | None = None
    fault: tuple[Path, UserError] | None = None


def _look(frame: FrameRecord) -> _Seen:
    """Returns what the files of a frame say before they are decoded; a picture that ends early is a fault."""
    path = frame.mask
    try:
        mask = None if path is None else read_header(path)
        if not isinstance(frame.picture, ImagePicture):
            return _Seen(mask=mask)
        path = frame.picture.path
        check_end(path)
        return _Seen(read_header(path), mask)
    except UserError as error:
        assert path is not None
        return _Seen(fault=(path, error))


def _checked(frames: list[FrameRecord], format: str, problems: ProblemList) -> list[FrameRecord]:
    """Returns the frames, pictures turned upright where their cameras are those of the upright ones.

    Notes what is wrong with any picture or mask now rather than in the middle of a fit; one cause is one problem.
    """
    with concurrent.futures.ThreadPoolExecutor(8, thread_name_prefix="gaussian4d-headers") as pool:
        seen, told = [], on_header.get()
        for files in pool.map(_look, frames):
            seen.append(files)
            told(len(seen), len(frames))
    turns = _Turns([(frame, files.picture) for frame, files in zip(frames, seen) if files.picture is not None])
    checked, sizes, masks = [], [], []
    faults: dict[Path, UserError] = {}
    for frame, files in zip(frames, seen):
        expected = (frame.lens.width, frame.lens.height)
        if files.fault is not None:
            faults.setdefault(*files.fault)
        picture, orientation = files.picture, 1
        if picture is not None:
            orientation = turns.of(frame, picture)
            if (shown := picture.turned(orientation)) != expected:
                sizes.append((frame.picture.source, picture.turned(1), shown, expected))
        if orientation > 1:
            assert isinstance(frame.picture, ImagePicture)
            frame = dataclasses.replace(frame, picture=dataclasses.replace(frame.picture, orientation=orientation))
        if files.mask is not None:
            mask_turn = _mask_turn(files.mask, picture, orientation)
            if (shown := files.mask.turned(mask_turn)) != expected:
                masks.append((str(frame.mask), files.mask.turned(1), shown, expected))
            frame = dataclasses.replace(frame, mask_orientation=mask_turn)
        checked.append(frame)
    alike: dict[str, list[tuple[Path, str]]] = {}
    for path, error in faults.items():
        message = str(error).removeprefix(f"{path}: ")
        alike.setdefault(message.replace(str(path), ""), []).append((path, message))
    for found in alike.values():
        more = f" ({len(found)} files in total, also {found[-1][0].name})" if len(found) > 1 else ""
        problems.error(found[0][0], found[0][1] + more)
    for what, wrong in (("image", sizes), ("mask", masks)):
        if wrong:
            source, (stored_w, stored_h), _, (w, h) = wrong[0]
            more = f"; likewise {len(wrong) - 1} more, such as {Path(wrong[-1][0]).name}" if len(wrong) > 1 else ""
            other = "its camera states" if what == "image" else "its image is"
            problems.error(
                source,
                f"the {what} is {stored_w}x{stored_h}, {other} {w}x{h}{more}; they must be the same size",
            )
    turns.say(format, problems)
    _check_alpha(frames, seen, problems)
    return checked


class _Turns:
    """How the pictures of a scene that have an EXIF orientation are read: turned as it says, or as they are stored.

    A size that fits one of the two decides for its picture. Where it fits both (a square picture, half a turn, a
    mirror) the picture is read as those that are decided, as stored when there are none.
    """

    def __init__(self, pictures: list[tuple[FrameRecord, ImageHeader]]) -> None:
        self._turned: list[str] = []
        self._stored: list[str] = []
        self._open: list[str] = []
        for frame, header in pictures:
            if header.orientation > 1:
                self._kind(frame, header).append(frame.picture.source)
        self._both = bool(self._turned) and not self._stored

    def _kind(self, frame: FrameRecord, header: ImageHeader) -> list[str]:
        expected = (frame.lens.width, frame.lens.height)
        stored, turned = header.turned(1), header.turned(header.orientation)
        if stored == turned:
            return self._open
        return self._turned if turned == expected else self._stored

    def of(self, frame: FrameRecord, header: ImageHeader) -> int:
        """Returns the orientation by which a picture is turned, 1 when it is read as stored."""
        if header.orientation == 1:
            return 1
        kind = self._kind(frame, header)
        return header.orientation if kind is self._turned or (kind is self._open and self._both) else 1

    def say(self, format: str, problems: ProblemList) -> None:
        """Warns of what was taken; COLMAP always means the stored picture, which is no news."""
        turned = self._turned + (self._open if self._both else [])
        if turned:
            problems.warning(
                turned[0], _many(turned, "rotated by its EXIF orientation, to match the size of its camera")
            )
        if format in ("colmap", "llff", "multipleview"):
            return
        if self._stored:
            what = "read as stored: its EXIF orientation is ignored, to match the size of its camera"
            problems.warning(self._stored[0], _many(self._stored, what))
        if self._open and not self._both:
            what = (
                "read as stored: its EXIF orientation is ignored, as no size shows whether its camera means the rotated"
                " image; rotate the stored images if it does"
            )
            problems.warning(self._open[0], _many(self._open, what))


def _mask_turn(mask: ImageHeader, picture: ImageHeader | None, orientation: int) -> int:
    """Returns the orientation by which a mask is turned to lie on its picture, which is turned by `orientation`.

    A mask may have been made of the stored picture or of the upright one; its shape tells, and its own orientation
    where the picture is turned.
    """
    if picture is None or picture.orientation == 1:
        return 1
    if orientation == 1:
        # Read as stored: what was made of the upright picture is turned back.
        upright = mask.turned(1) == picture.turned(picture.orientation) != picture.turned(1)
        return {6: 8, 8: 6}.get(picture.orientation, picture.orientation) if upright else 1
    if mask.orientation > 1:
        return mask.orientation
    lies = mask.turned(1) == picture.turned(1) != picture.turned(orientation)
    return orientation if lies else 1


def _check_alpha(frames: list[FrameRecord], seen: list[_Seen], problems: ProblemList) -> None:
    """Warns of cameras some of whose pictures have an alpha channel and some have none: these count as opaque."""
    with_alpha = {frame.camera_id for frame, files in zip(frames, seen) if files.picture and files.picture.alpha}
    without = [
        frame.picture.source
        for frame, files in zip(frames, seen)
        if files.picture and not files.picture.alpha and frame.camera_id in with_alpha
    ]
    if without:
        problems.warning(
            without[0], _many(without, "has no alpha channel, unlike others of its camera: treated as opaque")
        )


def _many(sources: list[str], what: str) -> str:
    return f"{what} ({len(sources)} images in total)" if len(sources) > 1 else what


def _check_names(chosen: list[tuple[FrameRecord, int]], splits: list[Split], problems: ProblemList) -> None:
    """Notes two pictures of one camera at one instant: two cameras share a name."""
    seen: dict[tuple[str, int, Split], FrameRecord] = {}
    told: set[str] = set()
    for (frame, k), split in zip(chosen, splits):
        first = seen.setdefault((frame.camera_id, k, split), frame)
        if first is not frame and frame.camera_id not in told:
            told.add(frame.camera_id)
            problems.error(
                frame.stated_in or frame.picture.source,
                f"camera {frame.camera_id} has two images at instant {k} ({first.picture.source} and"
                f" {frame.picture.source}): every camera needs a unique name; rename one",
            )


def _plans(
    chosen: list[tuple[FrameRecord, int]],
    splits: list[Split],
    factor: float,
    alpha: bool,
    problems: ProblemList,
) -> list[FramePlan]:
    cameras: dict[str, tuple[FrameRecord, Camera | None]] = {}
    resamplings: dict[Lens, tuple[Resampling, Lens]] = {}
    plans: list[FramePlan] = []
    for (frame, time_index), split in zip(chosen, splits):
        if frame.lens not in resamplings:
            resamplings[frame.lens] = _resampling(frame, factor)
        resampling, served = resamplings[frame.lens]
        name = frame.camera_id
        known = cameras.get(name)
        if known is not None and not _same_camera(known[0], frame):
            name = f"{name}_{time_index:04d}"
            known = cameras.get(name)
        if known is None:
            known = (frame, _camera(name, frame, served, problems))
            cameras[name] = known
        if known[1] is None:
            continue
        job = FrameJob(frame.picture, resampling, frame.mask, alpha, frame.covisible, frame.mask_orientation)
        plans.append(FramePlan(known[1], frame.time, time_index, split, job))
    return plans


def _resampling(frame: FrameRecord, factor: float) -> tuple[Resampling, Lens]:
    resampling = Resampling(frame.lens, factor)
    try:
        return resampling, resampling.pinhole()
    except UserError as error:
        raise UserError(f"{frame.stated_in or frame.picture.source}: camera {frame.camera_id}: {error}") from None


def _same_camera(a: FrameRecord, b: FrameRecord) -> bool:
    if a.viewmat is b.viewmat and a.lens is b.lens:
        return True
    return a.lens == b.lens and np.allclose(a.viewmat, b.viewmat, rtol=0, atol=1e-9 * (1 + np.abs(a.viewmat).max()))


def _camera(name: str, frame: FrameRecord, served: Lens, problems: ProblemList) -> Camera | None:
    try:
        return Camera(name, frame.viewmat, served.K, served.width, served.height)
    except UserError as error:
        problems.error(frame.stated_in or frame.picture.source, f"{error}; restore the calibration")
        return None


def _size_notes(
    chosen: list[tuple[FrameRecord, int]], factor: float, downscale: float | None, record: SceneRecord
) -> list[str]:
    notes = []
    if factor != 1:
        if downscale is not None:
            how = "as asked"
        elif record.downscale is not None:
            how = f"as in published results for {record.format} scenes"
        else:
            how = "automatic: the smallest factor that gives at most 720x480 pixels"
        notes.append(f"images are downscaled by a factor of {factor:g} ({how})")
    bent = {frame.lens for frame, _ in chosen if not frame.lens.straight}
    if bent:
        zooms = sorted(Resampling(lens, 1).pinhole().fx / lens.fx for lens in bent)
        notes.append(
            f"lens distortion removed; focal lengths scaled by {zooms[0]:.3f} to {zooms[-1]:.3f} (no empty pixels)"
        )
    return notes
