"""gsplat's dictionaries of parameters: what its trainers keep in `splats`, and what their checkpoints hold.

Columns are stored as here: `scales` logarithms, `opacities` logits [N], `quats` wxyz, `sh0` [N, 1, 3] and `shN`
[N, K - 1, 3]. gsplat itself is not imported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import UserError
from ..gaussians import Gaussians
from ..model import DynamicGaussians
from ..motion import Static

__all__ = ["COLUMNS", "from_gsplat", "to_gsplat"]

COLUMNS = ("means", "scales", "quats", "opacities", "sh0", "shN")

_LEAST = 1e-7


def to_gsplat(gaussians: Gaussians, *, sh_degree: int | None = None) -> dict[str, Tensor]:
    """Returns the six columns that gsplat's trainers optimise, detached copies on the same device.

    Args:
        gaussians: Of one instant; `model.at(time)` of a moving model.
        sh_degree: Degree that the trainer wants; coefficients are cut or filled with zeros. None keeps the degree.
    """
    colors = gaussians.colors.detach()
    if sh_degree is not None:
        wanted = (sh_degree + 1) ** 2
        colors = torch.nn.functional.pad(colors[:, :wanted], (0, 0, 0, max(0, wanted - colors.shape[1])))
    opacities = gaussians.opacities.detach().double().clamp(_LEAST, 1.0 - _LEAST)
    table = {
        "means": gaussians.means.detach(),
        "scales": gaussians.scales.detach().clamp_min(1e-12).log(),
        "quats": torch.nn.functional.normalize(gaussians.quats.detach(), dim=-1),
        "opacities": torch.logit(opacities).to(gaussians.opacities.dtype),
        "sh0": colors[:, :1],
        "shN": colors[:, 1:],
    }
    return {name: value.clone() for name, value in table.items()}


def from_gsplat(splats: Mapping[str, Tensor]) -> DynamicGaussians:
    """Returns a model without motion of gsplat's dictionary (a dict, a `ParameterDict`, a state dict).

    Raises `UserError` that names the column that is missing or of another shape; columns beyond the six are left out.
    """
    missing = [name for name in COLUMNS if name not in splats]
    if missing:
        raise UserError(f"splats lack {', '.join(missing)}; expected {', '.join(COLUMNS)}, as gsplat's trainers keep")
    params = {name: splats[name].detach().float().clone() for name in COLUMNS}
    count = len(params["means"])
    shapes = {"means": (count, 3), "scales": (count, 3), "quats": (count, 4), "opacities": (count,)}
    shapes["sh0"] = (count, 1, 3)
    for name, shape in shapes.items():
        if tuple(params[name].shape) != shape:
            hint = "; use x[..., 0]" if tuple(params[name].shape) == (*shape, 1) else ""
            raise UserError(f"{name} must have shape {shape}, got {tuple(params[name].shape)}{hint}")
    rest = tuple(params["shN"].shape)
    whole = len(rest) == 3 and math.isqrt(rest[1] + 1) ** 2 == rest[1] + 1
    if not whole or rest[0] != count or rest[2] != 3:
        raise UserError(f"shN must have shape ({count}, 0, 3, 8, 15 or 24, 3), got {rest}")
    return DynamicGaussians(params, Static())
