"""The `meta` dictionary of `rasterization`: gsplat's keys, its tile lists made only when somebody reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .reference.tiling import tile_grid, tile_pairs


class LazyDict(dict):
    """A dict some of whose values are computed on first access, several of them by one call.

    Keys keep the order in which they were given, and count in `len`, `in`, iteration and comparison like any other.

    Args:
        values: the keys and their values; what `lazy` names may hold anything.
        lazy: keys to compute later.
        compute: returns a dict with a value for every lazy key; called at most once.
    """

    def __init__(self, values: dict[str, Any], lazy: tuple[str, ...], compute: Callable[[], dict[str, Any]]) -> None:
        super().__init__(values)
        self._lazy = set(lazy)
        self._compute: Callable[[], dict[str, Any]] | None = compute

    def _resolve(self) -> None:
        if self._compute is None:
            return
        computed, self._compute = self._compute(), None
        for key in self._lazy:
            super().__setitem__(key, computed[key])
        self._lazy = set()

    def __getitem__(self, key: Any) -> Any:
        if key in self._lazy:
            self._resolve()
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._lazy.discard(key)
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        super().__delitem__(key)
        self._lazy.discard(key)

    def __iter__(self) -> Iterator[Any]:
        # Not redundant: without it `dict(meta)` and `{**meta}` copy the table without asking for the values.
        return super().__iter__()

    def get(self, key: Any, default: Any = None) -> Any:
        if key in self._lazy:
            self._resolve()
        return super().get(key, default)

    def setdefault(self, key: Any, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: Any, *default: Any) -> Any:
        self._resolve()
        return super().pop(key, *default)

    def popitem(self) -> tuple[Any, Any]:
        self._resolve()
        return super().popitem()

    def update(self, *args: Any, **kwargs: Any) -> None:
        for key, value in dict(*args, **kwargs).items():
            self[key] = value

    def clear(self) -> None:
        self._lazy = set()
        super().clear()

    def values(self) -> Any:
        self._resolve()
        return super().values()

    def items(self) -> Any:
        self._resolve()
        return super().items()

    def copy(self) -> dict[str, Any]:  # type: ignore[override]
        return dict(self)

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __or__(self, other: Any) -> dict[str, Any]:  # type: ignore[override]
        return dict(self) | other

    def __ror__(self, other: Any) -> dict[str, Any]:  # type: ignore[override]
        return other | dict(self)

    def __ior__(self, other: Any) -> LazyDict:  # type: ignore[override, misc]
        self.update(other)
        return self

    def __eq__(self, other: object) -> bool:
        self._resolve()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def __repr__(self) -> str:
        # Printing must not compute anything.
        shown = {key: "..." if key in self._lazy else repr(super(LazyDict, self).__getitem__(key)) for key in self}
        return "{" + ", ".join(f"{key!r}: {text}" for key, text in shown.items()) + "}"


TILE_KEYS = ("tiles_per_gauss", "isect_ids", "flatten_ids", "isect_offsets")


def make_meta(
    *,
    batch_ids: Int[Tensor, " nnz"] | None,
    camera_ids: Int[Tensor, " nnz"] | None,
    gaussian_ids: Int[Tensor, " nnz"] | None,
    radii: Int[Tensor, "*rows 2"],
    means2d: Float[Tensor, "*rows 2"],
    depths: Float[Tensor, "*rows"],
    conics: Float[Tensor, "*rows 3"],
    opacities: Float[Tensor, "*rows"],
    image_ids: Int[Tensor, " E"],
    image_dims: tuple[int, ...],
    n_batches: int,
    width: int,
    height: int,
    tile_size: int,
) -> LazyDict:
    """Returns the meta of one call: rows are [..., C, N] when dense, [nnz] when packed; `image_dims` is [..., C]."""
    tiles_x, tiles_y = tile_grid(width, height, tile_size)

    def compute() -> dict[str, Any]:
        flat = (means2d.detach().reshape(-1, 2), radii.reshape(-1, 2), depths.detach().reshape(-1))
        n_images = n_batches * image_dims[-1]
        counts, isect_ids, flatten_ids = tile_intersections(*flat, image_ids, n_images, tile_size, tiles_x, tiles_y)
        offsets = tile_offsets(isect_ids, n_images, tiles_x, tiles_y)
        return {
            "tiles_per_gauss": counts.reshape(depths.shape),
            "isect_ids": isect_ids,
            "flatten_ids": flatten_ids,
            "isect_offsets": offsets.reshape(*image_dims, tiles_y, tiles_x),
        }

    values = {
        "batch_ids": batch_ids,
        "camera_ids": camera_ids,
        "gaussian_ids": gaussian_ids,
        "radii": radii,
        "means2d": means2d,
        "depths": depths,
        "conics": conics,
        "opacities": opacities,
        "tile_width": tiles_x,
        "tile_height": tiles_y,
        **dict.fromkeys(TILE_KEYS),
        "width": width,
        "height": height,
        "tile_size": tile_size,
        "n_batches": n_batches,
        "n_cameras": image_dims[-1],
    }
    return LazyDict(values, TILE_KEYS, compute)


@torch.no_grad()
def tile_intersections(
    means2d: Float[Tensor, "E 2"],
    radii: Int[Tensor, "E 2"],
    depths: Float[Tensor, " E"],
    image_ids: Int[Tensor, " E"],
    n_images: int,
    tile_size: int,
    tiles_x: int,
    tiles_y: int,
    sort: bool = True,
) -> tuple[Int[Tensor, " E"], Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Returns (tiles per row int32, isect_ids int64, row of each intersection int32) in gsplat's layout.

    An isect_id holds, from the top: the image id, the tile id in as many bits as the number of tiles needs, and in the
    low 32 bits those of the float32 depth. Sorted, which is the default, the rows of each tile come by depth.

    Raises:
        ValueError: when image and tile ids do not fit into 32 bits.
    """
    tile_bits = (tiles_x * tiles_y).bit_length()
    if n_images.bit_length() + tile_bits > 32:
        raise ValueError(
            f"tile_width * tile_height times the number of images must fit into 32 bits, got {n_images} images of "
            f"{tiles_x}x{tiles_y} tiles; use a larger tile_size or fewer images per call"
        )
    counts, rows, tiles = tile_pairs(means2d.to(torch.float32), radii, tile_size, tiles_x, tiles_y)
    depth_bits = depths.to(torch.float32).contiguous().view(torch.int32).to(torch.int64) & 0xFFFFFFFF
    image_tile = (image_ids.to(torch.int64)[rows] << tile_bits) | tiles
    isect_ids = (image_tile << 32) | depth_bits[rows]
    if not sort:
        return counts.to(torch.int32), isect_ids, rows.to(torch.int32)
    isect_ids, order = torch.sort(isect_ids, stable=True)
    return counts.to(torch.int32), isect_ids, rows[order].to(torch.int32)


@torch.no_grad()
def tile_offsets(
    isect_ids: Int[Tensor, " M"], n_images: int, tiles_x: int, tiles_y: int
) -> Int[Tensor, "I tiles_y tiles_x"]:
    """Returns where each tile's intersections begin in the sorted `isect_ids`, int32."""
    n_tiles = tiles_x * tiles_y
    image_tile = isect_ids >> 32
    bits = n_tiles.bit_length()
    index = (image_tile >> bits) * n_tiles + (image_tile & ((1 << bits) - 1))
    counts = torch.bincount(index, minlength=n_images * n_tiles)
    return (torch.cumsum(counts, 0) - counts).to(torch.int32).reshape(n_images, tiles_y, tiles_x)
