"""The noise the embedded priors are trained with: cosine schedule, zero terminal SNR, prediction of the clean picture.

Nichol and Dhariwal 2021 (schedule); Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024
(zero terminal SNR, trailing steps): eight steps suffice, and the first prediction is a regression on the condition.
"""

from __future__ import annotations

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor

TRAIN_STEPS = 1000
ETA = 1.0
"""Fresh noise at every step (Ho et al., 2020), as much as the schedule has room for: what a step leaves of the old
noise, a small network would take for signal from then on."""


def scheduler(clip: bool = True) -> DDIMScheduler:
    """Returns the scheduler that embedded priors are sampled with; `clip` keeps predictions in -1..1."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=True,
        prediction_type="sample",
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=clip,
    )


def noised(
    clean: Float[Tensor, "B F C H W"], noise: Float[Tensor, "B F C H W"], levels: Float[Tensor, "B F"]
) -> Float[Tensor, "B F C H W"]:
    """Returns pictures at noise `levels` (shares of the training timesteps); level 0 leaves them clean."""
    alphas = alphas_at(levels).to(clean)
    return alphas.sqrt() * clean + (1.0 - alphas).clamp_min(0.0).sqrt() * noise


def alphas_at(levels: Float[Tensor, "B F"]) -> Float[Tensor, "B F 1 1 1"]:
    """Returns the share of the signal's variance (alpha bar) at noise `levels`: 1 at 0, 0 at 1."""
    steps = (levels * TRAIN_STEPS).round().long() - 1
    return torch.cat([_ALPHAS, torch.ones(1)]).to(levels.device)[steps][..., None, None, None]


def wiener(images: Float[Tensor, "B F C H W"], levels: Float[Tensor, "B F"]) -> Float[Tensor, "B F C H W"]:
    """Returns what is known of clean pictures of unit variance from noisy ones: the best linear estimate.

    The more noise, the less of it remains; of pure noise nothing. A network that is given this need not learn first to
    look away from noise, and predicts from pure noise exactly what a regression on its conditions would.
    """
    return alphas_at(levels).sqrt() * images


_ALPHAS: Tensor = scheduler().alphas_cumprod
