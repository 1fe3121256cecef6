"""`isect_tiles` and `isect_offset_encode`: which tiles the bounding boxes of the ellipses touch, front to back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..checks import (
    FLOATS,
    INTEGERS,
    check_count,
    check_flags,
    check_limit,
    check_ndim,
    check_shape,
    check_tensor,
)
from ..meta import tile_intersections, tile_offsets

_MARK = "_diff_rasterizer_lists"


@dataclass(frozen=True)
class ListsOrigin:
    """What the lists of one `isect_tiles` call were made from; `rasterize_to_pixels` may then bin by itself.

    The tensors are copies: the caller may change its own in place, and inference tensors do not count such changes.
    """

    flatten_ids: Tensor
    means2d: Tensor
    radii: Tensor
    depths: Tensor
    image_ids: Tensor
    offsets: Tensor
    tile_size: int


@torch.no_grad()
def isect_tiles(
    means2d: Float[Tensor, "*rows 2"],
    radii: Int[Tensor, "*rows 2"],
    depths: Float[Tensor, "*rows"],
    tile_size: int,
    tile_width: int,
    tile_height: int,
    sort: bool = True,
    segmented: bool = False,
    packed: bool = False,
    n_images: int | None = None,
    image_ids: Int[Tensor, " nnz"] | None = None,
    gaussian_ids: Int[Tensor, " nnz"] | None = None,
) -> tuple[Int[Tensor, "*rows"], Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Returns (tiles per row int32, isect_ids int64 [M], flatten_ids int32 [M]).

    An isect_id holds, from the top: image id, tile id, the bits of the float32 depth. flatten_ids say to which row, in
    [I * N] or [nnz], each intersection belongs. Equal ids keep the order of the rows.

    Args:
        means2d: ellipse centres in pixels, [..., N, 2] for every image or, packed, [nnz, 2].
        radii: half sizes of their boxes; a row with a radius of 0 touches nothing.
        depths: sorting keys.
        tile_size: edge of a tile in pixels.
        tile_width: tiles across.
        tile_height: tiles down.
        sort: by isect_id; otherwise row by row.
        segmented: accepted for gsplat's signature; it changes how gsplat sorts, not the result.
        packed: rows are those of visible Gaussians only; needs `n_images`, `image_ids` and `gaussian_ids`.
        n_images: number of images of packed rows.
        image_ids: image of each packed row.
        gaussian_ids: accepted for gsplat's signature; the lists hold rows.

    Raises:
        ValueError: for arguments that do not fit, and ids that do not fit into 32 bits.
    """
    check_tensor("means2d", means2d, FLOATS)
    check_tensor("radii", radii, INTEGERS, ("means2d", means2d))
    check_tensor("depths", depths, FLOATS, ("means2d", means2d))
    check_flags(sort=sort, segmented=segmented, packed=packed)
    tile_size = check_count("tile_size", tile_size)
    tile_width, tile_height = check_count("tile_width", tile_width), check_count("tile_height", tile_height)
    check_ndim("means2d", means2d, 2, "(nnz, 2)" if packed else "(..., N, 2)", last=2)
    check_shape("radii", radii, *means2d.shape)
    check_shape("depths", depths, *means2d.shape[:-1])
    if packed:
        check_shape("means2d", means2d, ("nnz", len(means2d)), 2)
        images = _packed_images(means2d, n_images, image_ids, gaussian_ids)
        n_images = check_count("n_images", n_images)
    else:
        n_images = means2d.shape[:-2].numel()
        per_image = means2d.shape[-2]
        check_limit("the number of rows of means2d", n_images * per_image, "pass fewer images")
        images = torch.arange(n_images, device=means2d.device, dtype=torch.int32).repeat_interleave(per_image)

    flat = (means2d.detach().reshape(-1, 2), radii.reshape(-1, 2), depths.detach().reshape(-1))
    counts, isect_ids, flatten_ids = tile_intersections(
        *flat, images, n_images, tile_size, tile_width, tile_height, bool(sort)
    )
    if sort:
        offsets = tile_offsets(isect_ids, n_images, tile_width, tile_height)
        rows = [x.clone() for x in (*flat, images)]
        origin = ListsOrigin(flatten_ids.clone(), rows[0], rows[1], rows[2], rows[3], offsets, tile_size)
        setattr(flatten_ids, _MARK, origin)
    return counts.reshape(depths.shape), isect_ids, flatten_ids


def _packed_images(means2d: Tensor, n_images: object, image_ids: Tensor | None, gaussian_ids: Tensor | None) -> Tensor:
    """Returns the image of each packed row, int32, after checking the arguments that say so."""
    for name, value in (("n_images", n_images), ("image_ids", image_ids), ("gaussian_ids", gaussian_ids)):
        if value is None:
            raise ValueError(f"{name} must be given with packed=True, got None; fully_fused_projection returns the ids")
    count = check_count("n_images", n_images)
    assert image_ids is not None
    check_tensor("image_ids", image_ids, INTEGERS, ("means2d", means2d))
    check_tensor("gaussian_ids", gaussian_ids, INTEGERS, ("means2d", means2d))
    check_shape("image_ids", image_ids, ("nnz", len(means2d)))
    if image_ids.numel() and not 0 <= int(image_ids.min()) <= int(image_ids.max()) < count:
        raise ValueError(
            f"image_ids must be 0 to n_images - 1 = {count - 1}, got {int(image_ids.min())} to {int(image_ids.max())}"
        )
    return image_ids.to(torch.int32)


@torch.no_grad()
def isect_offset_encode(
    isect_ids: Int[Tensor, " M"], n_images: int, tile_width: int, tile_height: int
) -> Int[Tensor, "I tile_height tile_width"]:
    """Returns where each tile's intersections begin in the sorted `isect_ids`, int32.

    Raises:
        ValueError: for arguments that do not fit, ids that are not sorted or of other tiles included.
    """
    check_tensor("isect_ids", isect_ids, (torch.int64,))
    check_ndim("isect_ids", isect_ids, 1, "(M,)")
    check_shape("isect_ids", isect_ids, ("M", isect_ids.numel()))
    n_images = check_count("n_images", n_images)
    tile_width, tile_height = check_count("tile_width", tile_width), check_count("tile_height", tile_height)
    tiles = tile_width * tile_height
    check_limit("n_images * tile_width * tile_height", n_images * tiles, "use larger tiles or fewer images")
    image_tile = isect_ids >> 32
    bits = tiles.bit_length()
    if len(isect_ids):
        inside = ((image_tile >> bits) < n_images) & (image_tile >= 0) & ((image_tile & ((1 << bits) - 1)) < tiles)
        if not bool(inside.all()):
            raise ValueError(
                f"isect_ids must hold images and tiles of {n_images} images of {tile_width}x{tile_height} tiles, "
                "got others; pass the sizes that isect_tiles got"
            )
        if bool((image_tile.diff() < 0).any()):
            raise ValueError("isect_ids must be sorted, got decreasing ids; call isect_tiles with sort=True")
    return tile_offsets(isect_ids, n_images, tile_width, tile_height)


def origin_of(flatten_ids: Tensor) -> ListsOrigin | None:
    """Returns what our lists were made from, None for lists that are not ours or were changed since."""
    origin: ListsOrigin | None = getattr(flatten_ids, _MARK, None)
    return origin if origin is not None and torch.equal(flatten_ids, origin.flatten_ids) else None
