"""`rasterize_to_pixels`: what given tile lists say, blended front to back.

The lists are the caller's: any rows in any order in any tile. In general they are rendered by the torch reference, tile
by tile, which is slow. The C++ backend bins by itself and takes no lists; it is used when the result is known to be the
same, that is when the lists are those that `isect_tiles` made for these very ellipses, unchanged, and every box in them
holds the whole visible ellipse (as those of `fully_fused_projection` do).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import reference
from ..checks import (
    INTEGERS,
    check_count,
    check_flags,
    check_floats,
    check_limit,
    check_ndim,
    check_shape,
    check_tensor,
)
from ..gradient_routes import flatten_means2d, keep_until_backward
from ..reference.blending import blend_lists
from ..reference.constants import ALPHA_THRESHOLD
from ..reference.tiling import tile_grid
from ..validation import check_backgrounds, check_pictures
from .backend import operations
from .tiles import ListsOrigin, origin_of


def rasterize_to_pixels(
    means2d: Float[Tensor, "*rows 2"],
    conics: Float[Tensor, "*rows 3"],
    colors: Float[Tensor, "*rows channels"],
    opacities: Float[Tensor, "*rows"],
    image_width: int,
    image_height: int,
    tile_size: int,
    isect_offsets: Int[Tensor, "*images tile_height tile_width"],
    flatten_ids: Int[Tensor, " M"],
    backgrounds: Float[Tensor, "*images channels"] | None = None,
    masks: Bool[Tensor, "*images tile_height tile_width"] | None = None,
    packed: bool = False,
    absgrad: bool = False,
) -> tuple[Float[Tensor, "*images H W channels"], Float[Tensor, "*images H W 1"]]:
    """Returns renders and alphas; the formula is in `reference.blending`.

    Args:
        means2d: ellipse centres in pixels, [..., N, 2] or, packed, [nnz, 2].
        conics: inverse covariances (xx, xy, yy), per square pixel.
        colors: any number of channels of at least 1.
        opacities: in 0..1, per image.
        image_width: pixels.
        image_height: pixels.
        tile_size: edge of a tile in pixels.
        isect_offsets: where each tile's part of `flatten_ids` begins; `isect_offset_encode` makes it.
        flatten_ids: rows of each tile, front to back; `isect_tiles` makes it.
        backgrounds: colours behind everything.
        masks: tiles that are False show the background with alpha 0.
        packed: the rows are [nnz, ...].
        absgrad: the backward also sets `means2d.absgrad` (AbsGS, Ye et al. 2024).

    Raises:
        ValueError: for arguments that do not fit, lists that lead out of the rows included.
    """
    check_floats(
        ("backgrounds",), means2d=means2d, conics=conics, colors=colors, opacities=opacities, backgrounds=backgrounds
    )
    check_flags(packed=packed, absgrad=absgrad)
    width, height = check_count("image_width", image_width), check_count("image_height", image_height)
    tile_size = check_count("tile_size", tile_size)
    check_ndim("means2d", means2d, 2, "(nnz, 2)" if packed else "(..., N, 2)", last=2)
    rows = means2d.shape[:-1]
    if packed:
        check_shape("means2d", means2d, ("nnz", len(means2d)), 2)
    check_shape("conics", conics, *rows, 3)
    check_ndim("colors", colors, 1, "(..., channels) with at least one channel")
    check_shape("colors", colors, *rows, ("channels", colors.shape[-1]))
    if colors.shape[-1] == 0:
        raise ValueError(f"colors must have at least one channel, got {tuple(colors.shape)}")
    check_shape("opacities", opacities, *rows)
    images = check_lists(means2d, isect_offsets, flatten_ids, width, height, tile_size, None if packed else rows[:-1])
    if backgrounds is not None:
        if packed and images.numel() == 1 and backgrounds.ndim == 1:
            backgrounds = backgrounds.reshape(*images, -1)
        check_shape("backgrounds", backgrounds, *images, ("channels", colors.shape[-1]))
        check_backgrounds(backgrounds)
    if masks is not None:
        check_tensor("masks", masks, (torch.bool,), ("means2d", means2d))
        check_shape("masks", masks, *isect_offsets.shape)

    n_images, channels = images.numel(), colors.shape[-1]
    flat_means = means2d if packed else flatten_means2d(means2d) if absgrad else means2d.reshape(-1, 2)
    flat = (flat_means, conics.reshape(-1, 3), colors.reshape(-1, channels), opacities.reshape(-1))
    behind = None if backgrounds is None else backgrounds.reshape(n_images, channels)
    origin = origin_of(flatten_ids)
    ops = operations(means2d)
    if ops is not reference and origin is not None and _boxes_hold_the_ellipses(origin, flat, isect_offsets, tile_size):
        renders, alphas = ops.blend(
            *flat, origin.depths, _listed_radii(origin), origin.image_ids, n_images, width, height, behind, absgrad
        )
    else:
        chosen, counts = _finite_lists(flat, isect_offsets, flatten_ids, *tile_grid(width, height, tile_size))
        renders, alphas = blend_lists(*flat, chosen, counts, n_images, tile_size, width, height, behind, absgrad)
    if absgrad and not packed:
        keep_until_backward(flat_means, renders, alphas)
    if masks is not None:
        shown = masks.reshape(n_images, *masks.shape[-2:])
        tile_of_row = torch.arange(height, device=shown.device) // tile_size
        tile_of_column = torch.arange(width, device=shown.device) // tile_size
        shown = shown[:, tile_of_row][:, :, tile_of_column, None]
        empty = torch.zeros_like(renders) if behind is None else behind[:, None, None].expand_as(renders)
        renders = torch.where(shown, renders, empty)
        alphas = torch.where(shown, alphas, torch.zeros_like(alphas))
    return renders.reshape(*images, height, width, channels), alphas.reshape(*images, height, width, 1)


def check_lists(
    means2d: Tensor,
    isect_offsets: Tensor,
    flatten_ids: Tensor,
    width: int,
    height: int,
    tile_size: int,
    images: torch.Size | None,
) -> torch.Size:
    """Returns the leading dimensions of `isect_offsets`, the images, after checking that the lists can be followed.

    Args:
        images: what the leading dimensions must be; None (packed rows) takes them as they are.
    """
    check_tensor("isect_offsets", isect_offsets, INTEGERS, ("means2d", means2d))
    check_tensor("flatten_ids", flatten_ids, INTEGERS, ("means2d", means2d))
    check_ndim("isect_offsets", isect_offsets, 2, "(..., tile_height, tile_width)")
    check_ndim("flatten_ids", flatten_ids, 1, "(M,)")
    check_shape("flatten_ids", flatten_ids, ("M", flatten_ids.numel()))
    across, down = tile_grid(width, height, tile_size)
    lead = isect_offsets.shape[:-2] if images is None else images
    tiles_y, tiles_x = isect_offsets.shape[-2:]
    check_shape("isect_offsets", isect_offsets, *lead, ("tile_height", tiles_y), ("tile_width", tiles_x))
    if tiles_y < down or tiles_x < across:
        raise ValueError(
            f"isect_offsets must cover {width}x{height} pixels with at least {across}x{down} tiles of {tile_size} "
            f"pixels, got {tiles_x}x{tiles_y}; pass the sizes that isect_tiles got"
        )
    check_pictures(lead.numel(), width, height, 1, means2d, "image_width * image_height")
    rows = means2d.shape[:-1].numel()
    check_limit("the number of rows of means2d", rows, "pass fewer images")
    offsets = isect_offsets.flatten()
    if len(offsets) and not (
        int(offsets[0]) == 0 and int(offsets[-1]) <= len(flatten_ids) and bool((offsets.diff() >= 0).all())
    ):
        raise ValueError(
            f"isect_offsets must rise from 0 to at most {len(flatten_ids)}, the length of flatten_ids, got other "
            "values; pass what isect_offset_encode returned"
        )
    if len(flatten_ids) and not 0 <= int(flatten_ids.min()) <= int(flatten_ids.max()) < rows:
        raise ValueError(
            f"flatten_ids must be rows of means2d, 0 to {rows - 1}, got {int(flatten_ids.min())} to "
            f"{int(flatten_ids.max())}; pass what isect_tiles returned for these rows"
        )
    return lead


def list_counts(isect_offsets: Tensor, flatten_ids: Tensor) -> Tensor:
    """Returns how many entries of `flatten_ids` each tile has, int64."""
    offsets = isect_offsets.flatten().to(torch.int64)
    return torch.diff(offsets, append=offsets.new_tensor([len(flatten_ids)]))


@torch.no_grad()
def _finite_lists(
    flat: tuple[Tensor, ...], isect_offsets: Tensor, flatten_ids: Tensor, tiles_x: int, tiles_y: int
) -> tuple[Tensor, list[int]]:
    """Returns the rows of the picture's tiles and how many each has, without rows that are not finite."""
    counts = list_counts(isect_offsets, flatten_ids)
    rows = flatten_ids.to(torch.int64)
    keep = torch.ones(len(flat[0]), dtype=torch.bool, device=rows.device)
    for x in flat:
        keep &= torch.isfinite(x.reshape(len(keep), -1)).all(-1)
    keep = keep[rows]
    tile = torch.repeat_interleave(torch.arange(len(counts), device=rows.device), counts)
    # The lists' grid may be larger than the picture.
    grid_y, grid_x = isect_offsets.shape[-2:]
    x, y, image = tile % grid_x, tile // grid_x % grid_y, tile // (grid_x * grid_y)
    keep &= (x < tiles_x) & (y < tiles_y)
    used = ((image * tiles_y + y) * tiles_x + x)[keep]
    n_tiles = isect_offsets.shape[:-2].numel() * tiles_x * tiles_y
    return rows[keep], torch.bincount(used, minlength=n_tiles).tolist()


def _listed_radii(origin: ListsOrigin) -> Tensor:
    """Returns int32 radii, 0 where the lists have nothing: they need both radii, a backend's binning only one."""
    listed = (origin.radii > 0).all(-1, keepdim=True)
    return torch.where(listed, origin.radii, torch.zeros_like(origin.radii)).to(torch.int32)


@torch.no_grad()
def _boxes_hold_the_ellipses(
    origin: ListsOrigin, flat: tuple[Tensor, ...], isect_offsets: Tensor, tile_size: int
) -> bool:
    """Returns whether binning by the ellipses themselves gives what the lists give."""
    means2d, conics, _, opacities = flat
    if (
        origin.tile_size != tile_size
        or not torch.equal(origin.means2d, means2d)
        or not torch.equal(origin.offsets.flatten(), isect_offsets.flatten().to(torch.int32))
        # A backend wants each image's rows together.
        or bool((origin.image_ids.diff() < 0).any())
    ):
        return False
    listed = (origin.radii > 0).all(-1)
    # Below zero the bits of a float sort backwards, and so do gsplat's lists.
    if bool((listed & ~(origin.depths >= 0)).any()):
        return False
    a, b, c = conics.unbind(-1)
    determinant = a * c - b * b
    sigma = torch.log(opacities / ALPHA_THRESHOLD)
    reach = torch.sqrt(2.0 * sigma[:, None] * torch.stack([c, a], dim=-1) / determinant[:, None])
    # A thousandth of a pixel for the rounding of both sides.
    held = (reach <= origin.radii + 1e-3).all(-1) & (determinant > 0) & (a > 0)
    invisible = ~(opacities >= ALPHA_THRESHOLD)
    finite = torch.isfinite(conics).all(-1) & torch.isfinite(means2d).all(-1)
    return bool((held | invisible | ~finite | ~listed).all())
