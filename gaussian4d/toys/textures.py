"""Colours as functions of a point on a part, in the part's own frame: no image, no seam, any resolution.

A mapping turns the point p into cell coordinates q; a pattern turns q into a mix of two colours.

* Mapping "solid": q = p / cell + offset, as if carved from a patterned block.
* Mapping "wrap", around Z: q = (azimuth in turns * cell[0] + offset[0], z / cell[1] + offset[1], 0.5).
* Mapping "ball", for dots: `cell[0]` cells spread evenly over the directions from the centre, q = 0.5 in their middles.

Pattern edges are softened over about `softness` of a cell.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

# Names double as the vocabulary of captions. Display-referred RGB.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.23, 0.21),
    "orange": (0.95, 0.55, 0.18),
    "yellow": (0.97, 0.80, 0.27),
    "green": (0.30, 0.66, 0.36),
    "teal": (0.13, 0.59, 0.60),
    "blue": (0.20, 0.42, 0.80),
    "purple": (0.49, 0.32, 0.70),
    "pink": (0.93, 0.50, 0.62),
    "brown": (0.55, 0.37, 0.25),
    "cream": (0.93, 0.88, 0.78),
    "sand": (0.82, 0.70, 0.55),
    "white": (0.95, 0.94, 0.90),
    "gray": (0.60, 0.62, 0.65),
    "black": (0.17, 0.18, 0.22),
}
PATTERNS = ("solid", "checker", "stripes", "dots", "gradient")


@dataclasses.dataclass(frozen=True)
class Texture:
    """Two named colours mixed by a pattern."""

    pattern: str
    colors: tuple[str, str]
    """Names in `COLORS`: the base and the mark."""
    mapping: str = "solid"
    cell: tuple[float, float, float] = (1.0, 1.0, 1.0)
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    axis: int = 2
    """Which cell coordinate stripes and gradients follow."""
    softness: float = 0.12

    def color(self, points: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3"]:
        """Returns the colour in 0..1 at points in the part's frame."""
        base, mark = (np.array(COLORS[name]) for name in self.colors)
        if self.pattern == "solid":
            return np.broadcast_to(base, points.shape)
        weight = self._weight(self._cells(points))
        return base + weight[:, None] * (mark - base)

    def _cells(self, points: np.ndarray) -> np.ndarray:
        """Returns the cell coordinates q [N, 3]."""
        if self.mapping == "solid":
            return points / np.array(self.cell) + np.array(self.offset)
        if self.mapping == "ball":
            return self._ball_cells(points)
        turns = np.arctan2(points[:, 1], points[:, 0]) / (2 * np.pi)
        around = turns * self.cell[0] + self.offset[0]
        along = points[:, 2] / self.cell[1] + self.offset[1]
        return np.stack([around, along, np.full_like(along, 0.5)], axis=1)

    def _ball_cells(self, points: np.ndarray) -> np.ndarray:
        """Returns q [N, 3] around the nearest of a Fibonacci lattice's directions, in units of their spacing."""
        count = int(self.cell[0])
        k = np.arange(count) + 0.5
        z = 1 - 2 * k / count
        azimuth = k * np.pi * (1 + np.sqrt(5.0))
        ring = np.sqrt(1 - z * z)
        centres = np.stack([ring * np.cos(azimuth), ring * np.sin(azimuth), z], axis=1)
        directions = points / np.linalg.norm(points, axis=1, keepdims=True)
        nearest = centres[np.argmax(directions @ centres.T, axis=1)]
        spacing = np.sqrt(4 * np.pi / count)
        return 0.5 + np.clip((directions - nearest) / spacing, -0.5, 0.49)

    def _weight(self, q: np.ndarray) -> np.ndarray:
        """Returns the share of the mark's colour [N] in 0..1."""
        if self.pattern == "stripes":
            return 0.5 + 0.5 * _square_wave(q[:, self.axis], self.softness)
        if self.pattern == "checker":
            wave = _square_wave(q, self.softness)
            return 0.5 + 0.5 * wave[:, 0] * wave[:, 1] * wave[:, 2]
        if self.pattern == "gradient":
            x = np.clip(q[:, self.axis] + 0.5, 0.0, 1.0)
            return x * x * (3 - 2 * x)
        if self.pattern == "dots":
            distance = np.linalg.norm(q - np.floor(q) - 0.5, axis=1)
            x = np.clip((0.32 + self.softness / 2 - distance) / self.softness, 0.0, 1.0)
            return x * x * (3 - 2 * x)
        raise AssertionError(f"unknown pattern {self.pattern}")


def _square_wave(q: np.ndarray, softness: float) -> np.ndarray:
    """Returns +1 on [0, 1), -1 on [1, 2), and so on, crossing over within about `softness` of a cell."""
    return np.clip(np.sin(np.pi * q) / (np.pi / 2 * softness), -1.0, 1.0)
