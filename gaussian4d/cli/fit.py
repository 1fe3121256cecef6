"""`gaussian4d fit`: reconstruct a moving scene."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, UseAppendAction, arg

from ..plugins import FIT_STAGES, METRICS, MOTIONS, STRATEGIES, backend_choices
from .choices import Several, Unset, choices

if TYPE_CHECKING:
    from ..fitting.hooks import FitHook
    from ..reconstruction import FitResult
    from ..scene import Scene

if TYPE_CHECKING:
    Backend = MotionName = StrategyName = StageName = MetricName = str
else:
    Backend = Literal[("auto", *backend_choices())]
    MotionName, StrategyName = choices(MOTIONS), choices(STRATEGIES)
    StageName, MetricName = choices(FIT_STAGES), choices(METRICS)

# What is best after a first look is no longer best after this time: more Gaussians, other motion models.
_BALANCED_MINUTES = 4.0


@dataclasses.dataclass
class Fit:
    """Reconstruct a dynamic scene from its videos or images, then evaluate it on the held-out views."""

    WRITES: ClassVar[dict[str, bool | None]] = {"out": True}
    EXAMPLES: ClassVar[str] = """
        gaussian4d fit data/fox --out runs/fox
        gaussian4d fit data/fox --out runs/fox --max-minutes 10
        gaussian4d fit --out runs/fox --resume             (if the scene was moved: fit data/fox --out ...)
        gaussian4d fit data/fox --out runs/fox --view
        gaussian4d fit data/fox --out runs/b --set densify.grad=2e-4 --set loss.rigidity=0.1
        gaussian4d fit data/dome --out runs/still --motion static --frames 0:1:1 --downscale 2
        gaussian4d fit data/dance --out runs/dance --window 50 --overlap 6 --jobs 2
        torchrun --nproc-per-node 4 -m gaussian4d fit data/dome --out runs/dome
    """

    scene: Positional[Unset[Path]] = None
    """Scene folder; its format is detected. Optional with --resume, unless the scene was moved."""
    out: Path = dataclasses.field(kw_only=True)
    """Run folder to write."""
    preset: Unset[Literal["quick", "balanced", "best"]] = None
    """Minutes of fitting: one or two, about ten, over sixty. Default: quick; balanced from --max-minutes 4 on."""
    motion: Unset[MotionName] = None
    """Motion model; per-frame fits every instant on its own. Default: chosen by the preset for this scene."""
    strategy: Unset[StrategyName] = None
    """Densification strategy: how Gaussians are added and removed. Default: densify."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="PATH=VALUE")] = ()
    """Override any setting, such as densify.grad=2e-4 or a loss weight, loss.NAME=0.1; docs/settings.md lists all."""
    config: Unset[Path] = None
    """JSON file of settings, or the config.json of another run; --set and the other flags override it."""
    stages: Several[StageName] = ()
    """Stages to run after training; a stage may add frames and continue the training."""
    metrics: Several[MetricName] = ()
    """Further metrics to report besides the usual ones."""
    max_steps: Unset[int] = None
    """Stop after this many steps."""
    max_minutes: Unset[float] = None
    """Stop after this many minutes of fitting. A run limited by time is not reproducible bit for bit."""
    batch: Unset[int] = None
    """Images per training step. Default: one per process started by torchrun."""
    seed: int = 0
    """Random seed."""
    resume: bool = False
    """Resume from the last checkpoint in the run folder."""
    device: str = "auto"
    """Device to fit on: auto takes a GPU if a backend works on it, else cpu; or cuda, cuda:1, ..."""
    backend: Backend = "auto"
    """Rasterizer backend; `gaussian4d doctor` shows which ones work here."""
    downscale: Unset[float] = None
    """Fit to images downscaled by this factor. Default: depends on the format (docs/formats.md)."""
    frames: Unset[str] = None
    """Use only these instants: START:STOP:STEP, a Python slice such as 0:100:2."""
    skip_missing: bool = False
    """Leave out frames whose image files are missing instead of stopping; eval and render then do so too."""
    cache_mb: int = 1024
    """Memory for decoded frames, in MiB."""
    window: Unset[str] = None
    """Fit in overlapping windows of this many instants (50) or seconds (2s), or none. Default: 50 for long clips."""
    overlap: Unset[str] = None
    """Minimum overlap of windows, in instants (6) or seconds (0.5s). Default: an eighth of a window."""
    jobs: int = 1
    """Windows to fit in parallel, one process each; with 1, static parts change least from window to window."""
    background: Unset[Literal["white", "black", "random", "model"]] = None
    """Background behind the Gaussians; model fits one colour. Default: random if the images have alpha, else model."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep."""
    view: bool = False
    """Watch the fit in the browser: look around, pause, stop and save. Needs `pip install 'gaussian4d[viewer]'`."""

    def run(self) -> int:
        """Fits, and prints where the results lie; returns 130 when it was interrupted."""
        from ..devices import choose_device
        from ..errors import UserError
        from ..run_folder import RunFolder
        from ..scene import load_scene
        from .console import looking_at_files

        settings = self._settings()
        # Refused before the scene is read, which may take minutes.
        choose_device(self.device, self.backend)
        run = RunFolder(self.out) if RunFolder(self.out).exists else None
        if self.resume and run is not None:
            # So is a run that needs a package which is not here: that package may read the scene, too.
            run.config()
        hooks = [_view_hook()] if self.view else []
        asked: dict[str, Any] = {"downscale": self.downscale, "frames": self.frames}
        asked["skip_missing"] = self.skip_missing or None
        if self.resume and run is not None:
            # As the run began; who asks for another size or other frames is told that they are not those of the run.
            given = {name: value for name, value in asked.items() if value is not None}
            scene = run.scene(self.scene, **given, cache_mb=self.cache_mb)
        elif self.scene is None:
            raise UserError("no scene given; expected a scene folder, or --resume with the --out of a run")
        else:
            given = {name: value for name, value in asked.items() if value is not None}
            with looking_at_files():
                scene = load_scene(self.scene, **given, cache_mb=self.cache_mb)
        try:
            code = self._fit(scene, hooks, settings)
            if self.view and sys.stdin.isatty():
                # Without a terminal nobody could end it.
                hooks[0].wait()  # type: ignore[attr-defined]
            return code
        finally:
            for hook in hooks:
                hook.close()  # type: ignore[attr-defined]

    def _fit(self, scene: Scene, hooks: list[FitHook], settings: dict[str, Any]) -> int:
        from ..reconstruction import fit

        result = fit(
            scene,
            preset=self.preset or ("balanced" if (self.max_minutes or 0.0) >= _BALANCED_MINUTES else "quick"),
            out=self.out,
            motion=self.motion,
            max_steps=self.max_steps,
            max_minutes=self.max_minutes,
            batch=self.batch,
            seed=self.seed,
            resume=self.resume,
            device=None if self.device == "auto" else self.device,
            backend=self.backend,
            background=self.background,
            keep_checkpoints=self.keep_checkpoints,
            window=self.window,
            overlap=self.overlap,
            jobs=self.jobs,
            callbacks=hooks,
            strategy=self.strategy,
            metrics=self.metrics,
            stages=self.stages,
            settings=settings,
        )
        return self._conclude(result)

    def _settings(self) -> dict[str, Any]:
        """Returns the settings of --config and --set by path."""
        from ..fitting.settings import parsed, settings_of_file

        given = {} if self.config is None else settings_of_file(self.config)
        said = {
            "motion": self.motion,
            "max_steps": self.max_steps,
            "max_minutes": self.max_minutes,
            "batch": self.batch,
            "background": self.background,
            "densify.strategy": self.strategy,
            "preset": self.preset,
            "seed": self.seed or None,
        }
        given = {path: value for path, value in given.items() if said.get(path) is None}
        return {**given, **dict(parsed(text) for text in self.set)}

    def _conclude(self, result: FitResult) -> int:
        """Prints where the results lie; returns the exit code."""
        if result.interrupted:
            return 130
        if not result.leads:
            return 0
        print(f"model    {result.path / 'model.g4d'}")
        if result.metrics is not None:
            print(f"figures  {result.path / 'eval' / 'metrics.json'}")
        print(f"report   {result.path / 'report.html'}")
        print(f"next     gaussian4d view {self.out}")
        print(f"         gaussian4d render {self.out} --out {self.out / 'renders' / 'orbit.mp4'}")
        return 0


def _view_hook() -> FitHook:
    """Returns the hook of the viewer; says what to install when it is not there."""
    from ..fitting.hooks import load_hook
    from ..optional import require

    require("viser")
    return load_hook("view")


def check_backend(name: str) -> None:
    """Raises `UserError` with the reason when the rasterizer asked for cannot run on this machine."""
    from diff_rasterizer import available_backends

    from ..errors import UserError

    reason = available_backends().get(name, "")
    if reason:
        raise UserError(f"--backend {name} cannot be used here: {reason}; --backend auto picks the fastest that works")
