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


def scheduler() -> DDIMScheduler:
    """Returns the scheduler that embedded priors are sampled with."""
    return DDIMScheduler(
        num_train_timesteps=TRAIN_STEPS,
        beta_schedule="squaredcos_cap_v2",
        rescale_betas_zero_snr=True,
        prediction_type="sample",
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=True,
    )


def noised(
    clean: Float[Tensor, "B F C H W"], noise: Float[Tensor, "B F C H W"], levels: Float[Tensor, "B F"]
) -> Float[Tensor, "B F C H W"]:
    """Returns pictures at noise `levels` (shares of the training timesteps); level 0 leaves them clean."""
    steps = (levels * TRAIN_STEPS).round().long() - 1
    alphas = torch.cat([_ALPHAS, torch.ones(1)])[steps].to(clean.device)[..., None, None, None]
    return alphas.sqrt() * clean + (1.0 - alphas).clamp_min(0.0).sqrt() * noise


_ALPHAS: Tensor = scheduler().alphas_cumprod
