"""Several seeds side by side: what each would become, and which one hangs together best."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.files import atomic_write

from . import parts
from .detail import resized
from .results import captioned, over

if TYPE_CHECKING:
    from gaussian4d.cameras import Camera
    from gaussian4d.devices import Placement


@dataclasses.dataclass(frozen=True)
class Preview:
    """What one seed gives."""

    seed: int
    image: Float[Tensor, "4 H W"]
    """The input, or what the image prior made of the words."""
    views: Float[Tensor, "V 4 h w"]
    score: float
    """dB; see `consistency`."""


def consistency(
    image: Float[Tensor, "4 H W"],
    views: Float[Tensor, "V 4 h w"],
    cameras: Sequence[Camera],
    reconstructor: object | None,
    placement: Placement,
) -> float:
    """Returns how well views agree with each other, in dB of PSNR, black behind them.

    With a reconstructor: the views against renderings of what is reconstructed from every other one of them, so that
    those left out are predicted from their neighbours. Without one: the view nearest to the input's azimuth against the
    input, which says less. Neither says whether the object is what the user wanted: that is for the eye.
    """
    if reconstructor is not None and len(views) >= 4:
        gaussians = reconstructor.reconstruct(views[::2], list(cameras[::2]))  # type: ignore[attr-defined]
        rendered = parts.render_rgba(gaussians, cameras, placement)
        return _psnr(rendered, views)
    nearest = int(np.argmax([float(camera.position[0]) for camera in cameras]))
    return _psnr(resized(image[None], views.shape[-1])[0], views[nearest])


def write_sheet(
    path: Path, previews: Sequence[Preview], background: tuple[float, float, float], size: int = 96
) -> None:
    """Writes one row for each seed: the picture, then its views; the row says the seed and the score."""
    from PIL import Image

    from gaussian4d.io.pictures import contact_sheet

    rows = []
    for preview in previews:
        pictures = torch.cat([resized(preview.image[None], size), resized(preview.views, size)])
        row = [over(picture, background) for picture in pictures]
        row[0] = captioned(row[0], f"seed {preview.seed}  {preview.score:.1f} dB")
        rows.append(row)
    with atomic_write(path) as temporary:
        Image.fromarray(contact_sheet(rows)).save(temporary)


def _psnr(a: Tensor, b: Tensor) -> float:
    error = float((a.detach().float().cpu() - b.detach().float().cpu()).square().mean())
    return float(-10.0 * np.log10(max(error, 1e-10)))
