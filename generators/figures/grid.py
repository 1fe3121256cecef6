"""A grid of pictures as one PNG."""

from __future__ import annotations

from pathlib import Path

from jaxtyping import Float
from PIL import Image
from torch import Tensor


def save_grid(path: Path, pictures: Float[Tensor, "R C 4 H W"], background: float = 1.0) -> None:
    """Writes premultiplied RGBA pictures in R rows and C columns, over a plain `background`."""
    over = (pictures[:, :, :3] + background * (1 - pictures[:, :, 3:].clamp(0, 1))).clamp(0, 1)
    R, C, _, H, W = over.shape
    sheet = (over.permute(0, 3, 1, 4, 2).reshape(R * H, C * W, 3) * 255 + 0.5).byte().cpu().numpy()
    part = path.with_suffix(".part.png")
    Image.fromarray(sheet).save(part)
    part.rename(path)
