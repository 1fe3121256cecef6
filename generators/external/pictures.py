"""Between our pictures (premultiplied RGBA) and those of published models: opaque, before a uniform colour."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

# Difference of a channel (0..1) up to which a pixel is background, and the width of the ramp to opaque behind it.
_SAME, _RAMP = 0.06, 0.10


def before(images: Float[Tensor, "*batch 4 H W"], gray: float) -> Float[Tensor, "*batch 3 H W"]:
    """Returns pictures before an opaque background of that brightness (0..1)."""
    return images[..., :3, :, :] + (1.0 - images[..., 3:, :, :]) * gray


def resized(images: Float[Tensor, "N C H W"], height: int, width: int) -> Float[Tensor, "N C h w"]:
    """Returns pictures of another size, smoothed where they shrink."""
    if tuple(images.shape[-2:]) == (height, width):
        return images
    return torch.nn.functional.interpolate(
        images.float(), (height, width), mode="bilinear", antialias=True, align_corners=False
    ).clamp(0, 1)


def padded(images: Float[Tensor, "N 4 H W"], height: int, width: int) -> Float[Tensor, "N 4 h w"]:
    """Returns square pictures in the middle of a frame of another shape, transparent around them."""
    side = min(height, width)
    frame = images.new_zeros(len(images), 4, height, width)
    top, left = (height - side) // 2, (width - side) // 2
    frame[:, :, top : top + side, left : left + side] = resized(images, side, side)
    return frame


def square(images: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C S S"]:
    """Returns the middle square of each picture."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return images[..., top : top + side, left : left + side]


def pil(image: Float[Tensor, "3 H W"]) -> Image:
    """Returns an 8-bit RGB picture."""
    from PIL import Image

    pixels = (image.float().clamp(0, 1) * 255.0 + 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels)


def cut_outs(images: Float[Tensor, "N 3 H W"], gray: float, *, exact: bool = True) -> Float[Tensor, "N 4 H W"]:
    """Returns the objects before a background that a model was asked to leave uniform, premultiplied RGBA.

    Where the rim of a picture has one colour, that is its background (`inputs.matting.uniform_matte`). Otherwise rembg
    cuts out where it is installed; without it alpha grows with the difference to `gray`, said once: such pictures have
    something at their rim, and what of it is object is a guess.

    Args:
        gray: Brightness of the background asked for.
        exact: False takes the difference to `gray` at once: for intermediate predictions.
    """
    if not exact:
        return _by_difference(images.float(), gray)
    from ..inputs.matting import _has_rembg, _rembg, uniform_matte

    cut, guessed = [], 0
    for image in images.float().clamp(0, 1).cpu():
        pixels = torch.cat([image, torch.ones_like(image[:1])]).permute(1, 2, 0).numpy()
        matte = uniform_matte(pixels)
        if matte is not None:
            cut.append(_tensor(matte[0]))
        elif _has_rembg():
            cut.append(_tensor(_rembg([pixels], "a generated picture")[0]))
        else:
            cut.append(_by_difference(image[None], gray)[0])
            guessed += 1
    if guessed:
        warnings.warn(
            f"{guessed} of {len(cut)} generated pictures have no uniform background; alpha is the difference to the"
            ' background asked for. pip install "rembg[cpu]" cuts objects out of any background',
            stacklevel=2,
        )
    return torch.stack(cut).to(images.device)


def _by_difference(images: Float[Tensor, "N 3 H W"], gray: float) -> Float[Tensor, "N 4 H W"]:
    images = images.clamp(0, 1)
    difference = (images - gray).abs().amax(dim=1, keepdim=True)
    alpha = ((difference - _SAME) / _RAMP).clamp(0, 1)
    own = torch.minimum((images - (1.0 - alpha) * gray).clamp(0, 1), alpha)
    return torch.cat([own, alpha], dim=1)


def _tensor(pixels: Float[np.ndarray, "H W 4"]) -> Float[Tensor, "4 H W"]:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float()


def grid_of(views: Float[Tensor, "V C S S"], columns: int) -> Float[Tensor, "C R W"]:
    """Returns the views side by side, row by row."""
    rows = [torch.cat(list(views[k : k + columns]), dim=-1) for k in range(0, len(views), columns)]
    return torch.cat(rows, dim=-2)


def views_of(grid: Float[Tensor, "C R W"], rows: int, columns: int) -> Float[Tensor, "V C S S"]:
    """Returns the views of a grid, row by row."""
    lines: Sequence[Tensor] = grid.chunk(rows, dim=-2)
    return torch.stack([view for line in lines for view in line.chunk(columns, dim=-1)])
