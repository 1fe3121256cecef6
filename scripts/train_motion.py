"""Trains the embedded motion network (a picture and words to how the surface moves) on toys.

python scripts/make_toy_bank.py --out bank --toys 12000
python scripts/train_motion.py --bank bank --out work/motion --minutes 30 --fast      # again to go on; Ctrl-C saves
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from generators.training.allocator import keep_large_blocks


@dataclasses.dataclass
class Arguments:
    bank: Path
    """Folder of shards, from `make_toy_bank.py`."""
    out: Path
    minutes: float = 30.0
    lr: float = 2e-3
    muon_lr: float = 5e-3
    decay: float = 0.5
    """Share of the time, at its end, in which the rates fall."""
    toys: int = 64
    """Per step, one view of each."""
    surface: Path = Path("generators/weights/surface.safetensors")
    """Weights of the surface network, trained before."""
    initial: Path | None = None
    """Weights to start from."""
    fast: bool = False
    """Compile, and multiply in bfloat16: on GPUs, and CPUs with AMX."""
    seed: int = 0


def main(arguments: Arguments) -> None:
    import numpy as np
    import torch
    from accelerate import Accelerator

    from generators.models.motion import MotionNet
    from generators.models.surface import SurfaceNet
    from generators.training.loop import Fast, Loop, LoopConfig, load_weights
    from generators.training.motion import motion_loss
    from generators.training.toy_bank import ToyBank

    torch.set_flush_denormal(True)
    torch.manual_seed(arguments.seed)
    accelerator = Accelerator()
    model, surface = MotionNet(), SurfaceNet()
    load_weights(surface, arguments.surface)
    surface.to(accelerator.device).eval()
    if arguments.initial:
        load_weights(model, arguments.initial)
    loop = Loop(
        model,
        LoopConfig(
            arguments.out,
            arguments.minutes,
            arguments.decay,
            arguments.lr,
            arguments.muon_lr,
            seed=arguments.seed,
            fast=arguments.fast,
        ),
        accelerator,
    )
    rng = np.random.default_rng([arguments.seed, loop.step, accelerator.process_index])
    torch.manual_seed(int(rng.integers(2**31)))
    bank = ToyBank(arguments.bank, int(rng.integers(2**31)))
    print(f"{bank.toys} toys so far, {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)

    reader = Fast(surface, accelerator.device.type) if arguments.fast else surface

    def loss_of(wrapped: torch.nn.Module, progress: float):
        batch = {key: value.to(accelerator.device) for key, value in next(bank.batches(arguments.toys)).items()}
        return motion_loss(wrapped, reader, batch, rng)

    loop.run(loss_of)


if __name__ == "__main__":
    keep_large_blocks()
    main(tyro.cli(Arguments))
