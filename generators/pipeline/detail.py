"""Texture of a sharp picture brought back into a coarse video that begins with it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

MOST_ENLARGED = 4
"""A video is enlarged no further than this: beyond, its frames say nothing about the pixels of the picture."""

# Difference of a frame to the first (0..1) at which its own colours count more than the picture's detail.
_MOVED = 0.06


def sharpened(video: Float[Tensor, "T 4 h w"], picture: Float[Tensor, "4 S S"]) -> Float[Tensor, "T 4 H W"]:
    """Returns the video at the picture's size, or `MOST_ENLARGED` times its own if that is less.

    The first frame is the picture. Where a later frame still looks like the first, the picture's detail, its difference
    to the enlarged first frame, is added; where it does not, something has moved and the detail of that place is not
    known, so the enlarged frame stays as it is.

    Args:
        video: Premultiplied RGBA, 0..1; its first frame shows `picture`.
        picture: Premultiplied RGBA, 0..1, square.
    """
    size = min(picture.shape[-1], MOST_ENLARGED * video.shape[-1])
    first = resized(picture[None], size)
    large = resized(video, size)
    detail = first - large[:1]
    change = resized((video - video[:1]).abs().amax(dim=1, keepdim=True), size)
    same = torch.exp(-((change / _MOVED) ** 2))
    frames = large + same * detail
    frames[0] = first[0]
    alpha = frames[:, 3:].clamp(0.0, 1.0)
    return torch.cat([frames[:, :3].clamp_min(0.0).minimum(alpha), alpha], dim=1)


def resized(images: Float[Tensor, "T C h w"], size: int) -> Float[Tensor, "T C size size"]:
    """Returns pictures at another size, averaged when made smaller."""
    if images.shape[-1] == size:
        return images.clone()
    return torch.nn.functional.interpolate(
        images, (size, size), mode="bilinear", align_corners=False, antialias=size < images.shape[-1]
    )
