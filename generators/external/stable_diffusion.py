"""Stable Diffusion and Stable Diffusion XL: a picture of an object from words."""

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
from .pictures import cut_outs
from .svd import told

_WHITE = 1.0
_STYLE = ", a single object, whole and centred, before a plain white background"
_AGAINST = "cropped, several objects, background, shadow, text, frame"


class StableDiffusion:
    """An `ImagePrior`. The camera is not obeyed: the words decide from where the object is seen."""

    def __init__(self, pipeline: Any, info: PriorInfo) -> None:
        self.pipeline, self.info = pipeline, info

    @classmethod
    def load(cls, folder: Path, index: dict[str, Any], info: PriorInfo, placement: Placement) -> StableDiffusion:
        """Returns the prior in a folder that `loading.open_external` has checked."""
        name = index["_class_name"]
        # Their checker blackens pictures that it dislikes; it may be left out, and then the library warns of it.
        unchecked = name == "StableDiffusionPipeline" and not (folder / "safety_checker").is_dir()
        options = {"safety_checker": None, "requires_safety_checker": False} if unchecked else {}
        return cls(load_pipeline(name, folder, placement, **options), info)

    @torch.no_grad()
    def sample_image(
        self,
        caption: str,
        camera: Camera,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        progress: StepCallback | None = None,
    ) -> Float[Tensor, "4 h w"]:
        """See `ImagePrior`. 30 steps and guidance 7 unless told."""
        if not caption.strip():
            raise UserError(f"{self.info.name} paints words; expected a caption, got none")
        size = self.info.size
        made = self.pipeline(
            caption + _STYLE, negative_prompt=_AGAINST, height=size, width=size, num_inference_steps=steps or 30,
            guidance_scale=7.0 if guidance is None else guidance, output_type="pt",
            generator=torch.Generator("cpu").manual_seed(seed), callback_on_step_end=told(progress, steps or 30),
        )  # fmt: skip
        image = made.images[:1]
        if (getattr(made, "nsfw_content_detected", None) or [False])[0]:
            raise UserError(f"the safety checker of {self.info.name} refused the picture; change the words or the seed")
        return cut_outs(image, _WHITE)[0].float()
