"""A fit by gradient descent: draw a frame, render it, add up the terms, step, and now and then change the Gaussians."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diff_rasterizer import FusedAdam
from diff_rasterizer.losses import squared_error

from ..model import DynamicGaussians
from ..motion import MotionModel, Params, Static
from ..offsets import meta_of
from ..scene import Scene
from ..view_block import with_view
from .background import Background
from .config import FitConfig
from .exposure import Exposure
from .hooks import FitHook
from .loop import DEFERRED, Deferred, Figures, Loop
from .normalise import Normalisation
from .parallel import Team
from .progress import Narrator
from .sampler import FrameSampler, MixedSampler
from .schedule import exponential, resolution_at, sh_degree_at
from .step import Step
from .strategies import Strategy, StrategySetup, as_strategy
from .table import ParameterTable
from .targets import Target, Targets
from .terms import WeightedTerm, needed_buffers, terms_of

_READ_AHEAD = 16


class Trainer(Loop):
    """The fit of a scene's frames. What is minimised are its `terms`, what changes its Gaussians is its `strategy`."""

    generator_names: tuple[str, ...] = ("frames", "background", "densify")
    """What draws at random, each from a generator of its own; the order is that of their seeds."""

    def __init__(
        self,
        scene: Scene | None,
        targets: Targets,
        config: FitConfig,
        normalisation: Normalisation,
        params: Params,
        out: Path,
        reporter: Narrator,
        hooks: Sequence[FitHook] = (),
        elapsed: float = 0.0,
        team: Team | None = None,
        *,
        motion: MotionModel | None = None,
        extra: Targets | None = None,
    ) -> None:
        super().__init__(config, out, reporter, hooks, elapsed, team or Team())
        self.scene: Any = scene
        self.targets, self.normalisation = targets, normalisation
        self.device, self.backend = targets.device, config.backend
        self.team.check_batch(config.batch)
        self.motion = motion or config.make_motion()
        self.rest = Static()
        params = {name: value.to(self.device) for name, value in params.items()}
        self.table = ParameterTable(params, self.learning_rates())
        seeds = {name: config.seed * 1000 + k for k, name in enumerate(self.generator_names)}
        self.generators = {name: torch.Generator().manual_seed(seed) for name, seed in seeds.items()}
        self.sampler: FrameSampler | MixedSampler = FrameSampler(len(targets), self.generators["frames"])
        self.extra = extra
        if extra is not None:
            self.generators["extra"] = torch.Generator().manual_seed(config.seed * 1000 + len(seeds))
            self.sampler = MixedSampler(self.sampler, len(extra), config.extra.share, self.generators["extra"])
        grey = torch.full((3,), 0.5, device=self.device)
        self.background = Background(config.background, grey, self.generators["background"])
        self.background_optimizer = FusedAdam([{"params": [self.background.color], "lr": 1e-3, "name": "background"}])
        self.exposure = Exposure(len(targets.camera_ids), self.device) if config.exposure else None
        self.strategy: Strategy = as_strategy(_strategy(config))
        self.strategy.start(StrategySetup(config, self.motion, self.generators["densify"], self.team.size))
        self.terms: list[WeightedTerm] = self.make_terms()
        self._depth_needed = "depth" in needed_buffers(self.terms)
        self.near = config.near * min(1.0, targets.nearest_camera())
        times = scene.times if scene is not None else []
        self._deferred: Tensor | None = None
        """[4 + figures] on an accelerator: steps, dropped steps, of these the last in a row and the most, sums."""
        self.frame_interval = float((times[-1] - times[0]) / (len(times) - 1)) if len(times) > 1 else 1.0 / 30.0

    def make_terms(self) -> list[WeightedTerm]:
        """Returns what is minimised."""
        return terms_of(self.config, self.motion)

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        """Returns the first and last learning rate of every tensor of the table."""
        optim, factor = self.config.optim, self.config.optim.motion_factor
        own = self.motion.learning_rates()
        rates = {
            "means": optim.means,
            "quats": optim.quats,
            "scales": optim.scales,
            "opacities": optim.opacities,
            "sh0": optim.sh0,
            "shN": optim.shN,
            **{name: (first * factor, last * factor) for name, (first, last) in own.items()},
        }
        return {name: (first * optim.factor, last * optim.factor) for name, (first, last) in rates.items()}

    def take_step(self, progress: float) -> Figures | Deferred | None:
        """Takes one step over the pictures of a batch; returns None when the loss of one of them is not finite.

        On an accelerator looking at the loss would make the host wait. There the gradients of such a step count as
        zero, and what came of it is read when the next line of metrics is due.
        """
        self.table.set_progress(progress)
        batch, observing = self.config.batch, self.strategy.observing(progress)
        accelerated = self.device.type != "cpu"
        sums: Tensor | None = None
        for target, color in self.next_pictures(progress):
            step = self.step_of(target, color, progress)
            parts = [(term.name, value) for term in self.terms if (value := term(step)) is not None]
            assert parts, "a fit needs a term that has something to say of every picture"
            loss = parts[0][1]
            for _, value in parts[1:]:
                loss = loss + value
            (loss if batch == 1 else loss / batch).backward()
            figures = self._figures(loss, step, parts, accelerated)
            sums = figures if sums is None else sums + figures
            if observing:
                for drawing in step.drawings:
                    if accelerated:
                        drawing.drop_gradients(~torch.isfinite(loss.detach()))
                    self.strategy.observe(self.table, drawing)
        assert sums is not None
        self.team.sum([sums])
        if not accelerated and not math.isfinite(float(sums[0])):
            self.clear_gradients()
            self.strategy.dropped()
            return None
        self.team.sum_gradients(self.parameters())
        if accelerated:
            self._defer(sums)
        self.tell("after_backward")
        if observing:
            total = self.team.sum if not accelerated else self._total_if(torch.isfinite(sums[0]))
            self.strategy.after_backward(self.table, total)
        self.table.step()
        self._step_others(progress)
        return DEFERRED if accelerated else self._read(sums.tolist())

    def settle(self) -> None:
        """Reads what came of the steps since the last time: the one wait of the host for many steps."""
        if self._deferred is None:
            return
        steps, dropped, running, longest, *sums = self._deferred.tolist()
        self._deferred = None
        figures = self._read(sums)
        figures.steps = round(steps)
        self.recent.add(figures)
        if dropped:
            self.drop(round(dropped), round(max(running, longest)))
        self.skipped_running = round(running)

    def _defer(self, sums: Tensor) -> None:
        """Adds up the figures of a step on the device, and sets its gradients to zero when its loss is not finite."""
        finite = torch.isfinite(sums[0])
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad = torch.where(finite, parameter.grad, 0.0)
        if self._deferred is None:
            self._deferred = torch.zeros(4 + len(sums), dtype=torch.float64, device=self.device)
            self._deferred[2] = float(self.skipped_running)
        one = finite.double()
        running = (1.0 - one) * (self._deferred[2] + 1.0)
        counts = torch.stack(
            [
                self._deferred[0] + one,
                self._deferred[1] + 1.0 - one,
                running,
                torch.maximum(self._deferred[3], running),
            ]
        )
        self._deferred = torch.cat([counts, self._deferred[4:] + torch.where(finite, sums, 0.0)])

    def _total_if(self, finite: Tensor) -> Callable[[Sequence[Tensor]], None]:
        """Returns what adds tensors up over the processes, in place, and makes them zero unless `finite`."""

        def total(tensors: Sequence[Tensor]) -> None:
            self.team.sum(tensors)
            for tensor in tensors:
                tensor.masked_fill_(~finite, 0.0)

        return total

    def _read(self, sums: list[float]) -> Figures:
        """Returns sums over the pictures of a batch (or of several) as means over its pictures."""
        loss, squared_error, *values = (value / self.config.batch for value in sums)
        return Figures(loss, squared_error, dict(zip((term.name for term in self.terms), values)))

    def next_pictures(self, progress: float) -> list[tuple[Target, Tensor]]:
        """Returns the pictures that this process draws in a step, and the colour behind each."""
        downscale = resolution_at(self.config.optim.resolutions, progress)
        size = self.team.size
        # Every process draws the whole batch's frames and colours, so that the generators stay together.
        chosen = [(self.sampler.next(), self.background.sample()) for _ in range(self.config.batch)]
        ahead = self.sampler.upcoming(_READ_AHEAD * size)[self.team.rank :: size]
        self.targets.read_ahead([index for index in ahead if index < len(self.targets)])
        share = [chosen[k] for k in self.team.share(self.config.batch)]
        return [(self._target(index, downscale), color) for index, color in share]

    def step_of(self, target: Target, color: Tensor, progress: float) -> Step:
        """Returns the step of one picture: the Gaussians at its time, nothing drawn yet."""
        config = self.config
        degree = sh_degree_at(config.sh_degree, config.optim.sh_start, progress)
        motion = self.rest if progress < config.optim.coarse else self.motion
        return Step(
            config,
            self.step,
            progress,
            target,
            motion.at(self.table.params, target.time, degree),
            motion,
            self.table.params,
            near=self.near,
            backend=self.backend,
            background=color,
            frame_interval=self.frame_interval,
            exposure=self.exposure,
            scale=float(config.batch),
            absgrad=self.strategy.absgrad,
            depth=self._depth_needed,
        )

    def after_step(self, progress: float) -> None:
        """Lets the strategy change the Gaussians."""
        densify = self.config.densify
        if densify.start <= progress < densify.stop and self.step % densify.every == 0:
            self.check(self.table.params)
        if self.strategy.after_step(self.table, self.step, progress):
            self.tell("after_densify")

    def parameters(self) -> list[Tensor]:
        """Returns everything that is optimised, in an order that is the same in all processes."""
        exposure = [self.exposure.table] if self.exposure else []
        return [*(self.table.params[name] for name in sorted(self.table.params)), self.background.color, *exposure]

    def watched(self) -> Mapping[str, Tensor]:
        """Returns the parameter table."""
        return self.table.params

    def count(self) -> int:
        """Returns the number of Gaussians."""
        return len(self.table)

    def clear_gradients(self) -> None:
        """Drops the gradients of everything that is optimised."""
        self.table.optimizer.zero_grad(set_to_none=True)
        self.background_optimizer.zero_grad(set_to_none=True)
        if self.exposure:
            self.exposure.optimizer.zero_grad(set_to_none=True)

    def model(self) -> DynamicGaussians:
        """Returns the model as it is now, in world coordinates, on the CPU."""
        world = self.normalisation.undo(self.table.params, self.motion)
        model = DynamicGaussians(
            params={name: value.cpu() for name, value in world.items()},
            motion=self.motion,
            background=self.background.final().cpu(),
            fps=self.scene.fps,
            times=self.scene.times,
            meta={
                "normalisation": self.normalisation.to_dict(),
                "fit": self.fit_values(),
                "background_mode": self.config.background,
                "near": self.near / self.normalisation.scale,
                **meta_of(self.scene.offset),
            },
        )
        return with_view(model, self.scene)

    def tensors(self) -> dict[str, Tensor]:
        """Returns parameters, optimiser states, sampler and generators."""
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
        sampler_tensors, _ = self.sampler.state()
        tensors.update({f"sampler/{name}": value for name, value in sampler_tensors.items()})
        tensors.update({f"generators/{name}": item.get_state() for name, item in self.generators.items()})
        tensors.update({f"strategy/{name}": value for name, value in self.strategy.state().items()})
        return tensors

    def values(self) -> dict[str, Any]:
        """Returns the sampler's place."""
        return {"sampler": self.sampler.state()[1]}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Goes back to a checkpoint; what it does not hold (an older one, extra frames that came later) starts anew."""
        self.table.load_state({name: self._placed(name, value) for name, value in tensors.items()})
        if "background/color" in tensors:
            self.background.color.copy_(tensors["background/color"])
            _load_moments(tensors, "background/state/", self.background.color, self.background_optimizer)
        if self.exposure:
            self.exposure.table.copy_(tensors["exposure/table"])
            _load_moments(tensors, "exposure/state/", self.exposure.table, self.exposure.optimizer)
        self.sampler.load_state(_under(tensors, "sampler/"), values["sampler"])
        for name, generator in self.generators.items():
            if f"generators/{name}" in tensors:
                generator.set_state(tensors[f"generators/{name}"])
        if strategy := _under(tensors, "strategy/"):
            self.strategy.load_state(strategy)

    def _target(self, index: int, downscale: float) -> Target:
        if index < len(self.targets):
            return self.targets.get(index, downscale)
        assert self.extra is not None
        target = self.extra.get(index - len(self.targets), downscale)
        # No camera of the scene took it: no exposure is fitted to it.
        return dataclasses.replace(target, camera_index=-1, index=index)

    def _figures(self, loss: Tensor, step: Step, parts: list[tuple[str, Tensor]], accelerated: bool) -> Tensor:
        """Returns [2 + terms] the loss, the mean squared error and the value of each term, float64 on the device."""
        values = dict(parts)
        error = self.squared_error(step)
        if not accelerated:
            # Reading a number costs less than an operation on a tensor that holds one.
            rest = [float(values[term.name].detach()) if term.name in values else 0.0 for term in self.terms]
            return torch.tensor([float(loss.detach()), float(error), *rest], dtype=torch.float64)
        zero = torch.zeros((), dtype=torch.float64, device=self.device)
        rest = [values[term.name].detach().double() if term.name in values else zero for term in self.terms]
        return torch.stack([loss.detach().double(), error.double(), *rest])

    def squared_error(self, step: Step) -> Tensor:
        """Returns the mean squared error of the picture, a scalar on the device."""
        return squared_error(step.rgb.detach(), step.composed)

    def _step_others(self, progress: float) -> None:
        """Takes the optimiser's step of what is fitted besides the Gaussians."""
        if self.background.mode == "model":
            self.background_optimizer.param_groups[0]["lr"] = exponential(self.config.optim.background, progress)
            self.background_optimizer.step()
            self.background_optimizer.zero_grad(set_to_none=True)
        if self.exposure:
            self.exposure.step(progress)

    def _placed(self, name: str, value: Tensor) -> Tensor:
        """Returns a tensor of a checkpoint where the table keeps it: step counts stay on the CPU."""
        in_table = name.startswith(("params/", "optimizer/", "statistics/"))
        return value.to(self.device) if in_table and value.dim() else value


def _strategy(config: FitConfig) -> Any:
    from ..plugins import STRATEGIES

    return STRATEGIES.get(config.densify.strategy)()


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _load_moments(tensors: dict[str, Tensor], prefix: str, parameter: Tensor, optimizer: torch.optim.Optimizer) -> None:
    moments = {name: value.clone() for name, value in _under(tensors, prefix).items()}
    if moments:
        optimizer.state[parameter] = {
            name: value.to(parameter.device) if value.dim() else value for name, value in moments.items()
        }
