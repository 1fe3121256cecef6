"""What the report of a run says, from the files of the run folder and a few pictures drawn anew."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..devices import choose_device
from ..errors import UserError
from ..files import atomic_write
from ..run_folder import RunFolder
from . import charts, page

if TYPE_CHECKING:
    import torch

    from ..model import DynamicGaussians
    from ..scene import Frame, Scene

_WORST = 4
_SHOWN = ("rgb", "depth", "normal", "alpha", "flow", "lifetime")
# Settings that a fit was started with, and their flags; the rest of its settings follows from them.
_FLAGS = ("preset", "motion", "max_steps", "max_minutes", "seed", "batch", "background", "backend")


def write_report(
    run: str | Path,
    out: str | Path | None = None,
    *,
    scene: Scene | None = None,
    model: DynamicGaussians | None = None,
    worst: int = _WORST,
    device: str | torch.device | None = None,
) -> Path:
    """Returns the HTML file written: figures, curves, errors by camera and time, pictures, settings, versions.

    Args:
        run: Run folder.
        out: File to write; None is RUN/report.html.
        scene: The scene of the run; None loads the one the run names, and does without pictures where it is gone.
        model: The model of the run; None loads it.
        worst: How many of the worst views are shown.
        device: Where pictures are drawn (see `devices.choose_device`); None is where a given model is, and `auto` for
            one that is loaded.

    Raises:
        UserError: when `run` is not a run folder, or for a device that cannot be used.
    """
    if device is not None or model is None:
        device = choose_device(device).device
    folder, run = RunFolder(run), Path(run)
    config = folder.read()
    out = Path(out) if out is not None else folder.report
    steps = [line for line in folder.metrics() if isinstance(line, dict) and "step" in line]
    metrics = folder.evaluation()
    if model is None and folder.model_path.exists():
        from ..model import load_model

        model = load_model(run)
    if model is not None and device is not None:
        model = model.to(device)
    missing = None
    if scene is None:
        scene, missing = _scene(run)
    sections = [
        _heading(run, config, model),
        _figures(metrics),
        _curves(steps),
        _errors(metrics),
        _pictures(model, scene, metrics, worst, missing),
        _protocol(metrics),
        _reproduction(run, config),
        _settings(config),
    ]
    with atomic_write(out) as temporary:
        temporary.write_text(
            page.page(f"gaussian4d: {run.name}", [part for part in sections if part]), "utf-8", "replace"
        )
    return out


def _scene(run: Path) -> tuple[Scene | None, str | None]:
    """Returns the scene that the run names, or why it cannot be read."""
    try:
        return RunFolder(run).scene(), None
    except UserError as error:
        return None, f"The scene cannot be read, so no pictures are drawn: {error}"


def _heading(run: Path, config: dict[str, Any], model: DynamicGaussians | None) -> str:
    fit = config.get("fit", {})
    words = [f"scene {config.get('scene', {}).get('path')}"]
    words += [f"{name} {fit[name]}" for name in ("preset", "motion", "seed") if name in fit]
    if model is not None:
        seconds = (model.meta.get("fit") or {}).get("seconds")
        words.append(f"{len(model):,} Gaussians")
        words += [f"fitted in {seconds:.0f} s"] if seconds else []
    written = time.strftime("%Y-%m-%d %H:%M %Z")
    return f"<h1>{page.escape(run.name)}</h1>\n" + page.paragraph(", ".join(words)) + page.paragraph(written, soft=True)


def _figures(metrics: dict[str, Any] | None) -> str:
    if metrics is None:
        return page.section(
            "Figures", page.paragraph("Nothing was evaluated: the scene holds out no frames, or eval was not run.")
        )
    from ..figures import cell, figure_rows

    rows = []
    for title, unit, values in figure_rows(metrics):
        if any(value is not None for value in values):
            rows.append([f"{title} [{unit}]" if unit else title, *(cell(value, unit) for value in values)])
    speed = metrics.get("render_fps")
    notes = [f"{len(metrics['views'])} views of the {metrics['split']} split at {metrics['protocol']['resolution']}"]
    notes += [f"{speed:.1f} frames/s on the machine that evaluated"] if speed else []
    return page.section(
        "Figures, beside trivial predictions",
        page.table(["", "model", "mean picture of the camera", "nearest training picture"], rows),
        page.paragraph("; ".join(notes), soft=True),
    )


def _curves(steps: Sequence[dict[str, Any]]) -> str:
    if len(steps) < 2:
        return ""
    x = [line["step"] for line in steps]

    def of(name: str) -> list[float]:
        return [float(line.get(name, math.nan)) for line in steps]

    names = list(dict.fromkeys(name for line in steps for name in line.get("terms", {})))
    terms = {name: [float(line.get("terms", {}).get(name, math.nan)) for line in steps] for name in names}

    return page.section(
        "The fit",
        page.charts(
            [
                charts.curves("loss (logarithmic)", x, {"loss": of("loss")}, x_label="step", log=True),
                charts.curves("terms of the loss, weighted (logarithmic)", x, terms, x_label="step", log=True),
                charts.curves("PSNR of the training pictures, dB", x, {"PSNR": of("psnr")}, x_label="step"),
                charts.curves("Gaussians", x, {"Gaussians": of("gaussians")}, x_label="step"),
                charts.curves("steps per second", x, {"speed": of("steps_per_second")}, x_label="step"),
            ]
        ),
    )


def _errors(metrics: dict[str, Any] | None) -> str:
    if metrics is None or not metrics["views"]:
        return ""
    views = metrics["views"]
    cameras = list(dict.fromkeys(view["camera"] for view in views))
    times = sorted({view["time"] for view in views})
    found = {(view["camera"], view["time"]): view for view in views}

    def mean(values: Sequence[float]) -> float | None:
        return sum(values) / len(values) if values else None

    by_camera = [mean([view["psnr"] for view in views if view["camera"] == camera]) for camera in cameras]
    by_time = [mean([view["psnr"] for view in views if view["time"] == at]) or math.nan for at in times]
    ssim_by_time = [mean([view["ssim"] for view in views if view["time"] == at]) or math.nan for at in times]
    grid = [[(found.get((camera, at)) or {}).get("psnr") for at in times] for camera in cameras]
    labels = [f"time {at:.3f}" for at in times]
    return page.section(
        "Errors by camera and time",
        page.charts(
            [
                charts.bars("PSNR by camera", cameras, by_camera, "dB"),
                charts.curves("PSNR by time, dB", times, {"PSNR": by_time}, x_label="clip time"),
                charts.curves("SSIM by time", times, {"SSIM": ssim_by_time}, x_label="clip time"),
                charts.heat_map("PSNR of every view", cameras, labels, grid, "dB"),
            ]
        ),
    )


def _pictures(
    model: DynamicGaussians | None,
    scene: Scene | None,
    metrics: dict[str, Any] | None,
    worst: int,
    missing: str | None,
) -> str:
    if model is None or scene is None:
        return page.section("Pictures", page.paragraph(missing or "There is no model yet, so no pictures are drawn."))
    frames = list(scene.frames("test")) or list(scene.frames("train"))
    content = [_buffers(model, frames[len(frames) // 2], scene)]
    if metrics is not None and metrics["split"] in ("train", "test"):
        frames = list(scene.frames(metrics["split"]))
        rows = {(frame.camera_id, round(float(frame.time), 9)): frame for frame in frames}
        views = sorted(metrics["views"], key=lambda view: view["psnr"])[:worst]
        for view in views:
            frame = rows.get((view["camera"], round(view["time"], 9)))
            if frame is not None:
                figures = f"{view['psnr']:.2f} dB, SSIM {view['ssim']:.4f}"
                content.append(_comparison(model, frame, scene, f"{figures}: {_name(frame)}"))
        if views:
            note = "The worst views: recorded, rendered, and where they differ (dark: equal, bright: a third or more)."
            content.insert(1, page.paragraph(note))
    return page.section("Pictures", *content)


def _buffers(model: DynamicGaussians, frame: Frame, scene: Scene) -> str:
    from ..desk import Desk, Shot

    names = tuple(name for name in _SHOWN if not (name == "flow" and not model.motion.connected))
    shot = Shot(names, "grid", _behind(model, scene))
    picture = Desk(model, [(frame.camera, frame.time)], shot).frame(0)[""]
    return page.figure(picture, f"{', '.join(names)} (row by row): {_name(frame)}")


def _comparison(model: DynamicGaussians, frame: Frame, scene: Scene, caption: str) -> str:
    from ..io.pictures import rgb_picture
    from ..rendering import render
    from ..truth import composed

    behind = _behind(model, scene)
    output = render(model, frame.camera, frame.time, background=behind).rgb
    assert output is not None
    drawn = rgb_picture(output.cpu().numpy())
    recorded = composed(frame.image, behind or (0.0, 0.0, 0.0))
    off = np.abs(drawn.astype(np.int16) - recorded).max(axis=2, keepdims=True)
    heat = np.clip(off * 3, 0, 255).astype(np.float64) / 255.0
    difference = charts.ramp_picture(heat[..., 0])
    return page.figure(np.concatenate([recorded, drawn, difference], axis=1), caption)


def _behind(model: DynamicGaussians, scene: Scene) -> tuple[float, float, float] | None:
    """Returns the colour pictures are compared over, as `eval` takes it; None is the model's own."""
    if model.background is not None:
        r, g, b = model.background.tolist()
        return r, g, b
    return (1.0, 1.0, 1.0) if scene.has_alpha else (0.0, 0.0, 0.0)


def _name(frame: Frame) -> str:
    return f"camera {frame.camera_id}, time {frame.time:.3f}"


def _protocol(metrics: dict[str, Any] | None) -> str:
    if metrics is None:
        return ""
    return page.section("Protocol", page.table(["", ""], metrics["protocol"].items(), texts=True))


def _reproduction(run: Path, config: dict[str, Any]) -> str:
    fit, scene = config.get("fit", {}), config.get("scene", {})
    if scene.get("python"):
        told = "The frames were given in Python: Scene.from_frames of the same, and fit with the settings below."
        return page.section("To make it again", page.paragraph(told))
    words = ["gaussian4d", "fit", str(scene.get("path")), "--out", f"{run}_again"]
    for name in _FLAGS:
        if fit.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", str(fit[name])]
    for name in ("downscale", "frames"):
        if scene.get(name) is not None:
            words += [f"--{name}", str(scene[name])]
    lines = [
        shlex.join(words),
        f"gaussian4d eval {shlex.quote(str(run))}",
        f"gaussian4d report {shlex.quote(str(run))}",
    ]
    note = "The same seed, number of threads and instruction set give the same model to the bit."
    if fit.get("max_minutes"):
        note = "The fit was limited by time, so another run takes another number of steps and differs."
    if "preset" not in fit:
        return page.section("To see it again", preformatted_lines(lines[1:]))
    return page.section("To make it again", preformatted_lines(lines), page.paragraph(note, soft=True))


def preformatted_lines(lines: Sequence[str]) -> str:
    """Returns command lines, one below the other."""
    return page.preformatted("\n".join(lines))


def _settings(config: dict[str, Any]) -> str:
    from ..doctor import machine, versions

    rows = [(name, state) for name, state, _ in [*versions(), *machine()]]
    return page.section(
        "Settings and versions",
        page.folded(RunFolder("").config_path.name, page.preformatted(json.dumps(config, indent=2))),
        page.folded("versions and machine", page.table(["", ""], rows, texts=True)),
    )
