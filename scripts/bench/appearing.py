"""Whether a fit leaves a ghost where an object appears half-way: fits a toy world and compares errors before.

    python scripts/bench/appearing.py --out DIR [--motions free-time spacetime ...] [--preset quick] [--minutes M]

The world is `make_world(SEED)` with one part there only from clip time 0.5 on: 10 training cameras, 3 held-out ones,
24 instants, subject cut out. Measured on the held-out cameras, at every instant before the part appears (0 to 11; the
first at which it is there is 12):

    inside    the pixels in which the camera sees the part at instant 12
    around    the ring of pixels outside of these, as wide as 5 % of the picture
    ratio     mean error inside / mean error around, over all pixels, cameras and those instants, over white

for absolute and squared errors, and once more at instant 11 alone, where a window in time that opens too early shows
most. A ratio of at most 1.5 counts as no ghost. DIR/MOTION are run folders; those that are there are not fitted again.
DIR/appearing.json holds the figures, DIR/appearing.png a row per motion of the first held-out camera at instants 0, 8,
11 and 12, under a row of the truth.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from gaussian4d.bench.ghosts import measure_ghosts, true_picture
from gaussian4d.bench.variants import VARIANTS, check_variants, fit_once
from gaussian4d.conventions import frame_times
from gaussian4d.doctor import processor_name
from gaussian4d.errors import UserError
from gaussian4d.files import atomic_write, write_json
from gaussian4d.io.pictures import contact_sheet
from gaussian4d.rendering import render
from gaussian4d.scene import load_scene
from gaussian4d.toys import ToyWorld, make_world, ring_cameras, write_scene

MOTIONS = ["free-time", "spacetime", "dual-domain-temporal", "dual-domain"]
INSTANTS, TRAIN, TEST = 24, 10, 3
APPEARS = 0.5
LIMIT = 1.5


def main() -> None:
    """Fits, measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the scene and all runs")
    parser.add_argument("--motions", nargs="+", default=MOTIONS, help=f"of {' '.join(VARIANTS)}")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--steps", type=int, default=None, help="default: the preset's")
    parser.add_argument("--minutes", type=float, default=None, help="time limit of each fit instead of its steps")
    parser.add_argument("--size", type=int, default=160, help="width and height of the pictures")
    parser.add_argument("--seed", type=int, default=3, help="of the world")
    parser.add_argument("--part", type=int, default=0, help="which part appears; 0 is the one in the middle")
    args = parser.parse_args()
    motions = check_variants(args.motions)
    world = appearing_world(args.seed, args.part)
    folder = args.out / f"scene_{args.seed}_{args.part}_{args.size}"
    if not folder.exists():
        write_scene(folder, train_cameras=TRAIN, test_cameras=TEST, instants=INSTANTS, width=args.size,
                    height=args.size, world=world)  # fmt: skip
    scene = load_scene(folder)
    times = frame_times(INSTANTS)
    cameras = ring_cameras(TRAIN, TEST, width=args.size, height=args.size)[1]
    ring = max(round(0.05 * args.size), 1)
    shown = [0, 8, 11, 12]
    pictures = [[_pixels(true_picture(world, cameras[0], float(times[k]))) for k in shown]]
    rows: list[dict[str, Any]] = []
    for motion in motions:
        out = args.out / motion
        fitted = fit_once(scene, out, motion, args.preset, max_minutes=args.minutes, max_steps=args.steps)
        before, last = (
            measure_ghosts(fitted.model, world, args.part, cameras, times, width=ring, last_only=only)
            for only in (False, True)
        )
        rows.append(
            {
                "motion": motion,
                "psnr": fitted.metrics["psnr"],
                "ratio_absolute": before.absolute,
                "ratio_squared": before.squared,
                "ratio_absolute_last": last.absolute,
                "ratio_squared_last": last.squared,
                "errors": dataclasses.asdict(before),
                "seconds": fitted.metrics["fit_seconds"],
                "steps": fitted.steps,
            }
        )
        pictures.append([_drawn(fitted.model, cameras[0], float(times[k])) for k in shown])
    print("\n".join(table(rows, world.parts[args.part].name)))
    about = {"processor": processor_name(), "threads": torch.get_num_threads(), "preset": args.preset}
    write_json(args.out / "appearing.json", {**about, "seed": args.seed, "part": args.part, "fits": rows})
    with atomic_write(args.out / "appearing.png") as path:
        Image.fromarray(contact_sheet(pictures)).save(path)
    print(f"pictures {args.out / 'appearing.png'}: truth, then {', '.join(motions)}; instants {shown}")


def appearing_world(seed: int, part: int) -> ToyWorld:
    """Returns the toy world of `seed` with one part that appears half-way."""
    world = make_world(seed, instants=INSTANTS)
    if not 0 <= part < len(world.parts):
        raise UserError(f"the world of seed {seed} has the parts 0 to {len(world.parts) - 1}, got {part}")
    parts = [p.during(APPEARS) if k == part else p for k, p in enumerate(world.parts)]
    return dataclasses.replace(world, parts=tuple(parts))


def table(rows: list[dict[str, Any]], name: str) -> list[str]:
    """Returns the ratios as lines."""
    lines = [
        f"{name} appears at clip time {APPEARS}; error inside the pixels it will cover over error around them",
        "                        all instants before      the last one before",
        "motion                  absolute   squared       absolute   squared     PSNR   fit",
    ]
    for row in rows:
        ghost = "no ghost" if max(row["ratio_absolute"], row["ratio_squared"]) <= LIMIT else "GHOST"
        lines.append(
            f"{row['motion']:22}  {row['ratio_absolute']:8.2f}  {row['ratio_squared']:8.2f}"
            f"       {row['ratio_absolute_last']:8.2f}  {row['ratio_squared_last']:8.2f}"
            f"    {row['psnr']:5.2f} dB  {row['seconds']:.0f} s  {ghost}"
        )
    return lines


def _drawn(model: Any, camera: Any, time: float) -> np.ndarray:
    picture = render(model, camera, time, background=(1.0, 1.0, 1.0)).rgb
    assert picture is not None
    return _pixels(picture.clamp(0.0, 1.0).numpy())


def _pixels(picture: np.ndarray) -> np.ndarray:
    return (picture * 255.0 + 0.5).astype(np.uint8)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; call again with the same arguments to go on") from None
