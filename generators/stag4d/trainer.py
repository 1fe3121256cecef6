"""A STAG4D fit in the general loop: an instant per step, the terms of the method, first at rest, then moving.

STAG4D (Zeng et al., ECCV 2024), sections 3.3 and 3.4. First the instant in the middle alone, at rest; then all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera
from gaussian4d.fitting.normalise import Normalisation
from gaussian4d.fitting.progress import Narrator
from gaussian4d.fitting.step import Step
from gaussian4d.fitting.targets import Target
from gaussian4d.fitting.terms import WeightedTerm
from gaussian4d.fitting.trainer import Trainer
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import MotionModel, Params, Static, is_shared

from ..priors.base import DistillationPrior
from .anchors import Anchors, angles_to
from .config import RIGID, StagConfig, fit_settings
from .distillation import Distillation
from .drawing import NEAR
from .terms import AnchorViews, Needles, Reference, ScoreDistillation


@dataclasses.dataclass
class Instants:
    """The instants of the input as the loop's targets; their pictures belong to the terms."""

    times: Sequence[float]
    camera: Camera
    device: torch.device

    def __post_init__(self) -> None:
        self.camera_ids = [self.camera.id]
        self.viewmat = torch.tensor(self.camera.viewmat, dtype=torch.float32).to(self.device)
        self.K = torch.tensor(self.camera.K, dtype=torch.float32).to(self.device)

    def __len__(self) -> int:
        return len(self.times)

    def nearest_camera(self) -> float:
        """Returns the distance of the camera to the origin."""
        return float(np.linalg.norm(self.camera.position))

    def read_ahead(self, indices: list[int]) -> None:
        """Has nothing to read."""

    def get(self, index: int, downscale: float) -> Target:
        """Returns the instant `index`, without a picture."""
        width, height = self.camera.width, self.camera.height
        empty = torch.zeros(0, device=self.device)
        place = self.viewmat, self.K, width, height
        return Target(empty, None, *place, self.times[index], 0, self.camera, index)


class StagTrainer(Trainer):
    """A fit in progress. `run` goes on until the limit or until `stop_requested`."""

    generator_names = ("frames", "anchors", "background", "densify", "distillation")

    def __init__(
        self,
        config: StagConfig,
        frames: Float[Tensor, "T 4 H W"],
        times: Sequence[float],
        camera: Camera,
        anchors: Anchors | None,
        prior: DistillationPrior | None,
        params: Params,
        motion: MotionModel,
        out: Path,
        reporter: Narrator,
        *,
        fps: float | None = None,
        caption: str | None = None,
        meta: dict[str, Any] | None = None,
        at_rest: Callable[[DynamicGaussians], None] | None = None,
        elapsed: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        """Args: `at_rest` is given the static asset once, when the first stage ends."""
        self.stag, self.frames, self.times = config, frames.to(device), [float(value) for value in times]
        self.camera, self.anchors, self.prior, self.caption = camera, anchors, prior, caption
        self.fps, self.meta, self.at_rest = fps, meta or {}, at_rest
        self.canonical = canonical_instant(len(frames))
        settings = fit_settings(config, len(frames))
        # Gaussians that come and go have no pose at rest, and those whose motion is known need none.
        rests = not motion.windowed and config.motion != RIGID
        if len(frames) > 1 and rests:
            settings = settings.replace({"optim.coarse": config.canonical})
        self._before = 0.0
        targets: Any = Instants(self.times, camera, torch.device(device))
        world = Normalisation(np.zeros(3), 1.0)
        super().__init__(None, targets, settings, world, params, out, reporter, (), elapsed, motion=motion)
        self.near = NEAR

    def make_terms(self) -> list[WeightedTerm]:
        """Returns the general terms, then those of the method."""
        config, draws = self.stag, self.generators
        self.reference = Reference(config, self.frames, self.camera)
        terms = super().make_terms()
        if config.anisotropy_weight:
            terms.append(WeightedTerm("anisotropy", Needles(config.anisotropy_limit), config.anisotropy_weight))
        terms.append(WeightedTerm("reference", self.reference, config.reference_weight))
        anchors, odds = _usable(self.anchors, self.camera, config)
        if anchors is not None:
            behind = self.background.sample
            views = AnchorViews(config, anchors, odds, self.times, behind, draws["anchors"], self.device)
            terms.append(WeightedTerm("anchors", views, config.anchor_weight))
        if self.prior is not None:
            asked = self.prior, config, self.frames, self.times, self.camera, self.anchors
            distillation = Distillation(*asked, draws["distillation"], self.caption)
            terms.append(WeightedTerm("sds", ScoreDistillation(config, distillation), config.sds_weight))
        return terms

    def next_pictures(self, progress: float) -> list[tuple[Target, Tensor]]:
        """Returns one instant: the one in the middle while the Gaussians are at rest."""
        index = self.canonical if progress < self.config.optim.coarse else self.sampler.next()
        return [(self.targets.get(index, 1.0), self.background.sample())]

    def squared_error(self, step: Step) -> Tensor:
        """Returns the mean squared error of the colours over black."""
        drawing, target = self.reference.drawn(step)
        return (drawing.rgb.detach() - target[:, :3].permute(0, 2, 3, 1)).square().mean()

    def after_step(self, progress: float) -> None:
        """Refines; hands out the static asset when the first stage ends."""
        super().after_step(progress)
        before, self._before = self._before, progress
        if before < self.config.optim.coarse <= progress and self.at_rest is not None:
            self.at_rest(self.model(Static()))

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Goes back to a checkpoint."""
        super().load(tensors, state)
        self._before = self.progress

    def model(self, motion: MotionModel | None = None) -> DynamicGaussians:
        """Returns the model as it is now, on the CPU; with `motion` Static, the Gaussians at rest."""
        if motion is None:
            motion = self.motion
        assert motion is not None
        names = {"means", "quats", "scales", "opacities", "sh0", "shN", *motion.columns()}
        params = {
            name: value.detach().cpu().clone()
            for name, value in self.table.params.items()
            if name in names or (is_shared(name) and name in motion.shared_shapes())
        }
        still = motion.name == Static.name
        return DynamicGaussians(
            params=params,
            motion=motion,
            fps=self.fps,
            times=np.array([self.times[self.canonical]] if still else self.times),
            meta={**self.meta, "fit": self.fit_values(), "near": NEAR},
        )


def canonical_instant(frames: int) -> int:
    """Returns the index of the instant at which the Gaussians are at rest: the middle, as published."""
    return frames // 2


def _usable(anchors: Anchors | None, camera: Camera, config: StagConfig) -> tuple[Anchors | None, Tensor]:
    """Returns the anchors, None when all are too near to the input camera, and the odds [V] of each."""
    if anchors is None:
        return None, torch.zeros(0)
    near, far = config.anchor_angles
    odds = torch.tensor((angles_to(camera, anchors.cameras) - near) / max(far - near, 1e-6)).clamp(0.0, 1.0)
    return (anchors, odds) if bool((odds > 0).any()) else (None, odds)
