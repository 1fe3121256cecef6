"""What a preparation found, for the user: `report.md` and a contact sheet of all cameras at the same instants."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..files import atomic_write
from .exposure import Exposure
from .recordings import Recording
from .synchronise import Offsets
from .timeline import Timeline

_TILE = 240
_LABEL = 14


@dataclasses.dataclass
class Findings:
    """Everything the report may say; what was not reached stays None or empty."""

    source: Path
    recordings: Sequence[Recording] = ()
    offsets: Offsets | None = None
    timeline: Timeline | None = None
    cameras_from: str = ""
    reprojection: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Root mean square pixels per camera."""
    point_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    exposures: Mapping[str, Exposure] = dataclasses.field(default_factory=dict)
    instants: int = 0
    """Frames of a moving camera that have a pose."""
    notes: list[str] = dataclasses.field(default_factory=list)
    advice: list[str] = dataclasses.field(default_factory=list)
    failure: str = ""


def write_report(out: Path, found: Findings) -> None:
    """Writes `out/report.md`."""
    lines = [f"# Preparation of {found.source.name}", ""]
    if found.failure:
        lines += ["**No scene was made.** " + found.failure, ""]
    lines += _camera_table(found)
    if found.timeline is not None and found.offsets is not None:
        timeline, offsets = found.timeline, found.offsets
        lines += [
            f"* Clip: {timeline.count} instants at {timeline.fps:.6g} a second, {timeline.duration:.3f} s.",
            f"* Synchronised by: {offsets.method}; pairs disagree by {1000 * offsets.residual:.1f} ms (RMS).",
            f"* A frame misses its instant by at most {1000 * timeline.furthest:.1f} ms.",
        ]
    if found.cameras_from:
        lines.append(f"* Cameras: {found.cameras_from}.")
    lines += [f"* {note}" for note in found.notes]
    if found.advice:
        lines += ["", "## What to film differently", ""] + [f"* {advice}" for advice in found.advice]
    if not found.failure:
        lines += ["", "![All cameras at the same instants](contact_sheet.png)"]
    with atomic_write(out / "report.md") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="replace")


def _camera_table(found: Findings) -> list[str]:
    if not found.recordings:
        return []
    head = (
        "camera",
        "size",
        "frames",
        "per second",
        "start (s)",
        "confidence",
        "reprojection (px)",
        "points",
        "brightness",
    )
    rows = [head, ("---",) * len(head)]
    for recording in found.recordings:
        name = recording.name
        offset = f"{found.offsets.seconds[name]:.4f}" if found.offsets else "-"
        confidence = f"{found.offsets.confidence[name]:.2f}" if found.offsets else "-"
        if found.offsets and found.offsets.method == "none":
            confidence = "not measured"
        error = f"{found.reprojection[name]:.2f}" if name in found.reprojection else "-"
        points = str(found.point_counts.get(name, "-"))
        size = f"{recording.width}x{recording.height}"
        bright = f"{found.exposures[name].percent:+.0f} %" if name in found.exposures else "-"
        rows.append(
            (name, size, str(recording.count), f"{recording.fps:.6g}", offset, confidence, error, points, bright)
        )  # fmt: skip
    return ["| " + " | ".join(row) + " |" for row in rows] + [""]


def advise(found: Findings) -> list[str]:
    """Returns what the findings say about filming, one sentence each."""
    advice = []
    if found.offsets is not None and found.timeline is not None and found.offsets.method in ("audio", "motion"):
        # Cameras that were found to be in step have no start to be unsure of.
        measured = any(found.offsets.seconds.values())
        frame = 1.0 / found.timeline.fps
        unsure = [name for name, value in found.offsets.confidence.items() if value < 0.3]
        if unsure and measured:
            advice.append(
                f"the start of {', '.join(unsure)} is not sure: clap once, or flash a lamp, where all cameras see it"
            )
        if found.offsets.residual > 0.25 * frame and measured:
            advice.append("pairs of cameras disagree by more than a quarter of a frame: record sound with all cameras")
    if found.timeline is not None and len(found.recordings) > 1:
        if found.timeline.furthest > 0.25 / found.timeline.fps:
            advice.append(
                "some frames miss their instant by more than a quarter of a frame: film at one frame rate, or faster,"
                " or with a common trigger; fast motion is blurred by this"
            )
        lost = {r.name: r.seconds - found.timeline.duration for r in found.recordings}
        worst = max(lost, key=lambda name: lost[name])
        if lost[worst] > 0.5 * (found.timeline.duration + lost[worst]):
            advice.append(f"more than half of {worst} is outside the time that all cameras filmed: start them together")
    few = [name for name, count in found.point_counts.items() if count < 50]
    if few:
        advice.append(
            f"few points (under 50) are seen by {', '.join(few)} and another camera: put it nearer to its neighbour"
            " (20 to 30 degrees), or textured things into view of both"
        )
    # The error of a few points, some of them wrong matches, says nothing about a calibration.
    bad = [name for name, error in found.reprojection.items() if error > 1.5 and name not in few]
    if bad:
        advice.append(f"points miss their place in {', '.join(bad)} by more than 1.5 pixels: check its calibration")
    return advice


def write_contact_sheet(out: Path, recordings: Sequence[Recording], timeline: Timeline, columns: int = 4) -> None:
    """Writes `out/contact_sheet.png`: a row per camera, the same instants below each other."""
    chosen = np.unique(np.linspace(0, timeline.count - 1, columns).round().astype(int))
    heights = [max(1, round(_TILE * r.height / r.width)) for r in recordings]
    sheet = Image.new("RGB", (_TILE * len(chosen), sum(heights) + _LABEL * len(recordings)), "black")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for recording, height in zip(recordings, heights):
        indices = timeline.indices[recording.name][chosen]
        pictures = dict(recording.frames(int(k) for k in indices))
        for column, (instant, index) in enumerate(zip(chosen, indices)):
            label = f"{recording.name}  {instant / timeline.fps:.2f} s  frame {index}"
            draw.text((column * _TILE + 2, top + 1), label, fill="white")
            tile = Image.fromarray(np.ascontiguousarray(pictures[int(index)])).resize((_TILE, height))
            sheet.paste(tile, (column * _TILE, top + _LABEL))
        top += height + _LABEL
    with atomic_write(out / "contact_sheet.png") as temporary:
        sheet.save(temporary)
