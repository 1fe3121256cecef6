"""What a fit minimises: a weighted sum of terms, each a function of a step.

A term takes a `Step` and returns a scalar tensor, or None where it has nothing to say of this picture. Its weight is
the setting `loss.NAME`; its value, weighted, is a figure of its own in metrics.jsonl, the report and the live viewer.
The terms here hold for every motion model; what one model has for itself comes from `MotionModel.terms`, what ties
neighbours together from `coherence`, and what other packages bring from the registry `TERMS`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from diff_rasterizer import l1_ssim_loss

from ..gaussians import Gaussians
from ..motion import MotionModel, Params
from ..plugins import TERMS
from .config import FitConfig
from .drawing import draw
from .step import Step
from .targets import Target
from .weights import Weight, weight_at

_SSIM_REACH = 5
"""Half the window of SSIM, in pixels."""
_NEAREST = 0.02
"""Of the near plane: what the term `near-plane` draws begins here."""


class Term(Protocol):
    """A part of the loss.

    It may have an attribute `needs`, the names of the buffers it will ask `step.render` for, and `every`, a number of
    steps: it is then asked every so many steps only, and counts so much more.
    """

    def __call__(self, step: Step) -> Tensor | None:
        """Returns a scalar with a gradient, or None."""
        ...


@dataclasses.dataclass
class WeightedTerm:
    """A term in a fit."""

    name: str
    term: Term
    weight: Weight

    def __call__(self, step: Step) -> Tensor | None:
        """Returns the weighted value; None where it adds nothing."""
        weight = weight_at(self.weight, step.progress)
        every = getattr(self.term, "every", 1)
        if weight == 0.0 or step.number % every:
            return None
        value = self.term(step)
        if value is None:
            return None
        value = value if every == 1 else every * value
        return value if weight == 1.0 else weight * value


def terms_of(config: FitConfig, motion: MotionModel) -> list[WeightedTerm]:
    """Returns the terms that the settings switch on, in the order in which they are added up."""
    own = motion.terms()
    found = []
    for name in config.active_terms():
        term: Any = own[name] if name in own else TERMS.get(name)
        settings = config.loss.settings.get(name, {})
        if isinstance(term, type):
            term = term(**settings)
        found.append(WeightedTerm(name, term, config.loss.weights[name]))
    return found


def needed_buffers(terms: Sequence[WeightedTerm]) -> set[str]:
    """Returns the buffers that the terms say they will ask for."""
    return {name for term in terms for name in getattr(term.term, "needs", ())}


def photometric(step: Step) -> Tensor:
    """Returns (1 - w) L1 + w (1 - SSIM) of the rendered picture, with w the setting `loss.ssim`."""
    rgb, wanted, target = step.rgb, step.composed, step.target
    if target.weight is None and target.share == 1.0:
        return l1_ssim_loss(rgb, wanted, ssim_weight=step.config.loss.ssim)
    if target.weight is not None:
        # Pixels that do not count are set to what was rendered: no difference, and no gradient beyond the reach of
        # SSIM's window, not even a rounding error, of which Adam would make a whole step. Fractions cannot be had that
        # way (an L1 gradient is a sign); they scale the whole picture.
        given = wanted.float() / 255.0 if wanted.dtype == torch.uint8 else wanted
        counts = target.weight > 0
        wanted = torch.where(counts, given, rgb.detach())
        near = max_pool2d(counts.float()[None, ..., 0], 2 * _SSIM_REACH + 1, stride=1, padding=_SSIM_REACH)[
            0, ..., None
        ]
        rgb = torch.where(near > 0, rgb, rgb.detach())
    return _share_of(target) * l1_ssim_loss(rgb, wanted, ssim_weight=step.config.loss.ssim)


def alpha(step: Step) -> Tensor | None:
    """Returns the mean difference between rendered and given alpha; None for pictures without alpha."""
    target = step.target
    if target.alpha is None:
        return None
    difference = (step.alpha - target.alpha).abs()
    if target.weight is not None:
        difference = difference * target.weight
    return difference.mean() if target.share == 1.0 else target.share * difference.mean()


def opacity(step: Step) -> Tensor:
    """Returns the mean opacity, so that needless Gaussians fade and are pruned.

    With `loss.opacity_at_time` it is FreeTimeGS's 4D regularisation, mean(o sg[sigma(t)]): at the time drawn, without a
    gradient into the temporal window.
    """
    opacities = torch.sigmoid(step.params["opacities"])
    if step.config.loss.opacity_at_time:
        opacities = opacities * (step.state.opacities / opacities.clamp_min(1e-6)).detach()
    return opacities.mean()


def scale(step: Step) -> Tensor:
    """Returns the mean scale."""
    return step.state.scales.mean()


def anisotropy(step: Step) -> Tensor:
    """Returns the mean log ratio of the longest to the middle axis above `loss.anisotropy_limit`: against needles."""
    logs = step.params["scales"]
    longest = logs.amax(dim=1)
    middle = logs.sum(dim=1) - longest - logs.amin(dim=1)
    return torch.relu(longest - middle - math.log(step.config.loss.anisotropy_limit)).mean()


def near_plane(step: Step) -> Tensor | None:
    """Returns the mean alpha of what stands nearer to the camera than the near plane; None where nothing does.

    The pictures of a fit do not show it, so nothing else keeps it from growing there, and a program that knows no such
    distance draws it as fog over the whole picture. Drawn by itself, at a quarter of the resolution.
    """
    viewmat = step.target.viewmat
    depth = step.state.means.detach() @ viewmat[2, :3] + viewmat[2, 3]
    rows = ((depth > _NEAREST * step.near) & (depth < step.near)).nonzero()[:, 0]
    if not len(rows):
        return None
    width, height = max(1, step.target.width // 4), max(1, step.target.height // 4)
    size = torch.tensor([width / step.target.width, height / step.target.height, 1.0], device=viewmat.device)
    state = step.state.select(rows)
    # Black, and of degree 0: only the alpha counts.
    state = dataclasses.replace(state, colors=torch.zeros_like(state.colors[:, :1]))
    drawing = draw(
        state,
        viewmat[None],
        (size[:, None] * step.target.K)[None],
        width,
        height,
        near=_NEAREST * step.near,
        backend=step.backend,
    )
    return drawing.alpha.mean()


near_plane.every = 4  # type: ignore[attr-defined]


def _share_of(target: Target) -> Tensor | float:
    """Returns how much a picture counts: its share times the mean of its weights above 0."""
    if target.weight is None:
        return target.share
    counted = (target.weight > 0).sum().clamp_min(1)
    return target.share * target.weight.sum() / counted


def penalties(config: FitConfig, motion: MotionModel, params: Params, state: Gaussians) -> Tensor:
    """Returns the sum of the weighted terms that look at the Gaussians alone: for loops that draw by themselves.

    `config.loss` says which; photometric and neighbourhood terms are left out.
    """
    seen: Any = SimpleNamespace(config=config, motion=motion, params=params, state=state, progress=1.0, number=0)
    chosen = {"opacity", "scale", "anisotropy", *motion.terms()}
    values = [term(seen) for term in terms_of(config, motion) if term.name in chosen]
    return torch.stack([value for value in values if value is not None] or [state.means.new_zeros(())]).sum()
