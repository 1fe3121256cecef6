"""Toys as training data: views of many toys, rendered once by a background process and read by every training.

A toy costs about as much to render as to train on, and all models learn from the same toys; so the views are kept as
shards of safetensors while they are made. A toy has 14 views: the input camera at 8 even times of the clip, and 6 other
cameras at one of those times. Beside them, for what moves: 4 views at the clip's start, which piece each of their
pixels shows, and how the pieces move from there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gaussian4d.toys import make_toy, render_views
from gaussian4d.toys.captions import tokens_of

from ..cameras import orbit_camera

TIMES = 8
OTHERS = 6
VIEWS = TIMES + OTHERS
STARTS = 4
"""Views at the clip's start; the first is the input camera's."""
PIECES = 5
"""At most, of a toy."""
TOYS_PER_SHARD = 128
CAPTION_LENGTH = 20
PICTURE = 64


def render_toy(seed: int, split: str = "train") -> dict[str, np.ndarray]:
    """Returns the 14 views of a toy: rgba uint8 (premultiplied), depth float16, cameras, times, caption tokens.

    The same with `start_` before it are the views at the start of the clip, with `start_owner` int8 [4, H, W], the
    piece a pixel shows (-1: none); `moves` [5, 8, 3, 4] takes points of a piece from where they are at the start to
    where they are at each of the 8 times.
    """
    toy = make_toy(seed, split)  # type: ignore[arg-type]
    rng = np.random.default_rng([31, seed, split == "test"])
    lens = float(rng.uniform(22, 50)) if rng.random() < 0.4 else 35.0
    elevation = float(rng.uniform(-10, 50)) if rng.random() < 0.7 else 15.0
    cameras = [orbit_camera(0.0, elevation, fov=lens, size=PICTURE)] * TIMES
    instant = int(rng.integers(TIMES))
    ring = rng.random() < 0.5
    common = elevation if rng.random() < 0.4 else float(rng.uniform(-10, 50))
    # Stratified azimuths, so that every toy is seen from all sides.
    azimuths = 360.0 * (np.arange(OTHERS) + rng.random(OTHERS)) / OTHERS + 180.0 / OTHERS
    for azimuth in rng.permutation(azimuths):
        height = common if ring else float(rng.uniform(-10, 50))
        cameras.append(orbit_camera(float(azimuth), height, size=PICTURE))
    for k in range(1, STARTS):
        azimuth = 360.0 * (k + float(rng.uniform(-0.5, 0.5))) / STARTS
        cameras.append(orbit_camera(azimuth, float(rng.uniform(-10, 50)), fov=lens, size=PICTURE))
    times = np.concatenate([np.arange(TIMES), np.full(OTHERS, instant)]) / (TIMES - 1)
    views = render_views(toy.world, cameras, [*times.tolist(), *[0.0] * (STARTS - 1)])
    rgba = (views.rgba * 255 + 0.5).astype(np.uint8).transpose(0, 3, 1, 2)
    depth = views.depth.astype(np.float16)
    viewmats = np.stack([camera.viewmat for camera in cameras]).astype(np.float32)
    Ks = np.stack([camera.K for camera in cameras]).astype(np.float32)
    starts = [0, *range(VIEWS, len(cameras))]
    moves = np.tile(np.eye(4, dtype=np.float32)[:3], (PIECES, TIMES, 1, 1))
    for piece, part in enumerate(toy.world.parts):
        back = np.linalg.inv(part.T_world_part(0.0))
        for k in range(TIMES):
            moves[piece, k] = (part.T_world_part(float(times[k])) @ back)[:3]
    tokens = np.zeros(CAPTION_LENGTH, np.int16)
    words = tokens_of(toy.caption)[:CAPTION_LENGTH]
    tokens[: len(words)] = np.array(words) + 1
    return {
        "rgba": rgba[:VIEWS],
        "depth": depth[:VIEWS],
        "viewmats": viewmats[:VIEWS],
        "Ks": Ks[:VIEWS],
        "times": times.astype(np.float32),
        "tokens": tokens,
        "start_rgba": rgba[starts],
        "start_depth": depth[starts],
        "start_viewmats": viewmats[starts],
        "start_Ks": Ks[starts],
        "start_owner": views.owner[starts].astype(np.int8),
        "moves": moves,
    }


def write_shard(folder: Path, index: int, split: str = "train") -> Path:
    """Returns the shard's file after rendering its toys, or at once where it exists."""
    path = folder / f"{split}_{index:05d}.safetensors"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    toys = [render_toy(index * TOYS_PER_SHARD + k, split) for k in range(TOYS_PER_SHARD)]
    tensors = {name: torch.from_numpy(np.stack([toy[name] for toy in toys])).contiguous() for name in toys[0]}
    part = path.with_suffix(".part")
    save_file(tensors, part)
    part.rename(path)
    return path


class ToyBank:
    """Batches of toys drawn from the shards that are there; new ones are noticed while training goes on."""

    def __init__(self, folder: Path, seed: int = 0, keep: int = 200) -> None:
        """Args: `keep` shards stay in memory, 60 MB each."""
        self.folder, self.keep = folder, keep
        self.generator = np.random.default_rng(seed)
        self.shards: dict[str, dict[str, Tensor]] = {}
        self._refresh()

    def _refresh(self) -> None:
        found = sorted(self.folder.glob("train_*.safetensors"))
        for path in found[-self.keep :]:
            if path.name not in self.shards:
                self.shards[path.name] = load_file(path)
        self._looked = time.monotonic()

    @property
    def toys(self) -> int:
        """How many toys there are by now."""
        return TOYS_PER_SHARD * len(self.shards)

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        """Yields batches for ever: the arrays of `render_toy` with a leading dimension of `size`."""
        while True:
            if time.monotonic() - self._looked > 20:
                self._refresh()
            names = sorted(self.shards)
            draws = [(names[self.generator.integers(len(names))], int(self.generator.integers(TOYS_PER_SHARD)))
                     for _ in range(size)]  # fmt: skip
            yield {key: torch.stack([self.shards[n][key][k] for n, k in draws]) for key in self.shards[names[0]]}
