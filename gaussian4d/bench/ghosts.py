"""Ghosts: how much worse a model draws the place of an object before the object appears than what is around it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.ndimage import binary_dilation

from ..cameras import Camera
from ..errors import UserError
from ..model import DynamicGaussians
from ..rendering import render
from ..toys import ToyWorld

_WHITE = (1.0, 1.0, 1.0)


@dataclasses.dataclass
class Ghosts:
    """Mean errors over pixels, cameras and instants, colours in 0..1, and their ratios."""

    absolute_inside: float
    """Inside the pixels that the object will cover."""
    absolute_around: float
    """In the ring around them."""
    squared_inside: float
    squared_around: float

    @property
    def absolute(self) -> float:
        """Ratio of the mean absolute errors, inside over around."""
        return self.absolute_inside / self.absolute_around

    @property
    def squared(self) -> float:
        """Ratio of the mean squared errors, inside over around."""
        return self.squared_inside / self.squared_around


def covered_pixels(world: ToyWorld, part: int, camera: Camera, time: float) -> Bool[np.ndarray, "H W"]:
    """Returns the pixels in which `camera` sees `world.parts[part]` at clip time `time` (rays through the centres)."""
    others = dataclasses.replace(world, parts=(*world.parts[:part], *world.parts[part + 1 :]))
    with_it, without = (w.render(camera, time, ("depth",)).depth for w in (world, others))
    assert with_it is not None and without is not None
    return (with_it != without)[..., 0]


def ring_around(mask: Bool[np.ndarray, "H W"], width: int) -> Bool[np.ndarray, "H W"]:
    """Returns the pixels outside `mask` that are at most `width` 8-neighbour steps away from it."""
    return binary_dilation(mask, np.ones((3, 3), dtype=bool), iterations=width) & ~mask


def measure_ghosts(
    model: DynamicGaussians,
    world: ToyWorld,
    part: int,
    cameras: Sequence[Camera],
    times: Sequence[float] | np.ndarray,
    *,
    width: int,
    last_only: bool = False,
) -> Ghosts:
    """Returns the errors before `world.parts[part]` appears, inside the pixels it will cover and around them.

    Inside are the pixels in which a camera sees the part at the first of `times` at which it is there; around is the
    ring of `width` pixels outside of them. Errors are those of renderings against the world's own pictures over white,
    at all of `times` before that one, or at the last of them only. Pixels of all cameras and instants count alike.

    Raises:
        UserError: when the part is there from the start or never, or no camera sees it.
    """
    present = [world.parts[part].is_present(float(time)) for time in times]
    if True not in present or present[0]:
        raise UserError(f"expected {world.parts[part].name} to appear after the first of the times and by the last")
    first = present.index(True)
    sums = np.zeros((2, 3))
    for camera in cameras:
        inside = covered_pixels(world, part, camera, float(times[first]))
        regions = (inside, ring_around(inside, width))
        for time in times[first - 1 if last_only else 0 : first]:
            error = np.abs(_rendered(model, camera, float(time)) - true_picture(world, camera, float(time)))
            for row, region in enumerate(regions):
                values = error[region].astype(np.float64)
                sums[row] += values.sum(), (values**2).sum(), values.size
    if not sums[:, 2].all():
        raise UserError(f"no camera sees {world.parts[part].name} when it appears; choose another part")
    (inside_abs, inside_squared), (around_abs, around_squared) = sums[:, :2] / sums[:, 2:]
    return Ghosts(inside_abs, around_abs, inside_squared, around_squared)


def true_picture(world: ToyWorld, camera: Camera, time: float) -> Float[np.ndarray, "H W 3"]:
    """Returns what the camera sees of the world over white."""
    view = world.render(camera, time, ("rgb", "alpha"))
    assert view.rgb is not None and view.alpha is not None
    return view.rgb * view.alpha + (1.0 - view.alpha)


def _rendered(model: DynamicGaussians, camera: Camera, time: float) -> Float[np.ndarray, "H W 3"]:
    with torch.no_grad():
        picture = render(model, camera, time, background=_WHITE).rgb
    assert picture is not None
    return picture.cpu().clamp(0.0, 1.0).numpy()
