"""Charts as inline SVG: curves, bars, heat maps. Values that are not finite are left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from .page import escape

_WIDTH, _HEIGHT = 420, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 22, 26, 34
_COLOURS = ("#d9622b", "#3b6fb6", "#4a9b63", "#8d5bb0")
_MOST_POINTS = 400
# Names of lines beside each other; more go on below.
_ACROSS = 4
# From far off (dark) to close (bright); stays readable in grey.
_RAMP = ((40, 20, 70), (168, 62, 96), (226, 116, 74), (250, 190, 88), (253, 246, 178))


def curves(
    title: str, x: Sequence[float], series: Mapping[str, Sequence[float]], *, x_label: str = "", log: bool = False
) -> str:
    """Returns lines over `x`, one per name, values on a linear or logarithmic axis; "" for nothing to draw."""
    kept = {
        name: [(a, math.log10(b) if log else b) for a, b in zip(x, values) if math.isfinite(b) and (b > 0 or not log)]
        for name, values in series.items()
    }
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return ""
    xs = [a for points in kept.values() for a, _ in points]
    ys = [b for points in kept.values() for _, b in points]
    frame = _Frame(title, _span(xs), _span(ys), x_label, log)
    for index, (name, points) in enumerate(kept.items()):
        step = max(1, math.ceil(len(points) / _MOST_POINTS))
        thinned = [*points[::step], points[-1]]
        path = " ".join(f"{frame.x(a):.1f},{frame.y(b):.1f}" for a, b in thinned)
        colour = _COLOURS[index % len(_COLOURS)]
        frame.parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>')
        if len(kept) > 1:
            at, line = _LEFT + 8 + 110 * (index % _ACROSS), index // _ACROSS
            frame.parts.append(
                f'<text x="{at}" y="{_TOP + 12 + 13 * line}" style="fill:{colour}">{escape(name)}</text>'
            )
    return frame.svg()


def bars(title: str, labels: Sequence[str], values: Sequence[float | None], unit: str = "") -> str:
    """Returns one horizontal bar per label, the axis starting at 0; a missing value gets no bar."""
    shown = [value for value in values if value is not None and math.isfinite(value)]
    if not shown:
        return ""
    top = max(*shown, 1e-9)
    row, left = 20, 110
    height = _TOP + row * len(labels) + 8
    parts = []
    for index, (label, value) in enumerate(zip(labels, values)):
        y = _TOP + row * index
        parts.append(f'<text x="{left - 6}" y="{y + 14}" text-anchor="end">{escape(label[:18])}</text>')
        if value is None or not math.isfinite(value):
            continue
        width = (_WIDTH - left - 70) * max(value, 0.0) / top
        parts.append(f'<rect x="{left}" y="{y + 3}" width="{width:.1f}" height="{row - 6}" fill="{_COLOURS[0]}"/>')
        parts.append(f'<text x="{left + width + 5:.1f}" y="{y + 14}">{number(value)} {escape(unit)}</text>')
    return _svg(title, height, parts)


def heat_map(
    title: str, rows: Sequence[str], columns: Sequence[str], values: Sequence[Sequence[float | None]], unit: str = ""
) -> str:
    """Returns a coloured cell per row and column, dark where the value is low; a missing one is left empty."""
    shown = [value for line in values for value in line if value is not None and math.isfinite(value)]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    left, cell_height = 110, max(10, min(22, 300 // max(len(rows), 1)))
    cell = (_WIDTH - left - _RIGHT) / max(len(columns), 1)
    height = _TOP + cell_height * len(rows) + 44
    parts = []
    for i, (label, line) in enumerate(zip(rows, values)):
        y = _TOP + cell_height * i
        parts.append(f'<text x="{left - 6}" y="{y + cell_height - 3}" text-anchor="end">{escape(label[:18])}</text>')
        for j, value in enumerate(line):
            if value is None or not math.isfinite(value):
                continue
            r, g, b = _colour((value - low) / max(high - low, 1e-9))
            parts.append(
                f'<rect x="{left + cell * j:.2f}" y="{y}" width="{cell:.2f}" height="{cell_height - 1}"'
                f' fill="rgb({r},{g},{b})"><title>{escape(label)}, {escape(columns[j])}: {number(value)}'
                f" {escape(unit)}</title></rect>"
            )
    base = _TOP + cell_height * len(rows)
    parts.append(f'<text x="{left}" y="{base + 14}">{escape(columns[0])}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{base + 14}" text-anchor="end">{escape(columns[-1])}</text>')
    legend = f"dark {number(low)}, bright {number(high)} {unit}"
    parts.append(f'<text x="{left}" y="{base + 32}">{escape(legend)}</text>')
    return _svg(title, height, parts)


def number(value: float) -> str:
    """Returns a value with as many digits as a chart needs."""
    if value != 0 and (abs(value) < 0.01 or abs(value) >= 1e5):
        return f"{value:.2g}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


class _Frame:
    """Axes of a chart; `x` and `y` place values in it."""

    def __init__(self, title: str, xs: tuple[float, float], ys: tuple[float, float], x_label: str, log: bool) -> None:
        self.title, self.xs, self.ys = title, xs, ys
        self.parts: list[str] = []
        for place in _ticks(*ys, log):
            y = self.y(place)
            text = number(10**place if log else place)
            self.parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self.parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        for place in _ticks(*xs, False):
            self.parts.append(
                f'<text x="{self.x(place):.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{number(place)}</text>'
            )
        self.parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')

    def x(self, value: float) -> float:
        return _LEFT + (value - self.xs[0]) / (self.xs[1] - self.xs[0]) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.ys[0]) / (self.ys[1] - self.ys[0]) * (_HEIGHT - _TOP - _BOTTOM)

    def svg(self) -> str:
        return _svg(self.title, _HEIGHT, self.parts)


def _svg(title: str, height: int, parts: Sequence[str]) -> str:
    heading = f'<text class="title" x="10" y="17">{escape(title)}</text>'
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img">{heading}{"".join(parts)}</svg>'


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(abs(low), abs(high), 1.0):
        return low - 0.5, high + 0.5
    return low, high


def _ticks(low: float, high: float, log: bool) -> list[float]:
    """Returns a few round places between the ends; on a logarithmic axis 1, 2 and 5 of every power."""
    if log:
        powers = range(math.floor(low), math.ceil(high) + 1)
        places = [power + math.log10(step) for power in powers for step in (1, 2, 5)]
        return [place for place in places if low <= place <= high]
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _colour(share: float) -> tuple[int, int, int]:
    place = min(max(share, 0.0), 1.0) * (len(_RAMP) - 1)
    k = min(int(place), len(_RAMP) - 2)
    r, g, b = (round(a + (b - a) * (place - k)) for a, b in zip(_RAMP[k], _RAMP[k + 1]))
    return r, g, b


def ramp_picture(shares: np.ndarray) -> np.ndarray:
    """Returns values [H, W] in 0..1 as a picture uint8 [H, W, 3] in the colours of the heat maps."""
    knots = np.linspace(0.0, 1.0, len(_RAMP))
    colours = np.array(_RAMP, dtype=np.float64)
    return np.stack([np.interp(shares, knots, colours[:, k]) for k in range(3)], axis=2).round().astype(np.uint8)
