"""Wan (2025): a video from a picture and words, or from words alone; a transformer trained by flow matching."""

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
_STYLE = ", a single object before a plain white background, the camera does not move"
# The longest video of the published weights.
_LONGEST = 81
# Length to which their words are padded.
_TOKENS = 512


class Wan:
    """A `VideoPrior`; whether it needs a picture or takes none is the weights' matter."""

    def __init__(self, pipeline: Any, info: PriorInfo, *, needs_image: bool) -> None:
        self.pipeline, self.info, self.needs_image = pipeline, info, needs_image
        transformer = pipeline.transformer or pipeline.transformer_2
        patch = pipeline.vae_scale_factor_spatial * transformer.config.patch_size[1]
        if info.size % patch:
            raise UserError(f"{info.name}: expected a size that is a multiple of {patch}, got {info.size}")

    @classmethod
    def load(cls, folder: Path, index: dict[str, Any], info: PriorInfo, placement: Placement) -> Wan:
        """Returns the prior in a folder that `loading.open_external` has checked."""
        name = index["_class_name"]
        pipeline = load_pipeline(name, folder, placement)
        # In half precision the VAE washes out; it is small beside the transformer.
        pipeline.vae.to(torch.float32)
        return cls(pipeline, info, needs_image=name == "WanImageToVideoPipeline")

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
        """See `VideoPrior`. 50 steps and guidance 5 unless told.

        The model makes 4k + 1 frames: the next such number is sampled and `frames` of them taken, evenly from the first
        to the last.
        """
        if self.needs_image and image is None:
            raise UserError(f"{self.info.name} moves a picture; expected an image, got none; use a text-to-video Wan")
        if not self.needs_image and (image is not None or not caption):
            raise UserError(f"{self.info.name} makes a video of words alone; give a caption and no image")
        if not 1 <= frames <= _LONGEST:
            raise UserError(f"{self.info.name} makes 1 to {_LONGEST} frames, got {frames}")
        size = self.info.size
        every = self.pipeline.vae_scale_factor_temporal
        sampled = -(-(frames - 1) // every) * every + 1
        options: dict[str, Any] = {}
        if image is not None:
            options["image"] = pil(before(resized(square(image[None]), size, size)[0], _WHITE))
        video = self.pipeline(
            prompt_embeds=self._encoded((caption or "the object moves") + _STYLE),
            negative_prompt_embeds=self._encoded(""), height=size, width=size,
            num_frames=sampled, num_inference_steps=steps or 50,
            guidance_scale=5.0 if guidance is None else guidance, output_type="pt",
            generator=torch.Generator("cpu").manual_seed(seed), callback_on_step_end=told(progress, steps or 50),
            **options,
        ).frames[0]  # fmt: skip
        taken = torch.linspace(0, len(video) - 1, frames).round().long()
        return cut_outs(video.cpu()[taken], _WHITE).float()

    def _encoded(self, text: str) -> Float[Tensor, "1 N D"]:
        """Returns the embedding of words, zero behind their end.

        The pipelines' own way cleans the text with a package (ftfy) that is not everybody's.
        """
        tokens = self.pipeline.tokenizer(
            [" ".join(text.split())],
            padding="max_length",
            max_length=_TOKENS,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        encoder = self.pipeline.text_encoder
        device = self.pipeline._execution_device
        mask = tokens.attention_mask.to(device)
        embedding = encoder(tokens.input_ids.to(device), mask).last_hidden_state
        return embedding * mask[..., None].to(embedding.dtype)
