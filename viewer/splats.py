"""The Gaussians of an instant as splats that the browser draws itself: fast to turn around, an approximation.

Viser's splats have one colour each, so colours are those seen from where the camera stood when it last rested. Their
covariances travel as 16-bit floats, in which those of small Gaussians vanish; they are sent magnified and the node is
scaled back.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

import numpy as np
import torch
import viser

from diff_rasterizer import spherical_harmonics
from gaussian4d.devices import uploaded
from gaussian4d.gaussians import Gaussians, rotation_matrices
from gaussian4d.io.pictures import rgb_picture

from .render_loop import View

if TYPE_CHECKING:
    from .session import Session

MOST = 150_000
"""Splats that are sent at a time, 32 bytes each; of more, those that cover most are kept."""

_MAGNIFIED = 100.0
_VISIBLE = 1.0 / 255.0
_TURNED = 0.05
"""Viewer units (cameras stand about 3 from the middle) from which on colours are sent again."""


class SplatNode:
    """The splats of one browser."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._handle: viser.GaussianSplatHandle | None = None
        self._sent: tuple[object, ...] | None = None
        self._eye = (0.0, 0.0, 0.0)
        self._removed = False
        self._lock = threading.Lock()
        self.count = 0

    @staticmethod
    def can_show(view: View) -> bool:
        """Returns whether splats show what the view asks for: only colours, and none beside a recorded picture."""
        return view.output == "rgb" and view.split is None

    def update(self, view: View, resting: bool = False) -> bool:
        """Sends the splats of the view's time unless they are there already; returns whether it sent any.

        Where colours depend on the side they are seen from, the view's are sent once it is `resting`.
        """
        painter = self._session.painter
        behind = painter.behind(view)
        key = (id(painter.model), view.time, view.crop, behind)
        turned = resting and math.dist(view.position, self._eye) > _TURNED
        if key == self._sent and not turned:
            return False
        with painter.lock, torch.no_grad():
            state = painter.cropped(view.crop).at(view.time)
        if key == self._sent and state.sh_degree == 0:
            return False
        units = painter.units
        eye = uploaded(units.world_from_viewer(np.array(view.position)), state.means.device)
        data = splat_arrays(state, eye, units.center, units.scale)
        with self._lock:
            # They may have been taken away meanwhile, and must not come back.
            if self._removed:
                return False
            self.count = int((data[3] > 0.0).sum())
            scene = self._session.client.scene
            scene.set_background_image(_plain(behind), format="png")
            if self._handle is None:
                self._handle = scene.add_gaussian_splats("/splats", *data, scale=1.0 / _MAGNIFIED)
            else:
                self._handle.set_gaussians(*data)
                self._handle.visible = True
            self._sent, self._eye = key, view.position
        return True

    def hide(self) -> None:
        """Leaves the place to pictures of ours until the next `update`."""
        with self._lock:
            self._sent = None
            if self._handle is not None and not self._removed:
                self._handle.visible = False

    def remove(self) -> None:
        """Takes the splats away for good."""
        with self._lock:
            self._removed = True
            if self._handle is not None:
                self._handle.remove()


def splat_arrays(
    state: Gaussians, eye: torch.Tensor, center: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns centres [M, 3] and covariances [M, 3, 3] in magnified viewer units, colours [M, 3], opacities [M, 1].

    M is that of `state`, at most `MOST`: what cannot be seen at this time stays in with opacity 0. When M changes the
    browser begins anew, and draws in a wrong order until it has sorted.

    Args:
        state: Gaussians in world units.
        eye: [3] where colours are seen from, world units.
        center: [3] of the viewer's world.
        scale: viewer units per world unit.
    """
    opacities = torch.where(state.opacities > _VISIBLE, state.opacities, 0.0)
    if len(opacities) > MOST:
        rows = (opacities * state.scales.prod(dim=1).pow(2.0 / 3.0)).topk(MOST).indices
        state, opacities = state.select(rows), opacities[rows]
    magnified = scale * _MAGNIFIED
    centers = (state.means.double() - torch.as_tensor(center).to(state.means.device)) * magnified
    axes = rotation_matrices(state.quats.double()) * (state.scales.double() * magnified)[:, None, :]
    colors = spherical_harmonics(state.sh_degree, state.means - eye, state.colors) + 0.5
    return (
        centers.float().cpu().numpy(),
        (axes @ axes.transpose(1, 2)).float().cpu().numpy(),
        colors.clamp(0.0, 1.0).cpu().numpy(),
        opacities[:, None].clamp(0.0, 1.0).cpu().numpy(),
    )


def _plain(colour: tuple[float, float, float]) -> np.ndarray:
    """Returns a small picture of one colour, which the browser stretches behind the splats."""
    return np.tile(rgb_picture(np.array(colour, dtype=np.float32)), (2, 2, 1))
