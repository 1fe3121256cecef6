"""How the number of Gaussians changes: the interface of a strategy, and gsplat's strategies behind it."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..motion import MotionModel
from .config import FitConfig
from .drawing import Drawing
from .table import ParameterTable


@dataclasses.dataclass
class StrategySetup:
    """What a strategy is told at the start of a fit."""

    config: FitConfig
    motion: MotionModel
    generator: torch.Generator
    """For everything random; it is saved with the checkpoints. On the CPU: move what it draws."""
    processes: int = 1
    """Processes that fit together (see `parallel`)."""


class Strategy:
    """Changes the rows of the parameter table as a fit goes on. This one keeps them all: subclasses say what to do.

    In every step: `observe` for each picture after its gradients are there, `after_backward` once when the loss was
    finite, `after_step` after the optimiser's step. Rows are added, removed and rewritten through the table
    (`ParameterTable.rebuild`, `overwrite`), so that optimiser state and statistics follow. Per-row tensors that must
    follow the rows go into `table.statistics`, which checkpoints keep; others are returned by `state`.
    """

    absgrad = False
    """Whether the rasterizer is asked for gradients summed without sign (`means2d.absgrad`)."""

    def start(self, setup: StrategySetup) -> None:
        """Takes the settings; called once before the first step."""
        self.config, self.motion, self.generator = setup.config, setup.motion, setup.generator

    def observing(self, progress: float) -> bool:
        """Returns whether `observe` is to be called at this progress."""
        return False

    def observe(self, table: ParameterTable, drawing: Drawing) -> None:
        """Looks at one picture: `drawing.means2d` has its gradient [C, N, 2], in pixels, times 1 / `drawing.scale`."""

    def after_backward(self, table: ParameterTable, total: Any) -> None:
        """Follows the backward passes of a step; `total(tensors)` adds tensors up over the processes, in place."""

    def dropped(self) -> None:
        """Follows a step whose loss was not finite, instead of `after_backward`: forget its pictures."""

    def after_step(self, table: ParameterTable, step: int, progress: float) -> bool:
        """Follows the optimiser's step number `step` (from 1); returns whether rows were changed."""
        return False

    def state(self) -> dict[str, Tensor]:
        """Returns tensors of its own that a checkpoint must keep."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Goes back to what `state` returned."""


class KeepAll(Strategy):
    """The strategy `none`: the Gaussians of the start stay, no more and no fewer."""


class GsplatStrategy(Strategy):
    """A strategy object of gsplat (`DefaultStrategy`, `MCMCStrategy` or a subclass) on our parameter table.

    gsplat draws from torch's global generator: its state is kept apart, so that runs stay repeatable.
    """

    def __init__(self, strategy: Any) -> None:
        self.inner = strategy
        self.absgrad = bool(getattr(strategy, "absgrad", False))

    def start(self, setup: StrategySetup) -> None:
        """Raises `UserError` where several pictures make a step: gsplat's strategies take one."""
        super().start(setup)
        if setup.processes > 1 or setup.config.batch > 1:
            raise UserError(
                f"a strategy of gsplat takes one picture per step in one process, got batch {setup.config.batch} in"
                f" {setup.processes} processes; use the strategy densify or relocate"
            )
        try:
            self.memory = self.inner.initialize_state(scene_scale=1.0)
        except TypeError:
            # MCMC knows no scale.
            self.memory = self.inner.initialize_state()
        self.seed = setup.config.seed
        self.random = torch.Generator().manual_seed(self.seed).get_state()
        self.seen: dict[str, Any] | None = None

    def observing(self, progress: float) -> bool:
        return True

    def observe(self, table: ParameterTable, drawing: Drawing) -> None:
        self.seen = drawing.meta

    def dropped(self) -> None:
        self.seen = None

    def after_step(self, table: ParameterTable, step: int, progress: float) -> bool:
        if self.seen is None:
            return False
        meta, self.seen = self.seen, None
        before = dict(table.params)
        optimizers = {group["name"]: _OneGroup(table.optimizer, group) for group in table.optimizer.param_groups}
        params = {name: table.params[name] for name in table.columns}
        for name in set(params) - set(optimizers):
            params[name].requires_grad_(False)
        optimizers = {name: optimizer for name, optimizer in optimizers.items() if name in params}
        more = {"lr": optimizers["means"].param_groups[0]["lr"]} if _is_mcmc(self.inner) else {"packed": False}
        device = params["means"].device
        for name, value in self.memory.items():
            # What a checkpoint held is on the CPU.
            self.memory[name] = value.to(device) if isinstance(value, Tensor) else value
        with torch.random.fork_rng(devices=[]), _our_operations():
            torch.set_rng_state(self.random)
            self.inner.step_post_backward(params, optimizers, self.memory, step, meta, **more)
            self.random = torch.get_rng_state()
        table.params.update(params)
        return any(value is not before[name] for name, value in table.params.items())

    def state(self) -> dict[str, Tensor]:
        tensors = {name: value for name, value in self.memory.items() if isinstance(value, Tensor)}
        return {**tensors, "random": self.random}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        kept = dict(tensors)
        self.random = kept.pop("random")
        self.memory.update(kept)


class _OneGroup:
    """One group of an optimiser with several, as gsplat's strategies expect an optimiser."""

    def __init__(self, optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
        self.param_groups, self.state = [group], optimizer.state


@contextlib.contextmanager
def _our_operations() -> Iterator[None]:
    """Puts our functions, which run on any device, in the place of the two of gsplat's strategies that need CUDA."""
    module: Any = sys.modules.get("gsplat.strategy.ops")
    if module is None:
        yield
        return
    import diff_rasterizer

    names = ("compute_relocation", "quat_scale_to_covar_preci")
    theirs = {name: getattr(module, name) for name in names}
    try:
        for name in names:
            setattr(module, name, getattr(diff_rasterizer, name))
        yield
    finally:
        for name, function in theirs.items():
            setattr(module, name, function)


def gsplat_default() -> Strategy:
    """Returns gsplat's `DefaultStrategy` with its own settings."""
    return GsplatStrategy(_gsplat().DefaultStrategy())


def gsplat_mcmc() -> Strategy:
    """Returns gsplat's `MCMCStrategy` with its own settings."""
    return GsplatStrategy(_gsplat().MCMCStrategy())


def as_strategy(thing: Any) -> Strategy:
    """Returns a strategy of ours or of gsplat as a `Strategy`; raises `UserError` for anything else."""
    if isinstance(thing, Strategy):
        return thing
    if callable(getattr(thing, "step_post_backward", None)) and callable(getattr(thing, "initialize_state", None)):
        return GsplatStrategy(thing)
    raise UserError(f"expected a strategy: a gaussian4d.Strategy or one of gsplat's, got {thing!r}")


def _is_mcmc(strategy: Any) -> bool:
    import inspect

    return "lr" in inspect.signature(strategy.step_post_backward).parameters


def _gsplat() -> Any:
    try:
        import gsplat
    except ImportError as error:
        raise UserError(f"the strategies of gsplat need gsplat ({error}); pip install 'gaussian4d[gsplat]'") from None
    return gsplat
