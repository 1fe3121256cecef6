"""Trains the embedded reconstructor (a few views to Gaussians) on toys, through the rasterizer.

python scripts/train_reconstructor.py --bank bank --out work/reconstructor --initial work/prior/ema.safetensors
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
    minutes: float = 40.0
    lr: float = 1e-3
    muon_lr: float = 3e-3
    initial: Path | None = None
    """Weights of a view prior to start the trunk from."""
    toys: int = 6
    """Toys per step."""
    seed: int = 0


def main(arguments: Arguments) -> None:
    import numpy as np
    import torch
    from accelerate import Accelerator

    from generators.cameras import rays_of
    from generators.figures.grid import save_grid
    from generators.models.reconstructor import Reconstructor
    from generators.training.loop import Loop, LoopConfig, load_weights
    from generators.training.reconstructor import reconstruction_loss, render_rows
    from generators.training.toy_bank import ToyBank, render_toy

    torch.set_flush_denormal(True)
    torch.manual_seed(arguments.seed)
    accelerator = Accelerator()
    model = Reconstructor()
    if arguments.initial:
        load_weights(model.trunk, arguments.initial)
    loop = Loop(
        model,
        LoopConfig(arguments.out, arguments.minutes, 0.3, arguments.lr, arguments.muon_lr, seed=arguments.seed),
        accelerator,
    )
    rng = np.random.default_rng([arguments.seed, loop.step, accelerator.process_index])
    bank = ToyBank(arguments.bank, int(rng.integers(2**31)))
    toys = [render_toy(k, "test") for k in range(1000, 1006)]
    shown = {key: torch.from_numpy(np.stack([toy[key] for toy in toys])) for key in toys[0]}

    def loss_of(wrapped: torch.nn.Module, progress: float):
        batch = {key: value.to(accelerator.device) for key, value in next(bank.batches(arguments.toys)).items()}
        return reconstruction_loss(wrapped, batch, rng)

    def sample(path: Path) -> None:
        rows = []
        for b in range(len(toys)):
            views = torch.tensor([8, 9, 10, 11, 12, 13])
            truth = shown["rgba"][b, views].float() / 255
            viewmats, Ks = shown["viewmats"][b, views], shown["Ks"][b, views]
            found = model(truth[None, :4], rays_of(viewmats[:4], Ks[:4])[None], viewmats[None, :4], Ks[None, :4])
            rows += [truth, render_rows(found, 0, viewmats, Ks, 64)]
        save_grid(path, torch.stack(rows))

    loop.run(loss_of, sample)


if __name__ == "__main__":
    keep_large_blocks()
    main(tyro.cli(Arguments))
