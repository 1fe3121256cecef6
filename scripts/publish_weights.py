"""Turns a training folder's running mean into embedded weights, with the figures of the training in the header.

python scripts/publish_weights.py --training work/prior --name view_prior
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import tyro

_LIMIT = 10_000_000


@dataclasses.dataclass
class Arguments:
    training: Path
    """Folder that `train_*.py` wrote."""
    name: str
    """`surface`, `picture`, `motion`, `view_prior`, `reconstructor` or `regressor`."""
    to: Path = Path("generators/weights")


def main(arguments: Arguments) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    from generators.models.motion import MotionConfig
    from generators.models.picture import PictureConfig
    from generators.models.surface import SURFACE_CONFIG
    from generators.models.view_transformer import ViewTransformerConfig

    configs = {"surface": SURFACE_CONFIG, "picture": PictureConfig(), "motion": MotionConfig()}
    config = configs.get(arguments.name, ViewTransformerConfig())
    tensors = {k: v.half().contiguous() for k, v in load_file(arguments.training / "ema.safetensors").items()}
    numbers = torch.load(arguments.training / "checkpoint.pt", weights_only=True)["numbers"]
    metadata = {
        "config": json.dumps(dataclasses.asdict(config)),
        "training": json.dumps({key: round(float(value), 1) for key, value in numbers.items()}),
        "licence": "Apache-2.0",
    }
    path = arguments.to / f"{arguments.name}.safetensors"
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata)
    if part.stat().st_size > _LIMIT:
        part.unlink()
        raise SystemExit(f"{arguments.name} would take more than {_LIMIT / 1e6:.0f} MB")
    part.rename(path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, {metadata['training']}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
