"""`gaussian4d prepare`: raw videos become a scene."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro
from tyro.conf import Positional

from .choices import Several, Unset


@dataclasses.dataclass
class Prepare:
    """Turn raw videos into a scene folder for `fit`: synchronise, calibrate, undistort, and write a report."""

    WRITES: ClassVar[dict[str, bool | None]] = {"out": True}
    EXAMPLES: ClassVar[str] = """
        gaussian4d prepare videos/ --out scene
        gaussian4d prepare videos/ --out scene --calibration Calib.qca.txt
        gaussian4d prepare videos/ --out scene --sync none
        gaussian4d prepare videos/ --out scene --offsets cam1=0 cam2=0.35 cam3=1.2
        gaussian4d prepare walk.mp4 --out scene
        gaussian4d prepare videos/ --out scene --masks background
    """

    source: Positional[Path]
    """Folder with one video (or one folder of images) per camera, or a single video of a moving camera."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Scene folder to write; an interrupted run is continued."""
    calibration: Unset[Path] = None
    """Calibration file or folder (poses and intrinsics, or intrinsics only). Default: one found beside the videos."""
    ignore_calibration: bool = False
    """Estimate the cameras from the images even if a calibration lies beside them."""
    sync: Literal["auto", "audio", "motion", "none"] = "auto"
    """How to find each camera's start time; auto uses audio if every camera has it, else motion."""
    offsets: Several[str] = ()
    """Known start times, CAMERA=SECONDS for every camera; replaces --sync."""
    fps: Unset[float] = None
    """Frame rate of image folders (30 by default), or of videos whose stated rate is wrong."""
    keep_lens: bool = False
    """Do not rewrite videos with lens distortion; they are undistorted each time the scene is loaded."""
    exact_times: bool = False
    """Give each frame its own capture time instead of the time of its shared instant."""
    instants: int = 8
    """Number of instants used to estimate cameras and points."""
    thorough: bool = False
    """Extract more features and register cameras with little overlap: slower, with the same consistency checks."""
    masks: Unset[str] = None
    """Write foreground masks: 'background' subtracts each camera's static background; or a folder with CAMERA/*.png."""
    no_points: bool = False
    """Skip triangulating sparse points; a given calibration is then not checked against the images either."""
    seed: int = 0
    """Random seed."""

    def run(self) -> None:
        """Prepares, with progress, and prints where the scene and the report are."""
        from ..errors import UserError
        from ..prepare import Options, prepare
        from .console import Progress

        if self.instants < 1:
            raise UserError(f"--instants must be at least 1, got {self.instants}")
        if self.fps is not None and not self.fps > 0:
            raise UserError(f"--fps must be positive, got {self.fps:g}")
        options = Options(
            calibration=self.calibration,
            use_calibration=not self.ignore_calibration,
            sync=self.sync,
            offsets=dict(_offset(text) for text in self.offsets),
            fps=self.fps,
            keep_lens=self.keep_lens,
            exact_times=self.exact_times,
            instants=self.instants,
            thorough=self.thorough,
            masks=self.masks,
            points=not self.no_points,
            seed=self.seed,
        )
        bars: dict[str, Progress] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = Progress(stage, total).__enter__()
            bars[stage].update(done)
            if done >= total:
                bars.pop(stage).__exit__()

        try:
            found = prepare(self.source, self.out, options, say=print, progress=progress)
        finally:
            for bar in bars.values():
                bar.__exit__()
        for advice in found.advice:
            print(f"advice: {advice}")
        print(f"report {self.out / 'report.md'}")
        print(f"next   gaussian4d fit {self.out} --out runs/{self.out.name}")


def _offset(text: str) -> tuple[str, float]:
    from ..errors import UserError

    name, equals, seconds = text.partition("=")
    try:
        if not (name and equals):
            raise ValueError
        return name, float(seconds)
    except ValueError:
        raise UserError(
            f"--offsets takes CAMERA=SECONDS, got {text!r}; for example --offsets cam1=0 cam2=0.35"
        ) from None
