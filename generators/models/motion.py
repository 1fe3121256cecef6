"""How an object moves, from one picture of it and words: a trajectory for every place of the picture.

A video prior that has to invent motion and appearance at once gets both wrong while it is small. Here motion comes
first, as geometry: a diffusion model draws how 16x16 anchors on the visible surface move through the clip, a handful of
numbers each; what moves together is one rigid piece, found by least squares; and the surfels of the picture, carried
along by their pieces, are drawn for every frame as its condition (`surface.drawn_conditions`). What is left to the view
transformer is the appearance of what comes into sight. Generating motion before appearance follows Shi et al.,
"Motion-I2V" (2024), in three dimensions and with rigid pieces in the place of dense flow.

Shapes: B batch, M = 256 anchors, S = 7 later times, P pieces.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gaussian4d.toys.captions import VOCABULARY

from .noise import wiener
from .view_transformer import Block, Caption, ViewTransformerConfig, coarse_rays, modulation, patches, waves

STEPS = 7
"""Times that trajectories are given at, k / 7 of the clip for k = 1..7; at 0 all is where the picture shows it."""
_GRID = 16
_SCALE = 3.5
"""Displacements in units of the object's radius times this have about unit variance."""


@dataclasses.dataclass(frozen=True)
class MotionConfig:
    size: int = 64
    width: int = 96
    layers: int = 5
    heads: int = 4
    words: int = 96
    """Places for words; the vocabulary may grow up to it."""
    caption_length: int = 20

    def __post_init__(self) -> None:
        assert self.words > len(VOCABULARY), "the vocabulary has outgrown the table of words"


class MotionNet(nn.Module):
    """Returns the clean trajectories [B, M, S, 3] predicted from noisy ones, a picture with depth, and words.

    Trajectories are displacements in a frame turned about Z so that the camera stands on the side of +X, scaled to
    about unit variance; see `to_network` and `from_network`.
    """

    def __init__(self, config: MotionConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or MotionConfig()
        D, patch = c.width, c.size // 8
        self.picture_in = nn.Linear(5 * patch**2, D)
        self.rays_in = nn.Linear(6 * 4, D)
        self.moves_in = nn.Linear(4 * STEPS * 3, D)
        self.place = nn.Parameter(0.3 * torch.randn(64, D))
        self.level_in = nn.Sequential(nn.Linear(128, D), nn.SiLU(), nn.Linear(D, D))
        self.words_in = nn.Embedding(c.words, D)
        self.word_place = nn.Parameter(0.02 * torch.randn(c.caption_length, D))
        self.caption_in = Caption(c.words, c.caption_length, D)
        self.modulation = modulation(D)
        self.blocks = nn.ModuleList(Block(ViewTransformerConfig(width=D, heads=c.heads)) for _ in range(c.layers))
        self.norm = nn.LayerNorm(D)
        self.out = nn.Linear(D, 4 * STEPS * 3)
        nn.init.zeros_(self.out.weight)

    def forward(
        self,
        moves: Float[Tensor, "B M S 3"],
        levels: Float[Tensor, " B"],
        picture: Float[Tensor, "B 5 H W"],
        rays: Float[Tensor, "B 6 H W"],
        words: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B M S 3"]:
        """Args: `picture` is RGBA in -1..1 and `relative_depth`; `levels` and `words` as the picture network's."""
        c = self.config
        given = _tokens(wiener(moves[:, None], levels[:, None])[:, 0])
        x = self.moves_in(given) + self.picture_in(patches(picture[:, None], c.size // 8)[:, 0]) + self.place
        # The camera as seen in the frame of the trajectories.
        x = x + self.rays_in(coarse_rays(rays[:, None], 8)[:, 0])
        count = x.shape[1]
        x = torch.cat([x, self.words_in(words) + self.word_place[: words.shape[1]]], dim=1)
        signal = self.level_in(waves(levels, 128, 1000.0)) + self.caption_in(words)
        gates = self.modulation(signal)[:, None].unflatten(-1, (6, -1))
        for block in self.blocks:
            x = block(x, gates, count)
        return _anchors(given + self.out(self.norm(x[:, :count])))


def _tokens(moves: Float[Tensor, "B M S 3"]) -> Float[Tensor, "B 64 84"]:
    """Returns the anchors of every patch of 8x8 pixels side by side."""
    B = len(moves)
    cut = moves.flatten(2).reshape(B, 8, 2, 8, 2, -1)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(B, 64, -1)


def _anchors(tokens: Float[Tensor, "B 64 84"]) -> Float[Tensor, "B M S 3"]:
    """Returns the anchors row by row that `_tokens` put together."""
    B = len(tokens)
    cut = tokens.reshape(B, 8, 8, 2, 2, -1).permute(0, 1, 3, 2, 4, 5)
    return cut.reshape(B, _GRID * _GRID, STEPS, 3)


def anchor_pixels(solid: Bool[Tensor, "B H W"]) -> tuple[Int[Tensor, "B M"], Bool[Tensor, "B M"]]:
    """Returns the pixel (row by row) that stands for each block of the picture, and where a block has one.

    It is the solid pixel nearest to the block's centre.
    """
    B, H, W = solid.shape
    side = H // _GRID
    offset = torch.arange(side, device=solid.device) - (side - 1) / 2
    far = (offset[:, None].square() + offset.square()).flatten()
    blocks = solid.reshape(B, _GRID, side, _GRID, side).permute(0, 1, 3, 2, 4).reshape(B, _GRID * _GRID, -1)
    best = torch.where(blocks, far, far + 1e3).argmin(dim=-1)
    block = torch.arange(_GRID * _GRID, device=solid.device)
    rows = (block // _GRID) * side + best // side
    columns = (block % _GRID) * side + best % side
    return rows * W + columns, blocks.any(dim=-1)


def lifted(
    depth: Float[Tensor, "B H W"], viewmats: Float[Tensor, "B 4 4"], Ks: Float[Tensor, "B 3 3"]
) -> Float[Tensor, "B H*W 3"]:
    """Returns the world positions of all pixels at their depths."""
    H, W = depth.shape[1:]
    v, u = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).reshape(1, -1, 3).to(depth)
    local = pixels @ torch.linalg.inv(Ks).mT * depth.flatten(1)[..., None]
    return (local - viewmats[:, None, :3, 3]) @ viewmats[:, :3, :3]


def relative_depth(
    depth: Float[Tensor, "B H W"], alpha: Float[Tensor, "B H W"], viewmats: Float[Tensor, "B 4 4"]
) -> Float[Tensor, "B 1 H W"]:
    """Returns the depth from the object's middle, 0 where the picture shows nothing."""
    middle = viewmats[:, :3, 3].norm(dim=-1)[:, None, None]
    return torch.where(alpha > 0.5, depth - middle, 0.0)[:, None]


def _facing(viewmats: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 3 3"]:
    """Returns the rotations about Z that take the world to the frame in which the camera is on the side of +X."""
    towards = -viewmats[:, 2, :2]
    c, s = torch.nn.functional.normalize(towards, dim=-1).unbind(-1)
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    rows = [torch.stack(row, dim=-1) for row in ((c, s, zero), (-s, c, zero), (zero, zero, one))]
    return torch.stack(rows, dim=1)


def to_network(displacements: Float[Tensor, "B M S 3"], viewmats: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B M S 3"]:
    """Returns world displacements as the network has them."""
    return _SCALE * torch.einsum("bij,bmsj->bmsi", _facing(viewmats), displacements)


def from_network(moves: Float[Tensor, "B M S 3"], viewmats: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B M S 3"]:
    """Returns the network's trajectories as world displacements."""
    return torch.einsum("bji,bmsj->bmsi", _facing(viewmats), moves) / _SCALE


def facing_rays(rays: Float[Tensor, "B 6 H W"], viewmats: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B 6 H W"]:
    """Returns Pluecker rays in the frame of the trajectories, in which azimuths are all the same."""
    turned = torch.einsum("bij,bkjhw->bkihw", _facing(viewmats), rays.unflatten(1, (2, 3)))
    return turned.flatten(1, 2)
