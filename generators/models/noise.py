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


def fresh_step(ddim: DDIMScheduler, x0: Tensor, t: int, x: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the next sample, with as much fresh noise as the schedule has room for (Ho et al., 2020).

    What a step leaves of the old noise, a small network would take for signal from then on.
    """
    assert ddim.num_inference_steps is not None
    before = t - TRAIN_STEPS // ddim.num_inference_steps
    now, then = ddim.alphas_cumprod[t], ddim.alphas_cumprod[before] if before >= 0 else ddim.final_alpha_cumprod
    share = (((1 - then) / (1 - now)) * (1 - now / then)) ** 0.5
    # From pure noise on nothing of the old is kept; rounding must not make that less than nothing.
    eta = 1.0 if 1 - then - share**2 >= 0 else 0.999
    return ddim.step(x0, t, x, eta=eta, generator=generator, return_dict=False)[0]


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
