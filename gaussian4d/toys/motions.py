"""Smooth rigid motions over clip time, written as closed forms so that any time, also outside [0, 1], is exact.

A motion is a transform in the part's rest frame: origin at the part's rest position, axes parallel to the world's.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np


class Motion(Protocol):
    """What moves a part: `T(time)` [4, 4] in the rest frame; `word` names it for captions."""

    @property
    def word(self) -> str: ...

    def T(self, time: float) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Spin:
    """Even rotation about an axis through `pivot`, by default the part's centre."""

    axis: tuple[float, float, float]
    turns: float
    """In the whole clip; the sign is the sense."""
    word: str = "spins"
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def T(self, time: float) -> np.ndarray:
        return rotation(self.axis, 2 * np.pi * self.turns * time, self.pivot)


@dataclasses.dataclass(frozen=True)
class Orbit:
    """Even rotation about a vertical axis through `pivot`."""

    pivot: tuple[float, float, float]
    """Seen from the rest position."""
    turns: float
    word: str = "orbits"

    def T(self, time: float) -> np.ndarray:
        return rotation((0.0, 0.0, 1.0), 2 * np.pi * self.turns * time, self.pivot)


@dataclasses.dataclass(frozen=True)
class Swing:
    """To and fro about an axis through `pivot`: angle(t) = angle * sin(2 pi (cycles t + phase))."""

    axis: tuple[float, float, float]
    angle: float
    """Largest angle in radians."""
    cycles: float
    phase: float = 0.0
    pivot: tuple[float, float, float] = (0.0, 0.0, 0.0)
    word: str = "swings"

    def T(self, time: float) -> np.ndarray:
        return rotation(self.axis, self.angle * np.sin(2 * np.pi * (self.cycles * time + self.phase)), self.pivot)


@dataclasses.dataclass(frozen=True)
class Hop:
    """Up and down again: height * sin^2(pi (cycles t + phase)), never below the rest position."""

    height: float
    cycles: float
    phase: float = 0.0
    word: str = "hops"

    def T(self, time: float) -> np.ndarray:
        return translation((0.0, 0.0, self.height * np.sin(np.pi * (self.cycles * time + self.phase)) ** 2))


@dataclasses.dataclass(frozen=True)
class Slide:
    """To and fro along a straight line: offset * sin(2 pi (cycles t + phase))."""

    offset: tuple[float, float, float]
    cycles: float
    phase: float = 0.0
    word: str = "slides"

    def T(self, time: float) -> np.ndarray:
        return translation(np.array(self.offset) * np.sin(2 * np.pi * (self.cycles * time + self.phase)))


def translation(offset: np.ndarray | tuple[float, float, float]) -> np.ndarray:
    """Returns the 4x4 translation by `offset` [3]."""
    T = np.eye(4)
    T[:3, 3] = offset
    return T


def rotation(
    axis: np.ndarray | tuple[float, float, float],
    angle: float,
    pivot: np.ndarray | tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> np.ndarray:
    """Returns the 4x4 rotation by `angle` radians about `axis` (any length) through `pivot` (Rodrigues' formula)."""
    k = np.asarray(axis, dtype=np.float64)
    k = k / np.linalg.norm(k)
    cross = np.array([[0.0, -k[2], k[1]], [k[2], 0.0, -k[0]], [-k[1], k[0], 0.0]])
    R = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)
    T = np.eye(4)
    T[:3, :3] = R
    T[:3, 3] = np.asarray(pivot) - R @ np.asarray(pivot)
    return T
