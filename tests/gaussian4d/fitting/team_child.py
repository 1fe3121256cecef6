"""One process of a fit by several, run by the tests: the scene, the run folder, then any of --short, --resume,
--break, --stop.

The settings are chosen so that one densification falls within the fit.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from gaussian4d import fit
from gaussian4d.errors import UserError
from gaussian4d.fitting.loop import Figures
from gaussian4d.fitting.trainer import Trainer
from gaussian4d.scene import load_scene

SETTINGS = {
    "max_steps": 200,
    "init_points": 150,
    "max_gaussians": 260,
    "densify_every": 60,
    "densify_stop": 0.45,
    "densify_grad": 0.0,
    "checkpoint_every": 40,
    "keep_checkpoints": 9,
    "log_every": 5,
    "init_instants": 2,
    "background": "random",
    "exposure": True,
    "resolutions": ((0.0, 1.0),),
}


SHORT = {"max_steps": 40, "checkpoint_every": 10, "densify_every": 12}


class BrokenTrainer(Trainer):
    """Fails in the process of rank 1 after step 15."""

    def take_step(self, progress: float) -> Figures | None:
        if self.step == 15 and self.team.rank == 1:
            raise UserError("frame 3 of camera 2 cannot be read")
        return super().take_step(progress)


def main(scene: Path, out: Path, *flags: str) -> int:
    """Fits the scene; returns the program's exit code as the command line would."""

    def stop(trainer: Trainer, event: str) -> None:
        if "--stop" in flags and event == "after_step" and trainer.step == 25:
            trainer.stop_requested = True

    if "--break" in flags:
        from gaussian4d.fitting import training

        training.Trainer = BrokenTrainer  # type: ignore[misc]
    try:
        result = fit(
            load_scene(scene),
            "quick",
            out,
            motion="free-time",
            batch=2,
            evaluate=False,
            callbacks=[stop],
            resume="--resume" in flags,
            **{**SETTINGS, **(SHORT if "--short" in flags else {})},  # type: ignore[arg-type]
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"rank {os.environ.get('RANK', '0')} leads {result.leads} interrupted {result.interrupted}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
