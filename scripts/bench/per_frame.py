"""How much longer separate fits of every instant take than one fit of the moving scene, at equal quality.

    python scripts/bench/per_frame.py SCENE --out DIR [--motion free-time] [--minutes 10]

Both are fitted several times, each time with twice the steps, so that each has a curve of quality over time: a fit cut
short is not the same as a shorter fit, whose schedules end with it. The ratio is that of the times at the highest PSNR
that both curves reach, interpolated between fits (PSNR over the logarithm of time). The per-frame curve ends when it
reaches the best of the other, or when all its fits together have taken the budget.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

from gaussian4d import fit
from gaussian4d.errors import UserError
from gaussian4d.evaluation import evaluate
from gaussian4d.files import write_json
from gaussian4d.scene import Scene, load_scene


@dataclasses.dataclass
class Point:
    """One fit."""

    motion: str
    steps: int
    seconds: float
    """Of fitting, the search for the first points included, evaluation not."""
    cpu_seconds: float
    """The same in processor time of all threads, which other programs on the machine disturb less."""
    psnr: float
    psnr_moving: float | None
    gaussians: int
    megabytes: float


def main() -> None:
    """Fits both models, prints every fit and the ratio, and writes them to DIR/per_frame.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for all runs; must not hold earlier ones")
    parser.add_argument("--motion", default=None, help="the other model; default: what the preset chooses")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--steps", type=int, default=2000, help="of the longest fit of the other model")
    parser.add_argument("--first", type=int, default=25, help="steps per instant of the shortest per-frame fit")
    parser.add_argument("--minutes", type=float, default=10.0, help="budget of all per-frame fits together")
    parser.add_argument("--downscale", type=float, default=None)
    parser.add_argument("--warm-start", action="store_true", help="start each instant from the one before")
    args = parser.parse_args()
    if args.out.exists() and any(args.out.iterdir()):
        raise UserError(f"{args.out} already holds something; name a new folder")
    scene = load_scene(args.scene, downscale=args.downscale)
    instants = len({frame.time for frame in scene.frames("train")})

    others = [run(scene, args.out, args.preset, args.motion, max(args.steps // share, 1), {}) for share in (8, 4, 2, 1)]
    target = max(point.psnr for point in others)
    settings = {"motion_config": {"warm_start": True}} if args.warm_start else {}
    separate: list[Point] = []
    steps = args.first * instants
    while not separate or (separate[-1].psnr < target and sum(p.seconds for p in separate) < 60.0 * args.minutes):
        separate.append(run(scene, args.out, args.preset, "per-frame", steps, settings))
        steps *= 2

    lines = summary(separate, others)
    print("\n".join(["", *lines]))
    write_json(
        args.out / "per_frame.json",
        {
            "scene": str(args.scene),
            "instants": instants,
            "train_pictures": len(scene.frames("train")),
            "fits": [dataclasses.asdict(point) for point in [*others, *separate]],
            "summary": lines,
        },
    )


def run(scene: Scene, out: Path, preset: str, motion: str | None, steps: int, settings: dict) -> Point:
    """Returns the figures of one fit, evaluated on the frames held out."""
    folder = out / f"{motion or 'preset'}_{steps}"
    began = time.process_time()
    result = fit(scene, preset, folder, motion=motion, max_steps=steps, evaluate=False, **settings)
    cpu_seconds = time.process_time() - began
    if result.interrupted:
        raise KeyboardInterrupt
    metrics = evaluate(folder, scene)
    point = Point(
        motion=result.model.motion.name,
        steps=steps,
        seconds=metrics["fit_seconds"],
        cpu_seconds=cpu_seconds,
        psnr=metrics["psnr"],
        psnr_moving=metrics["psnr_moving"],
        gaussians=len(result.model),
        megabytes=(folder / "model.g4d").stat().st_size / 1e6,
    )
    print(row(point), flush=True)
    return point


def row(point: Point) -> str:
    """Returns a fit as a line of a table."""
    moving = "-" if point.psnr_moving is None else f"{point.psnr_moving:.2f}"
    return (
        f"{point.motion:12} {point.steps:6} steps {point.seconds:7.1f} s {point.cpu_seconds:7.1f} CPU s"
        f"  PSNR {point.psnr:5.2f} dB  moving {moving:>5} dB  {point.gaussians:8,} Gaussians {point.megabytes:7.2f} MB"
    )


def summary(separate: Sequence[Point], others: Sequence[Point]) -> list[str]:
    """Returns the table and the ratio at equal PSNR, or why there is none."""
    lines = [row(point) for point in [*others, *separate]]
    common = min(max(point.psnr for point in curve) for curve in (separate, others))
    for clock, unit in (("seconds", "s"), ("cpu_seconds", "CPU s")):
        slow, fast = (seconds_at(curve, common, clock) for curve in (separate, others))
        if slow is None or fast is None:
            name = separate[0].motion if slow is None else others[0].motion
            lines.append(f"no ratio: even the first {name} fit is better than {common:.2f} dB; begin with fewer steps")
            return lines
        lines.append(
            f"at {common:.2f} dB, full frame: {separate[0].motion} {slow:.1f} {unit}, {others[0].motion}"
            f" {fast:.1f} {unit}, ratio {slow / fast:.2f}"
        )
    best = max(point.psnr for point in others)
    if max(point.psnr for point in separate) < best:
        lines.append(
            f"{separate[0].motion} did not reach the {best:.2f} dB of {others[0].motion} in"
            f" {max(point.seconds for point in separate):.1f} s; the ratio is taken where its own best lies"
        )
    return lines


def seconds_at(curve: Sequence[Point], psnr: float, clock: str) -> float | None:
    """Returns when the curve first reaches `psnr` by the field `clock`; None when even its first fit is beyond it."""
    before: Point | None = None
    for point in sorted(curve, key=lambda point: point.steps):
        now = getattr(point, clock)
        if point.psnr >= psnr:
            if before is None:
                return now if point.psnr == psnr else None
            share = (psnr - before.psnr) / (point.psnr - before.psnr)
            earlier = getattr(before, clock)
            return math.exp(math.log(earlier) + share * math.log(now / earlier))
        before = point
    return None


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; the fits so far stay") from None
