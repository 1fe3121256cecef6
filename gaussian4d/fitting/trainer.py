"""The training loop: draw a frame, render it, compare, step, and now and then change the Gaussians or save."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diff_rasterizer import FusedAdam, rasterization
from diff_rasterizer.losses import mean_squared_error

from ..model import DynamicGaussians
from ..motion import Params, Static, make_motion
from ..scene import Scene
from .background import Background
from .checkpoint import checkpoint_path, list_checkpoints, load_checkpoint, save_checkpoint
from .coherence import coherence
from .config import FitConfig
from .densify import Densifier
from .divergence import PATIENCE, Diverged, unsound
from .exposure import Exposure
from .hooks import FitHook
from .losses import compose, picture_loss, regularisation
from .normalise import Normalisation
from .parallel import Team
from .progress import Narrator
from .sampler import FrameSampler
from .schedule import exponential, progress_of, resolution_at, sh_degree_at
from .table import ParameterTable
from .targets import Target, Targets

_READ_AHEAD = 16


@dataclasses.dataclass
class Recent:
    """Sums over the steps since the last line of metrics."""

    loss: float = 0.0
    squared_error: float = 0.0
    steps: int = 0
    seconds: float = 0.0


class Trainer:
    """A fit in progress. `run` goes on until the limit or until `stop_requested`."""

    def __init__(
        self,
        scene: Scene,
        targets: Targets,
        config: FitConfig,
        normalisation: Normalisation,
        params: Params,
        out: Path,
        reporter: Narrator,
        hooks: Sequence[FitHook] = (),
        elapsed: float = 0.0,
        team: Team | None = None,
    ) -> None:
        self.scene, self.targets, self.config, self.normalisation = scene, targets, config, normalisation
        self.out, self.reporter, self.hooks = out, reporter, hooks
        self.team = team or Team()
        self.team.check_batch(config.batch)
        self.motion = make_motion(config.motion, config.motion_config)
        self.rest = Static()
        self.table = ParameterTable(params, _learning_rates(config, self.motion.learning_rates()))
        names = ("frames", "background", "densify")
        self.generators = {name: torch.Generator().manual_seed(config.seed * 1000 + k) for k, name in enumerate(names)}
        self.sampler = FrameSampler(len(targets), self.generators["frames"])
        self.background = Background(config.background, torch.full((3,), 0.5), self.generators["background"])
        self.background_optimizer = FusedAdam([{"params": [self.background.color], "lr": 1e-3, "name": "background"}])
        self.exposure = Exposure(len(targets.camera_ids)) if config.exposure else None
        self.densifier = Densifier(config, self.motion, self.generators["densify"])
        self.near = config.near * min(1.0, targets.nearest_camera())
        self.recent = Recent()
        self.step = 0
        self.stop_requested = False
        self.skipped = 0
        self.skipped_running = 0
        """How many of the last steps had no finite loss, one after the other."""
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
        """Trains until the fit is done or a stop is requested; saves a checkpoint, returns how much of it is done.

        Raises `Diverged` when that leads nowhere; `go_back` then returns to the last checkpoint.
        """
        self._tell("start")
        progress = self._agreed_progress()
        while progress < 1.0 and not self._stopping():
            began = time.monotonic()
            self._train_step(progress)
            self.step += 1
            self.recent.seconds += time.monotonic() - began
            # Read once per step: the clock may not differ between two decisions of the same step.
            progress = self._agreed_progress()
            if self.densifier.active(progress) and self.step % self.config.densify_every == 0:
                self._check(self.table.params)
                self.densifier.change(self.table)
            if self.step % self.config.log_every == 0:
                self._check(self.table.params)
                self._report(progress)
            # Amid steps without a finite loss the Gaussians may be finite and yet beyond help.
            if self.step % self.config.checkpoint_every == 0 and not self.skipped_running:
                self.save()
            self._tell("step")
        if self.step % self.config.checkpoint_every != 0 or self.skipped_running:
            self.save()
        if self.skipped:
            self.reporter.say(f"{self.skipped} of {self.step} steps had no finite loss and were dropped")
        self._tell("end")
        return progress

    def _agreed_progress(self) -> float:
        """Returns the progress, equal in all processes of the team though their clocks differ."""
        return self.team.of_leader(self.progress) if self.config.max_minutes else self.progress

    def _stopping(self) -> bool:
        """Returns whether any process of the team was asked to stop; the others then are, too."""
        self.stop_requested = self.team.any(self.stop_requested)
        return self.stop_requested

    def _train_step(self, progress: float) -> None:
        self.table.set_progress(progress)
        batch, size = self.config.batch, self.team.size
        downscale = resolution_at(self.config.resolutions, progress)
        # Every process draws the whole batch's frames and colours, so that the generators stay together.
        chosen = [(self.sampler.next(), self.background.sample()) for _ in range(batch)]
        self.targets.read_ahead(self.sampler.upcoming(_READ_AHEAD * size)[self.team.rank :: size])
        sums = torch.zeros(2, dtype=torch.float64)
        seen = torch.zeros(2, len(self.table))
        for index, color in (chosen[k] for k in self.team.share(batch)):
            target = self.targets.get(index, downscale)
            loss, error, means2d, drawn = self._loss(target, color, progress)
            (loss if batch == 1 else loss / batch).backward()
            sums += torch.tensor([float(loss.detach()), error], dtype=torch.float64)
            if progress < self.config.densify_stop and means2d.grad is not None:
                self.densifier.observe(seen, means2d.grad[0] * batch, drawn, target.width, target.height)
        self.team.sum([sums])
        if not torch.isfinite(sums[0]):
            self._skip()
            return
        self.team.sum_gradients(self._parameters())
        if progress < self.config.densify_stop:
            self.team.sum([seen])
            self.densifier.count(self.table, seen)
        self.table.step()
        if self.config.strategy == "relocate" and self.config.noise:
            self.densifier.explore(self.table, progress)
        if self.background.mode == "model":
            self.background_optimizer.param_groups[0]["lr"] = exponential(self.config.lr_background, progress)
            self.background_optimizer.step()
            self.background_optimizer.zero_grad(set_to_none=True)
        if self.exposure:
            self.exposure.step(progress)
        self.skipped_running = 0
        self.recent.loss += float(sums[0]) / batch
        self.recent.squared_error += float(sums[1]) / batch
        self.recent.steps += 1

    def _parameters(self) -> list[Tensor]:
        """Returns everything that is optimised, in an order that is the same in all processes."""
        exposure = [self.exposure.table] if self.exposure else []
        return [*(self.table.params[name] for name in sorted(self.table.params)), self.background.color, *exposure]

    def _loss(self, target: Target, color: Tensor, progress: float) -> tuple[Tensor, float, Tensor, Tensor]:
        """Returns the loss, the mean squared error, the projected means and which Gaussians were drawn [N]."""
        degree = sh_degree_at(self.config.sh_degree, self.config.sh_start, progress)
        motion = self.rest if progress < self.config.coarse else self.motion
        state = motion.at(self.table.params, target.time, degree)
        renders, alphas, meta = rasterization(
            **state.to_rasterizer(),
            viewmats=target.viewmat[None],
            Ks=target.K[None],
            width=target.width,
            height=target.height,
            near_plane=self.near,
            packed=False,
            backgrounds=color[None],
            backend=self.config.backend,
        )
        means2d: Tensor = meta["means2d"]
        if means2d.requires_grad:
            means2d.retain_grad()
        rgb = renders[0] if self.exposure is None else self.exposure.apply(renders[0], target.camera_index)
        composed = compose(target, color.detach())
        loss = picture_loss(self.config, target, composed, rgb, alphas[0])
        loss = loss + regularisation(self.config, self.table.params, state)
        # A seed of its own per picture: neither resuming nor the number of processes changes what is looked at.
        seed = hash((self.config.seed, self.step, target.camera_index, target.time))
        loss = loss + coherence(self.config, motion, self.table.params, state, target.time, self.step, seed)
        error = mean_squared_error(rgb.detach(), composed)
        return loss, error, means2d, (meta["radii"][0] > 0).all(dim=-1)

    def _skip(self) -> None:
        """Drops a step whose loss is not finite; raises `Diverged` when that has become the rule."""
        self.table.optimizer.zero_grad(set_to_none=True)
        self.background_optimizer.zero_grad(set_to_none=True)
        if self.exposure:
            self.exposure.optimizer.zero_grad(set_to_none=True)
        if self.skipped == 0:
            self.reporter.say(f"step {self.step}: the loss is not finite; such steps are dropped and counted")
        self.skipped += 1
        self.skipped_running += 1
        if self.skipped_running >= PATIENCE:
            raise Diverged(f"the loss of the {PATIENCE} steps up to step {self.step + 1} is not finite")

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises `Diverged` when one of `tensors` holds a number that is none."""
        names = unsound(tensors)
        if names:
            raise Diverged(f"by step {self.step} there are numbers in {', '.join(names)} that are not finite")

    def go_back(self) -> bool:
        """Goes back to the newest checkpoint; returns False when there is none."""
        saved = list_checkpoints(self.out / "checkpoints")
        if saved:
            self.load(*load_checkpoint(saved[-1]))
        return bool(saved)

    def _report(self, progress: float) -> None:
        recent, n = self.recent, max(self.recent.steps, 1)
        elapsed = self.elapsed
        values = {
            "step": self.step,
            "progress": round(progress, 6),
            "loss": recent.loss / n,
            "psnr": -10.0 * _log10(recent.squared_error / n),
            "gaussians": len(self.table),
            "elapsed": round(elapsed, 2),
            "steps_per_second": round(n / max(recent.seconds, 1e-9), 2),
        }
        eta = elapsed * (1.0 - progress) / progress if progress > 0 else None
        self.reporter.figures(values, progress, eta)
        self.recent = Recent()

    def model(self) -> DynamicGaussians:
        """Returns the model as it is now, in world coordinates."""
        config = self.config
        return DynamicGaussians(
            params=self.normalisation.undo(self.table.params, self.motion),
            motion=self.motion,
            background=self.background.final(),
            fps=self.scene.fps,
            times=self.scene.times,
            meta={
                "normalisation": self.normalisation.to_dict(),
                "fit": {
                    "preset": config.preset,
                    "seed": config.seed,
                    "steps": self.step,
                    "seconds": round(self.elapsed, 2),
                },
                "background_mode": config.background,
                "near": self.near / self.normalisation.scale,
            },
        )

    def save(self) -> Path:
        """Writes a checkpoint from which a fit goes on exactly; returns its path. Rank 0 writes for all.

        Raises `Diverged` instead of writing numbers that are not finite.
        """
        tensors = self.table.state()
        tensors["background/color"] = self.background.color.detach()
        modules: list[tuple[str, Tensor, torch.optim.Optimizer]] = [
            ("background", self.background.color, self.background_optimizer)
        ]
        if self.exposure:
            tensors["exposure/table"] = self.exposure.table.detach()
            modules.append(("exposure", self.exposure.table, self.exposure.optimizer))
        for name, parameter, optimizer in modules:
            tensors.update({f"{name}/state/{k}": v for k, v in optimizer.state.get(parameter, {}).items()})
        sampler_tensors, sampler_values = self.sampler.state()
        tensors.update({f"sampler/{name}": value for name, value in sampler_tensors.items()})
        tensors.update({f"generators/{name}": item.get_state() for name, item in self.generators.items()})
        # In all processes, so that all of them stop.
        self._check(tensors)
        if not self.team.leads:
            return checkpoint_path(self.out / "checkpoints", self.step)
        state: dict[str, Any] = {
            "sampler": sampler_values,
            "elapsed": self.elapsed,
            "recent": dataclasses.asdict(self.recent),
            "skipped": self.skipped,
        }
        path = save_checkpoint(self.out / "checkpoints", self.step, tensors, state, self.config.keep_checkpoints)
        self._tell("checkpoint")
        return path

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Goes back to a checkpoint."""
        self.table.load_state(tensors)
        self.background.color.copy_(tensors["background/color"])
        _load_moments(tensors, "background/state/", self.background.color, self.background_optimizer)
        if self.exposure:
            self.exposure.table.copy_(tensors["exposure/table"])
            _load_moments(tensors, "exposure/state/", self.exposure.table, self.exposure.optimizer)
        self.sampler.load_state({name: tensors[f"sampler/{name}"] for name in ("order", "following")}, state["sampler"])
        for name, generator in self.generators.items():
            generator.set_state(tensors[f"generators/{name}"])
        self.recent = Recent(**state["recent"])
        self.skipped, self.skipped_running = state["skipped"], 0
        self.step = state["step"]
        self._elapsed_before, self._started = state["elapsed"], time.monotonic()

    def _tell(self, event: str) -> None:
        began = time.monotonic()
        for hook in self.hooks:
            hook(self, event)
        # What hooks take, a pause above all, is no time of fitting: limits in minutes do not count it.
        self._started += time.monotonic() - began


def _learning_rates(config: FitConfig, motion: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    factor = config.lr_motion_factor
    rates = {
        "means": config.lr_means,
        "quats": config.lr_quats,
        "scales": config.lr_scales,
        "opacities": config.lr_opacities,
        "sh0": config.lr_sh0,
        "shN": config.lr_shN,
        **{name: (first * factor, last * factor) for name, (first, last) in motion.items()},
    }
    return {name: (first * config.lr_factor, last * config.lr_factor) for name, (first, last) in rates.items()}


def _load_moments(tensors: dict[str, Tensor], prefix: str, parameter: Tensor, optimizer: torch.optim.Optimizer) -> None:
    moments = {name[len(prefix) :]: value.clone() for name, value in tensors.items() if name.startswith(prefix)}
    if moments:
        optimizer.state[parameter] = moments


def _log10(value: float) -> float:
    return float(torch.log10(torch.tensor(max(value, 1e-12), dtype=torch.float64)))
