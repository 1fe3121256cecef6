"""A toy world: parts that move rigidly under a fixed light, with exact positions at any time."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ..cameras import Camera
from ..conventions import invert_rigid
from ..errors import UserError
from .drawing import BUFFERS, ToyBuffers, draw
from .motions import Motion, translation
from .raycast import Caster
from .shapes import Shape
from .textures import Texture


class Part:
    """A rigid textured object: T_world_part(time) = translate(position) . motions . rotation `rest`."""

    def __init__(
        self,
        name: str,
        shape: Shape,
        texture: Texture,
        position: Sequence[float] = (0.0, 0.0, 0.0),
        rest: Float[np.ndarray, "4 4"] | None = None,
        motions: Sequence[Motion] = (),
    ) -> None:
        """Args: `rest` turns the shape at its place; `motions` apply last to first, so the first is the outermost."""
        self.name = name
        self.shape = shape
        self.texture = texture
        self.position = np.array(position, dtype=np.float64)
        self.rest = np.eye(4) if rest is None else np.array(rest, dtype=np.float64)
        self.motions = tuple(motions)
        self.caster = Caster(shape)
        self.present = (-math.inf, math.inf)

    def during(self, start: float = -math.inf, end: float = math.inf) -> Part:
        """Returns the part as it is from clip time `start` until just before `end`, and nowhere at other times."""
        if not start < end:
            raise UserError(f"expected a part to be there from a time before {end}, got {start}")
        brief = copy.copy(self)
        brief.present = (start, end)
        return brief

    def is_present(self, time: float) -> bool:
        """Returns whether the part is there at clip time `time`."""
        return self.present[0] <= time < self.present[1]

    def T_world_part(self, time: float) -> Float[np.ndarray, "4 4"]:
        """Returns the part's pose at clip time `time`; motions are closed forms, so any time is valid."""
        T = translation(self.position)
        for motion in self.motions:
            T = T @ motion.T(time)
        return T @ self.rest


@dataclasses.dataclass(frozen=True)
class Light:
    """A sun far away and a sky: lambertian, fixed in the world."""

    direction: tuple[float, float, float] = (0.45, -0.35, 0.82)
    """Towards the sun; any length."""
    sun: float = 0.5
    sky: float = 0.58
    """Ambient light on surfaces that face up."""
    bounce: float = 0.48
    """Ambient light on surfaces that face down."""

    def shade(self, normals: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, " N"]:
        """Returns the factor on the surface colour for unit world normals."""
        to_sun = np.array(self.direction) / np.linalg.norm(self.direction)
        ambient = self.bounce + (self.sky - self.bounce) * (0.5 + 0.5 * normals[:, 2])
        return ambient + self.sun * np.maximum(normals @ to_sun, 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class ToyWorld:
    """Parts under a light. Z is up; everything stays within about 1.3 of the origin at all times in [0, 1]."""

    parts: tuple[Part, ...]
    light: Light = Light()
    instants: int = 24
    """Frames of the clip: one frame is 1 / (instants - 1) of clip time."""
    fps: float = 24.0

    def render(
        self,
        camera: Camera,
        time: float = 0.0,
        buffers: Sequence[str] = BUFFERS,
        samples: int = 4,
        flow_to: float | None = None,
    ) -> ToyBuffers:
        """Returns what `camera` sees at clip time `time`, as float32 numpy arrays; see `ToyBuffers`.

        Args:
            camera: Any pinhole camera.
            buffers: Names from `BUFFERS`; the others come back as None.
            samples: Rays per pixel where colour or coverage vary, for rgb and alpha; 1 is no smoothing.
            flow_to: The time flow leads to; None for one frame later (beyond the clip's end for its last frame).
        """
        later = time + 1.0 / max(self.instants - 1, 1) if flow_to is None else flow_to
        present = tuple(part for part in self.parts if part.is_present(time))
        return draw(present, self.light, camera, time, tuple(buffers), samples, later)

    def surface_points(self, n: int, seed: int = 0) -> tuple[np.ndarray, Float[np.ndarray, "n 3"]]:
        """Returns random points on the moving parts, even by area: their part's index [n] and place in its frame.

        Parts count though they may be absent for a time; their motion goes on meanwhile.
        """
        rng = np.random.default_rng(seed)
        moving = [k for k, part in enumerate(self.parts) if part.motions] or list(range(len(self.parts)))
        corners = [self.parts[k].shape.vertices[self.parts[k].shape.faces] for k in moving]
        owner = np.repeat(moving, [len(c) for c in corners])
        triangles = np.concatenate(corners)
        edges = triangles[:, 1:] - triangles[:, :1]
        area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
        # One uniform number per point against the running area: the same draw on every numpy version.
        cumulative = np.cumsum(area)
        chosen = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right").clip(max=len(area) - 1)
        a, b = np.sqrt(rng.random(n)), rng.random(n)
        weights = np.stack([1 - a, a * (1 - b), a * b], axis=1)
        return owner[chosen], np.einsum("nk,nkd->nd", weights, triangles[chosen])

    def tracks(self, n: int, seed: int = 0, times: Sequence[float] | np.ndarray | None = None) -> np.ndarray:
        """Returns world positions [T, n, 3] of random surface points at `times` (default: the clip's instants)."""
        owner, local = self.surface_points(n, seed)
        clip = np.arange(self.instants) / max(self.instants - 1, 1) if times is None else np.asarray(times)
        xyz = np.empty((len(clip), n, 3))
        for k, time in enumerate(clip):
            for index in np.unique(owner):
                T = self.parts[index].T_world_part(float(time))
                mine = owner == index
                xyz[k, mine] = local[mine] @ T[:3, :3].T + T[:3, 3]
        return xyz

    def part_points(self, index: int, world: Float[np.ndarray, "N 3"], time: float) -> Float[np.ndarray, "N 3"]:
        """Returns world points [N, 3] at `time` in the frame of part `index`."""
        T = invert_rigid(self.parts[index].T_world_part(time))
        return world @ T[:3, :3].T + T[:3, 3]
