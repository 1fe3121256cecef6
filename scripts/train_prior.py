"""Trains the embedded view prior (multi-view and video in one) on toys, or a regressor of equal size.

python scripts/make_toy_bank.py --out bank --toys 16384
python scripts/train_surface.py --bank bank --out work/surface
python scripts/train_prior.py --bank bank --out work/prior --minutes 120      # again to go on; Ctrl-C saves
torchrun --nproc_per_node 2 scripts/train_prior.py --bank bank --out work/prior    # several GPUs or cores
python scripts/train_prior.py --bank bank --out work/regressor --initial work/prior/ema.safetensors --regression
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
    minutes: float = 120.0
    lr: float = 2e-3
    muon_lr: float = 5e-3
    decay: float = 0.3
    """Share of the time, at its end, in which the rates fall."""
    initial: Path | None = None
    """Weights to start from."""
    surface: Path = Path("generators/weights/surface.safetensors")
    """Weights of the surface network, trained before."""
    regression: bool = False
    fast: bool = False
    """Compile, and multiply in bfloat16: on GPUs, and CPUs with AMX."""
    seed: int = 0


def main(arguments: Arguments) -> None:
    import numpy as np
    import torch
    from accelerate import Accelerator, DistributedDataParallelKwargs

    from generators.cameras import rays_of
    from generators.figures.grid import save_grid
    from generators.models.surface import SurfaceNet, drawn_conditions
    from generators.models.view_transformer import Frames, ViewTransformer
    from generators.priors.embedded import VIEW_STEPS
    from generators.training.loop import Loop, LoopConfig, load_weights
    from generators.training.prior import draw_mode, prior_loss, sample_frames, true_moves
    from generators.training.toy_bank import ToyBank, render_toy

    torch.set_flush_denormal(True)
    torch.manual_seed(arguments.seed)
    # Without an input picture nothing is drawn, and the layers that take drawings in rest.
    accelerator = Accelerator(kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)])
    model, surface = ViewTransformer(), SurfaceNet()
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
    # Another draw after every restart and in every process.
    draw = [arguments.seed, loop.step, accelerator.process_index]
    rng = np.random.default_rng(draw)
    torch.manual_seed(int(rng.integers(2**31)))
    bank = ToyBank(arguments.bank, int(rng.integers(2**31)))
    print(f"{bank.toys} toys so far, {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    toys = [render_toy(k, "test") for k in range(1000, 1004)]
    shown = {key: torch.from_numpy(np.stack([toy[key] for toy in toys])) for key in toys[0]}

    # The same in all processes: what takes longer takes longer for all.
    modes = np.random.default_rng(draw[:2])

    def loss_of(wrapped: torch.nn.Module, progress: float):
        mode, count, room = draw_mode(progress, modes, arguments.regression)
        batch = {key: value.to(accelerator.device) for key, value in next(bank.batches(room)).items()}
        return prior_loss(wrapped, surface, batch, mode, count, rng, arguments.regression)

    def sample(path: Path) -> None:
        rows = []
        instant = (shown["times"][:, -1] * 7).round().long()
        videos = torch.tensor([[0, 1, 2, 3, 4, 5, 6]] * 4)
        views = torch.cat([instant[:, None], torch.arange(8, 14).expand(4, -1)], dim=1)
        for chosen, moves in ((views, None), (videos, true_moves(shown, videos))):
            row = torch.arange(4)[:, None]
            clean = shown["rgba"][row, chosen].float() / 127.5 - 1
            known = torch.zeros(chosen.shape, dtype=torch.bool)
            known[:, 0] = True
            viewmats, Ks = shown["viewmats"][row, chosen], shown["Ks"][row, chosen]
            drawn = drawn_conditions(surface, clean[:, 0] * 0.5 + 0.5, viewmats, Ks, moves)
            silent = torch.zeros_like(shown["tokens"].long())
            frames = Frames(rays_of(viewmats, Ks), shown["times"][row, chosen], known, silent, drawn)
            made = sample_frames(model, clean, known, frames, 1 if arguments.regression else VIEW_STEPS)
            rows += [item for pair in zip(clean, made) for item in pair]
        save_grid(path, torch.stack(rows) * 0.5 + 0.5)

    loop.run(loss_of, sample)


if __name__ == "__main__":
    keep_large_blocks()
    main(tyro.cli(Arguments))
