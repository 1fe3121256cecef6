"""Fits every motion model to scenes with the same time limit and tabulates what came out.

    python scripts/bench/motion_models.py SCENE... --out DIR --minutes M [--motions ...] [--write PAGE.md]

Each fit is `gaussian4d.fit` with its own defaults for that model and scene. A fit that is done is not done again, one
that was interrupted goes on: call the script again with the same arguments. Writes DIR/SCENE/MODEL (run folders),
DIR/motion_models.json and DIR/motion_models.md; `--write` puts the table between the markers of a page.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import torch

from gaussian4d.bench.track_errors import load_true_tracks, track_errors
from gaussian4d.bench.variants import VARIANTS, Fitted, check_variants, fit_once
from gaussian4d.doctor import processor_name
from gaussian4d.errors import UserError
from gaussian4d.files import atomic_write, write_json
from gaussian4d.motion import PerFrame
from gaussian4d.scene import Scene, load_scene

BEGIN, END = "<!-- motion_models: begin -->", "<!-- motion_models: end -->"
COLUMNS = (
    "model", "full frame", "foreground", "moving", "SSIM", "track error", "Gaussians", "MB", "frames/s", "steps",
    "minutes",
)  # fmt: skip


def main() -> None:
    """Fits what is not fitted yet; prints and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, nargs="+", metavar="SCENE")
    parser.add_argument("--out", type=Path, required=True, help="folder of all runs")
    parser.add_argument("--minutes", type=float, required=True, help="time limit of each fit")
    parser.add_argument("--motions", nargs="+", default=list(VARIANTS), help=f"default: {' '.join(VARIANTS)}")
    parser.add_argument("--preset", default="balanced")
    parser.add_argument("--downscale", type=float, default=None)
    parser.add_argument("--write", type=Path, default=None, help="page to put the table into, between its markers")
    args = parser.parse_args()
    motions = check_variants(args.motions)
    if args.write is not None:
        split_page(args.write)
    results, lines = [], []
    for path in args.scenes:
        scene = load_scene(path, downscale=args.downscale)
        name = path.resolve().name
        rows = []
        pictures = len(scene.frames("train")) / max(len({frame.time for frame in scene.frames("train")}), 1)
        for motion in motions:
            if motion == PerFrame.name and pictures < 2.0:
                print(f"== {name}, {motion}: left out, it needs two training pictures of an instant", flush=True)
                continue
            print(f"== {name}, {motion}", flush=True)
            fitted = fit_once(scene, args.out / name / motion, motion, args.preset, max_minutes=args.minutes)
            rows.append(figures(motion, fitted, scene))
        results.append({"scene": name, "models": rows, "baselines": fitted.metrics["baselines"]})
        lines += section(name, rows, fitted.metrics)
    lines = [*lines, *conditions(args)]
    print("\n".join(lines))
    about = {"command": command(args), "processor": processor_name(), "threads": torch.get_num_threads()}
    write_json(args.out / "motion_models.json", {**about, "minutes": args.minutes, "scenes": results})
    text = "\n".join(lines) + "\n"
    with atomic_write(args.out / "motion_models.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    if args.write is not None:
        before, after = split_page(args.write)
        with atomic_write(args.write) as temporary:
            temporary.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def figures(name: str, fitted: Fitted, scene: Scene) -> dict[str, Any]:
    """Returns what is tabulated of one fit; tracks are followed where the scene has true ones."""
    metrics, model = fitted.metrics, fitted.model
    truth = None if isinstance(model.motion, PerFrame) else load_true_tracks(scene.path)
    tracks = None if truth is None else track_errors(model, truth, scene.times)
    keys = ("psnr", "psnr_foreground", "psnr_moving", "ssim", "num_gaussians", "render_fps", "fit_seconds")
    return {
        "model": name,
        **{key: metrics[key] for key in keys},
        "megabytes": fitted.megabytes,
        "steps": fitted.steps,
        "tracks": None if tracks is None else tracks.summary,
    }


def section(name: str, rows: list[dict[str, Any]], metrics: dict[str, Any]) -> list[str]:
    """Returns the table of one scene, the trivial predictions below the models."""
    protocol = metrics["protocol"]
    lines = [f"### {name}", "", f"{len(metrics['views'])} held-out views, {protocol['resolution']}.", ""]
    lines += [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        cells = [
            f"`{row['model']}`",
            *(cell(row[key], 2) for key in ("psnr", "psnr_foreground", "psnr_moving")),
            cell(row["ssim"], 4),
            error_cell(row["tracks"], "median", "percentile_90"),
            f"{row['num_gaussians']:,}",
            cell(row["megabytes"], 2),
            cell(row["render_fps"], 1),
            "" if row["steps"] is None else f"{row['steps']:,}",
            cell(row["fit_seconds"] / 60, 1),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for key, title in (("static", "camera's temporal mean"), ("nearest_view", "nearest training picture")):
        base = metrics["baselines"][key]
        if base is not None:
            cells = [
                title,
                *(cell(base[k], 2) for k in ("psnr", "psnr_foreground", "psnr_moving")),
                cell(base["ssim"], 4),
            ]
            lines.append(f"| {' | '.join([*cells, *[''] * (len(COLUMNS) - len(cells))])} |")
    tracks = next((row["tracks"] for row in rows if row["tracks"] is not None), None)
    if tracks is not None:
        cells = ["points that stay", "", "", "", "", error_cell(tracks, "still_median", "still_percentile_90")]
        lines.append(f"| {' | '.join([*cells, *[''] * (len(COLUMNS) - len(cells))])} |")
    return [*lines, ""]


def conditions(args: argparse.Namespace) -> list[str]:
    """Returns what the figures hold for."""
    threads = torch.get_num_threads()
    return [
        f"Made on {processor_name()}, {os.cpu_count()} cores, {threads} thread{'s' if threads > 1 else ''} per fit, by",
        "",
        f"    {command(args)}",
    ]


def command(args: argparse.Namespace) -> str:
    """Returns the command without the folders of this machine."""
    words = ["python scripts/bench/motion_models.py", *(path.resolve().name for path in args.scenes)]
    words += ["--out runs/motion_models", f"--minutes {args.minutes:g}"]
    if args.motions != list(VARIANTS):
        words.append(f"--motions {' '.join(args.motions)}")
    if args.preset != "balanced":
        words.append(f"--preset {args.preset}")
    if args.downscale is not None:
        words.append(f"--downscale {args.downscale:g}")
    if "OMP_NUM_THREADS" in os.environ:
        words.insert(0, f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}")
    return " ".join(words)


def split_page(path: Path) -> tuple[str, str]:
    """Returns the page before and after its table; raises `UserError` without markers."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise UserError(f"expected a page with {BEGIN} and, after it, {END} in {path}; add both lines")
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def cell(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def error_cell(summary: dict[str, float] | None, median: str, high: str) -> str:
    """Returns the median and the 90th percentile in percent."""
    return "" if summary is None else f"{100 * summary[median]:.2f} % / {100 * summary[high]:.2f} %"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted; call again with the same arguments to go on") from None
