"""The figures of an evaluation as rows and as a few lines of text, each beside its trivial baselines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BASELINES = ("static", "nearest_view")

_OWN = (
    ("psnr", "PSNR, full frame", "dB"),
    ("psnr_foreground", "PSNR, foreground", "dB"),
    ("psnr_moving", "PSNR, moving pixels", "dB"),
    ("mpsnr", "PSNR, covisible pixels", "dB"),
    ("ssim", "SSIM", ""),
    ("mssim", "SSIM, covisible pixels", ""),
)


def figure_rows(metrics: dict[str, Any]) -> Iterator[tuple[str, str, list[float | None]]]:
    """Yields (title, unit, [model, static, nearest view]) of every figure in the content of a metrics.json."""
    of_whom = [metrics, *(metrics["baselines"].get(name) or {} for name in BASELINES)]
    for key, title, unit in _OWN:
        yield title, unit, [whose.get(key) for whose in of_whom]
    for name in metrics.get("metrics", {}):
        if name not in {key for key, *_ in _OWN}:
            about = metrics.get("metric_info", {}).get(name, {})
            yield name, about.get("unit") or "", [whose.get("metrics", {}).get(name) for whose in of_whom]


def report_lines(metrics: dict[str, Any]) -> list[str]:
    """Returns the report of the content of a metrics.json."""
    protocol = metrics["protocol"]
    lines = [
        f"{metrics['split']}: {len(metrics['views'])} views at {protocol['resolution']},"
        f" background {protocol['background']}",
        f"{'':24}{'model':>10}{'static':>10}{'nearest view':>14}",
    ]
    for title, unit, values in figure_rows(metrics):
        if any(value is not None for value in values):
            cells = [cell(value, unit) for value in values]
            lines.append(f"{title:24}{cells[0]:>10}{cells[1]:>10}{cells[2]:>14}")
    lines.append(
        f"SSIM: {protocol['ssim']}; masks: {protocol['mask']}; colour correction: {protocol['colour_correction']}"
    )
    if metrics["render_fps"] is not None:
        lines.append(f"{metrics['num_gaussians']:,} Gaussians, {metrics['render_fps']:.1f} frames/s")
    return lines


def cell(value: float | None, unit: str) -> str:
    """Returns a figure as it is printed; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.2f}" if unit else f"{value:.4f}"
