"""What a STAG4D fit minimises beside the general terms: the input's picture, its anchors, score distillation, needles.

Each is a term of `gaussian4d.fitting.terms`: a function of a step that draws what it needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diff_rasterizer import l1_ssim_loss
from gaussian4d.cameras import Camera
from gaussian4d.fitting.drawing import Drawing
from gaussian4d.fitting.step import Step

from .anchors import Anchors
from .config import StagConfig
from .distillation import Distillation
from .drawing import Cameras

Background = Callable[[], Float[Tensor, "3"]]


@dataclasses.dataclass
class Reference:
    """The distance to the input's picture of the step's instant, at the size the schedule asks for.

    Over a new background each time, which shows what is missing and what is too much, as black or white does in the
    paper.
    """

    config: StagConfig
    frames: Float[Tensor, "T 4 H W"]
    camera: Camera

    def __post_init__(self) -> None:
        self._pyramid: dict[int, tuple[Cameras, Tensor]] = {}

    def __call__(self, step: Step) -> Tensor:
        """Returns L1 and SSIM of the picture and L1 of its alpha."""
        drawing, target = self.drawn(step)
        return picture_loss(drawing, target, step.background, self.config)

    def drawn(self, step: Step) -> tuple[Drawing, Float[Tensor, "1 4 h w"]]:
        """Returns what the input's camera sees and the input's picture."""
        cameras, targets = self._at(_size_at(self.config.sizes, step.progress))
        drawing = step.once("reference", lambda: cameras.draw(step))
        return drawing, targets[step.target.index : step.target.index + 1]

    def _at(self, size: int) -> tuple[Cameras, Float[Tensor, "T 4 h w"]]:
        """Returns the input's camera and pictures with the longest side at most `size`, area-averaged."""
        if size not in self._pyramid:
            height, width = self.frames.shape[-2:]
            shrink = min(1.0, size / max(height, width))
            h, w = max(round(height * shrink), 1), max(round(width * shrink), 1)
            frames = self.frames if shrink == 1.0 else torch.nn.functional.interpolate(self.frames, (h, w), mode="area")
            self._pyramid[size] = Cameras.of([self.camera.resized(w, h)], self.frames.device), frames
        return self._pyramid[size]


@dataclasses.dataclass
class AnchorViews:
    """The distance to a few of the instant's anchors; the odds of an anchor are its weight, so that all count right."""

    config: StagConfig
    anchors: Anchors
    odds: Float[Tensor, " V"]
    times: Sequence[float]
    background: Background
    generator: torch.Generator
    device: torch.device

    def __post_init__(self) -> None:
        self._cameras = Cameras.of(self.anchors.cameras, self.device)
        self._views = self.anchors.views.to(self.device)

    def __call__(self, step: Step) -> Tensor:
        """Returns L1 and SSIM of the pictures and L1 of their alpha."""
        count = min(self.config.anchors_per_step, int((self.odds > 0).sum()))
        chosen = torch.multinomial(self.odds, count, generator=self.generator)
        index, state = step.target.index, step.state
        if len(self._views) == 1 and index > 0:
            # All anchors are of the first instant; what moves as a solid can be seen there as well as at its own.
            index, state = 0, step.motion.at(step.params, self.times[0])
        chosen = chosen.to(self.device, non_blocking=True)
        drawing = self._cameras.rows(chosen).draw(step, state)
        return picture_loss(drawing, self._views[index][chosen], self.background(), self.config)


class ScoreDistillation:
    """What the prior makes of renderings of the step's instant, see `distillation`; asked every so many steps."""

    def __init__(self, config: StagConfig, distillation: Distillation) -> None:
        self.config, self.distillation, self.every = config, distillation, config.sds_every

    def __call__(self, step: Step) -> Tensor | None:
        """Returns the loss; None until renderings are good enough to be judged."""
        if step.progress < self.config.sds_start:
            return None

        def rendered(cameras: Sequence[Camera]) -> Tensor:
            return Cameras.of(cameras, step.background.device).draw(step).rgba

        return self.distillation.loss(rendered, step.target.index, step.progress)


@dataclasses.dataclass
class Needles:
    """mean(max(s_max / s_min, limit)) - limit of linear scales (PhysGaussian, equation 8)."""

    limit: float

    def __call__(self, step: Step) -> Tensor:
        """Returns the penalty."""
        return anisotropy(step.state.scales, self.limit)


def picture_loss(
    drawing: Drawing, target: Float[Tensor, "C 4 H W"], background: Float[Tensor, "3"], config: StagConfig
) -> Tensor:
    """Returns L1 and SSIM of the pictures over `background`, and L1 of alpha; means over pictures."""
    target = target.permute(0, 2, 3, 1)
    rgb = drawing.rgb + (1.0 - drawing.alpha) * background
    wanted = target[..., :3] + (1.0 - target[..., 3:]) * background
    loss = l1_ssim_loss(rgb, wanted.contiguous(), ssim_weight=config.ssim_weight)
    return loss + config.alpha_weight * (drawing.alpha - target[..., 3:]).abs().mean()


def anisotropy(scales: Float[Tensor, "N 3"], limit: float) -> Tensor:
    """Returns mean(max(s_max / s_min, limit)) - limit of linear scales (PhysGaussian, equation 8).

    STAG4D's program divides logarithms here; the paper means the scales themselves.
    """
    ratio = scales.amax(dim=1) / scales.amin(dim=1).clamp_min(1e-8)
    return ratio.clamp_min(limit).mean() - limit


def _size_at(sizes: tuple[tuple[float, int], ...], progress: float) -> int:
    """Returns the size of the last (progress, size) pair that has begun."""
    return [size for begin, size in sizes if progress >= begin][-1]
