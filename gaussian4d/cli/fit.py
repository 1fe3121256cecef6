"""`gaussian4d fit`: reconstruct a moving scene."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from tyro.conf import Positional, UseAppendAction, arg

from ..plugins import FIT_STAGES, METRICS, MOTIONS, STRATEGIES, backend_choices
from .choices import choices

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
    """Reconstruct a moving scene from its videos or pictures, then evaluate it on what was held out."""

    WRITES: ClassVar[dict[str, bool | None]] = {"out": True}
    EXAMPLES: ClassVar[str] = """
        gaussian4d fit data/fox --out runs/fox
        gaussian4d fit data/fox --out runs/fox --max-minutes 10
        gaussian4d fit --out runs/fox --resume             (or data/fox in front, where the scene was moved)
        gaussian4d fit data/fox --out runs/fox --view
        gaussian4d fit data/fox --out runs/b --set densify.grad=2e-4 --set loss.rigidity=0.1
        gaussian4d fit data/dome --out runs/still --motion static --frames 0:1:1 --downscale 2
        gaussian4d fit data/dance --out runs/dance --window 50 --overlap 6 --jobs 2
        torchrun --nproc-per-node 4 -m gaussian4d fit data/dome --out runs/dome
    """

    scene: Positional[Path | None] = None
    """Folder of the scene; its format is recognised. May be left out with --resume, or say where the scene is now."""
    out: Path = dataclasses.field(kw_only=True)
    """Run folder to write."""
    preset: Literal["quick", "balanced", "best"] | None = None
    """How much effort: a minute or two, about ten minutes, an hour or more. Default: quick, but balanced when
    --max-minutes grants 4 or more."""
    motion: MotionName | None = None
    """How Gaussians move; per-frame fits every instant by itself. Default: what the preset chooses for this scene."""
    strategy: StrategyName | None = None
    """How the number of Gaussians changes. Default: densify."""
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="PATH=VALUE")] = ()
    """Any setting by its path, such as densify.grad=2e-4, optim.factor=0.5 or, for the weight of a term, loss.NAME=0.1;
    once for each. RUN/config.json shows all there are."""
    config: Path | None = None
    """JSON file of settings, or the config.json of another run; --set and the other flags come after it."""
    stages: tuple[StageName, ...] = ()
    """What runs after training and may send it on."""
    metrics: tuple[MetricName, ...] = ()
    """Metrics to take besides the usual figures."""
    max_steps: int | None = None
    """Stop after this many steps."""
    max_minutes: float | None = None
    """Stop after this many minutes of fitting. A run limited by time is not repeatable to the bit."""
    batch: int | None = None
    """Pictures per step. Default: one for each process that torchrun starts."""
    seed: int = 0
    """Start of all random choices."""
    resume: bool = False
    """Go on from the last checkpoint of the run folder."""
    device: str = "auto"
    """Where to fit: auto is a GPU where a backend works there, else cpu; also cuda, cuda:1."""
    backend: Backend = "auto"
    """Rasterizer; `gaussian4d doctor` says which there are."""
    downscale: float | None = None
    """Fit to pictures this many times smaller."""
    frames: str | None = None
    """Use only these instants, START:STOP:STEP as in Python."""
    skip_missing: bool = False
    """Leave out, and count, the frames whose pictures a list names and the folder lacks; the run keeps this."""
    cache_mb: int = 1024
    """Memory for decoded frames."""
    window: str | None = None
    """Fit a long clip as overlapping windows of at most so many instants ("50") or seconds ("2s"); "none": as one.
    Default: windows of 50 where several cameras filmed more than 100 instants."""
    overlap: str | None = None
    """Instants (or seconds) that neighbouring windows share, at least. Default: an eighth of a window."""
    jobs: int = 1
    """Windows to fit at the same time, in processes of their own; one after the other, still things are stillest."""
    background: Literal["white", "black", "random", "model"] | None = None
    """What lies behind the Gaussians. Default: random where the pictures have alpha, else one fitted colour."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep."""
    view: bool = False
    """Show the fit in the browser while it runs: look around, pause, stop and save. Needs the extra viewer."""

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
            raise UserError("which scene? Expected its folder, or --resume with the --out of a run")
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
        raise UserError(f"--backend {name} cannot be used here: {reason}; --backend auto takes the fastest that can")
