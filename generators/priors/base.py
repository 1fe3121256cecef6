"""What a prior is: a sampler of pictures from other cameras or at other times, given a picture or words.

One meaning of pictures everywhere: float32 [.., 4, H, W], red, green, blue already multiplied by alpha (premultiplied),
and alpha, all in 0..1. A prior that works on a coloured background or in latents converts inside. Cameras are those of
`generators.cameras`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera

from ..models.pieces import Moves

Role = Literal["multi-view", "video", "image"]
"""What a prior is wanted for; `gaussian4d.plugins.PRIORS` holds functions that take a role and return a prior."""

StepCallback = Callable[[int, int], None]
"""Called with (denoising steps done, steps in all)."""

CleanViewsHook = Callable[[Float[Tensor, "V 4 H W"], Sequence[Camera], int, int], Float[Tensor, "V 4 H W"]]
"""Called with the clean views predicted at a step, their cameras, the step's index and the number of steps; what it
returns takes the place of the prediction. This is how 3D-aware feedback (`generators.feedback`) enters a sampler."""


@dataclasses.dataclass(frozen=True)
class Fusion:
    """Training-free attention fusion over the frames of a video (STAG4D, section 3.2).

    A frame's own tokens h enter keys and values as (1 - anchor - previous) h + anchor h_first + previous h_before.
    """

    anchor: float = 0.5
    """Share of the first frame's tokens; 0.5 as published."""
    previous: float = 0.0
    """Share of the frame before; 0 as published."""
    layers: tuple[int, ...] | None = None
    """Indices of the self-attention layers it acts on, in order of depth; None is all."""
    steps: tuple[float, float] = (0.0, 1.0)
    """Part of the denoising, 0 at pure noise to 1 at the clean end, in which it acts."""


@dataclasses.dataclass(frozen=True)
class PriorInfo:
    """What a prior is and what it may be used for; shown where it is loaded."""

    name: str
    source: str
    """`embedded`, or the folder or hub id."""
    licence: str
    notice: str | None = None
    """Said aloud once on loading, for weights whose licence restricts their use."""
    size: int = 64
    """Edge of the pictures it makes, in pixels."""
    fixed_cameras: tuple[tuple[float, float], ...] | None = None
    """(azimuth, elevation) pairs in degrees of a prior that knows no others; None for any camera."""
    samples: int = 1
    """How many samples make the best views, as their mean: those of a small prior scatter about the right one."""


@runtime_checkable
class MultiViewPrior(Protocol):
    """Pictures of an object from other cameras at the same instant."""

    info: PriorInfo

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
        """Returns what `cameras` see at each of T instants, each given its picture taken by `input_camera`.

        Every instant starts from the same noise (STAG4D). Without `images` the caption alone decides, T = 1.

        Args:
            images: T pictures of any size, or None.
            times: [T] clip times of the pictures; None: one instant, or T even over the clip.
            seed: Of the noise.
            steps: Denoising steps; None takes the prior's own.
            guidance: Classifier-free guidance; None takes the prior's own, 1 is none.
            fusion: Ties later instants to the first; None treats them apart.
            hook: See `CleanViewsHook`.

        Raises:
            UserError: cameras or a condition this prior cannot serve.
        """
        ...


@runtime_checkable
class VideoPrior(Protocol):
    """A short video from a picture or words, seen by a camera that stands still."""

    info: PriorInfo

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
        """Returns `frames` pictures at even clip times; the first shows `image` where one is given."""
        ...


@runtime_checkable
class MotionPrior(Protocol):
    """How the rigid pieces of an object in a picture move: motion as geometry, before any later picture is made."""

    info: PriorInfo

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
        """Returns the pieces that `image`, taken by `camera` at clip time 0, shows, and where they are at `times`.

        What it returns has its `points`.
        """
        ...


@runtime_checkable
class ImagePrior(Protocol):
    """A picture from words."""

    info: PriorInfo

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
        """Returns a picture with alpha of what the caption says, seen by `camera`."""
        ...


@runtime_checkable
class DistillationPrior(Protocol):
    """A prior that can say how pictures it is shown should look: the teacher of score distillation."""

    info: PriorInfo

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
        """Returns the clean views that the prior sees in `images` after noise of `noise_level` (0..1, the share of the
        training timesteps) was added to them, without gradient. Score distillation pulls `images` towards them."""
        ...


@runtime_checkable
class GaussianReconstructor(Protocol):
    """A few posed views to Gaussians in one pass."""

    info: PriorInfo

    def reconstruct(self, views: Float[Tensor, "V 4 H W"], cameras: Sequence[Camera]) -> Any:
        """Returns `gaussian4d.gaussians.Gaussians` (sh degree 0) in the frame of the cameras."""
        ...
