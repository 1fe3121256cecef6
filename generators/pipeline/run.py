"""A whole generation: everything is checked first, then estimated, then made, one input after the other."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gaussian4d.devices import Placement, choose_device
from gaussian4d.errors import UserError

from ..inputs import Subject, load_image, load_video
from . import parts
from .settings import Settings, resumed, save
from .stages import FOLDER

if TYPE_CHECKING:
    from .job import Job

Say = Callable[[str], None]


def generate(settings: Settings, say: Say = print) -> int:
    """Returns the exit code: 0 done, 2 when an input of several failed, 130 interrupted.

    Raises:
        UserError: for anything that can be known before the work; nothing is written then.
    """
    start = time.monotonic()
    if settings.resume:
        settings = resumed(settings)
    settings.check()
    check_out(settings.out, settings.resume)
    parts.check_installed()
    _check_words(settings, say)
    subjects = _read(settings, say)
    # From here on torch is loaded.
    placement = choose_device(settings.device, settings.backend, lambda reason: say(f"device   {reason}"))
    if settings.motion is not None:
        parts.check_motion(settings.motion)
    say("loading priors")
    moving = not settings.static and any(subject is None or len(subject.frames) == 1 for subject in subjects.values())
    priors = parts.open_priors(
        settings.prior,
        settings.video_prior if moving else None,
        settings.image_prior if settings.kind == "text" else None,
        say,
        settings.device,
    )
    from .job import Job, warn_of_domain

    jobs = []
    for name, subject in subjects.items():
        folder = settings.out if len(subjects) == 1 else settings.out / name
        caption = settings.text[len(jobs)] if settings.kind == "text" else None
        jobs.append(Job(folder, settings, priors, placement, subject=subject, caption=caption, say=say))
        if subject is not None and settings.prior == "embedded":
            import torch

            warn_of_domain(subject.name, torch.from_numpy(subject.frames[0]), say)
    _say_estimate(jobs, settings, placement, start, say)
    try:
        settings.out.mkdir(parents=True, exist_ok=True)
        save(settings, settings.out)
    except OSError as error:
        raise UserError(f"--out {settings.out} cannot be written ({error.strerror}); name another folder") from None
    try:
        failed = _run(jobs, say)
    except KeyboardInterrupt:
        say(f"interrupted; what is done is kept. Go on with: gaussian4d generate --out {settings.out} --resume")
        return 130
    say(f"done in {time.monotonic() - start:.0f} s")
    return 2 if failed else 0


def check_out(out: Path, resume: bool) -> None:
    """Raises `UserError` when `out` cannot be written, or holds something and is not to be resumed."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; expected a folder to write; name another")
    if not resume and out.is_dir() and any(out.iterdir()):
        ours = (out / FOLDER).is_dir() or (out / "generate.json").is_file()
        held = "a generation" if ours else repr(sorted(path.name for path in out.iterdir())[0])
        way = "add --resume to go on with it, or name another folder" if ours else "name a new folder"
        raise UserError(f"--out {out} already holds {held}; {way}")
    standing = out.absolute()
    while not standing.exists():
        standing = standing.parent
    if not standing.is_dir() or not os.access(standing, os.W_OK | os.X_OK):
        raise UserError(f"--out {out} cannot be written: {standing} is not a folder we may write to; name another")


def folder_names(names: list[str]) -> list[str]:
    """Returns a folder name for each input, all different: letters, digits, - and _ of its name."""
    taken: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_")[:48] or "input"
        chosen, number = plain, 2
        while chosen in taken:
            chosen, number = f"{plain}_{number}", number + 1
        taken.append(chosen)
    return taken


def _read(settings: Settings, say: Say) -> dict[str, Subject | None]:
    """Returns the inputs by folder name, None for words; all that is wrong with any of them in one message."""
    if settings.kind == "text":
        return dict.fromkeys(folder_names(list(settings.text)))
    subjects, problems = [], []
    for path in settings.image or settings.video:
        try:
            if settings.kind == "image":
                subject = load_image(path, mask=settings.mask, matte=settings.matte, share=settings.fill)
            else:
                subject = load_video(
                    path, frames=settings.frames, mask=settings.mask, matte=settings.matte, share=settings.fill
                )
        except UserError as error:
            problems.append(str(error))
            continue
        subjects.append(subject)
        count, size = len(subject.frames), subject.frames.shape[-1]
        say(f"{path}: {count} frame{'s' if count > 1 else ''}, framed at {size}x{size}")
        for note in subject.notes:
            say(f"  note: {note}")
    if problems:
        raise UserError("\n       ".join(problems))
    return dict(zip(folder_names([subject.name for subject in subjects]), subjects, strict=True))


def _check_words(settings: Settings, say: Say) -> None:
    """Says which words the embedded image prior does not know; refuses a text of which it knows none."""
    if settings.image_prior != "embedded":
        return
    for text in settings.text:
        unknown, says_something = parts.unknown_words(text)
        listed = ", ".join(unknown)
        if not says_something:
            raise UserError(
                f"--text {text!r}: the embedded prior knows toys (shapes, colours, patterns, motions) and none of these"
                ' words; try "a red and white striped ball hopping", or name weights with --image-prior'
            )
        if unknown:
            say(f"warning: --text {text!r}: the embedded prior does not know {listed}; it goes by the other words")


def _say_estimate(jobs: list[Job], settings: Settings, placement: Placement, start: float, say: Say) -> None:
    """Measures the machine for a moment and says how long the whole will take."""
    from ..cameras import orbit_camera
    from .estimate import drawing_speed, spoken

    speed = drawing_speed(orbit_camera(0.0, settings.elevation, fov=settings.fov), placement)
    total = 0.0
    for job in jobs:
        seconds = job.estimate(job.plan(), speed)
        total += sum(seconds.values())
        listed = ", ".join(f"{name} {spoken(value)}" for name, value in seconds.items()) or "nothing is left to do"
        say(f"estimate for {job.name}: {listed}")
        if settings.max_minutes is not None and sum(seconds.values()) > 66.0 * settings.max_minutes:
            say(
                f"warning: that is more than --max-minutes {settings.max_minutes:g}, though the fit gets its least;"
                " --frames takes fewer instants, --static only one"
            )
    say(f"about {spoken(total)} in all on this machine (measured in {time.monotonic() - start:.0f} s with loading)")


def _run(jobs: list[Job], say: Say) -> int:
    """Returns how many inputs failed; one that fails does not stop the others."""
    failed = 0
    for number, job in enumerate(jobs, start=1):
        if len(jobs) > 1:
            say(f"[{number}/{len(jobs)}] {job.name} -> {job.folder}")
        try:
            job.run()
        except UserError as error:
            if len(jobs) == 1:
                raise
            failed += 1
            say(f"error: {job.name}: {error}")
            continue
        say(f"model    {job.folder / 'model.g4d'}")
        say(f"video    {job.folder / 'renders/orbit.mp4'}")
        say(f"frames   {job.folder / 'exports/ply'}")
        say(f"sheet    {job.folder / 'renders/sheet.png'}")
        say(f"look     gaussian4d view {job.folder}")
    return failed
