"""What a fit minimises: the difference to the picture, and what keeps unseen cameras right where no picture says."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diff_rasterizer import l1_ssim_loss

from ..gaussians import Gaussians
from ..motion import Params
from ..motion.hexplane import BOUNDS, plane_variation, time_activity, time_roughness
from .config import FitConfig
from .targets import Target


def picture_loss(config: FitConfig, target: Target, composed: Tensor, rgb: Tensor, alpha: Tensor) -> Tensor:
    """Returns the loss of a rendered picture `rgb` [H, W, 3] with `alpha` [H, W, 1] against `composed` [H, W, 3]."""
    loss = l1_ssim_loss(rgb, composed, ssim_weight=config.ssim_weight)
    if target.alpha is not None and config.alpha_weight:
        loss = loss + config.alpha_weight * (alpha - target.alpha).abs().mean()
    return loss


def compose(target: Target, background: Tensor) -> Tensor:
    """Returns the picture to match: itself, or put over `background` [3] where it has alpha."""
    if target.alpha is None:
        return target.rgb
    rgb = target.rgb.float() / 255.0 if target.rgb.dtype == torch.uint8 else target.rgb
    return torch.lerp(background.expand_as(rgb), rgb, target.alpha)


def regularisation(config: FitConfig, params: Params, state: Gaussians) -> Tensor | float:
    """Returns the sum of the weighted penalties on the Gaussians; `state` is what was drawn.

    The opacity term is FreeTimeGS's, mean(o sg[sigma(t)]): at the time drawn, without a gradient into the temporal
    window; or, where the settings say so, the plain mean.
    """
    total: Tensor | float = 0.0
    if config.opacity_weight:
        opacities = torch.sigmoid(params["opacities"])
        if config.opacity_at_time:
            opacities = opacities * (state.opacities / opacities.clamp_min(1e-6)).detach()
        total = total + config.opacity_weight * opacities.mean()
    if config.scale_weight:
        total = total + config.scale_weight * state.scales.mean()
    if config.anisotropy_weight:
        logs = params["scales"]
        longest = logs.amax(dim=1)
        middle = logs.sum(dim=1) - longest - logs.amin(dim=1)
        total = (
            total + config.anisotropy_weight * torch.relu(longest - middle - math.log(config.anisotropy_limit)).mean()
        )
    if config.velocity_weight and "velocities" in params:
        total = total + config.velocity_weight * params["velocities"].abs().mean()
    if config.series_weight and "means_series" in params:
        total = total + config.series_weight * params["means_series"].abs().mean()
    return total + _plane_penalties(config, params)


def _plane_penalties(config: FitConfig, params: Params) -> Tensor | float:
    """Returns the weighted penalties on the planes of a hexplane model; 0 for other models."""
    total: Tensor | float = 0.0
    if BOUNDS not in params:
        return total
    for weight, penalty in (
        (config.plane_variation_weight, plane_variation),
        (config.time_roughness_weight, time_roughness),
        (config.time_activity_weight, time_activity),
    ):
        if weight:
            total = total + weight * penalty(params)
    return total
