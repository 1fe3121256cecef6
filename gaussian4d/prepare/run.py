"""The whole preparation, stage by stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.problems import ProblemList
from ..data.records import Lens, PointCloud
from ..errors import UserError
from .calibrate import PlacedCamera, calibrated_cameras, find_calibration_files, known_lenses
from .calibration_check import check_calibration, contradiction
from .damage import refuse_damaged
from .exposure import describe, fit_exposures, mean_colours
from .masks import BACKGROUND, user_masks, write_masks
from .matching import Matches, match_cameras, missing_pycolmap
from .moving import solve_path
from .offset_file import offsets_beside
from .points import LEAST_POINTS, keypoint_colours, triangulate_instants, usual_picture
from .recordings import find_recordings
from .report import Findings, advise, write_contact_sheet, write_report
from .solve import solve_cameras, solved_as_json, solved_from_json
from .stages import Stages, fingerprint
from .synchronise import Method, Offsets, synchronise
from .timeline import Timeline, common_timeline, path_timeline
from .write import Written, write_path, write_recordings, write_transforms

# Part of the key of kept solutions: solutions that an older check let pass are made again.
_SOLVER = 2

Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user may decide about a preparation."""

    calibration: Path | None = None
    """Calibration file or folder; None looks beside the videos."""
    use_calibration: bool = True
    """False solves the cameras from the pictures although a calibration lies beside them."""
    sync: Method = "auto"
    offsets: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Known start of every camera in seconds; replaces `sync`."""
    fps: float | None = None
    """Frame rate of picture folders, or of videos in place of what they state."""
    keep_lens: bool = False
    """Copy videos of bent lenses as they are instead of undistorting them."""
    exact_times: bool = False
    """Give every frame the time at which it was taken instead of that of its instant."""
    instants: int = 8
    """Instants looked at for cameras and points."""
    thorough: bool = False
    """Seek more features and place cameras that share little; slower, and as doubtful of the result."""
    masks: str | None = None
    """`background`, or a folder with masks per camera."""
    points: bool = True
    """Triangulate sparse points."""
    seed: int = 0


def prepare(
    source: Path,
    out: Path,
    options: Options | None = None,
    *,
    say: Callable[[str], None] = lambda line: None,
    progress: Progress = lambda stage, done, total: None,
) -> Findings:
    """Returns what was found after writing a nerfstudio scene with a report to `out`.

    Stages that were finished by an interrupted call with the same input are not done again.

    Args:
        source: A folder of one video (or one folder of pictures) per camera.
        out: A new folder, or one that an earlier call made.
        options: See `Options`.
        say: Called with one line per stage.
        progress: Called with (stage, parts done, parts in all).

    Raises:
        UserError: Something cannot be used or solved; `out/report.md` says the same, and no scene is written.
    """
    options = options or Options()
    source, out = Path(source), Path(out)
    stages = Stages(out, say)
    found = Findings(source)
    try:
        _prepare(source, out, options, stages, found, say, progress)
    except UserError as error:
        found.failure = str(error)
        # A scene of an earlier call must not pass for the result of this one.
        (out / "transforms.json").unlink(missing_ok=True)
        if found.recordings:
            # Without its own folder inside, a later call would take the report for a user's.
            stages.folder.mkdir(parents=True, exist_ok=True)
            write_report(out, found)
        raise
    return found


def _prepare(
    source: Path,
    out: Path,
    options: Options,
    stages: Stages,
    found: Findings,
    say: Callable[[str], None],
    progress: Progress,
) -> None:
    recordings = find_recordings(source, options.fps)
    found.recordings = recordings
    say(f"recordings: {', '.join(f'{r.name} ({r.count} frames, {r.fps:.4g}/s)' for r in recordings)}")
    users = None
    if options.masks not in (None, BACKGROUND):
        users = user_masks(Path(options.masks), recordings)
    inputs = fingerprint([recording.path for recording in recordings])
    problems = ProblemList()
    for recording in recordings:
        for warning in recording.video.warnings if recording.video is not None else ():
            problems.warning(recording.path, warning)
    calibration = find_calibration_files(source, options.calibration) if options.use_calibration else []
    known, known_from = known_lenses(calibration, recordings, problems) if calibration else ({}, "")
    cameras = calibrated_cameras(calibration, recordings, problems) if calibration and not known else {}
    found.notes += [f"{problem.file}: {problem.message}" for problem in problems]
    if known:
        found.notes.append(f"lenses of {', '.join(known)} are kept as {known_from} states them; places are solved")
    stages.run("decode", inputs, lambda: refuse_damaged(recordings, lambda k, n: progress("decode", k, n)))
    if len(recordings) == 1 and not cameras:
        _prepare_path(out, options, stages, found, known, users, progress)
        say(f"scene: {found.instants} instants of one moving camera in {out}")
        return

    given = dict(options.offsets)
    if not given and options.sync == "auto":
        beside = [source, *(path.parent for path in calibration)]
        given, stated_in = offsets_beside(beside, [recording.name for recording in recordings])
        if stated_in is not None:
            found.notes.append(f"offsets are those of {stated_in.name}: the moment of each camera's first frame")
    rates = [[recording.fps, recording.count] for recording in recordings]
    offsets = _offsets(
        stages.run(
            "synchronise",
            [inputs, rates, options.sync, given],
            lambda: dataclasses.asdict(
                synchronise(recordings, options.sync, given, lambda k, n: progress("synchronise", k, n))
            ),
        )
    )
    found.offsets = offsets
    found.notes += [note for note in offsets.notes if note]
    say(f"synchronise: by {offsets.method}, starts {_listed(offsets.seconds)} s")
    timeline = common_timeline(recordings, offsets.seconds)
    found.timeline = timeline

    calibrated = bool(cameras)
    if calibrated:
        found.cameras_from = f"from {calibration[0].name}" if len(calibration) == 1 else "from the calibration files"
    else:
        cameras = _solved(source, options, stages, found, inputs, known, progress)
    stated_in = str(calibration[0]) if calibrated else ""
    points = _points(options, stages, found, cameras, inputs, stated_in, progress)
    # The scene of an earlier call is not one any more as soon as its videos are replaced.
    (out / "transforms.json").unlink(missing_ok=True)
    written = write_recordings(
        out, recordings, cameras, timeline, options.keep_lens, stages, lambda k, n: progress("videos", k, n)
    )
    masks = {}
    if options.masks is not None:
        masks = write_masks(out, users, recordings, cameras, written, timeline, lambda k, n: progress("masks", k, n))
    encoded = [name for name, files in written.items() if files.encoded]
    if encoded:
        found.notes.append(f"undistorted and encoded again: {', '.join(encoded)}; the others are the recorded files")
    found.advice += advise(found)
    write_contact_sheet(out, recordings, timeline)
    write_report(out, found)
    write_transforms(
        out, cameras, written, timeline, offsets, exact_times=options.exact_times, points=points, masks=masks,
        exposures=found.exposures,
    )  # fmt: skip
    say(f"scene: {timeline.count} instants of {len(recordings)} cameras in {out}")


def _prepare_path(
    out: Path,
    options: Options,
    stages: Stages,
    found: Findings,
    known: Mapping[str, Lens],
    users: Mapping[str, Sequence[Path]] | None,
    progress: Progress,
) -> None:
    """Writes the scene of one video whose camera moves."""
    (recording,) = found.recordings
    missing = missing_pycolmap()
    if recording.video is None or missing:
        raise UserError(
            f"{recording.path}: one camera alone is taken to move, and its way is solved from its video; "
            + (f"that needs pycolmap: {missing}" if missing else "make a video of its pictures")
        )
    if options.masks == BACKGROUND:
        raise UserError("--masks background needs cameras that stand still, this one moves; give a folder of masks")
    path = solve_path(
        stages.folder, recording, options.seed, known=known.get(recording.name), thorough=options.thorough,
        progress=lambda k, n: progress("solve", k, n),
    )  # fmt: skip
    count = len(path.viewmats)
    found.instants = count
    found.reprojection = {recording.name: path.rms}
    found.cameras_from = (
        f"the way of one moving camera, solved from {path.placed} of {path.key_frames} key frames; a second solution"
        f" from half of them agrees within {path.degrees:.2f} degrees and {100 * path.share:.1f} % of the way's"
        f" spread; scale and axes are arbitrary"
    )
    if count > path.placed:
        found.notes.append(
            f"{count - path.placed} frames between key frames have interpolated poses: leaving a key frame out and"
            f" interpolating it misses by {path.between_degrees:.2f} degrees and {100 * path.between_share:.1f} % of"
            " the way's spread (median; steps are twice as long then)"
        )
    if count < recording.count:
        found.notes.append(f"{recording.count - count} frames before or after what could be placed are left out")
    points = path.points if options.points and len(path.points) >= LEAST_POINTS else None
    found.notes.append(f"{len(path.points)} sparse points" + ("" if points else ", too few: none are written"))
    (out / "transforms.json").unlink(missing_ok=True)
    masks = {}
    timeline = path_timeline(recording, path.first, count)
    found.timeline = timeline
    if options.masks is not None:
        camera = PlacedCamera(recording.name, path.viewmats[0], path.lens, recording.video)
        written = {recording.name: Written(path.lens, [], None, False)}
        masks = write_masks(
            out, users, [recording], {recording.name: camera}, written, timeline,
            lambda k, n: progress("masks", k, n),
        )  # fmt: skip
    write_contact_sheet(out, [recording], timeline)
    write_report(out, found)
    write_path(out, recording, path, masks, points)


def _solved(
    source: Path,
    options: Options,
    stages: Stages,
    found: Findings,
    inputs: list[list[Any]],
    known: Mapping[str, Lens],
    progress: Progress,
) -> dict[str, PlacedCamera]:
    """Returns cameras found from the pictures alone; raises `UserError` when they cannot be believed."""
    recordings, timeline = found.recordings, found.timeline
    assert timeline is not None
    missing = missing_pycolmap()
    if missing:
        raise UserError(
            f"{source}: no calibration was found (Qualisys .qca.txt, OpenCV .xml/.yml); give one with --calibration."
            f" Solving the cameras from the pictures needs pycolmap: {missing}"
        )

    def compute() -> dict[str, Any]:
        matches = _matches(options, stages, found, inputs, progress)
        return solved_as_json(
            solve_cameras(
                stages.folder,
                recordings,
                matches,
                options.seed,
                lambda k, n: progress("solve", k, n),
                known=known,
                thorough=options.thorough,
            )
        )

    lenses = {name: dataclasses.asdict(lens) for name, lens in known.items()}
    made_from = [inputs, _timeline_key(timeline), options.instants, options.seed, options.thorough, lenses, _SOLVER]
    solved = solved_from_json(stages.run("cameras", made_from, compute), recordings)
    found.reprojection = solved.reprojection
    found.cameras_from = (
        f"solved from the pictures of {options.instants} instants; three solutions agree within {solved.degrees:.2f}"
        f" degrees and {100 * solved.share:.1f} % of the cameras' spread, held-out matches obey them to at least"
        f" {100 * solved.held_out:.0f} %; scale and axes are arbitrary"
    )
    found.notes.append(
        f"consistency: {solved.loops} loops of three cameras, {100 * solved.loops_closed:.0f} % close within 3 degrees"
        f" (median {solved.loop_degrees:.2f}); pairs alone give the solution's rotations within"
        f" {solved.pair_degrees:.2f} degrees (median); distances between cameras keep one scale over the solutions"
        f" within {100 * solved.scale:.1f} %"
        if solved.loops
        else "consistency: no three cameras give relative rotations of their own, so no loop could be closed; distances"
        f" between cameras keep one scale over the solutions within {100 * solved.scale:.1f} %"
    )
    return solved.cameras


def _matches(options: Options, stages: Stages, found: Findings, inputs: list[list[Any]], progress: Progress) -> Matches:
    """Returns the matches between the cameras; kept ones when they were made from the same."""
    recordings, timeline = found.recordings, found.timeline
    assert timeline is not None
    made_from = [inputs, _timeline_key(timeline), options.instants, options.seed, options.thorough]
    path = stages.folder / "all_matches.npz"

    def compute() -> str:
        matches = match_cameras(
            stages.folder,
            recordings,
            timeline,
            options.instants,
            options.seed,
            lambda k, n: progress("match", k, n),
            thorough=options.thorough,
        )
        matches.save(path)
        return path.name

    return Matches.load(stages.folder / stages.run("matches", made_from, compute, needs=path))


def _points(
    options: Options,
    stages: Stages,
    found: Findings,
    cameras: Mapping[str, PlacedCamera],
    inputs: list[list[Any]],
    stated_in: str,
    progress: Progress,
) -> PointCloud | None:
    """Returns sparse points of several instants; None, with a note, where pycolmap is missing or finds too few.

    On the way the calibration of `stated_in` (empty for solved cameras) is checked and exposures are fitted.
    """
    if not (options.points or stated_in == ""):
        return None
    missing = missing_pycolmap()
    if missing:
        found.notes.append(f"no sparse points and no reprojection errors: {missing}; `fit` finds points itself")
        return None
    timeline = found.timeline
    assert timeline is not None
    if len(found.recordings) < 2:
        return None
    matches = _matches(options, stages, found, inputs, progress)
    if stated_in:
        _check(found, cameras, matches, stated_in)
    colours, changes, smooth = {}, {}, {}
    for recording in found.recordings:
        indices = timeline.indices[recording.name][matches.instants]
        pictures = dict(recording.frames(int(k) for k in indices))
        usual = usual_picture(list(pictures.values()))
        for position, index in enumerate(indices):
            key = (recording.name, position)
            colours[key] = keypoint_colours(pictures[int(index)], matches.keypoints[key])
            smooth[key] = mean_colours(pictures[int(index)], matches.keypoints[key])
            normal = keypoint_colours(usual, matches.keypoints[key])
            changes[key] = np.abs(colours[key].astype(float) - normal).mean(axis=1)
    found.exposures = fit_exposures(cameras, matches, smooth)
    found.notes += describe(found.exposures, [recording.name for recording in found.recordings])
    if not options.points:
        return None
    triangulated = triangulate_instants(cameras, matches, colours, changes, timeline.count)
    found.reprojection = triangulated.rms
    found.point_counts = triangulated.counts
    if triangulated.points is None:
        found.notes.append(
            "too few points could be triangulated to start a fit from (1000, and 50 per camera, are needed): none are"
            " written, `fit` finds points itself"
        )
        return None
    times = triangulated.points.times
    assert times is not None
    moving = int(np.isfinite(times).sum())
    found.notes.append(
        f"{len(triangulated.points)} sparse points, {moving} of them with the time of one of {len(matches.instants)}"
        " instants, the others stand still"
    )
    return triangulated.points


def _check(found: Findings, cameras: Mapping[str, PlacedCamera], matches: Matches, stated_in: str) -> None:
    """Notes how the matches agree with the calibration; raises `UserError` when they show what is wrong with it."""
    agreement = check_calibration(cameras, found.recordings, matches, stated_in)
    doubt = contradiction(agreement)
    if doubt:
        found.advice.append(doubt)
    elif agreement.shares:
        found.notes.append(
            f"the pictures agree with the calibration: {100 * agreement.median:.0f} % of the matches obey it (median of"
            f" {len(agreement.shares)} pairs of cameras)"
        )
    else:
        found.notes.append("the calibration could not be checked: no two cameras see enough in common")


def _timeline_key(timeline: Timeline) -> list[Any]:
    return [timeline.fps, timeline.start, timeline.count]


def _offsets(kept: Mapping[str, Any]) -> Offsets:
    return Offsets(**{**kept, "notes": tuple(kept["notes"])})


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())
