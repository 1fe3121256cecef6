"""How much a file format changes what is seen: the model and what was read back, drawn side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from ..cameras import Camera
from ..framing import framing_of
from ..model import DynamicGaussians
from ..rendering import render
from .cubic import own_instants

GOAL = 45.0
"""What approximations of a motion aim at, in dB of `shown_db`."""

_LONGEST_SIDE = 256
_VIEWS = 2
_MOMENTS = 7


@torch.no_grad()
def difference_db(
    model: DynamicGaussians,
    other: DynamicGaussians,
    cameras: Sequence[Camera],
    moments: Sequence[tuple[float, float]],
    *,
    device: torch.device | None = None,
) -> float:
    """Returns the PSNR in dB of `other` against `model`, over the pixels that either covers; infinite when equal.

    Args:
        model: The original.
        other: What is compared with it.
        cameras: Views; drawn with at most 256 pixels on the longer side.
        moments: Clip times, of the original and of the other one.
        device: Where to draw; None draws where the models are.

    Both are drawn on black. The mean squared error is taken over all views and moments together.
    """
    if device is not None:
        model, other = model.to(device), other.to(device)
    total, pixels = 0.0, 0
    for camera in cameras:
        share = min(1.0, _LONGEST_SIDE / max(camera.width, camera.height))
        view = camera.resized(max(1, round(camera.width * share)), max(1, round(camera.height * share)))
        for time, other_time in moments:
            seen = [
                render(which, view, at, ("rgb", "alpha"), background=(0.0, 0.0, 0.0))
                for which, at in ((model, time), (other, other_time))
            ]
            colors = []
            covered = torch.zeros(view.height, view.width, dtype=torch.bool, device=model.params["means"].device)
            for output in seen:
                assert output.rgb is not None and output.alpha is not None
                covered |= output.alpha[..., 0] > 0.01
                colors.append(output.rgb.clamp(0.0, 1.0))
            total += float((colors[0] - colors[1])[covered].double().square().sum())
            pixels += 3 * int(covered.sum())
    if total == 0.0:
        return math.inf
    return 10.0 * math.log10(pixels / total)


@torch.no_grad()
def shown_db(model: DynamicGaussians, other: DynamicGaussians, sh_degree: int = 0) -> float:
    """Returns the `difference_db` of an approximation of the motion of `model`, by cameras that the model keeps.

    The moments are spread over what was recorded and lie between the instants too. Harmonics above `sh_degree`, which
    formats lack, are left out of both.
    """
    framing = framing_of(model)
    cameras = [camera for camera in framing.view.cameras if camera.model == "pinhole"] or list(framing.around)
    cameras = cameras[:: max(1, len(cameras) // _VIEWS)][:_VIEWS]
    own = own_instants(model)
    first, last = (0.0, 1.0) if own is None or len(own) < 2 else (float(own[0]), float(own[-1]))
    times = [first + (last - first) * k / (_MOMENTS - 1) for k in range(_MOMENTS)]
    rest = (sh_degree + 1) ** 2 - 1
    seen = [
        dataclasses.replace(each, params={**each.params, "shN": each.params["shN"][:, :rest]})
        if "shN" in each.params
        else each
        for each in (model, other)
    ]
    return difference_db(seen[0], seen[1], cameras, [(time, time) for time in times])
