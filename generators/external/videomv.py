"""VideoMV (Zuo et al., 2024): a video diffusion model whose frames are views from given cameras.

The base is I2VGen-XL (from a picture) or ModelScope text-to-video (from words), both UNets over [B, C, T, H, W]. The
camera of each frame enters through an embedding that is added to that of the time in every residual block (section 3.2
there): the flattened 4 x 4 camera-to-world matrix -> linear -> SiLU -> linear, the last one zero at first, so that
training starts from the video model as it was. It lies in `camera_embedding.safetensors` beside the base's
model_index.json.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.files import atomic_write, read_json

from ..priors.base import CleanViewsHook, Fusion, PriorInfo, StepCallback
from .loading import Placement, load_pipeline
from .pictures import before, cut_outs, pil, resized, square

EMBEDDING_FILE = "camera_embedding.safetensors"
VIEWS = 24
# Backgrounds of the two bases in VideoMV's training, and the distance of their cameras from the object.
_GRAY, _WHITE = 0.5, 1.0
_DISTANCE = {"text": 2.0, "image": 1.7}


class CameraEmbedding(nn.Module):
    """The residual of the time embedding that tells a frame's camera."""

    def __init__(self, width: int) -> None:
        """Args: `width` of the UNet's time embedding. The last layer is zero."""
        super().__init__()
        self.inner = nn.Linear(16, width)
        self.outer = nn.Linear(width, width)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, poses: Float[Tensor, "T 4 4"]) -> Float[Tensor, "T D"]:
        """Returns one residual a frame; `poses` are camera-to-world."""
        return self.outer(nn.functional.silu(self.inner(poses.flatten(1))))

    def save(self, path: Path) -> None:
        """Writes the weights as safetensors, whole or not at all."""
        from safetensors.torch import save_file

        with atomic_write(path) as temporary:
            save_file({name: value.contiguous() for name, value in self.state_dict().items()}, temporary)

    @classmethod
    def open(cls, path: Path, width: int) -> CameraEmbedding:
        """Returns the embedding in a file; raises `UserError` where there is none or it is of another UNet."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not path.is_file():
            raise UserError(
                f"{path} is missing: these weights are a video model without VideoMV's camera embedding, whose frames"
                " are no views from cameras; put the embedding there (docs/generation_external.md)"
            )
        try:
            values = load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path} is no safetensors file ({error}); download it again") from None
        embedding = cls(width)
        expected = {name: tuple(value.shape) for name, value in embedding.state_dict().items()}
        got = {name: tuple(value.shape) for name, value in values.items()}
        if got != expected:
            raise UserError(f"{path}: expected the tensors {expected} of this UNet's width {width}, got {got}")
        embedding.load_state_dict(values)
        return embedding


@contextlib.contextmanager
def camera_conditioned(unet: nn.Module, embedding: CameraEmbedding, poses: Float[Tensor, "T 4 4"]) -> Iterator[None]:
    """Adds the embedding of `poses` to the time embedding of every residual block of `unet` for a while.

    The UNet repeats its time embedding for the T frames of each row of the batch; the rows see the same cameras.
    """
    from diffusers.models.resnet import ResnetBlock2D

    residual = embedding(poses)

    def add(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        temb = kwargs["temb"] if "temb" in kwargs else args[1]
        if temb.shape[0] % len(residual):
            raise ValueError(f"expected {len(residual)} frames a row, got a time embedding of {temb.shape[0]} rows")
        told = temb + residual.to(temb).repeat(temb.shape[0] // len(residual), 1)
        if "temb" in kwargs:
            return args, {**kwargs, "temb": told}
        return (args[0], told, *args[2:]), kwargs

    hooks = [
        module.register_forward_pre_hook(add, with_kwargs=True)
        for module in unet.modules()
        if isinstance(module, ResnetBlock2D)
    ]
    if not hooks:
        raise ValueError("the UNet has no ResnetBlock2D to tell the cameras to")
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def normalised_poses(cameras: Sequence[Camera], distance: float) -> Float[Tensor, "V 4 4"]:
    """Returns camera-to-world matrices as VideoMV takes them: OpenGL axes, the cameras `distance` from the origin."""
    poses = np.stack([camera.T_world_camera for camera in cameras])
    poses[:, :3, 3] *= distance / np.linalg.norm(poses[:, :3, 3], axis=-1, keepdims=True)
    poses[:, :3, 1:3] *= -1.0
    return torch.from_numpy(poses).float()


class VideoMV:
    """A `MultiViewPrior` over a video UNet; made for 24 cameras at even azimuths and one elevation."""

    def __init__(self, pipeline: Any, embedding: CameraEmbedding, info: PriorInfo, *, base: str) -> None:
        """Args: `base` is `image` (I2VGen-XL) or `text` (ModelScope)."""
        self.pipeline, self.embedding, self.info, self.base = pipeline, embedding, info, base
        self.gray = _WHITE if base == "image" else _GRAY

    @classmethod
    def load(cls, folder: Path, index: dict[str, Any], info: PriorInfo, placement: Placement) -> VideoMV:
        """Returns the prior in a folder that `loading.open_external` has checked."""
        # Before the gigabytes are read. The time embedding of such a UNet is four times as wide as its first block.
        width = 4 * read_json(folder / "unet" / "config.json")["block_out_channels"][0]
        embedding = CameraEmbedding.open(folder / EMBEDDING_FILE, width).to(placement.device)
        pipeline = load_pipeline(index["_class_name"], folder, placement)
        return cls(pipeline, embedding, info, base="image" if "I2VGen" in index["_class_name"] else "text")

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
        """See `MultiViewPrior`. Unless told: 50 steps, guidance 6 with a picture, 9 with words.

        `hook` enters through the scheduler (`feedback.with_feedback`): every step is decoded and encoded for it.
        """
        if self.base == "image" and images is None:
            raise UserError(f"{self.info.name} makes views of a picture; expected images, got none")
        if self.base == "text" and (images is not None or not caption):
            raise UserError(f"{self.info.name} makes views of words alone; give a caption and no image")
        steps = steps or 50
        guidance = guidance if guidance is not None else (6.0 if self.base == "image" else 9.0)
        sets: list[Tensor | None] = [None] if images is None else list(square(images))
        poses = normalised_poses(cameras, _DISTANCE[self.base]).to(next(self.embedding.parameters()))
        from ..attention.fusion import fused_attention

        unet, views = self.pipeline.unet, []
        with (
            camera_conditioned(unet, self.embedding, poses),
            fused_attention(unet, fusion if len(sets) > 1 else None, half=True, device="cpu") as store,
        ):
            for frame, image in enumerate(sets):
                if store is not None:
                    store.begin_frame(frame)
                calls = _Calls(unet, steps, len(cameras), guidance > 1.0, store, progress, frame, len(sets))
                views.append(self._sample(image, cameras, caption, seed, guidance, hook, calls))
        return torch.stack(views).float()

    def _sample(
        self,
        image: Tensor | None,
        cameras: Sequence[Camera],
        caption: str | None,
        seed: int,
        guidance: float,
        hook: CleanViewsHook | None,
        calls: _Calls,
    ) -> Float[Tensor, "V 4 h w"]:
        size, count = self.info.size, len(cameras)
        pipeline, before_it = self.pipeline, self.pipeline.scheduler
        options: dict[str, Any] = {"prompt": f"{caption or ''}, 3d asset".lstrip(", ")}
        if image is not None:
            options["image"] = pil(before(resized(image[None], size, size)[0], self.gray))
            options["decode_chunk_size"] = 4
        if hook is not None:
            pipeline.scheduler = self._fed_back(hook, cameras)
        try:
            # The pipeline draws the input's latents from the global generator.
            with calls.counted(), torch.random.fork_rng():
                torch.manual_seed(seed)
                video = pipeline(
                    height=size, width=size, num_frames=count, num_inference_steps=calls.steps, guidance_scale=guidance,
                    generator=torch.Generator("cpu").manual_seed(seed), output_type="pt",
                    # Its default asks for a layer that newer text encoders do not hand out.
                    clip_skip=None, **options,
                ).frames[0]  # fmt: skip
        finally:
            pipeline.scheduler = before_it
        return cut_outs(video, self.gray)

    def _fed_back(self, hook: CleanViewsHook, cameras: Sequence[Camera]) -> Any:
        from ..feedback import with_feedback

        vae = self.pipeline.vae

        def feedback(clean: Float[Tensor, "V C h w"], index: int, steps: int) -> Tensor:
            pixels = torch.cat(
                [vae.decode(one[None].to(vae.dtype) / vae.config.scaling_factor).sample for one in clean]
            )
            seen = cut_outs((pixels.float() / 2 + 0.5).clamp(0, 1), self.gray, exact=False)
            fed = before(hook(seen, cameras, index, steps), self.gray) * 2 - 1
            latents = [vae.encode(one[None].to(vae.dtype)).latent_dist.mean for one in fed]
            return torch.cat(latents) * vae.config.scaling_factor

        return with_feedback(self.pipeline.scheduler, feedback, None)


class _Calls:
    """Counts the steps of a pipeline that reports none, by the calls of its UNet."""

    def __init__(
        self, unet: nn.Module, steps: int, views: int, guided: bool, store: Any, progress: StepCallback | None,
        frame: int, frames: int,
    ) -> None:  # fmt: skip
        self.unet, self.steps, self.store, self.progress = unet, steps, store, progress
        self.frame, self.frames, self.index = frame, frames, 0
        # The batch is [without, with] the condition, each one row a view.
        self.rows = slice(views, 2 * views) if guided else slice(None)

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        begin = self.unet.register_forward_pre_hook(self._begin)
        end = self.unet.register_forward_hook(self._end)
        try:
            yield
        finally:
            begin.remove()
            end.remove()

    def _begin(self, module: nn.Module, args: Any) -> None:
        if self.store is not None:
            self.store.begin_step(self.index, self.steps, self.rows)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self.index += 1
        if self.progress is not None:
            self.progress(self.frame * self.steps + self.index, self.frames * self.steps)
