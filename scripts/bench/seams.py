"""Whether a clip fitted in windows plays through its seams: quality and jumps there beside everywhere else.

    python scripts/bench/seams.py SCENE --out DIR [--window 20] [--steps N] [--whole]

Figures are of the cameras held out, at their own instants. With the windows' instants [start, stop):

seam         the instants that two neighbouring windows share, where one fades into the other
middles      the middle third of both windows' instants
dip          mean PSNR over the middles of a seam's two windows, less mean PSNR over the seam's instants, in dB;
             PSNR per picture, mean over cameras
jump         mean absolute difference (0..1, all pixels and channels) between the pictures of one camera at successive
             instants; "seam": pairs of which at least one instant is in a seam; "elsewhere": all others. A seam that
             jumps has a larger jump than the recorded pictures have at the same pairs, compared with elsewhere.

PSNR also follows what is in the pictures: `--whole` fits the clip as one besides, in as many steps, and prints its dip
at the same instants.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gaussian4d import fit
from gaussian4d.errors import UserError
from gaussian4d.files import write_json
from gaussian4d.fitting.windows import Plan
from gaussian4d.metrics import psnr
from gaussian4d.model import DynamicGaussians
from gaussian4d.rendering import render
from gaussian4d.scene import Frame, Scene, load_scene


def main() -> None:
    """Fits, measures, prints the figures and writes them to DIR/seams.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs; fits in it are gone on with")
    parser.add_argument("--window", default="20")
    parser.add_argument("--overlap", default=None)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--motion", default=None)
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--steps", type=int, default=None, help="of all windows together")
    parser.add_argument("--minutes", type=float, default=None, help="of all windows together")
    parser.add_argument("--downscale", type=float, default=None)
    parser.add_argument("--whole", action="store_true", help="fit the clip as one, too")
    args = parser.parse_args()
    scene = load_scene(args.scene, downscale=args.downscale)
    if not scene.frames("test"):
        raise UserError(f"{args.scene} holds no frames out; seams are measured on unseen cameras")
    limits = {"max_steps": args.steps, "max_minutes": args.minutes, "motion": args.motion}
    runs = {"windows": {"window": args.window, "overlap": args.overlap, "jobs": args.jobs}}
    if args.whole:
        runs["whole"] = {"window": "none"}
    figures: dict[str, Any] = {"scene": str(args.scene), "runs": {}}
    plan: Plan | None = None
    for name, settings in runs.items():
        folder = args.out / name
        resume = (folder / "config.json").exists()
        result = fit(scene, args.preset, folder, resume=resume, evaluate=False, **limits, **settings)
        if result.interrupted:
            raise KeyboardInterrupt
        plan = plan or Plan.load(folder, scene)
        if plan is None:
            raise UserError(f"{args.scene} fits one window of {args.window}; choose a shorter one")
        figures["runs"][name] = measured = measure(result.model, scene, plan)
        limits["max_steps"] = result.model.meta["fit"]["steps"] if args.minutes is None else None
        print("\n".join(lines(name, measured, result.model)), flush=True)
    assert plan is not None
    figures["windows"] = plan.windows
    write_json(args.out / "seams.json", figures)


@torch.no_grad()
def measure(model: DynamicGaussians, scene: Scene, plan: Plan) -> dict[str, Any]:
    """Returns PSNR per instant and the dips and jumps (see the module) of a model of the whole clip."""
    by_instant: dict[int, list[float]] = {}
    jumps: dict[str, dict[int, list[float]]] = {"rendered": {}, "true": {}}
    for frames in by_camera(scene.frames("test")).values():
        before: tuple[int, torch.Tensor, torch.Tensor] | None = None
        for frame in frames:
            image = render(model, frame.camera, frame.time).rgb
            assert image is not None
            image, truth = image.clamp(0.0, 1.0), true_picture(frame, model)
            value = psnr(image, truth)
            assert value is not None
            by_instant.setdefault(frame.time_index, []).append(value)
            if before is not None and before[0] == frame.time_index - 1:
                pair = frame.time_index
                jumps["rendered"].setdefault(pair, []).append(float((image - before[1]).abs().mean()))
                jumps["true"].setdefault(pair, []).append(float((truth - before[2]).abs().mean()))
            before = (frame.time_index, image, truth)
    curve = {k: float(np.mean(values)) for k, values in sorted(by_instant.items())}
    shared = [range(plan.windows[k + 1][0], plan.windows[k][1]) for k in range(len(plan.windows) - 1)]
    in_seam = {k for seam in shared for k in seam}
    seams = []
    for k, seam in enumerate(shared):
        middle = [*middle_third(plan.windows[k]), *middle_third(plan.windows[k + 1])]
        inside = [curve[i] for i in seam if i in curve]
        around = [curve[i] for i in middle if i in curve]
        seams.append(
            {
                "instants": [seam.start, seam.stop],
                "psnr_seam": float(np.mean(inside)),
                "psnr_lowest": min(inside),
                "psnr_middles": float(np.mean(around)),
                "dip": float(np.mean(around) - np.mean(inside)),
            }
        )
    summary = {}
    for kind, pairs in jumps.items():
        near = [float(np.mean(values)) for pair, values in pairs.items() if {pair - 1, pair} & in_seam]
        far = [float(np.mean(values)) for pair, values in pairs.items() if not {pair - 1, pair} & in_seam]
        summary[kind] = {
            "seam": float(np.mean(near)),
            "seam_largest": max(near),
            "elsewhere": float(np.mean(far)),
            "elsewhere_largest": max(far),
        }
    return {"psnr": curve, "seams": seams, "jumps": summary, "mean": float(np.mean(list(curve.values())))}


def by_camera(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    """Returns the frames of each camera in order of time."""
    grouped: dict[str, list[Frame]] = {}
    for frame in sorted(frames, key=lambda frame: frame.time):
        grouped.setdefault(frame.camera_id, []).append(frame)
    return grouped


def middle_third(window: tuple[int, int]) -> range:
    """Returns the instants in the middle third of a window."""
    third = (window[1] - window[0]) // 3
    return range(window[0] + third, window[1] - third)


def true_picture(frame: Frame, model: DynamicGaussians) -> torch.Tensor:
    """Returns the recorded picture in 0..1, over the model's background where it has alpha."""
    pixels = torch.from_numpy(frame.image.astype(np.float32)) / 255.0
    if pixels.shape[-1] == 3:
        return pixels
    behind = torch.zeros(3) if model.background is None else model.background
    return torch.lerp(behind.expand(*pixels.shape[:2], 3), pixels[..., :3], pixels[..., 3:])


def lines(name: str, figures: dict[str, Any], model: DynamicGaussians) -> list[str]:
    """Returns the figures as text."""
    fitted = model.meta["fit"]
    text = [
        f"{name}: {fitted['steps']} steps, {fitted['seconds']:.0f} s, {len(model):,} Gaussians,"
        f" mean PSNR {figures['mean']:.2f} dB",
        "PSNR per instant: " + " ".join(f"{k}:{value:.2f}" for k, value in figures["psnr"].items()),
    ]
    for seam in figures["seams"]:
        text.append(
            f"seam of instants {seam['instants'][0]} to {seam['instants'][1] - 1}: {seam['psnr_seam']:.2f} dB (lowest"
            f" {seam['psnr_lowest']:.2f}), middles {seam['psnr_middles']:.2f} dB, dip {seam['dip']:+.2f} dB"
        )
    for kind, jump in figures["jumps"].items():
        text.append(
            f"jump, {kind:8}: seam {jump['seam']:.5f} (largest {jump['seam_largest']:.5f}), elsewhere"
            f" {jump['elsewhere']:.5f} (largest {jump['elsewhere_largest']:.5f})"
        )
    return text


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the fits so far stay and are gone on with") from None
