"""Tiling of the `cuda` backend: which tiles are listed, in which order, with either width of keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import test_backends_agree as agree
import torch
from cuda_emulation.emulation import EmulationLauncher
from torch import Tensor

from diff_rasterizer.cuda_launch import Argument, Dim3, set_launcher
from diff_rasterizer.cuda_tiles import TILE_SIZE, Tiles, make_tiles

pytestmark = pytest.mark.usefixtures("emulation")


def tiles_of(inputs: dict[str, Any], other: dict[str, Any]) -> Tiles:
    rows = [inputs[k] for k in ("means2d", "conics", "colors", "opacities")]
    return make_tiles(*rows, *other.values())


def lists(tiles: Tiles) -> list[list[int]]:
    """Returns the rows of each tile, front to back."""
    rows = tiles.order[tiles.instances.long()].tolist()
    return [rows[begin:end] for begin, end in tiles.ranges.tolist()]


def largest_alpha_per_tile(inputs: dict[str, Any], tiles_x: int, tiles_y: int) -> Tensor:
    """Returns the largest alpha [E, tiles_y, tiles_x] over the tile's 256 pixel centres, also those off the image."""
    x, y = (torch.arange(n * TILE_SIZE, dtype=torch.float64) + 0.5 for n in (tiles_x, tiles_y))
    found = []
    for mean, (a, b, c), opacity in zip(*(inputs[k].double() for k in ("means2d", "conics", "opacities"))):
        dx, dy = mean[0] - x, (mean[1] - y)[:, None]
        alpha = opacity * torch.exp(-(0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy))
        found.append(alpha.unflatten(1, (tiles_x, TILE_SIZE)).unflatten(0, (tiles_y, TILE_SIZE)).amax((1, 3)))
    return torch.stack(found)


@pytest.mark.parametrize("scale", [0.3, 3.0, 20.0])
def test_lists_what_reaches_the_threshold_in_depth_order(scale: float) -> None:
    inputs, other = agree.blend_inputs(150, 2, 150, 100, 3, scale, seed=int(scale * 10))
    tiles = tiles_of(inputs, other)
    alpha = largest_alpha_per_tile(inputs, tiles.tiles_x, tiles.tiles_y).flatten(1)
    alpha = torch.where((other["radii"] > 0).all(-1)[:, None], alpha, torch.zeros_like(alpha))
    per_image = tiles.tiles_x * tiles.tiles_y
    listed = torch.zeros(2 * per_image, len(alpha), dtype=torch.bool)
    for tile, rows in enumerate(lists(tiles)):
        assert len(set(rows)) == len(rows)
        keys = [(float(other["depths"][r]), r) for r in rows]
        assert keys == sorted(keys), "front to back, ties by row"
        assert all(int(other["image_ids"][r]) == tile // per_image for r in rows)
        listed[tile, rows] = True
    wanted = torch.zeros_like(listed)
    optional = torch.zeros_like(listed)
    for image in range(2):
        part = slice(image * per_image, (image + 1) * per_image)
        own = (other["image_ids"] == image)[None]
        wanted[part] = (alpha.T >= 1 / 255) & own
        # The test takes the least sigma over the rectangle of the centres, which may lie between two of them.
        optional[part] = (alpha.T >= 0.2 / 255) & own
    assert bool(listed[wanted].all()), "a tile that a Gaussian reaches is missing"
    spurious = listed & ~wanted
    assert int(spurious.sum()) <= max(2, 0.12 * int(wanted.sum())), "culling should be exact but for corners"
    if scale >= 3.0:
        assert not bool((spurious & ~optional).any())
    assert tiles.counts.sum() == len(tiles.instances)
    many = tiles.counts.max() > 8
    assert bool(many) == (scale > 1.0), "both the lane's own walk and the warp's should be seen"


def test_needles_are_listed_all_along() -> None:
    """Half a pixel wide and thousands long: the conic's determinant is the difference of two almost equal numbers."""
    size, n = 1200, 12
    inputs, other = agree.blend_inputs(n, 1, size, size, 1, 1.0, seed=4)
    # Some leave the picture on both sides, some begin in its corner and end inside.
    angle = torch.tensor([0.3, 0.7, 0.8, 2.3, *torch.linspace(0.78, 0.79, n - 4).tolist()], dtype=torch.float64)
    length = torch.tensor([2000.0] * 4 + [300.0 + 15.0 * i for i in range(n - 4)], dtype=torch.float64)
    width = torch.tensor([0.3] * 4 + [0.03] * (n - 4), dtype=torch.float64)  # variance
    inputs["means2d"][4:] = torch.tensor([10.3, 12.1])  # type: ignore[index]
    direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
    across = torch.stack([-direction[:, 1], direction[:, 0]], dim=-1)
    along = direction / length[:, None]
    inverse = along[:, :, None] * along[:, None] + across[:, :, None] * across[:, None] / width[:, None, None]
    inputs["conics"] = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], dim=-1).float()
    inputs["opacities"] = torch.full((n,), 0.9)
    other["radii"][:] = 10000
    tiles = tiles_of(inputs, other)
    alpha = largest_alpha_per_tile(inputs, tiles.tiles_x, tiles.tiles_y).flatten(1)
    missing, extra = 0, 0
    for tile, rows in enumerate(lists(tiles)):
        reached = set(torch.nonzero(alpha[:, tile] >= 1 / 255)[:, 0].tolist())
        missing += len(reached - set(rows))
        extra += len(set(rows) - reached)
    assert missing == 0
    assert extra < 0.2 * len(tiles.instances)


def test_wide_keys_where_tiles_do_not_fit_16_bits() -> None:
    size = 257 * TILE_SIZE
    inputs, other = agree.blend_inputs(40, 1, size, size, 1, 30.0, seed=2)
    tiles = tiles_of(inputs, other)
    assert len(tiles.ranges) > 2**16
    seen = torch.zeros(40, dtype=torch.int64)
    for tile in torch.nonzero(tiles.ranges[:, 1] > tiles.ranges[:, 0])[:, 0].tolist():
        begin, end = tiles.ranges[tile].tolist()
        rows = tiles.order[tiles.instances[begin:end].long()]
        seen[rows] += 1
        corner = torch.tensor([tile % 257, tile // 257]) * TILE_SIZE
        beyond = ((corner + 8) - inputs["means2d"][rows]).abs() - 8 - other["radii"][rows]
        assert float(beyond.max()) <= 1.0, "a tile outside the Gaussian's box"
    by_row = torch.zeros(40, dtype=torch.int64)
    by_row[tiles.order] = tiles.counts.long()
    assert torch.equal(seen, by_row) and int((seen > 0).sum()) > 20


def test_the_last_of_65536_tiles_has_a_16_bit_key() -> None:
    size = 256 * TILE_SIZE
    inputs, other = agree.blend_inputs(1, 1, size, size, 1, 1.0, seed=1)
    other["radii"][:] = 9
    inputs["means2d"][:] = torch.tensor([[size - 8.0, size - 8.0]])  # type: ignore[index]
    found = lists(tiles_of(inputs, other))
    assert found[65535] == [0] and len(found) == 65536


class _ManyTiles:
    """Claims that every row touches 2^30 tiles."""

    def __init__(self, inner: EmulationLauncher) -> None:
        self.inner = inner

    def launch(
        self,
        file: str,
        entry: str,
        grid: Dim3,
        block: Dim3,
        args: Sequence[Argument],
        macros: Mapping[str, int] = {},
        shared_bytes: int = 0,
    ) -> None:
        self.inner.launch(file, entry, grid, block, args, macros, shared_bytes)
        if entry == "count_tiles":
            args[-1].fill_(2**30)  # type: ignore[union-attr]


def test_more_instances_than_31_bits_are_refused(emulation: EmulationLauncher) -> None:
    inputs, other = agree.blend_inputs(3, 1, 40, 30, 3, 3.0, seed=3)
    set_launcher("cpu", lambda device: _ManyTiles(emulation))
    with pytest.raises(ValueError, match=r"at most 2\^31 - 1 \(Gaussian, tile\) pairs .* got 3221225472"):
        tiles_of(inputs, other)
    with pytest.raises(ValueError, match=r"at most 2\^31 - 1 tiles"):
        make_tiles(*(inputs[k] for k in ("means2d", "conics", "colors", "opacities")), other["depths"], other["radii"],
                   other["image_ids"], 2, 10**6, 10**6)  # type: ignore[arg-type]  # fmt: skip
