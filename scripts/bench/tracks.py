"""How far points followed through a fitted model end up from the true tracks that lie with its scene.

    python scripts/bench/tracks.py RUN [SCENE]

All true points of an instant are handed to `gaussian4d.track_points` and followed through the clip: those of the first
instant forwards, those of the middle one both ways. Errors are shares of the object's size, the diagonal of the box
around the true points at the first instant. Beside them stands the error of points that stay where they were. Writes
RUN/eval/tracks.json and RUN/eval/tracks.png, a few tracks over a held-out view: coloured followed, black true.
"""

from __future__ import annotations

import argparse
import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from gaussian4d.bench.track_errors import TrackErrors, load_true_tracks, object_size, track_errors
from gaussian4d.cameras import Camera
from gaussian4d.cli.opened import open_model
from gaussian4d.errors import UserError
from gaussian4d.files import atomic_write, write_json
from gaussian4d.rendering import render
from gaussian4d.scene import load_scene

SHOWN = 24
ENLARGED = 3


def main() -> None:
    """Prints a table per start and writes the figures and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("scene", type=Path, nargs="?", help="default: the scene the run names")
    args = parser.parse_args()
    opened = open_model(args.run)
    scene = opened.scene if args.scene is None else load_scene(args.scene)
    if scene is None:
        raise UserError(f"{args.run} names no scene that can be read; give SCENE")
    truth = load_true_tracks(scene.path)
    if truth is None:
        raise UserError(f"{scene.path} has no true tracks (gt_tracks.npz), so there is nothing to compare with")
    size = object_size(truth)
    starts = [track_errors(opened.model, truth, scene.times, start) for start in (0, len(truth) // 2)]
    for errors in starts:
        print("\n".join(table(errors, scene.times, opened.model.motion.name, size, truth.shape[1])))
    out = args.run / "eval" if args.run.is_dir() else args.run.parent
    write_json(out / "tracks.json", {"size": size, "points": truth.shape[1], "starts": [e.to_dict() for e in starts]})
    cameras = list({frame.camera_id: frame.camera for frame in scene.frames("test")}.values())
    if cameras:
        behind = opened.background
        middle = float(scene.times[len(scene.times) // 2])
        picture = render(opened.model, cameras[0], middle, background=behind).rgb
        assert picture is not None
        with atomic_write(out / "tracks.png") as path:
            drawn(picture.clamp(0, 1).numpy(), cameras[0], starts[0].tracks, truth).save(path)
        print(f"picture  {out / 'tracks.png'}")


def table(errors: TrackErrors, times: np.ndarray, motion: str, size: float, points: int) -> list[str]:
    """Returns the errors as lines."""
    s = errors.summary
    lines = [
        f"{motion}: {points} points of instant {errors.start}, errors in % of the object's size ({size:.3f} units)",
        " instant   time  median  90 %   still, median",
    ]
    rows = zip(times, errors.median, errors.percentile_90, errors.still)
    lines += [
        f"{k:8}  {time:5.3f}  {100 * median:6.2f}  {100 * high:5.2f}  {100 * still:14.2f}"
        for k, (time, median, high, still) in enumerate(rows)
    ]
    lines.append(
        f"all other instants: median {100 * s['median']:.2f}, 90 % {100 * s['percentile_90']:.2f};"
        f" points that stay: {100 * s['still_median']:.2f}, {100 * s['still_percentile_90']:.2f}"
    )
    return lines


def drawn(rgb: np.ndarray, camera: Camera, tracks: np.ndarray, truth: np.ndarray) -> Image.Image:
    """Returns the picture [H, W, 3] in 0..1, paler and enlarged, with tracks: followed in colour, true in black."""
    pale = Image.fromarray(((0.5 + 0.5 * rgb) * 255).astype(np.uint8))
    picture = pale.resize((camera.width * ENLARGED, camera.height * ENLARGED), Image.Resampling.LANCZOS)
    pen = ImageDraw.Draw(picture)
    # The points that move most are the ones that show something; among them, evenly chosen.
    path = np.linalg.norm(np.diff(truth, axis=0), axis=-1).sum(axis=0)
    chosen = np.argsort(path)[np.linspace(len(path) // 2, len(path) - 1, SHOWN).astype(int)]
    for order, point in enumerate(chosen):
        color = tuple(int(255 * c) for c in colorsys.hsv_to_rgb(order / len(chosen), 1.0, 0.85))
        for xyz, ink, width in ((truth, (0, 0, 0), 1), (tracks, color, 2)):
            pixels = projected(camera, xyz[:, point]) * ENLARGED
            pen.line([tuple(p) for p in pixels], fill=ink, width=width)
        x, y = pixels[0]
        pen.ellipse((x - 4, y - 4, x + 4, y + 4), outline=color, width=2)
    return picture


def projected(camera: Camera, world: np.ndarray) -> np.ndarray:
    """Returns pixel coordinates [N, 2] of world points [N, 3]."""
    p = (world @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]) @ camera.K.T
    return p[:, :2] / p[:, 2:]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
