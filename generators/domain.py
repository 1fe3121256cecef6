"""Whether a picture looks like one of the toys that the embedded prior knows.

A handful of figures of the object's interior are compared with those of training toys: how far its colours are from the
toys' palette, how uneven the surface is, how many colours there are, how vivid they are. Toys are the extreme of all of
them, so only one direction counts: duller, busier, more colourful than toys.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from gaussian4d.toys.textures import COLORS

STATISTICS = Path(__file__).parent / "weights" / "domain.json"

# Weight and direction of every figure, in the order of `figures_of`.
_DIRECTIONS = (1.0, 1.0, 0.5, 1.0, 1.0, 0.5, 1.0, 0.5, -1.0, 1.0, -1.0, -1.0, -0.5)
_CLIP = 4.0
_GREY = 0.03
"""A picture whose most vivid tenth has less between its largest and smallest channel is grey; toys never are."""


@dataclasses.dataclass(frozen=True)
class DomainReport:
    inside: bool
    """Whether the picture could be of a toy."""
    score: float
    """Mean distance from the training toys in their standard deviations, towards what toys are not."""
    limit: float
    """The score that three training toys in two hundred exceed."""
    message: str
    """For users; empty inside."""


def check(image: Float[Tensor, "4 H W"]) -> DomainReport:
    """Returns whether a recentred premultiplied picture is within the embedded prior's domain."""
    statistics = _statistics()
    figures = figures_of(small(image[None]))
    score, grey = float(scores(figures, statistics)[0]), float(figures[0, -1]) < _GREY
    inside = score <= statistics["limit"] and not grey
    why = "it is grey" if grey else f"score {score:.2f}, toys stay below {statistics['limit']:.2f}"
    message = (
        ""
        if inside
        else f"this picture is outside what the embedded prior was trained on (toys of plain shapes and vivid colours;"
        f" {why}): expect a toy-like guess of the unseen sides, or give --prior with published weights"
    )
    return DomainReport(inside, score, statistics["limit"], message)


def small(images: Float[Tensor, "N 4 H W"]) -> Float[Tensor, "N 4 64 64"]:
    """Returns pictures at the size the figures are taken at."""
    return torch.nn.functional.interpolate(images, size=(64, 64), mode="area")


def figures_of(images: Float[Tensor, "N 4 64 64"]) -> Float[Tensor, "N 13"]:
    """Returns the figures of each picture.

    Palette distance (mean, 75 %, 95 %), differences of neighbours (25, 50, 75 %), second differences (50, 75 %), flat
    share, entropy of colours, vividness (20, 50, 90 %).
    """
    alpha = images[:, 3:]
    inner = (-max_pool2d(-(alpha > 0.98).float(), 5, 1, 2))[:, 0] > 0
    rgb = (images[:, :3] / alpha.clamp_min(0.05)).permute(0, 2, 3, 1)
    across = (rgb[:, :, 1:] - rgb[:, :, :-1]).abs().amax(-1)[:, :-1]
    down = (rgb[:, 1:] - rgb[:, :-1]).abs().amax(-1)[:, :, :-1]
    first = torch.maximum(across, down)
    neighbours = rgb[:, :-2, 1:-1] + rgb[:, 2:, 1:-1] + rgb[:, 1:-1, :-2] + rgb[:, 1:-1, 2:]
    second = (4 * rgb[:, 1:-1, 1:-1] - neighbours).abs().amax(-1)
    palette = _chroma(torch.tensor(list(COLORS.values())))
    rows = []
    for k in range(len(images)):
        # A thin object has no interior; then all of it has to do.
        mask = inner[k] if inner[k].sum() >= 20 else alpha[k, 0] > 0.5
        if not mask.any():
            mask = torch.ones_like(mask)
        pixels = rgb[k][mask]
        far = torch.cdist(_chroma(pixels), palette).amin(1)
        edges, bends = _within(first[k], mask[:-1, :-1]), _within(second[k], mask[1:-1, 1:-1])
        bins = (pixels.clamp(0, 0.999) * 6).long() @ torch.tensor([36, 6, 1])
        shares = torch.bincount(bins, minlength=216).float() / len(pixels)
        vivid = pixels.amax(1) - pixels.amin(1)
        values = [
            *((x + 0.005).log() for x in (far.mean(), far.quantile(0.75), far.quantile(0.95))),
            *((edges.quantile(q) + 0.002).log() for q in (0.25, 0.5, 0.75)),
            *((bends.quantile(q) + 0.002).log() for q in (0.5, 0.75)),
            (bends < 0.01).float().mean(),
            -(shares * (shares + 1e-9).log()).sum(),
            *(vivid.quantile(q) for q in (0.2, 0.5, 0.9)),
        ]
        rows.append(torch.stack(values))
    return torch.stack(rows)


def scores(figures: Float[Tensor, "N 13"], statistics: dict) -> Float[Tensor, " N"]:
    """Returns how far pictures are from training toys; see `DomainReport.score`."""
    z = (figures - torch.tensor(statistics["mean"])) / torch.tensor(statistics["deviation"])
    directions = torch.tensor(_DIRECTIONS)
    return (z * directions).clamp(-_CLIP, _CLIP).sum(1) / directions.abs().sum()


@functools.cache
def _statistics() -> dict:
    return json.loads(STATISTICS.read_text())


def _chroma(colors: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Returns colours without their brightness: light and shade do not move them."""
    return colors / colors.amax(-1, keepdim=True).clamp_min(0.05)


def _within(values: Tensor, mask: Tensor) -> Tensor:
    return values[mask] if int(mask.sum()) > 10 else values.flatten()
