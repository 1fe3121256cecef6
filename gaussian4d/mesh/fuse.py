"""A mesh of one instant: depth rendered from many cameras, averaged as truncated signed distances in a grid.

Curless and Levoy, "A Volumetric Method for Building Complex Models from Range Images", 1996. A camera that sees nothing
along a ray says that the ray is empty, so that what it sees past is carved away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..cameras import Camera
from ..devices import choose_device
from ..errors import UserError
from ..gaussians import Gaussians
from ..model import DynamicGaussians
from ..rendering import render
from .surface import Mesh, surface

_TRUNCATION = 4.0
"""Grid points behind and before a surface up to which a picture speaks."""
_SOLID, _EMPTY = 0.5, 0.05
"""Alpha from which a pixel shows a surface, and up to which its ray is empty."""
_DOUBT = 0.9
"""Uncertainty from which on a depth is a mixture of two surfaces."""
_LONGEST_SIDE = 512
_CHUNK = 1 << 21
_MOST_CAMERAS = 64


@torch.no_grad()
def fuse(
    model: DynamicGaussians,
    time: float,
    cameras: Sequence[Camera],
    *,
    detail: int = 128,
    box: tuple[np.ndarray, np.ndarray] | None = None,
    device: str | torch.device | None = None,
) -> Mesh:
    """Returns the surface of `model` at clip time `time` as its cameras see it, without small loose pieces.

    Args:
        model: Of any motion.
        time: Clip time.
        cameras: Pinholes; where the fit was made, or all around. At most 64, spread over the list, are used.
        detail: Grid points along the longest side.
        box: Lowest and highest corner [3] in world units; None for the box of the visible Gaussians without the
            outermost 1 %, and a little more.
        device: Where to draw (see `devices.choose_device`); None draws where the model is.

    Raises:
        UserError: when nothing is visible, no surface is found, or the device cannot be used.
    """
    if not 8 <= detail <= 1024:
        raise UserError(f"the detail of a mesh is 8 to 1024 grid points along the longest side, got {detail}")
    if device is not None:
        model = model.to(choose_device(device).device)
    low, high = visible_box(model.at(time)) if box is None else box
    spacing = float((high - low).max()) / (detail - 1)
    counts = np.ceil((high - low) / spacing).astype(int) + 1
    number = int(counts.prod())
    distance, weight = torch.zeros(number), torch.zeros(number)
    color, color_weight = torch.zeros(number, 3), torch.zeros(number)
    chosen = [cameras[k] for k in np.unique(np.linspace(0, len(cameras) - 1, _MOST_CAMERAS).round().astype(int))]
    for camera in chosen:
        share = min(1.0, _LONGEST_SIDE / max(camera.width, camera.height))
        view = camera.resized(max(1, round(camera.width * share)), max(1, round(camera.height * share)))
        seen = render(model, view, time, ("rgb", "depth", "alpha", "uncertainty"), background=(0.0, 0.0, 0.0))
        assert seen.rgb is not None and seen.depth is not None
        assert seen.alpha is not None and seen.uncertainty is not None
        depth, alpha, doubt = (value[..., 0].cpu() for value in (seen.depth, seen.alpha, seen.uncertainty))
        # Black behind it took its share of a half transparent colour.
        rgb = (seen.rgb.cpu() / alpha[..., None].clamp_min(_SOLID)).clamp(0.0, 1.0)
        solid, empty = (alpha >= _SOLID) & (doubt < _DOUBT), alpha <= _EMPTY
        for first in range(0, number, _CHUNK):
            rows = torch.arange(first, min(first + _CHUNK, number))
            index, z = _pixels(view, rows, counts, low, spacing)
            inside = index >= 0
            rows, index, z = rows[inside], index[inside], z[inside]
            value = (depth.reshape(-1)[index] - z) / (_TRUNCATION * spacing)
            hit = solid.reshape(-1)[index] & (value > -1.0)
            said = hit | empty.reshape(-1)[index]
            value = torch.where(hit, value.clamp_max(1.0), 1.0)
            distance[rows[said]] += value[said]
            weight[rows[said]] += 1.0
            near = hit & (value < 1.0)
            color[rows[near]] += rgb.reshape(-1, 3)[index[near]]
            color_weight[rows[near]] += 1.0
    shape = tuple(int(count) for count in counts)
    mesh = surface(
        (distance / weight.clamp_min(1.0)).reshape(shape).numpy(),
        (weight > 0.0).reshape(shape).numpy(),
        (color / color_weight.clamp_min(1.0)[:, None]).reshape(*shape, 3).numpy(),
        low,
        spacing,
    ).without_crumbs()
    if len(mesh.faces) == 0:
        raise UserError(f"no surface was found at clip time {time:g}; choose another --time or more --mesh-detail")
    return mesh


def visible_box(state: Gaussians) -> tuple[np.ndarray, np.ndarray]:
    """Returns the corners of the box of the visible Gaussians, the outermost 1 % left out and 8 % added all around."""
    shown = state.opacities > 0.3 * float(state.opacities.amax()) if len(state) else state.opacities > 0
    means = state.means[shown].detach().cpu().double().numpy()
    if len(means) == 0:
        raise UserError("no Gaussian is visible, so there is no surface; choose another --time")
    low, high = np.quantile(means, [0.01, 0.99], axis=0)
    margin = max(0.08 * float((high - low).max()), 1e-6)
    return low - margin, high + margin


def _pixels(
    camera: Camera, rows: torch.Tensor, counts: np.ndarray, low: np.ndarray, spacing: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (pixel [R], depth [R]) of grid points: the index of the pixel they fall on, or -1, and their z."""
    z_index = rows % int(counts[2])
    y_index = rows // int(counts[2]) % int(counts[1])
    x_index = rows // int(counts[2] * counts[1])
    points = torch.stack([x_index, y_index, z_index], dim=1).float() * spacing + torch.from_numpy(low).float()
    matrix = torch.from_numpy(camera.viewmat).float()
    local = points @ matrix[:3, :3].T + matrix[:3, 3]
    z = local[:, 2]
    ahead = z > 1e-6
    divided = local[:, :2] / torch.where(ahead, z, torch.ones_like(z))[:, None]
    K = torch.from_numpy(camera.K).float()
    column = torch.floor(divided[:, 0] * K[0, 0] + K[0, 2]).long()
    line = torch.floor(divided[:, 1] * K[1, 1] + K[1, 2]).long()
    good = ahead & (column >= 0) & (column < camera.width) & (line >= 0) & (line < camera.height)
    return torch.where(good, line * camera.width + column, -1), z
