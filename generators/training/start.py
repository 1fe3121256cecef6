"""What every training program is told, and how each begins: model, loop, random draws, toys."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from ..models.surface import SurfaceNet
    from .loop import Loop


@dataclasses.dataclass
class TrainingArguments:
    """The flags that all training programs share."""

    bank: Path
    """Folder of shards, from `make_toy_bank.py`; more may appear while this runs."""
    out: Path
    """Folder of checkpoints; the same again goes on."""
    minutes: float = 60.0
    """Training time in all, over all sittings."""
    lr: float = 2e-3
    muon_lr: float = 5e-3
    decay: float = 0.5
    """Share of the time, at its end, in which the rates fall."""
    initial: Path | None = None
    """Weights to start from."""
    fast: bool = False
    """Compile, and multiply in bfloat16: on GPUs, and CPUs that have it (AVX512_BF16, AMX)."""
    seed: int = 0


@dataclasses.dataclass
class Start:
    """A training about to run."""

    loop: Loop
    rng: np.random.Generator
    """Another draw after every restart and in every process."""
    shared_rng: np.random.Generator
    """The same in all processes, for what takes longer: it then takes longer for all."""
    batch: Callable[[int], dict[str, Tensor]]
    """Returns so many toys from the bank, on the device that trains."""


def start(
    arguments: TrainingArguments,
    model: nn.Module,
    load: Callable[[nn.Module, Path], None] | None = None,
    **accelerator: Any,
) -> Start:
    """Returns what a training program runs: `model` from where it begins, or from where it was.

    Args:
        load: Loads `arguments.initial`; None: `loop.load_weights`.
        accelerator: Settings of `accelerate.Accelerator`.
    """
    import numpy as np
    import torch
    from accelerate import Accelerator

    from .loop import Loop, LoopConfig, load_weights
    from .toy_bank import ToyBank

    torch.set_flush_denormal(True)
    torch.manual_seed(arguments.seed)
    accelerate = Accelerator(**accelerator)
    if arguments.initial:
        (load or load_weights)(model, arguments.initial)
    names = {field.name for field in dataclasses.fields(LoopConfig)}
    config = LoopConfig(**{name: value for name, value in vars(arguments).items() if name in names})
    loop = Loop(model, config, accelerate)
    draw = [arguments.seed, loop.step]
    rng = np.random.default_rng([*draw, accelerate.process_index])
    torch.manual_seed(int(rng.integers(2**31)))
    bank = ToyBank(arguments.bank, int(rng.integers(2**31)))
    print(f"{bank.toys} toys so far, {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)

    def batch(size: int) -> dict[str, Tensor]:
        return {key: value.to(accelerate.device) for key, value in next(bank.batches(size)).items()}

    return Start(loop, rng, np.random.default_rng(draw), batch)


def shown_toys(count: int) -> dict[str, Tensor]:
    """Returns test toys for the grids of samples that a training draws of itself, as a batch of the bank."""
    import numpy as np
    import torch

    from .toy_bank import render_toy

    toys = [render_toy(k, "test") for k in range(1000, 1000 + count)]
    return {key: torch.from_numpy(np.stack([toy[key] for toy in toys])) for key in toys[0]}


def surface_network(path: Path, loop: Loop) -> SurfaceNet:
    """Returns the surface network with trained weights, on the device of `loop`; it does not learn."""
    from ..models.surface import SurfaceNet
    from .loop import load_weights

    surface = SurfaceNet()
    load_weights(surface, path)
    return surface.to(loop.accelerator.device).eval().requires_grad_(False)
