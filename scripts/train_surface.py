"""Trains the embedded surface network (a picture to its depth) on toys.

python scripts/train_surface.py --bank bank --out work/surface --minutes 20       # again to go on; Ctrl-C saves
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
    minutes: float = 20.0
    lr: float = 2e-3
    muon_lr: float = 5e-3
    toys: int = 8
    """Toys per step, four pictures of each."""
    seed: int = 0


def main(arguments: Arguments) -> None:
    import numpy as np
    import torch
    from accelerate import Accelerator

    from generators.cameras import rays_of
    from generators.figures.grid import save_grid
    from generators.models.surface import SurfaceNet, surface_conditions, surfels_of
    from generators.training.loop import Loop, LoopConfig
    from generators.training.surface import surface_loss
    from generators.training.toy_bank import ToyBank, render_toy

    torch.set_flush_denormal(True)
    torch.manual_seed(arguments.seed)
    accelerator = Accelerator()
    loop = Loop(
        SurfaceNet(),
        LoopConfig(arguments.out, arguments.minutes, 0.4, arguments.lr, arguments.muon_lr, seed=arguments.seed),
        accelerator,
    )
    rng = np.random.default_rng([arguments.seed, loop.step, accelerator.process_index])
    bank = ToyBank(arguments.bank, int(rng.integers(2**31)))
    toys = [render_toy(k, "test") for k in range(1000, 1006)]
    shown = {key: torch.from_numpy(np.stack([toy[key] for toy in toys])) for key in toys[0]}

    def loss_of(wrapped: torch.nn.Module, progress: float):
        batch = {key: value.to(accelerator.device) for key, value in next(bank.batches(arguments.toys)).items()}
        return surface_loss(wrapped, batch, rng)

    def sample(path: Path) -> None:
        rows = []
        for b in range(len(toys)):
            instant = round(float(shown["times"][b, -1]) * 7)
            views = [instant, *range(8, 14)]
            truth, viewmats, Ks = (
                shown["rgba"][b, views].float() / 255,
                shown["viewmats"][b, views],
                shown["Ks"][b, views],
            )
            depth = loop.model(truth[:1], rays_of(viewmats, Ks)[:1], viewmats[:1])[0]
            drawn = surface_conditions(surfels_of(truth[0], depth, viewmats[0], Ks[0]), viewmats, Ks, 64)
            rows += [truth, drawn[:, :4]]
        save_grid(path, torch.stack(rows))

    loop.run(loss_of, sample)


if __name__ == "__main__":
    keep_large_blocks()
    main(tyro.cli(Arguments))
