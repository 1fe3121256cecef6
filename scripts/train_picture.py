"""Trains the embedded picture network (words to a picture) on toys.

python scripts/make_toy_bank.py --out bank --toys 12000
python scripts/train_picture.py --bank bank --out work/picture --minutes 60 --fast      # again to go on; Ctrl-C saves
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from generators.training.allocator import keep_large_blocks
from generators.training.start import TrainingArguments, shown_toys, start


@dataclasses.dataclass
class Arguments(TrainingArguments):
    toys: int = 16
    """Toys per step, two pictures of each."""


def main(arguments: Arguments) -> None:
    import torch

    from generators.cameras import rays_of
    from generators.figures.grid import save_grid
    from generators.models.picture import PictureNet, sample_pictures
    from generators.training.picture import picture_loss

    model = PictureNet()
    begun = start(arguments, model)
    shown = shown_toys(8)

    def loss_of(wrapped: torch.nn.Module, progress: float):
        return picture_loss(wrapped, begun.batch(arguments.toys), begun.rng)

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

    begun.loop.run(loss_of, sample)


if __name__ == "__main__":
    keep_large_blocks()
    main(tyro.cli(Arguments))
