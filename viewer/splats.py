"""The Gaussians of an instant as splats that the browser draws itself: fast to turn around, an approximation.

Viser's splats have one colour each, so colours are those seen from where the camera stands when they are sent. Their
covariances travel as 16-bit floats, in which those of small Gaussians vanish; they are sent magnified and the node is
scaled back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from diff_rasterizer import spherical_harmonics
from gaussian4d.gaussians import Gaussians, rotation_matrices

from .render_loop import View

if TYPE_CHECKING:
    from .session import Session

MOST = 150_000
"""Splats that are sent at a time, 32 bytes each; of more, those that cover most are kept."""

_MAGNIFIED = 100.0
_VISIBLE = 1.0 / 255.0


class SplatNode:
    """The splats of one browser."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._handle = None
        self._sent: tuple[object, ...] | None = None
        self.count = 0

    def update(self, view: View) -> bool:
        """Sends the splats of the view's time unless they are there already; returns whether it sent any."""
        painter = self._session.painter
        key = (id(painter.model), view.time, view.crop)
        if key == self._sent:
            return False
        with painter.lock, torch.no_grad():
            state = painter.cropped(view.crop).at(view.time)
        units = painter.units
        eye = torch.as_tensor(units.world_from_viewer(np.array(view.position)), dtype=torch.float32)
        data = splat_arrays(state, eye, units.center, units.scale)
        self.count = len(data[0])
        if self._handle is None:
            self._handle = self._session.client.scene.add_gaussian_splats("/splats", *data, scale=1.0 / _MAGNIFIED)
        else:
            self._handle.set_gaussians(*data)
        self._sent = key
        return True

    def remove(self) -> None:
        """Takes the splats away."""
        if self._handle is not None:
            self._handle.remove()
            self._handle, self._sent = None, None


def splat_arrays(
    state: Gaussians, eye: torch.Tensor, center: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns centres [M, 3] and covariances [M, 3, 3] in magnified viewer units, colours [M, 3], opacities [M, 1].

    Args:
        state: Gaussians in world units.
        eye: [3] where colours are seen from, world units.
        center: [3] of the viewer's world.
        scale: viewer units per world unit.
    """
    weight = state.opacities * state.scales.prod(dim=1).pow(2.0 / 3.0)
    rows = torch.nonzero(state.opacities > _VISIBLE)[:, 0]
    if len(rows) > MOST:
        rows = rows[weight[rows].topk(MOST).indices]
    state = state.select(rows)
    magnified = scale * _MAGNIFIED
    centers = (state.means.double() - torch.as_tensor(center)) * magnified
    axes = rotation_matrices(state.quats.double()) * (state.scales.double() * magnified)[:, None, :]
    colors = spherical_harmonics(state.sh_degree, state.means - eye, state.colors) + 0.5
    return (
        centers.float().numpy(),
        (axes @ axes.transpose(1, 2)).float().numpy(),
        colors.clamp(0.0, 1.0).numpy(),
        state.opacities[:, None].clamp(0.0, 1.0).numpy(),
    )
