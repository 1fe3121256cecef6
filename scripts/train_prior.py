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
from generators.training.start import TrainingArguments, shown_toys, start, surface_network


@dataclasses.dataclass
class Arguments(TrainingArguments):
    minutes: float = 120.0
    decay: float = 0.3
    surface: Path = Path("generators/weights/surface.safetensors")
    """Weights of the surface network, trained before."""
    regression: bool = False
    """Learn the regressor of equal size: always from pure noise, with none in the input."""


def main(arguments: Arguments) -> None:
    import torch
    from accelerate import DistributedDataParallelKwargs

    from generators.cameras import rays_of
    from generators.figures.grid import save_grid
    from generators.models.surface import drawn_conditions
    from generators.models.view_transformer import Frames, ViewTransformer
    from generators.priors.embedded import VIEW_STEPS
    from generators.training.prior import draw_mode, prior_loss, sample_frames, true_moves

    model = ViewTransformer()
    # Without an input picture nothing is drawn, and the layers that take drawings in rest.
    resting = DistributedDataParallelKwargs(find_unused_parameters=True)
    begun = start(arguments, model, kwargs_handlers=[resting])
    surface = surface_network(arguments.surface, begun.loop)
    shown = shown_toys(4)

    def loss_of(wrapped: torch.nn.Module, progress: float):
        mode, count, room = draw_mode(progress, begun.shared_rng, arguments.regression)
        return prior_loss(wrapped, surface, begun.batch(room), mode, count, begun.rng, arguments.regression)

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

    begun.loop.run(loss_of, sample)


if __name__ == "__main__":
    keep_large_blocks()
    main(tyro.cli(Arguments))
