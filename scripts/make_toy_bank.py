"""Renders views of training toys as shards that `train_prior.py` and `train_reconstructor.py` read.

python scripts/make_toy_bank.py --out bank --toys 16384       # about 80 ms per toy on one core; shards there are kept
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import tyro

from generators.training.toy_bank import TOYS_PER_SHARD, write_shard


@dataclasses.dataclass
class Arguments:
    out: Path
    """Folder of the shards."""
    toys: int = 16384
    start: int = 0
    """First shard; several processes can share the work."""


def main(arguments: Arguments) -> None:
    shards = -(-arguments.toys // TOYS_PER_SHARD)
    began = time.monotonic()
    for k in range(arguments.start, arguments.start + shards):
        write_shard(arguments.out, k)
        done = k - arguments.start + 1
        left = (time.monotonic() - began) / done * (shards - done)
        print(f"{done} of {shards} shards, {left / 60:.0f} minutes left", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Arguments))
