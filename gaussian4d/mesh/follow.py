"""One mesh for a whole clip: the surface of one instant, its vertices carried along by the motion of the Gaussians.

The topology stays that of the chosen instant: what appears, vanishes, opens or closes later is not followed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from ..cameras import Camera
from ..model import DynamicGaussians
from ..tracks import track_points
from .fuse import fuse
from .surface import Mesh

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass
class FollowedMesh:
    """A mesh and where its vertices are over time."""

    mesh: Mesh
    times: Float[np.ndarray, " T"]
    """Clip times."""
    positions: Float[np.ndarray, "T V 3"]
    """Of the vertices at each of `times`."""


def followed_mesh(
    model: DynamicGaussians,
    start: float,
    times: Sequence[float] | np.ndarray,
    cameras: Sequence[Camera],
    *,
    detail: int = 96,
    device: str | torch.device | None = None,
) -> FollowedMesh:
    """Returns the mesh of clip time `start` and its vertices at `times`; see `fuse` and `track_points`.

    Raises `UserError` for a model of separate instants, whose Gaussians nothing connects.
    """
    mesh = fuse(model, start, cameras, detail=detail, device=device)
    positions = track_points(model, mesh.vertices, start, times).numpy()
    return FollowedMesh(mesh, np.asarray(times, np.float64), positions)
