"""Score distillation: renderings are pulled towards what a prior makes of them under noise.

Poole et al., "DreamFusion", ICLR 2023, over several views at once as in STAG4D, section 3.3. With x the renderings,
x_hat(x, noise level) the clean views that the prior sees in them after noise was added, and sg for no gradient:

    L = 1/2 mean || x - sg(x_hat) ||^2

This is the residual of the noise times sigma / alpha of the schedule: written in clean pictures it has one size at all
noise levels. The range of noise levels is annealed linearly from coarse questions to fine ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera

from ..cameras import orbit_camera
from ..priors.base import DistillationPrior
from .anchors import Anchors, angles_to
from .config import StagConfig

Draw = Callable[[Sequence[Camera]], Float[Tensor, "V 4 H W"]]


class Distillation:
    """Asks the prior about renderings of one instant, next to the input's picture of that instant."""

    def __init__(
        self,
        prior: DistillationPrior,
        config: StagConfig,
        frames: Float[Tensor, "T 4 H W"],
        times: Sequence[float],
        camera: Camera,
        anchors: Anchors | None,
        generator: torch.Generator,
        caption: str | None = None,
    ) -> None:
        """Args: `frames` are the input's pictures, `generator` draws cameras, noise and its level."""
        self.prior, self.config, self.frames, self.times = prior, config, frames, list(times)
        self.camera, self.anchors, self.generator, self.caption = camera, anchors, generator, caption
        angles = [] if anchors is None else angles_to(camera, anchors.cameras)
        self._shown = [v for v, angle in enumerate(angles) if angle > config.anchor_angles[0]]

    def noise_range(self, progress: float) -> tuple[float, float]:
        """Returns the least and the largest noise level at `progress` of the fit."""
        share = min(progress / self.config.sds_anneal, 1.0) if self.config.sds_anneal > 0 else 1.0
        low, high = (
            (1.0 - share) * first + share * last
            for first, last in (self.config.sds_noise_min, self.config.sds_noise_max)
        )
        return low, high

    def cameras(self) -> list[Camera]:
        """Returns random cameras around the object, at azimuths spread evenly from a random start."""
        config, count = self.config, self.config.sds_views
        low, high = config.sds_elevations
        draws = torch.rand(count + 1, generator=self.generator).tolist()
        size = self.prior.info.size
        return [
            orbit_camera(360.0 * (draws[-1] + k / count), low + (high - low) * draws[k], size=size)
            for k in range(count)
        ]

    def loss(self, draw: Draw, instant: int, progress: float) -> Tensor:
        """Returns the loss of renderings that `draw` makes of the Gaussians at `instant`."""
        cameras = self.cameras()
        images = draw(cameras)
        clean = self.clean(images.detach(), cameras, instant, progress)
        return 0.5 * (images - clean).square().mean()

    @torch.no_grad()
    def clean(
        self, images: Float[Tensor, "V 4 H W"], cameras: Sequence[Camera], instant: int, progress: float
    ) -> Float[Tensor, "V 4 H W"]:
        """Returns what the prior sees in `images` of `instant` under a random noise level."""
        low, high = self.noise_range(progress)
        draws = torch.rand(3, generator=self.generator).tolist()
        references, reference_cameras = self.frames[instant][None], [self.camera]
        if self.anchors is not None and self._shown and draws[1] < self.config.sds_anchor_chance:
            shown = self._shown[int(draws[2] * len(self._shown))]
            size = references.shape[-1]
            extra = torch.nn.functional.interpolate(
                self.anchors.views[instant, shown][None].to(references.device),
                size=(size, size),
                mode="bilinear",
                align_corners=False,
            )
            references = torch.cat([references, extra])
            reference_cameras = [self.camera, self.anchors.cameras[shown]]
        time = self.times[instant]
        return self.prior.predict_clean(
            images,
            cameras,
            references,
            reference_cameras,
            noise_level=low + (high - low) * draws[0],
            times=[time] * len(cameras),
            reference_times=[time] * len(reference_cameras),
            caption=self.caption,
            guidance=self.config.sds_guidance,
            generator=self.generator,
        ).detach()
