"""AnimateDiff (Guo et al., 2024): a motion module makes Stable Diffusion paint videos, from words or over a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError

from ..priors.base import PriorInfo, StepCallback
from .loading import Placement, load_pipeline
from .pictures import before, cut_outs, pil, resized, square
from .svd import told

_WHITE = 1.0
_STYLE = ", a single object before a plain white background"
# How far a still picture is noised before motion is painted over it: less moves less.
_STRENGTH = 0.75


class AnimateDiff:
    """A `VideoPrior` from words. With a picture, a video of it standing still is noised and denoised (SDEdit, Meng et
    al., 2022): its first frame resembles the picture and is not the same."""

    def __init__(self, pipeline: Any, info: PriorInfo) -> None:
        self.pipeline, self.info = pipeline, info

    @classmethod
    def load(cls, folder: Path, index: dict[str, Any], info: PriorInfo, placement: Placement) -> AnimateDiff:
        """Returns the prior in a folder that `loading.open_external` has checked."""
        return cls(load_pipeline("AnimateDiffPipeline", folder, placement), info)

    @torch.no_grad()
    def sample_video(
        self,
        image: Float[Tensor, "4 H W"] | None,
        camera: Camera,
        frames: int,
        *,
        caption: str | None = None,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        progress: StepCallback | None = None,
    ) -> Float[Tensor, "T 4 h w"]:
        """See `VideoPrior`. 25 steps and guidance 7.5 unless told."""
        longest = int(self.pipeline.motion_adapter.config.motion_max_seq_length)
        if not 1 <= frames <= longest:
            raise UserError(f"this AnimateDiff motion module makes 1 to {longest} frames, got {frames}")
        if image is None and not caption:
            raise UserError("AnimateDiff needs words or a picture; give a caption")
        size = self.info.size
        options: dict[str, Any] = dict(
            prompt=(caption or "the object moves") + _STYLE, height=size, width=size, num_inference_steps=steps or 25,
            guidance_scale=7.5 if guidance is None else guidance, output_type="pt",
            generator=torch.Generator("cpu").manual_seed(seed), callback_on_step_end=told(progress, steps or 25),
        )  # fmt: skip
        if image is None:
            video = self.pipeline(num_frames=frames, **options).frames[0]
        else:
            from diffusers import AnimateDiffVideoToVideoPipeline  # pyright: ignore[reportPrivateImportUsage]

            painter: Any = AnimateDiffVideoToVideoPipeline(**self.pipeline.components)
            painter.set_progress_bar_config(disable=True)
            still = pil(before(resized(square(image[None]), size, size)[0], _WHITE))
            video = painter(video=[still] * frames, strength=_STRENGTH, **options).frames[0]
        return cut_outs(video, _WHITE).float()
