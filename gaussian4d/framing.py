"""Where to look from: what the model says, what its recorded cameras say, else what shows the Gaussians.

No camera is made up: where none was recorded there is none to draw or to list. A first view and the circle of an orbit
are found from the Gaussians then, and which way is up is a guess that is said.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from .cameras import Camera
from .clip_length import played_span
from .errors import UserError
from .paths import Rig, rig_from_cameras, ring_around
from .view_block import ViewBlock

if TYPE_CHECKING:
    from .model import DynamicGaussians

UPS = {
    f"{sign}{axis}": np.array([(-1.0 if sign else 1.0) * (name == axis) for name in "xyz"])
    for sign in ("", "-")
    for axis in "xyz"
}
"""The directions that can be up, by their names: x, y, z, -x, -y, -z."""

_SHOWN = 0.95
_INSTANTS = 3
# In radii: a ball is seen whole by a lens of 50 degrees, which is what a viewer begins with.
_DISTANCE = 2.4


@dataclasses.dataclass(frozen=True, eq=False)
class Framing:
    """Where to look from at a model; everything is there."""

    view: ViewBlock
    """With up, center and first view; cameras only where some were recorded."""
    around: tuple[Camera, ...]
    """Cameras for paths: the recorded ones, else a level ring that sees the Gaussians and is never drawn or named."""
    guessed: bool
    """Whether up is a guess."""

    @property
    def rig(self) -> Rig:
        """How the cameras stand around what they look at."""
        return rig_from_cameras(self.around, up=self.view.up, center=self.view.center)

    @property
    def note(self) -> str | None:
        """One sentence on what was guessed; None where nothing was."""
        if not self.guessed:
            return None
        return f"the up axis is not known: {name_of(self.up)} is assumed; --up changes it"

    @property
    def up(self) -> np.ndarray:
        """[3] unit."""
        assert self.view.up is not None
        return self.view.up

    @property
    def first(self) -> Camera:
        """The view to begin with."""
        assert self.view.first is not None
        return self.view.first

    @property
    def center(self) -> np.ndarray:
        """[3] what a viewer turns around."""
        assert self.view.center is not None
        return self.view.center


def framing_of(model: DynamicGaussians, up: str | None = None) -> Framing:
    """Returns where to look from at `model`.

    `up` is one of `UPS` and counts more than what the model says; without it and where the model says nothing, +z is
    taken for our own files, and -y, as other programs do, for those of others (`meta["axes"]` is `y down`).
    """
    if up is not None and up not in UPS:
        raise UserError(f"up must be one of {', '.join(UPS)}, got {up!r}")
    block = ViewBlock.of(model) or ViewBlock()
    guessed = up is None and block.up is None and not block.cameras
    direction = UPS[up] if up is not None else block.up
    if block.cameras:
        rig = rig_from_cameras(block.cameras, up=direction, center=block.center)
        first = block.first if block.first is not None and up is None else _first(rig, block.cameras)
        return Framing(dataclasses.replace(block, up=rig.up, center=rig.center, first=first), block.cameras, guessed)
    if direction is None:
        down = isinstance(model.meta, dict) and model.meta.get("axes") == "y down"
        direction = UPS["-y" if down else "z"]
    center, reach = bounds(model)
    center = center if block.center is None else block.center
    ring = tuple(ring_around(center, _DISTANCE * reach, direction))
    first = block.first if block.first is not None and up is None else dataclasses.replace(ring[0], id="first")
    return Framing(dataclasses.replace(block, up=direction, center=center, first=first), ring, guessed)


@torch.no_grad()
def bounds(model: DynamicGaussians) -> tuple[np.ndarray, float]:
    """Returns the middle [3] of the Gaussians and the radius of a ball that holds 95 % of their alpha.

    A Gaussian counts by its opacity and the area it covers, at a few instants of the clip.
    """
    places, weights, sizes = [], [], []
    for time in np.linspace(*played_span(model), 1 if model.motion.still else _INSTANTS):
        state = model.at(float(time))
        two = state.scales.double().topk(2, dim=-1).values
        places.append(state.means.double().cpu().numpy())
        sizes.append(two[:, 0].cpu().numpy())
        weights.append((state.opacities.double() * two.prod(dim=-1)).cpu().numpy())
    points, weight, size = (np.concatenate(parts) for parts in (places, weights, sizes))
    seen = np.isfinite(points).all(axis=1) & np.isfinite(weight) & np.isfinite(size) & (weight > 0.0)
    points, weight, size = points[seen], weight[seen], size[seen]
    if len(points) == 0:
        return np.zeros(3), 1.0
    # One that covers everything would count for all others together.
    weight = np.minimum(weight, np.quantile(weight, 0.99))
    center = np.array([_weighted(points[:, axis], weight, 0.5) for axis in range(3)])
    distances = np.linalg.norm(points - center, axis=1) + size
    reach = _weighted(distances, weight, _SHOWN)
    # A single point has no extent.
    return center, reach if reach > 0.0 and math.isfinite(reach) else 1.0


def name_of(up: np.ndarray) -> str:
    """Returns the name in `UPS`, with its sign, of the axis that `up` [3] points along, else its numbers."""
    for name, direction in UPS.items():
        if float(direction @ up) > 1.0 - 1e-6:
            return name if name[0] == "-" else f"+{name}"
    return " ".join(f"{value:.3g}" for value in up)


def _first(rig: Rig, cameras: tuple[Camera, ...]) -> Camera:
    """Returns the view with which an orbit begins."""
    lens = cameras[0]
    focal = float(np.median([camera.K[1, 1] * lens.height / camera.height for camera in cameras]))
    return Camera.look_at(
        rig.position(rig.start), rig.center, rig.up, width=lens.width, height=lens.height, focal=focal, id="first"
    )


def _weighted(values: np.ndarray, weights: np.ndarray, share: float) -> float:
    """Returns the value below which lies `share` of the weight."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][min(int(np.searchsorted(total, share * total[-1])), len(values) - 1)])


__all__ = ["UPS", "Framing", "bounds", "framing_of", "name_of"]
