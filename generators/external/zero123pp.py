"""Zero123++ (Shi et al., 2023): six views of an object from one picture, denoised as a single 3 x 2 grid.

The picture enters twice: as a reference whose tokens the self-attention sees (`attention.reference`), noised like the
grid at each step, and as a CLIP embedding that is added, weighted by learned `ramping_coefficients`, to the embedding
of an empty prompt. With `Fusion` the frames of a video are tied to the first (STAG4D): all start from the same noise
and the tokens of the grid, in the conditional half, are blended; those of the reference are not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError

from ..attention.fusion import check_fusion, fused_attention, self_attention_names
from ..attention.reference import reference_attention
from ..cameras import orbit_camera
from ..priors.base import CleanViewsHook, Fusion, PriorInfo, StepCallback
from .loading import Placement
from .pictures import before, cut_outs, grid_of, pil, square, views_of

ROWS, COLUMNS = 3, 2
AZIMUTHS = (30.0, 90.0, 150.0, 210.0, 270.0, 330.0)
GRAY = 127.0 / 255.0
"""The background that inputs are put before and outputs come with."""

# Contrast of the grid's pixels and latents, as the weights were trained (generation reference, 3.1).
_IMAGE_SCALE = 0.5 / 0.8
_LATENT_SHIFT, _LATENT_SCALE = 0.22, 0.75
# Degrees by which a camera may differ from the model's own.
_TOLERANCE = 1.0


@dataclasses.dataclass(frozen=True)
class Version:
    """What the cameras of a release are: absolute elevations, azimuths relative to the input's."""

    elevations: tuple[float, float]
    """Of the even and the odd views, degrees above the horizon."""
    fov: float
    """Degrees."""


VERSIONS = {"1.1": Version((30.0, -20.0), 49.1), "1.2": Version((20.0, -10.0), 30.0)}
"""Of v1.1 the field of view is not published; 49.1 is what STAG4D looks through."""


class Zero123PlusPlus:
    """A `MultiViewPrior` with six fixed cameras; see `load`."""

    def __init__(self, parts: dict[str, Any], ramping: Sequence[float], info: PriorInfo, version: str) -> None:
        """Args:
        parts: unet, vae, vision_encoder, text_encoder, tokenizer, feature_extractor_clip, feature_extractor_vae
            and scheduler.
        ramping: [77] weights of the CLIP embedding for the tokens of the prompt.
        """
        self.parts, self.version = parts, VERSIONS[version]
        self.ramping = torch.tensor(list(ramping), dtype=torch.float32)
        self.view_size = _edge(parts["feature_extractor_vae"])
        low_high = self.version.elevations
        self.info = dataclasses.replace(
            info,
            size=self.view_size,
            fixed_cameras=tuple((a, low_high[k % 2]) for k, a in enumerate(AZIMUTHS)),
        )

    @classmethod
    def load(cls, folder: Path, index: dict[str, Any], info: PriorInfo, placement: Placement) -> Zero123PlusPlus:
        """Returns the prior in a folder of the published layout; `index` is its model_index.json."""
        import diffusers
        import transformers

        ramping = index.get("ramping_coefficients")
        if not isinstance(ramping, list):
            raise UserError(f"{folder}/model_index.json: expected ramping_coefficients, a list of numbers; got none")
        models = {
            "unet": diffusers.UNet2DConditionModel,  # pyright: ignore[reportPrivateImportUsage]
            "vae": diffusers.AutoencoderKL,  # pyright: ignore[reportPrivateImportUsage]
            "vision_encoder": transformers.CLIPVisionModelWithProjection,
            "text_encoder": transformers.CLIPTextModel,
        }
        parts: dict[str, Any] = {
            name: kind.from_pretrained(
                folder / name, dtype=placement.dtype, use_safetensors=True, local_files_only=True,
                variant=placement.variant,
            ).to(placement.device).eval()
            for name, kind in models.items()
        }  # fmt: skip
        parts["tokenizer"] = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        for name in ("feature_extractor_clip", "feature_extractor_vae"):
            parts[name] = transformers.CLIPImageProcessor.from_pretrained(folder / name, local_files_only=True)
        scheduler = diffusers.EulerAncestralDiscreteScheduler  # pyright: ignore[reportPrivateImportUsage]
        parts["scheduler"] = scheduler.from_pretrained(
            folder / "scheduler", timestep_spacing="trailing", local_files_only=True
        )
        name = f"{index.get('_name_or_path', '')} {info.source} {info.name}"
        return cls(parts, ramping, info, "1.1" if "1.1" in name else "1.2")

    def cameras(self, size: int | None = None) -> list[Camera]:
        """Returns the six cameras in the frame of `generators.cameras`, with the version's own field of view."""
        return [
            orbit_camera(a, e, fov=self.version.fov, size=size or self.view_size)
            for a, e in self.info.fixed_cameras or ()
        ]

    @torch.no_grad()
    def sample_views(
        self,
        images: Float[Tensor, "T 4 H W"] | None,
        input_camera: Camera,
        cameras: Sequence[Camera],
        *,
        caption: str | None = None,
        times: Sequence[float] | None = None,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        fusion: Fusion | None = None,
        hook: CleanViewsHook | None = None,
        progress: StepCallback | None = None,
    ) -> Float[Tensor, "T V 4 h w"]:
        """See `MultiViewPrior`. 75 steps (as STAG4D) and guidance 4 unless told. `caption` has no part in it."""
        if images is None:
            raise UserError("Zero123++ makes views of a picture; expected images, got none; make one from words first")
        chosen = self._chosen(input_camera, cameras)
        steps, guidance = steps or 75, 4.0 if guidance is None else guidance
        unet = self.parts["unet"]
        if fusion is not None:
            check_fusion(fusion, len(self_attention_names(unet)))
        count, views = len(images), []
        with (
            fused_attention(unet, fusion if count > 1 else None, half=True, device="cpu") as store,
            reference_attention(unet) as bank,
        ):
            for frame, image in enumerate(square(images)):
                if store is not None:
                    store.begin_frame(frame)
                generator = torch.Generator("cpu").manual_seed(seed)

                def told(done: int, of: int, frame: int = frame) -> None:
                    if progress is not None:
                        progress(frame * of + done, count * of)

                grid = self._denoise(image, generator, steps, guidance, store, bank, hook, told)
                views.append(cut_outs(views_of(grid, ROWS, COLUMNS), GRAY)[chosen])
        return torch.stack(views).float()

    def _denoise(
        self, image: Tensor, generator: torch.Generator, steps: int, guidance: float,
        store: Any, bank: Any, hook: CleanViewsHook | None, told: StepCallback,
    ) -> Float[Tensor, "3 R C"]:  # fmt: skip
        unet, scheduler = self.parts["unet"], self._scheduler(hook)
        reference, context = self._conditions(image, guidance, generator)
        rows = len(context)
        side = self.view_size // self._factor
        latents = self._noise((1, unet.config.in_channels, ROWS * side, COLUMNS * side), generator)
        scheduler.set_timesteps(steps, device=unet.device)
        latents = latents * scheduler.init_noise_sigma
        for index, t in enumerate(scheduler.timesteps):
            batch = scheduler.scale_model_input(latents.expand(rows, -1, -1, -1), t)
            noised = scheduler.add_noise(reference, self._noise(reference.shape, generator), t[None])
            if store is not None:
                store.begin_step(index, len(scheduler.timesteps), slice(rows - 1, rows))
            with bank.writing():
                unet(scheduler.scale_model_input(noised, t), t, encoder_hidden_states=context)
            with bank.reading():
                output = unet(batch, t, encoder_hidden_states=context).sample
            if rows == 2:
                without, given = output.chunk(2)
                output = without + guidance * (given - without)
            # Drawn on the CPU, so that a seed means the same on every device.
            latents = scheduler.step(output, t, latents, generator=generator).prev_sample
            told(index + 1, len(scheduler.timesteps))
        return self._decoded(latents)

    def _conditions(self, image: Tensor, guidance: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Returns the reference's latents [B, C, h, w] and the context [B, 77, D]; row 0 of two is without picture."""
        parts, vae = self.parts, self.parts["vae"]
        picture = pil(before(image, GRAY))
        pixels = parts["feature_extractor_vae"](images=picture, return_tensors="pt").pixel_values.to(
            vae.device, vae.dtype
        )
        clip = parts["feature_extractor_clip"](images=picture, return_tensors="pt").pixel_values
        if guidance > 1.0:
            # The published sampler lets the unconditional half see a plain grey picture.
            pixels = torch.cat([torch.zeros_like(pixels), pixels])
        encoded = vae.encode(pixels).latent_dist
        # The reference's latents are not multiplied by the VAE's scaling factor; the weights expect them so.
        reference = encoded.mean + encoded.std * self._noise(encoded.mean.shape, generator)
        tokenizer, text = parts["tokenizer"], parts["text_encoder"]
        empty = tokenizer(
            "", padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        ).input_ids
        words = text(empty.to(text.device))[0]
        vision = parts["vision_encoder"]
        embedding = vision(clip.to(vision.device, vision.dtype)).image_embeds
        ramp = self.ramping.to(embedding)
        if len(ramp) != words.shape[1]:
            raise UserError(f"Zero123++: expected {words.shape[1]} ramping_coefficients, one a token; got {len(ramp)}")
        context = words + embedding[:, None] * ramp[None, :, None]
        return reference, torch.cat([words, context]) if guidance > 1.0 else context

    def _scheduler(self, hook: CleanViewsHook | None) -> Any:
        scheduler = self.parts["scheduler"]
        if hook is None:
            return scheduler
        from ..feedback import with_feedback

        cameras = self.cameras()

        def feedback(clean: Tensor, index: int, steps: int) -> Tensor:
            seen = cut_outs(views_of(self._decoded(clean), ROWS, COLUMNS), GRAY, exact=False)
            return self._encoded(hook(seen, cameras, index, steps))

        return with_feedback(scheduler, feedback, None)

    def _decoded(self, latents: Tensor) -> Float[Tensor, "3 R C"]:
        vae = self.parts["vae"]
        latents = (latents / _LATENT_SCALE + _LATENT_SHIFT) / vae.config.scaling_factor
        pixels = vae.decode(latents.to(vae.dtype)).sample[0].float() / _IMAGE_SCALE
        return (pixels / 2 + 0.5).clamp(0, 1)

    def _encoded(self, views: Float[Tensor, "6 4 S S"]) -> Float[Tensor, "1 C h w"]:
        vae = self.parts["vae"]
        pixels = (grid_of(before(views, GRAY), COLUMNS)[None] * 2 - 1) * _IMAGE_SCALE
        latents = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist.mean * vae.config.scaling_factor
        return (latents - _LATENT_SHIFT) * _LATENT_SCALE

    def _noise(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        unet = self.parts["unet"]
        return torch.randn(tuple(shape), generator=generator).to(unet.device, unet.dtype)

    @property
    def _factor(self) -> int:
        return 2 ** (len(self.parts["vae"].config.block_out_channels) - 1)

    def _chosen(self, input_camera: Camera, cameras: Sequence[Camera]) -> list[int]:
        """Returns which of the six views each camera is."""
        fixed = self.info.fixed_cameras or ()
        start = np.degrees(np.arctan2(input_camera.position[1], input_camera.position[0]))
        chosen = []
        for camera in cameras:
            x, y, z = camera.position
            azimuth, elevation = np.degrees(np.arctan2(y, x)) - start, np.degrees(np.arctan2(z, np.hypot(x, y)))
            near = [
                k
                for k, (a, e) in enumerate(fixed)
                if abs((azimuth - a + 180) % 360 - 180) < _TOLERANCE and abs(elevation - e) < _TOLERANCE
            ]
            if not near:
                known = ", ".join(f"({a:g}, {e:g})" for a, e in fixed)
                raise UserError(
                    f"Zero123++ knows six cameras, (azimuth from the input, elevation) = {known}; got"
                    f" ({azimuth % 360:.1f}, {elevation:.1f}); ask for those in info.fixed_cameras"
                )
            chosen.append(near[0])
        return chosen


def _edge(processor: Any) -> int:
    """Returns the edge of the pictures that an image processor makes."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    return int(size.get("height") or size["shortest_edge"]) if hasattr(size, "get") else int(size.height)
