"""The embedded prior: multi-view, video, image and teacher in one small network that knows the toy world.

It ships with the package (`generators/weights/view_prior.safetensors`, with its model card beside it) and runs on two
CPU cores in seconds. Pictures outside the toy world come out as toys: `generators.domain` warns.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor, nn

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.toys.captions import says_something, tokens_of, unknown_words

from ..attention.in_batch import fused
from ..cameras import pluecker_rays
from ..models.motion import MotionConfig, MotionNet
from ..models.moving import sample_moves
from ..models.noise import TRAIN_STEPS, noised, scheduler
from ..models.picture import PictureConfig, PictureNet, sample_pictures
from ..models.pieces import Moves
from ..models.surface import SurfaceNet, drawn_conditions
from ..models.view_transformer import Frames, ViewTransformer, ViewTransformerConfig
from .base import CleanViewsHook, Fusion, PriorInfo, Role, StepCallback

WEIGHTS = Path(__file__).parents[1] / "weights"
STEPS = 8
VIEW_STEPS = 2
"""Of views and frames from a picture: the drawings say so much that further steps add errors (docs/generation.md)."""
VIEW_SAMPLES = 4
"""Of which views that an asset is fitted to are the mean (docs/generation.md)."""
PICTURE_STEPS, PICTURE_GUIDANCE = 25, 2.5
"""Of pictures from words."""
MOTION_STEPS, MOTION_GUIDANCE = 25, 3.0
"""Of motion from a picture; guidance where there are words."""
Network = TypeVar("Network", bound=nn.Module)


class EmbeddedPrior:
    """Implements all the priors of `priors.base`: views, motion, video, pictures, and the teacher of distillation.

    Words become a picture first; a picture's surface is lifted, moved for a video, and drawn by all cameras; the view
    transformer makes pictures of the drawings.
    """

    def __init__(
        self,
        model: ViewTransformer,
        surface: SurfaceNet,
        motion: MotionNet,
        picture: PictureNet,
        source: str = "embedded",
    ) -> None:
        """Args: see `models`: `surface` reads the depth off a picture, `motion` how it moves, `picture` words."""
        self.model = model.eval().requires_grad_(False)
        self.surface = surface.eval().requires_grad_(False)
        self.motion = motion.eval().requires_grad_(False)
        self.picture = picture.eval().requires_grad_(False)
        self.info = PriorInfo("toy view prior", source, "Apache-2.0", size=model.config.size, samples=VIEW_SAMPLES)

    @classmethod
    def load(cls, path: Path | None = None) -> EmbeddedPrior:
        """Returns the prior with the weights that came with the package, or those in `path`.

        Raises:
            UserError: no such file, or one that holds another network.
        """
        file = WEIGHTS / "view_prior.safetensors" if path is None else Path(path)
        model = load_network(file, ViewTransformer)
        surface = load_network(WEIGHTS / "surface.safetensors", SurfaceNet)
        motion = load_network(WEIGHTS / "motion.safetensors", MotionNet, MotionConfig)
        picture = load_network(WEIGHTS / "picture.safetensors", PictureNet, PictureConfig)
        if model.config.size != surface.trunk.config.size:
            raise UserError(
                f"{file} makes pictures of {model.config.size} pixels, the surface network that came with the package"
                f" takes {surface.trunk.config.size}"
            )
        return cls(model, surface, motion, picture, "embedded" if path is None else str(path))

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
        if images is None and caption is None:
            raise UserError("expected a picture or a caption to make views of, got neither")
        if images is None:
            assert caption is not None
            images = self.sample_image(caption, input_camera, seed=seed)[None]
        if steps is None:
            # A hook works between steps and needs them.
            steps = VIEW_STEPS if hook is None else STEPS
        # All instants in one batch: even a hundred take only some hundred megabytes.
        return self._sample(
            (resized(images, self.info.size) * 2 - 1)[:, None],
            [input_camera],
            list(cameras),
            torch.tensor(_times(times, len(images))),
            caption,
            seed,
            steps,
            guidance,
            fusion,
            hook,
            progress,
        )

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
        moves: Moves | None = None,
    ) -> Float[Tensor, "T 4 h w"]:
        """See `VideoPrior`. Args: `moves` of all frames, from `sample_moves`; None draws them."""
        if frames < 1:
            raise UserError(f"expected at least one frame, got {frames}")
        if image is None and caption is None:
            raise UserError("expected a picture or a caption to make a video of, got neither")
        if image is None:
            assert caption is not None
            image = self.sample_image(caption, camera, seed=seed)
        first = resized(image[None], self.info.size)
        if frames == 1:
            return first
        clock = torch.linspace(0.0, 1.0, frames)
        if moves is None:
            moves = self.sample_moves(image, camera, clock.tolist(), caption=caption, seed=seed)
        made = self._sample(
            (first * 2 - 1)[:, None],
            [camera],
            [camera] * (frames - 1),
            torch.zeros(1),
            caption,
            seed,
            VIEW_STEPS if steps is None else steps,
            guidance,
            None,
            None,
            progress,
            target_times=clock[1:],
            moves=moves,
        )[0]
        return torch.cat([first, made])

    @torch.no_grad()
    def sample_moves(
        self,
        image: Float[Tensor, "4 H W"],
        camera: Camera,
        times: Sequence[float],
        *,
        caption: str | None = None,
        seed: int = 0,
        guidance: float | None = None,
    ) -> Moves:
        if guidance is None:
            guidance = 1.0 if caption is None else MOTION_GUIDANCE
        return sample_moves(
            self.motion,
            self.surface,
            resized(image[None], self.info.size)[0],
            camera.resized(self.info.size, self.info.size),
            self.words(caption),
            torch.tensor(list(times)),
            steps=MOTION_STEPS,
            guidance=guidance,
            seed=seed,
        )

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
        square = camera.resized(self.info.size, self.info.size)
        made = sample_pictures(
            self.picture,
            pluecker_rays([square]),
            self.words(caption),
            steps=PICTURE_STEPS if steps is None else steps,
            guidance=PICTURE_GUIDANCE if guidance is None else guidance,
            generator=torch.Generator().manual_seed(seed),
            progress=progress,
        )
        return tidy(made[0] * 0.5 + 0.5)

    @torch.no_grad()
    def predict_clean(
        self,
        images: Float[Tensor, "V 4 H W"],
        cameras: Sequence[Camera],
        reference: Float[Tensor, "R 4 H W"] | None,
        reference_cameras: Sequence[Camera],
        *,
        noise_level: float,
        noise: Float[Tensor, "..."] | None = None,
        times: Sequence[float] | None = None,
        reference_times: Sequence[float] | None = None,
        caption: str | None = None,
        guidance: float | None = None,
        generator: Any = None,
    ) -> Float[Tensor, "V 4 H W"]:
        if reference is None:
            raise UserError(
                "the embedded prior judges views by a picture of the object; expected a reference, got none"
            )
        size = self.info.size
        clean = resized(images, size) * 2 - 1
        if noise is None:
            noise = torch.randn(clean.shape, generator=generator)
        level = torch.full((1, len(clean)), float(noise_level))
        given = noised(clean[None], noise[None], level)
        known = (resized(reference, size) * 2 - 1)[None]
        clock = torch.cat([_tensor(reference_times, len(reference)), _tensor(times, len(cameras))])[None]
        frames = self._frames(list(reference_cameras), list(cameras), clock, caption, known)
        x0 = self._predict(given, known, frames, level[0, 0], guidance)
        return resized(x0[0].clamp(-1, 1) * 0.5 + 0.5, images.shape[-1])

    def _sample(
        self,
        known: Float[Tensor, "T R 4 h w"],
        known_cameras: list[Camera],
        cameras: list[Camera],
        times: Float[Tensor, " T"],
        caption: str | None,
        seed: int,
        steps: int,
        guidance: float | None,
        fusion: Fusion | None,
        hook: CleanViewsHook | None,
        progress: StepCallback | None,
        target_times: Float[Tensor, " V"] | None = None,
        moves: Moves | None = None,
    ) -> Float[Tensor, "T V 4 h w"]:
        """Returns the pictures of `cameras` at `times` (or, for one row, at `target_times` after `moves`), in 0..1."""
        T, V, size = len(times), len(cameras), self.info.size
        clock = times[:, None].float().expand(T, len(known_cameras) + V)
        if target_times is not None:
            clock = torch.cat([clock[:, : len(known_cameras)], target_times.expand(T, V)], dim=1)
        frames = self._frames(known_cameras, cameras, clock, caption, known, moves)
        generator = torch.Generator().manual_seed(seed)
        # One noise for all instants: what differs then is what the condition says.
        x = torch.randn((1, V, 4, size, size), generator=generator).expand(T, -1, -1, -1, -1)
        ddim = scheduler()
        ddim.set_timesteps(steps)
        P = (size // self.model.config.patch) ** 2
        own = slice(len(known_cameras) * P, (len(known_cameras) + V) * P)
        with fused(self.model.blocks, fusion, own) as processors:
            for k, t in enumerate(ddim.timesteps):
                for processor in processors:
                    first, last = processor.fusion.steps
                    processor.active = first <= k / steps and (k + 0.5) / steps < last
                level = torch.tensor((float(t) + 1) / TRAIN_STEPS)
                x0 = self._predict(x, known, frames, level, guidance).clamp(-1, 1)
                if hook is not None:
                    views = [hook(row * 0.5 + 0.5, cameras, k, steps) * 2 - 1 for row in x0]
                    x0 = torch.stack(views)
                x = ddim.step(x0, int(t), x, return_dict=False)[0]
                if progress is not None:
                    progress(k + 1, steps)
        return tidy(x * 0.5 + 0.5)

    def _frames(
        self,
        known_cameras: list[Camera],
        cameras: list[Camera],
        clock: Tensor,
        caption: str | None,
        known: Float[Tensor, "T R 4 h w"],
        moves: Moves | None = None,
    ) -> Frames:
        """Returns what the network is told of all frames; `known` are their first ones' pictures in -1..1."""
        everyone = [camera.resized(self.info.size, self.info.size) for camera in [*known_cameras, *cameras]]
        flags = torch.zeros(1, len(everyone), dtype=torch.bool)
        flags[:, : len(known_cameras)] = True
        viewmats = torch.stack([torch.from_numpy(camera.viewmat) for camera in everyone]).float()
        Ks = torch.stack([torch.from_numpy(camera.K) for camera in everyone]).float()
        T = len(known)
        conditions = drawn_conditions(
            self.surface,
            known[:, 0] * 0.5 + 0.5,
            viewmats.expand(T, -1, -1, -1),
            Ks.expand(T, -1, -1, -1),
            None if moves is None else [moves],
        )
        return Frames(pluecker_rays(everyone)[None], clock, flags, self.words(caption), conditions)

    def words(self, caption: str | None) -> Tensor:
        """Returns the caption's tokens [1, L]; zeros without one.

        Raises:
            UserError: a caption of which the toy world knows no word that says anything.
        """
        length = self.model.config.caption_length
        tokens = torch.zeros(1, length, dtype=torch.long)
        if caption is None:
            return tokens
        if not says_something(caption):
            strange = ", ".join(unknown_words(caption)) or "nothing"
            raise UserError(
                f"the embedded prior knows toys: colours, shapes, patterns and motions, such as 'a red striped ball"
                f" spinning'; in {caption!r} it knows none (unknown: {strange}). Use its words, or --prior with"
                " published weights"
            )
        found = tokens_of(caption)[:length]
        tokens[0, : len(found)] = torch.tensor(found) + 1
        return tokens

    def _predict(
        self,
        x: Float[Tensor, "T V 4 h w"],
        known: Float[Tensor, "T R 4 h w"],
        frames: Frames,
        level: Tensor,
        guidance: float | None,
    ) -> Float[Tensor, "T V 4 h w"]:
        """Returns the clean pictures; what words add counts `guidance` times (Ho and Salimans, 2022)."""
        R = known.shape[1]
        images, levels = torch.cat([known, x], dim=1), torch.where(frames.known, 0.0, level)
        x0 = self.model(images, levels, frames)[:, R:]
        if guidance is None or guidance == 1.0 or frames.words is None:
            return x0
        bare = Frames(frames.rays, frames.times, frames.known, torch.zeros_like(frames.words), frames.conditions)
        without = self.model(images, levels, bare)[:, R:]
        return without + guidance * (x0 - without)


def open_embedded(role: Role) -> EmbeddedPrior:
    """Returns the prior that comes with the package: one set of weights for every role."""
    return EmbeddedPrior.load()


def load_network(
    path: Path, network: Callable[[Any], Network], config: Callable[..., Any] = ViewTransformerConfig
) -> Network:
    """Returns the network whose weights a safetensors file holds, built from the settings in its header.

    Raises:
        UserError: no such file, or one that holds another network.
    """
    if not path.is_file():
        raise UserError(f"expected the weights of an embedded model, found no file {path}")
    try:
        with safe_open(path, "pt") as file:
            settings = json.loads((file.metadata() or {}).get("config", "{}"))
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise UserError(f"{path} is not a safetensors file that can be read: {error}") from None
    try:
        model = network(config(**settings))
        model.load_state_dict(tensors)
    except (TypeError, RuntimeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} holds another network than the one expected ({reason}); published weights of other architectures"
            " are given as a folder or hub id"
        ) from None
    return model


def resized(images: Float[Tensor, "N 4 H W"], size: int) -> Float[Tensor, "N 4 size size"]:
    """Returns premultiplied pictures at another size, area-averaged when they shrink."""
    if images.shape[-1] == size and images.shape[-2] == size:
        return images
    shrinks = images.shape[-1] > size
    return torch.nn.functional.interpolate(
        images, size=(size, size), mode="area" if shrinks else "bilinear",
        **({} if shrinks else {"align_corners": False}),
    )  # fmt: skip


def tidy(images: Float[Tensor, "*N 4 H W"]) -> Float[Tensor, "*N 4 H W"]:
    """Returns proper premultiplied pictures: alpha in 0..1, no colour above alpha."""
    alpha = images[..., 3:, :, :].clamp(0, 1)
    return torch.cat([images[..., :3, :, :].clamp_min(0).minimum(alpha), alpha], dim=-3)


def _times(times: Sequence[float] | None, count: int) -> list[float]:
    if times is not None:
        if len(times) != count:
            raise UserError(f"expected a time for each of the {count} pictures, got {len(times)}")
        return [float(t) for t in times]
    return [0.0] if count == 1 else [k / (count - 1) for k in range(count)]


def _tensor(times: Sequence[float] | None, count: int) -> Tensor:
    return torch.zeros(count) if times is None else torch.tensor([float(t) for t in times])
