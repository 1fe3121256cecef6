"""Trains the embedded surface network (a picture to its depth) on toys.

python scripts/train_surface.py --bank bank --out work/surface --minutes 20       # again to go on; Ctrl-C saves
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from generators.training.allocator import keep_large_blocks
from generators.training.start import TrainingArguments, shown_toys, start


@dataclasses.dataclass
class Arguments(TrainingArguments):
    minutes: float = 20.0
    decay: float = 0.4
    toys: int = 8
    """Toys per step, four pictures of each."""


def main(arguments: Arguments) -> None:
    import torch

    from generators.cameras import rays_of
    from generators.figures.grid import save_grid
    from generators.models.surface import SurfaceNet, surface_conditions, surfels_of
    from generators.training.surface import surface_loss

    model = SurfaceNet()
    begun = start(arguments, model)
    shown = shown_toys(6)

    def loss_of(wrapped: torch.nn.Module, progress: float):
        return surface_loss(wrapped, begun.batch(arguments.toys), begun.rng)

    def sample(path: Path) -> None:
        rows = []
        for b in range(len(shown["times"])):
            instant = round(float(shown["times"][b, -1]) * 7)
            views = [instant, *range(8, 14)]
            truth, viewmats, Ks = (
                shown["rgba"][b, views].float() / 255,
                shown["viewmats"][b, views],
                shown["Ks"][b, views],
            )
            depth = model(truth[:1], rays_of(viewmats, Ks)[:1], viewmats[:1])[0]
            drawn = surface_conditions(surfels_of(truth[0], depth, viewmats[0], Ks[0]), viewmats, Ks, 64)
            rows += [truth, drawn[:, :4]]
        save_grid(path, torch.stack(rows))

    begun.loop.run(loss_of, sample)


if __name__ == "__main__":
    keep_large_blocks()
    main(tyro.cli(Arguments))
