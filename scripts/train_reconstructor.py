"""Trains the embedded reconstructor (a few views to Gaussians) on toys, through the rasterizer.

python scripts/train_reconstructor.py --bank bank --out work/reconstructor --initial work/prior/ema.safetensors --fast
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from generators.training.allocator import keep_large_blocks
from generators.training.start import TrainingArguments, shown_toys, start


@dataclasses.dataclass
class Arguments(TrainingArguments):
    minutes: float = 40.0
    lr: float = 1e-3
    muon_lr: float = 3e-3
    toys: int = 6
    """Toys per step."""
    initial: Path | None = None
    """Weights to start from: a reconstructor's, or a view prior's for its trunk."""


def main(arguments: Arguments) -> None:
    import torch

    from generators.cameras import rays_of
    from generators.figures.grid import save_grid
    from generators.models.reconstructor import Reconstructor
    from generators.training.reconstructor import load_reconstructor, reconstruction_loss, render_rows

    model = Reconstructor()
    begun = start(arguments, model, load_reconstructor)
    shown = shown_toys(6)

    def loss_of(wrapped: torch.nn.Module, progress: float):
        return reconstruction_loss(wrapped, begun.batch(arguments.toys), begun.rng)

    def sample(path: Path) -> None:
        rows = []
        for b in range(len(shown["times"])):
            views = torch.tensor([8, 9, 10, 11, 12, 13])
            truth = shown["rgba"][b, views].float() / 255
            viewmats, Ks = shown["viewmats"][b, views], shown["Ks"][b, views]
            found = model(truth[None, :4], rays_of(viewmats[:4], Ks[:4])[None], viewmats[None, :4], Ks[None, :4])
            rows += [truth, render_rows(found, 0, viewmats, Ks, 64)]
        save_grid(path, torch.stack(rows))

    begun.loop.run(loss_of, sample)


if __name__ == "__main__":
    keep_large_blocks()
    main(tyro.cli(Arguments))
