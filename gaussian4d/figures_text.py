"""The figures of an evaluation as a few lines of text, each beside its trivial baselines."""

from __future__ import annotations

from typing import Any

ROWS = (
    ("psnr", "PSNR, full frame", "dB"),
    ("psnr_foreground", "PSNR, foreground", "dB"),
    ("psnr_moving", "PSNR, moving pixels", "dB"),
    ("mpsnr", "PSNR, covisible pixels", "dB"),
    ("ssim", "SSIM", ""),
    ("mssim", "SSIM, covisible pixels", ""),
)


def report_lines(metrics: dict[str, Any]) -> list[str]:
    """Returns the report of the content of a metrics.json."""
    protocol, baselines = metrics["protocol"], metrics["baselines"]
    lines = [
        f"{metrics['split']}: {len(metrics['views'])} views at {protocol['resolution']},"
        f" background {protocol['background']}",
        f"{'':24}{'model':>10}{'static':>10}{'nearest view':>14}",
    ]
    for key, title, unit in ROWS:
        values = [metrics.get(key), *((baselines[name] or {}).get(key) for name in ("static", "nearest_view"))]
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
