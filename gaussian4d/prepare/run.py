"""The whole preparation, stage by stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.problems import ProblemList
from ..data.records import PointCloud
from ..errors import UserError
from .calibrate import PlacedCamera, calibrated_cameras, find_calibration_files
from .matching import Matches, match_cameras, missing_pycolmap
from .points import keypoint_colours, triangulate_instants, usual_picture
from .recordings import find_recordings
from .report import Findings, advise, write_contact_sheet, write_report
from .solve import solve_cameras, solved_as_json, solved_from_json
from .stages import Stages, fingerprint
from .synchronise import Method, Offsets, synchronise
from .timeline import Timeline, common_timeline
from .write import write_recordings, write_transforms

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
    problems = ProblemList()
    calibration = find_calibration_files(source, options.calibration) if options.use_calibration else []
    cameras = calibrated_cameras(calibration, recordings, problems) if calibration else {}
    found.notes += [f"{problem.file}: {problem.message}" for problem in problems]

    inputs = fingerprint([recording.path for recording in recordings])
    rates = [[recording.fps, recording.count] for recording in recordings]
    offsets = _offsets(
        stages.run(
            "synchronise",
            [inputs, rates, options.sync, dict(options.offsets)],
            lambda: dataclasses.asdict(
                synchronise(recordings, options.sync, options.offsets, lambda k, n: progress("synchronise", k, n))
            ),
        )
    )
    found.offsets = offsets
    found.notes += [note for note in offsets.notes if note]
    say(f"synchronise: by {offsets.method}, starts {_listed(offsets.seconds)} s")
    timeline = common_timeline(recordings, offsets.seconds)
    found.timeline = timeline

    if cameras:
        found.cameras_from = f"from {calibration[0].name}" if len(calibration) == 1 else "from the calibration files"
    else:
        cameras = _solved(source, options, stages, found, inputs, progress)
    points = _points(options, stages, found, cameras, inputs, progress) if options.points else None
    # The scene of an earlier call is not one any more as soon as its videos are replaced.
    (out / "transforms.json").unlink(missing_ok=True)
    written = write_recordings(
        out, recordings, cameras, timeline, options.keep_lens, stages, lambda k, n: progress("videos", k, n)
    )
    encoded = [name for name, files in written.items() if files.encoded]
    if encoded:
        found.notes.append(f"undistorted and encoded again: {', '.join(encoded)}; the others are the recorded files")
    found.advice = advise(found)
    write_contact_sheet(out, recordings, timeline)
    write_report(out, found)
    write_transforms(out, cameras, written, timeline, offsets, exact_times=options.exact_times, points=points)
    say(f"scene: {timeline.count} instants of {len(recordings)} cameras in {out}")


def _solved(
    source: Path, options: Options, stages: Stages, found: Findings, inputs: list[list[Any]], progress: Progress
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
            solve_cameras(stages.folder, recordings, matches, options.seed, lambda k, n: progress("solve", k, n))
        )

    made_from = [inputs, _timeline_key(timeline), options.instants, options.seed]
    solved = solved_from_json(stages.run("cameras", made_from, compute), recordings)
    found.reprojection = solved.reprojection
    found.cameras_from = (
        f"solved from the pictures of {options.instants} instants; three solutions agree within {solved.degrees:.2f}"
        f" degrees and {100 * solved.share:.1f} % of the cameras' spread, held-out matches obey them to at least"
        f" {100 * solved.held_out:.0f} %; scale and axes are arbitrary"
    )
    return solved.cameras


def _matches(options: Options, stages: Stages, found: Findings, inputs: list[list[Any]], progress: Progress) -> Matches:
    """Returns the matches between the cameras; kept ones when they were made from the same."""
    recordings, timeline = found.recordings, found.timeline
    assert timeline is not None
    made_from = [inputs, _timeline_key(timeline), options.instants, options.seed]
    path = stages.folder / "all_matches.npz"

    def compute() -> str:
        matches = match_cameras(
            stages.folder, recordings, timeline, options.instants, options.seed, lambda k, n: progress("match", k, n)
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
    progress: Progress,
) -> PointCloud | None:
    """Returns sparse points of several instants; None, with a note, where pycolmap is missing or finds too few."""
    missing = missing_pycolmap()
    if missing:
        found.notes.append(f"no sparse points and no reprojection errors: {missing}; `fit` finds points itself")
        return None
    timeline = found.timeline
    assert timeline is not None
    if len(found.recordings) < 2:
        return None
    matches = _matches(options, stages, found, inputs, progress)
    colours, changes = {}, {}
    for recording in found.recordings:
        indices = timeline.indices[recording.name][matches.instants]
        pictures = dict(recording.frames(int(k) for k in indices))
        usual = usual_picture(list(pictures.values()))
        for position, index in enumerate(indices):
            key = (recording.name, position)
            colours[key] = keypoint_colours(pictures[int(index)], matches.keypoints[key])
            normal = keypoint_colours(usual, matches.keypoints[key])
            changes[key] = np.abs(colours[key].astype(float) - normal).mean(axis=1)
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


def _timeline_key(timeline: Timeline) -> list[Any]:
    return [timeline.fps, timeline.start, timeline.count]


def _offsets(kept: Mapping[str, Any]) -> Offsets:
    return Offsets(**{**kept, "notes": tuple(kept["notes"])})


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items())
