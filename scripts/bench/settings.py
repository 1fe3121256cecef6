"""A short fit with given settings, measured on training pictures that were held out: for choosing settings.

    OMP_NUM_THREADS=1 python scripts/bench/settings.py SCENE --motion M --steps N --downscale F [--frames A:B]
        [--cameras ID ...] [--settings JSON] [--rates JSON]

`--cameras` holds out all pictures of those training cameras; without it every eighth training picture is held out. The
scene's own test pictures are not looked at. `--settings` are settings of the fit by path, `--rates` the first and last
learning rate of columns of the motion model. Prints one line of JSON; `ms` are milliseconds of CPU time per step.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from gaussian4d import fit
from gaussian4d.evaluation import evaluate
from gaussian4d.fitting.trainer import Trainer
from gaussian4d.motion import MOTIONS
from gaussian4d.scene import Scene, load_scene

SMALL = {"max_gaussians": 5000, "init_points": 3000, "resolutions": ((0.0, 1.0),), "checkpoint_every": 10**6}


def hold_out(scene: Scene, cameras: list[str]) -> None:
    """Makes test pictures of the training pictures of `cameras`, or of every eighth one; drops the present ones."""
    for frame in scene.frames("test"):
        frame.split = "val"
    for index, frame in enumerate(scene.frames("train")):
        if frame.camera_id in cameras if cameras else index % 8 == 4:
            frame.split = "test"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--motion", default="free-time")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--downscale", type=float, default=4.0)
    parser.add_argument("--frames")
    parser.add_argument("--cameras", nargs="*", default=[])
    parser.add_argument("--settings", type=json.loads, default={})
    parser.add_argument("--rates", type=json.loads, default={})
    args = parser.parse_args()

    scene = load_scene(args.scene, downscale=args.downscale, frames=args.frames)
    hold_out(scene, args.cameras)
    model = MOTIONS.get(args.motion)
    usual, rates = model.learning_rates, {name: tuple(pair) for name, pair in args.rates.items()}
    model.learning_rates = lambda self: {**usual(self), **rates}
    clock: dict[str, float] = {}

    def note(trainer: Trainer, event: str) -> None:
        if event in ("start", "end"):
            clock[event] = time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        settings = {**SMALL, **args.settings, "max_steps": args.steps, "evaluate": False, "callbacks": [note]}
        fit(scene, "balanced", out, motion=args.motion, **settings)
        metrics = evaluate(out, scene=scene)
    kept = ("psnr", "psnr_foreground", "psnr_moving", "ssim", "num_gaussians")
    figures = {name: metrics[name] and round(metrics[name], 4) for name in kept}
    print(json.dumps({**figures, "ms": round(1000 * (clock["end"] - clock["start"]) / args.steps, 1)}))


if __name__ == "__main__":
    main()
