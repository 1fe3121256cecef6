"""Stable Video Diffusion (Blattmann et al., 2023): a picture becomes a short video."""

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
from .pictures import before, cut_outs, padded, pil, square

_WHITE = 1.0
# The published weights were trained on pictures of this shape; the object stands in the middle of it.
_HEIGHT, _WIDTH = 576, 1024


class StableVideoDiffusion:
    """A `VideoPrior` from a picture; words have no part in it."""

    def __init__(self, pipeline: Any, info: PriorInfo) -> None:
        self.pipeline, self.info = pipeline, info
        wide = info.size == _HEIGHT
        self.height, self.width = (_HEIGHT, _WIDTH) if wide else (info.size, info.size)

    @classmethod
    def load(cls, folder: Path, index: dict[str, Any], info: PriorInfo, placement: Placement) -> StableVideoDiffusion:
        """Returns the prior in a folder that `loading.open_external` has checked."""
        return cls(load_pipeline("StableVideoDiffusionPipeline", folder, placement), info)

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
        """See `VideoPrior`. 25 steps unless told; guidance grows from frame to frame, 1 to `guidance` (3)."""
        if image is None:
            raise UserError("Stable Video Diffusion moves a picture; expected an image, got none; make one from words")
        longest = self.pipeline.unet.config.num_frames
        if not 1 <= frames <= longest:
            raise UserError(f"these Stable Video Diffusion weights make 1 to {longest} frames, got {frames}")
        picture = pil(before(padded(image[None], self.height, self.width)[0], _WHITE))
        video = self.pipeline(
            picture, height=self.height, width=self.width, num_frames=frames, num_inference_steps=steps or 25,
            max_guidance_scale=3.0 if guidance is None else guidance, decode_chunk_size=4, output_type="pt",
            generator=torch.Generator("cpu").manual_seed(seed), callback_on_step_end=told(progress, steps or 25),
        ).frames[0]  # fmt: skip
        return cut_outs(square(video), _WHITE).float()


def told(progress: StepCallback | None, steps: int) -> Any:
    """Returns `progress` as diffusers' pipelines call it after each step."""
    if progress is None:
        return None

    def callback(pipeline: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        progress(index + 1, getattr(pipeline, "num_timesteps", steps))
        return values

    return callback
