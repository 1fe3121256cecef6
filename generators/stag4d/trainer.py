"""The loop of a STAG4D fit: draw an instant, match its picture and its anchors, ask the prior, step, refine.

STAG4D (Zeng et al., ECCV 2024), sections 3.3 and 3.4. First the instant in the middle alone, at rest; then all.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera
from gaussian4d.fitting.checkpoint import save_checkpoint
from gaussian4d.fitting.densify import Densifier
from gaussian4d.fitting.divergence import PATIENCE, Diverged, unsound
from gaussian4d.fitting.losses import regularisation
from gaussian4d.fitting.progress import Narrator
from gaussian4d.fitting.sampler import FrameSampler
from gaussian4d.fitting.schedule import progress_of
from gaussian4d.fitting.table import ParameterTable
from gaussian4d.gaussians import Gaussians
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import MotionModel, Params, Static, is_shared

from ..priors.base import DistillationPrior
from .anchors import Anchors, angles_to
from .config import RIGID, StagConfig, fit_settings
from .distillation import Distillation
from .drawing import NEAR, Cameras, Drawing, draw
from .losses import anisotropy, picture_loss, squared_error


@dataclasses.dataclass
class Recent:
    """Sums over the steps since the last line of metrics."""

    loss: float = 0.0
    squared_error: float = 0.0
    steps: int = 0
    seconds: float = 0.0


class StagTrainer:
    """A fit in progress. `run` goes on until the limit or until `stop_requested`."""

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
    ) -> None:
        """Args: `at_rest` is given the static asset once, when the first stage ends."""
        self.config, self.out, self.reporter = config, out, reporter
        self.frames, self.times, self.camera = frames, [float(value) for value in times], camera
        self.fps, self.meta, self.at_rest = fps, meta or {}, at_rest
        self.settings = fit_settings(config, len(frames))
        self.motion = motion
        self.table = ParameterTable(params, learning_rates(config, self.motion))
        names = ("frames", "anchors", "background", "densify", "distillation")
        self.generators = {name: torch.Generator().manual_seed(config.seed * 1000 + k) for k, name in enumerate(names)}
        self.sampler = FrameSampler(len(frames), self.generators["frames"])
        self.densifier = Densifier(self.settings, self.motion, self.generators["densify"])
        self.canonical = canonical_instant(len(frames))
        # Gaussians that come and go have no pose at rest, and those whose motion is known need none.
        rests = not motion.windowed and config.motion != RIGID
        self.first_stage = config.canonical if len(frames) > 1 and rests else 0.0
        self.anchors, self.anchor_odds = _usable(anchors, camera, config)
        self.anchor_cameras = None if self.anchors is None else Cameras.of(self.anchors.cameras)
        self.distillation = None
        if prior is not None:
            generator = self.generators["distillation"]
            self.distillation = Distillation(prior, config, frames, times, camera, anchors, generator, caption)
        self._pyramid: dict[int, tuple[Cameras, Tensor]] = {}
        self.recent = Recent()
        self.seconds: dict[str, float] = {}
        """Time by part of a step, over all steps."""
        self.step = 0
        self.stop_requested = False
        self.skipped_running = 0
        self._elapsed_before, self._started = elapsed, time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of fitting so far, over all sittings."""
        return self._elapsed_before + time.monotonic() - self._started

    @property
    def progress(self) -> float:
        """How much of the fit is done, 0..1."""
        return progress_of(self.step, self.elapsed, self.config.max_steps, self.config.max_minutes)

    def run(self) -> float:
        """Trains until the fit is done or a stop is requested; saves a checkpoint, returns how much of it is done."""
        progress = self.progress
        while progress < 1.0 and not self.stop_requested:
            began = time.monotonic()
            self._train_step(progress)
            self.step += 1
            self.recent.seconds += time.monotonic() - began
            before, progress = progress, self.progress
            if self.densifier.active(progress) and self.step % self.config.densify_every == 0:
                self.densifier.change(self.table)
            if before < self.first_stage <= progress and self.at_rest is not None:
                self.at_rest(self.model(Static()))
            if self.step % self.config.log_every == 0 or progress >= 1.0:
                self._check(self.table.params)
                self._report(progress)
            if self.step % self.config.checkpoint_every == 0 and not self.skipped_running:
                self.save()
        if self.step % self.config.checkpoint_every != 0 or self.skipped_running:
            self.save()
        return progress

    def _train_step(self, progress: float) -> None:
        self.table.set_progress(progress)
        resting = progress < self.first_stage
        index = self.canonical if resting else self.sampler.next()
        clock = time.monotonic()
        motion = Static() if resting else self.motion
        state = motion.at(self.table.params, self.times[index])
        clock = self._spent("motion", clock)
        drawings: list[Drawing] = []
        loss = regularisation(self.settings, self.table.params, state)
        if self.config.anisotropy_weight:
            penalty = anisotropy(state.scales, self.config.anisotropy_limit)
            loss = loss + self.config.anisotropy_weight * penalty
        clock = self._spent("penalties", clock)
        reference, error = self._reference_loss(state, index, progress, drawings)
        loss = loss + self.config.reference_weight * reference
        clock = self._spent("reference", clock)
        if self.anchors is not None:
            loss = loss + self.config.anchor_weight * self._anchor_loss(state, index, drawings)
            clock = self._spent("anchors", clock)
        if self.distillation is not None and self._distils(progress):
            loss = loss + self.config.sds_weight * self._distillation_loss(state, index, progress, drawings)
            clock = self._spent("distillation", clock)
        assert isinstance(loss, Tensor)
        if not torch.isfinite(loss.detach()):
            self._skip()
            return
        loss.backward()
        clock = self._spent("backward", clock)
        if progress < self.config.densify_stop:
            seen = torch.zeros(2, len(self.table))
            for drawing in drawings:
                height, width = drawing.rgb.shape[1:3]
                assert drawing.means2d.grad is not None
                # A picture's share in the loss falls with the number of pictures; its pull must not.
                count = len(drawing.drawn)
                for grads, drawn in zip(drawing.means2d.grad, drawing.drawn):
                    self.densifier.observe(seen, grads * count, drawn, width, height)
            self.densifier.count(self.table, seen)
        self.table.step()
        self._spent("update", clock)
        self.skipped_running = 0
        self.recent.loss += float(loss.detach())
        self.recent.squared_error += error
        self.recent.steps += 1

    def _reference_loss(
        self, state: Gaussians, index: int, progress: float, drawings: list[Drawing]
    ) -> tuple[Tensor, float]:
        cameras, targets = self._reference_at(_size_at(self.config.sizes, progress))
        drawing = draw(state, cameras, self.config.backend)
        drawings.append(drawing)
        target = targets[index : index + 1]
        loss = picture_loss(drawing, target, self._background(), self.config.ssim_weight, self.config.alpha_weight)
        return loss, squared_error(drawing, target)

    def _anchor_loss(self, state: Gaussians, index: int, drawings: list[Drawing]) -> Tensor:
        """Returns the loss of a few anchors; an anchor's odds are its weight, so that all count as they should."""
        assert self.anchors is not None and self.anchor_cameras is not None
        count = min(self.config.anchors_per_step, int((self.anchor_odds > 0).sum()))
        chosen = torch.multinomial(self.anchor_odds, count, generator=self.generators["anchors"])
        if len(self.anchors.views) == 1 and index > 0:
            # All anchors are of the first instant; what moves as a solid can be seen there as well as at its own.
            index, state = 0, self.motion.at(self.table.params, self.times[0])
        drawing = draw(state, self.anchor_cameras.rows(chosen), self.config.backend)
        drawings.append(drawing)
        target = self.anchors.views[index][chosen]
        return picture_loss(drawing, target, self._background(), self.config.ssim_weight, self.config.alpha_weight)

    def _distillation_loss(self, state: Gaussians, index: int, progress: float, drawings: list[Drawing]) -> Tensor:
        assert self.distillation is not None

        def rendered(cameras: Sequence[Camera]) -> Tensor:
            drawing = draw(state, Cameras.of(cameras), self.config.backend)
            drawings.append(drawing)
            return drawing.rgba

        # As many times less often, as many times stronger.
        return self.config.sds_every * self.distillation.loss(rendered, index, progress)

    def _distils(self, progress: float) -> bool:
        return progress >= self.config.sds_start and self.step % self.config.sds_every == 0

    def _background(self) -> Float[Tensor, "3"]:
        return torch.rand(3, generator=self.generators["background"])

    def _reference_at(self, size: int) -> tuple[Cameras, Float[Tensor, "T 4 h w"]]:
        """Returns the input's camera and pictures with the longest side at most `size`, area-averaged."""
        if size not in self._pyramid:
            height, width = self.frames.shape[-2:]
            shrink = min(1.0, size / max(height, width))
            h, w = max(round(height * shrink), 1), max(round(width * shrink), 1)
            frames = self.frames if shrink == 1.0 else torch.nn.functional.interpolate(self.frames, (h, w), mode="area")
            self._pyramid[size] = Cameras.of([self.camera.resized(w, h)]), frames
        return self._pyramid[size]

    def _spent(self, part: str, since: float) -> float:
        now = time.monotonic()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - since
        return now

    def _skip(self) -> None:
        """Drops a step whose loss is not finite; raises `Diverged` when that has become the rule."""
        self.table.optimizer.zero_grad(set_to_none=True)
        self.skipped_running += 1
        if self.skipped_running >= PATIENCE:
            raise Diverged(f"the loss of the {PATIENCE} steps up to step {self.step + 1} is not finite")

    def _check(self, tensors: dict[str, Tensor]) -> None:
        names = unsound(tensors)
        if names:
            raise Diverged(f"by step {self.step} there are numbers in {', '.join(names)} that are not finite")

    def _report(self, progress: float) -> None:
        recent, n = self.recent, max(self.recent.steps, 1)
        elapsed = self.elapsed
        values = {
            "step": self.step,
            "progress": round(progress, 6),
            "loss": recent.loss / n,
            "psnr": -10.0 * float(np.log10(max(recent.squared_error / n, 1e-12))),
            "gaussians": len(self.table),
            "elapsed": round(elapsed, 2),
            "steps_per_second": round(n / max(recent.seconds, 1e-9), 2),
        }
        eta = elapsed * (1.0 - progress) / progress if progress > 0 else None
        self.reporter.figures(values, progress, eta)
        self.recent = Recent()

    def model(self, motion: MotionModel | None = None) -> DynamicGaussians:
        """Returns the model as it is now; with `motion` Static, the Gaussians at rest."""
        motion = self.motion if motion is None else motion
        names = {"means", "quats", "scales", "opacities", "sh0", "shN", *motion.columns()}
        params = {
            name: value.detach().clone()
            for name, value in self.table.params.items()
            if name in names or (is_shared(name) and name in motion.shared_shapes())
        }
        still = motion.name == Static.name
        return DynamicGaussians(
            params=params,
            motion=motion,
            fps=self.fps,
            times=np.array([self.times[self.canonical]] if still else self.times),
            meta={
                **self.meta,
                "fit": {
                    "preset": self.config.preset,
                    "seed": self.config.seed,
                    "steps": self.step,
                    "seconds": round(self.elapsed, 2),
                },
                "near": NEAR,
            },
        )

    def save(self) -> Path:
        """Writes a checkpoint from which the fit goes on exactly; returns its path."""
        tensors = self.table.state()
        sampler, position = self.sampler.state()
        tensors.update({f"sampler/{name}": value for name, value in sampler.items()})
        tensors.update({f"generators/{name}": item.get_state() for name, item in self.generators.items()})
        self._check(tensors)
        state = {"sampler": position, "elapsed": self.elapsed, "recent": dataclasses.asdict(self.recent)}
        return save_checkpoint(self.out / "checkpoints", self.step, tensors, state, self.config.keep_checkpoints)

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Goes back to a checkpoint."""
        self.table.load_state(tensors)
        self.sampler.load_state({name: tensors[f"sampler/{name}"] for name in ("order", "following")}, state["sampler"])
        for name, generator in self.generators.items():
            generator.set_state(tensors[f"generators/{name}"])
        self.recent = Recent(**state["recent"])
        self.step, self.skipped_running = state["step"], 0
        self._elapsed_before, self._started = state["elapsed"], time.monotonic()


def canonical_instant(frames: int) -> int:
    """Returns the index of the instant at which the Gaussians are at rest: the middle, as published."""
    return frames // 2


def learning_rates(config: StagConfig, motion: MotionModel) -> dict[str, tuple[float, float]]:
    """Returns the first and last learning rate of every tensor of the table."""
    factor = config.lr_motion_factor
    return {
        "means": config.lr_means,
        "quats": config.lr_quats,
        "scales": config.lr_scales,
        "opacities": config.lr_opacities,
        "sh0": config.lr_sh0,
        "shN": (0.0, 0.0),
        **{name: (first * factor, last * factor) for name, (first, last) in motion.learning_rates().items()},
    }


def _usable(anchors: Anchors | None, camera: Camera, config: StagConfig) -> tuple[Anchors | None, Tensor]:
    """Returns the anchors, None when all are too near to the input camera, and the odds [V] of each."""
    if anchors is None:
        return None, torch.zeros(0)
    near, far = config.anchor_angles
    odds = torch.tensor((angles_to(camera, anchors.cameras) - near) / max(far - near, 1e-6)).clamp(0.0, 1.0)
    return (anchors, odds) if bool((odds > 0).any()) else (None, odds)


def _size_at(sizes: tuple[tuple[float, int], ...], progress: float) -> int:
    """Returns the size of the last (progress, size) pair that has begun."""
    return [size for begin, size in sizes if progress >= begin][-1]
