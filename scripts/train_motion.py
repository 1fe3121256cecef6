"""Trains the embedded motion network (a picture and words to how the surface moves) on toys.

python scripts/make_toy_bank.py --out bank --toys 12000
python scripts/train_motion.py --bank bank --out work/motion --minutes 30 --fast      # again to go on; Ctrl-C saves
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import tyro

from generators.training.allocator import keep_large_blocks
from generators.training.start import TrainingArguments, start, surface_network


@dataclasses.dataclass
class Arguments(TrainingArguments):
    minutes: float = 30.0
    toys: int = 64
    """Per step, one view of each."""
    surface: Path = Path("generators/weights/surface.safetensors")
    """Weights of the surface network, trained before."""


def main(arguments: Arguments) -> None:
    import torch

    from generators.models.motion import MotionNet
    from generators.training.loop import Fast
    from generators.training.motion import motion_loss

    begun = start(arguments, MotionNet())
    surface = surface_network(arguments.surface, begun.loop)
    reader = Fast(surface, begun.loop.accelerator.device.type) if arguments.fast else surface

    def loss_of(wrapped: torch.nn.Module, progress: float):
        return motion_loss(wrapped, reader, begun.batch(arguments.toys), begun.rng)

    begun.loop.run(loss_of)


if __name__ == "__main__":
    keep_large_blocks()
    main(tyro.cli(Arguments))
