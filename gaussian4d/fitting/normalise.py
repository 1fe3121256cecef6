"""The fit's own frame: the scene moved and scaled so that cameras stand about 1 from a centre at the origin."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from ..cameras import Camera
from ..motion import MotionModel, Params


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """x_fit = (x_world - centre) * scale."""

    centre: np.ndarray
    """[3] world coordinates of the fit's origin."""
    scale: float
    """Fit units per world unit."""

    @classmethod
    def from_cameras(cls, cameras: Iterable[Camera]) -> Normalisation:
        """Returns the frame centred where the optical axes come closest, with the median camera at distance 1.

        Cameras that look the same way have no such point in front of them; then it is put at the median distance
        between the cameras, along the mean direction.
        """
        cameras = list(cameras)
        positions = np.stack([camera.position for camera in cameras])
        forwards = np.stack([camera.forward for camera in cameras])
        centre = _axes_centre(positions, forwards)
        if centre is None or np.median(((centre - positions) * forwards).sum(1)) <= 0:
            spread = np.linalg.norm(positions - positions.mean(0), axis=1).max()
            mean_forward = forwards.mean(0)
            direction = mean_forward / max(float(np.linalg.norm(mean_forward)), 1e-6)
            centre = positions.mean(0) + direction * (2.0 * spread if spread > 1e-6 else 1.0)
        distance = float(np.median(np.linalg.norm(positions - centre, axis=1)))
        return cls(centre, 1.0 / max(distance, 1e-9))

    def camera(self, camera: Camera) -> Camera:
        """Returns the camera in the fit's frame."""
        viewmat = camera.viewmat.copy()
        viewmat[:3, 3] = (viewmat[:3, :3] @ self.centre + viewmat[:3, 3]) * self.scale
        return camera.transformed(viewmat)

    def points(self, xyz: np.ndarray) -> np.ndarray:
        """Returns world points [..., 3] in the fit's frame."""
        return (np.asarray(xyz, dtype=np.float64) - self.centre) * self.scale

    def undo(self, params: Params, motion: MotionModel) -> Params:
        """Returns a copy of the parameter table in world coordinates and units."""
        world = {name: value.detach().clone() for name, value in params.items()}
        centre = torch.as_tensor(self.centre, dtype=world["means"].dtype, device=world["means"].device)
        world["scales"] = world["scales"] - math.log(self.scale)
        for name in ("means", *motion.position_columns):
            if name in world:
                world[name] = world[name] / self.scale + centre
        for name in motion.length_columns:
            if name in world:
                world[name] = world[name] / self.scale
        return world

    def to_dict(self) -> dict[str, Any]:
        """Returns the transform as JSON values."""
        return {"centre": [float(c) for c in self.centre], "scale": float(self.scale)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Normalisation:
        """Returns the transform from JSON values."""
        return cls(np.asarray(values["centre"], dtype=np.float64), float(values["scale"]))


def _axes_centre(positions: np.ndarray, forwards: np.ndarray) -> np.ndarray | None:
    """Returns the point [3] with the least squared distance to all optical axes, or None when they are parallel."""
    across = np.eye(3) - forwards[:, :, None] * forwards[:, None, :]
    system = across.sum(0)
    if np.linalg.eigvalsh(system)[0] < 1e-3 * len(positions):
        return None
    return np.linalg.solve(system, (across @ positions[:, :, None]).sum(0)[:, 0])
