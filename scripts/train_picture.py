"""Trains the embedded picture network (words to a picture) on toys.

python scripts/make_toy_bank.py --out bank --toys 12000
python scripts/train_picture.py --bank bank --out work/picture --minutes 60 --fast      # again to go on; Ctrl-C saves
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from generators.training.allocator import keep_large_blocks


@dataclasses.dataclass
class Arguments:
    bank: Path
    """Folder of shards; more may appear while this runs."""
    out: Path
    minutes: float = 60.0
    lr: float = 2e-3
    muon_lr: float = 5e-3
    decay: float = 0.5
    """Share of the time, at its end, in which the rates fall."""
    toys: int = 16
    """Toys per step, two pictures of each."""
    initial: Path | None = None
    """Weights to start from."""
    fast: bool = False
    """Compile, and multiply in bfloat16: on GPUs, and CPUs with AMX."""
    seed: int = 0


def main(arguments: Arguments) -> None:
    import numpy as np
    import torch
    from accelerate import Accelerator

    from generators.cameras import rays_of
    from generators.figures.grid import save_grid
    from generators.models.picture import PictureNet, sample_pictures
    from generators.training.loop import Loop, LoopConfig, load_weights
    from generators.training.picture import picture_loss
    from generators.training.toy_bank import ToyBank, render_toy

    torch.set_flush_denormal(True)
    torch.manual_seed(arguments.seed)
    accelerator = Accelerator()
    model = PictureNet()
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
    toys = [render_toy(k, "test") for k in range(1000, 1008)]
    shown = {key: torch.from_numpy(np.stack([toy[key] for toy in toys])) for key in toys[0]}

    def loss_of(wrapped: torch.nn.Module, progress: float):
        batch = {key: value.to(accelerator.device) for key, value in next(bank.batches(arguments.toys)).items()}
        return picture_loss(wrapped, batch, rng)

    def sample(path: Path) -> None:
        rays = rays_of(shown["start_viewmats"][:, 0], shown["start_Ks"][:, 0])
        rows = [shown["start_rgba"][:, 0].float() / 255]
        for seed in range(3):
            made = sample_pictures(
                model, rays, shown["tokens"].long(), steps=20, guidance=2.0,
                generator=torch.Generator().manual_seed(seed),
            )  # fmt: skip
            rows.append(made * 0.5 + 0.5)
        save_grid(path, torch.stack(rows))

    loop.run(loss_of, sample)


if __name__ == "__main__":
    keep_large_blocks()
    main(tyro.cli(Arguments))
