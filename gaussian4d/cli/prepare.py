"""`gaussian4d prepare`: raw videos become a scene."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro
from tyro.conf import Positional


@dataclasses.dataclass
class Prepare:
    """Synchronise, calibrate or solve, and undistort raw videos: one scene folder that `fit` takes, and a report."""

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
    """Folder with one video (or one folder of pictures) per camera, or one video of a moving camera."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Scene folder to write; one that was interrupted is continued."""
    calibration: Path | None = None
    """Calibration file or folder (poses and lenses, or lenses only); by default one beside the videos is used."""
    ignore_calibration: bool = False
    """Solve the cameras from the pictures although a calibration lies beside them."""
    sync: Literal["auto", "audio", "motion", "none"] = "auto"
    """How to find when each camera started; auto: by sound where all cameras have it, else by motion."""
    offsets: tuple[str, ...] = ()
    """CAMERA=SECONDS for every camera: when each started, if you know."""
    fps: float | None = None
    """Frame rate of picture folders (30 by default), or of videos that state a wrong one."""
    keep_lens: bool = False
    """Keep videos of bent lenses as they are; they are undistorted whenever the scene is read."""
    exact_times: bool = False
    """Give each frame the time it was taken at instead of its instant's."""
    instants: int = 8
    """Instants looked at for cameras and points."""
    thorough: bool = False
    """Seek more features and place cameras that share little: slower; the result is doubted as much."""
    masks: str | None = None
    """Write foreground masks: 'background' subtracts each camera's usual picture; or a folder with CAMERA/*.png."""
    no_points: bool = False
    """Do not triangulate sparse points; with a calibration, it is not checked against the pictures either."""
    seed: int = 0
    """Of everything random."""

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
