"""`gaussian4d fit`: reconstruct a moving scene."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from ..fitting.hooks import FitHook
    from ..reconstruction import FitResult
    from ..scene import Scene

Backend = Literal["auto", "cpu", "cuda", "gsplat", "reference"]

# What is best after a first look is no longer best after this time: more Gaussians, other motion models.
_BALANCED_MINUTES = 4.0


@dataclasses.dataclass
class Fit:
    """Reconstruct a moving scene from its videos or pictures, then evaluate it on what was held out."""

    EXAMPLES: ClassVar[str] = """
        gaussian4d fit data/fox --out runs/fox
        gaussian4d fit data/fox --out runs/fox --max-minutes 10
        gaussian4d fit data/fox --out runs/fox --resume
        gaussian4d fit data/fox --out runs/fox --view
        gaussian4d fit data/dome --out runs/still --motion static --frames 0:1:1 --downscale 2
        gaussian4d fit data/dance --out runs/dance --window 50 --overlap 6 --jobs 2
        torchrun --nproc-per-node 4 -m gaussian4d fit data/dome --out runs/dome
    """

    scene: Positional[Path]
    """Folder of the scene; its format is recognised."""
    out: Path
    """Run folder to write."""
    preset: Literal["quick", "balanced", "best"] | None = None
    """How much effort: a minute or two, about ten minutes, an hour or more. Default: quick, but balanced when
    --max-minutes grants 4 or more."""
    motion: Literal["static", "dual-domain", "free-time", "spacetime", "hexplane", "per-frame"] | None = None
    """How Gaussians move; per-frame fits every instant by itself. Default: what the preset chooses for this scene."""
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
    backend: Backend = "auto"
    """Rasterizer; `gaussian4d doctor` says which there are."""
    downscale: float | None = None
    """Fit to pictures this many times smaller."""
    frames: str | None = None
    """Use only these instants, START:STOP:STEP as in Python."""
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
        from ..scene import load_scene

        check_backend(self.backend)
        hooks = [_view_hook()] if self.view else []
        scene = load_scene(self.scene, downscale=self.downscale, frames=self.frames, cache_mb=self.cache_mb)
        try:
            code = self._fit(scene, hooks)
            if self.view and sys.stdin.isatty():
                # Without a terminal nobody could end it.
                hooks[0].wait()  # type: ignore[attr-defined]
            return code
        finally:
            for hook in hooks:
                hook.close()  # type: ignore[attr-defined]

    def _fit(self, scene: Scene, hooks: list[FitHook]) -> int:
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
            backend=self.backend,
            background=self.background,
            keep_checkpoints=self.keep_checkpoints,
            window=self.window,
            overlap=self.overlap,
            jobs=self.jobs,
            callbacks=hooks,
        )
        return self._conclude(result)

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
