"""Words to a picture of a toy: convolutions at fine scales, a transformer over 8x8 places and the caption's words.

What a picture made from nothing but words needs most is an outline and surfaces without speckle, which convolutions
learn from far fewer pictures than patches of 8x8 pixels do; what goes where is left to attention (the division of
Hoogeboom et al., "simple diffusion", 2023). Blocks, modulation and noise are those of the view transformer.

Shapes: B batch, L words, D width. Pictures are premultiplied RGBA scaled to -1..1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gaussian4d.toys.captions import VOCABULARY

from .noise import TRAIN_STEPS, fresh_step, scheduler, wiener
from .view_transformer import Block, Caption, ViewTransformerConfig, coarse_rays, modulation, waves


@dataclasses.dataclass(frozen=True)
class PictureConfig:
    size: int = 64
    """Edge of a picture in pixels; a multiple of 8."""
    channels: tuple[int, int] = (32, 64)
    """Of the convolutions at a half and a quarter of the size."""
    width: int = 128
    layers: int = 6
    heads: int = 4
    words: int = 96
    """Places for words; the vocabulary may grow up to it."""
    caption_length: int = 20

    def __post_init__(self) -> None:
        # JSON knows no tuples.
        object.__setattr__(self, "channels", tuple(self.channels))
        assert self.words > len(VOCABULARY), "the vocabulary has outgrown the table of words"


class Residual(nn.Module):
    """Two convolutions whose middle is scaled and shifted by the noise level and time."""

    def __init__(self, channels: int, signal: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for _ in range(2))
        first, second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(second.weight)
        self.convs = nn.ModuleList([first, second])
        self.film = nn.Linear(signal, 2 * channels)

    def forward(self, maps: Float[Tensor, "B C H W"], signal: Float[Tensor, "B D"]) -> Float[Tensor, "B C H W"]:
        act = nn.functional.silu
        scale, shift = self.film(signal)[:, :, None, None].chunk(2, dim=1)
        inner = self.convs[0](act(self.norms[0](maps)))
        return maps + self.convs[1](act(torch.addcmul(shift, self.norms[1](inner), 1 + scale)))


class PictureNet(nn.Module):
    """Returns the clean pictures [B, 4, H, W] predicted from noisy ones, words and cameras."""

    def __init__(self, config: PictureConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or PictureConfig()
        (half, quarter), D, grid = c.channels, c.width, c.size // 8
        self.half_in = nn.Conv2d(4, half, 4, stride=2, padding=1)
        self.quarter_in = nn.Conv2d(half, quarter, 4, stride=2, padding=1)
        self.tokens_in = nn.Conv2d(quarter, D, 4, stride=2, padding=1)
        self.down = nn.ModuleList([Residual(half, D), Residual(quarter, D)])
        self.up = nn.ModuleList([Residual(quarter, D), Residual(quarter, D), Residual(half, D)])
        self.rays_in = nn.Linear(6 * 4, D)
        self.place = nn.Parameter(0.3 * torch.randn(grid * grid, D))
        self.level_in = nn.Sequential(nn.Linear(128, D), nn.SiLU(), nn.Linear(D, D))
        self.time_in = nn.Sequential(nn.Linear(64, D), nn.SiLU(), nn.Linear(D, D))
        self.words_in = nn.Embedding(c.words, D)
        self.word_place = nn.Parameter(0.02 * torch.randn(c.caption_length, D))
        self.caption_in = Caption(c.words, c.caption_length, D)
        self.modulation = modulation(D)
        self.blocks = nn.ModuleList(Block(ViewTransformerConfig(width=D, heads=c.heads)) for _ in range(c.layers))
        self.norm = nn.LayerNorm(D)
        self.quarter_out = nn.Conv2d(D, 4 * quarter, 1)
        self.half_out = nn.Conv2d(quarter, 4 * half, 1)
        self.last = nn.Conv2d(half, 16, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(
        self,
        images: Float[Tensor, "B 4 H W"],
        levels: Float[Tensor, " B"],
        rays: Float[Tensor, "B 6 H W"],
        times: Float[Tensor, " B"],
        words: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B 4 H W"]:
        """Args: `levels` as the view transformer has them; `words` are places in the vocabulary plus 1, 0 is none."""
        c = self.config
        given = wiener(images[:, None], levels[:, None])[:, 0]
        signal = self.level_in(waves(levels, 128, 1000.0)) + self.time_in(waves(times, 64, 12.0))
        signal = signal + self.caption_in(words)
        act = nn.functional.silu(signal)
        half = self.down[0](self.half_in(given), act)
        quarter = self.down[1](self.quarter_in(half), act)
        x = self.tokens_in(quarter).flatten(2).transpose(1, 2)
        count = x.shape[1]
        x = x + self.rays_in(coarse_rays(rays[:, None], c.size // 8))[:, 0] + self.place
        text = self.words_in(words) + self.word_place[: words.shape[1]]
        x = torch.cat([x, text], dim=1)
        gates = self.modulation(signal)[:, None].unflatten(-1, (6, -1))
        for block in self.blocks:
            x = block(x, gates, count)
        x = self.norm(x[:, :count]).transpose(1, 2).unflatten(2, (c.size // 8, c.size // 8))
        quarter = quarter + nn.functional.pixel_shuffle(self.quarter_out(x), 2)
        quarter = self.up[1](self.up[0](quarter, act), act)
        half = self.up[2](half + nn.functional.pixel_shuffle(self.half_out(quarter), 2), act)
        return given + nn.functional.pixel_shuffle(self.last(nn.functional.silu(half)), 2)


@torch.no_grad()
def sample_pictures(
    model: PictureNet,
    rays: Float[Tensor, "B 6 H W"],
    words: Int[Tensor, "B L"],
    *,
    steps: int,
    guidance: float,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Tensor, "B 4 H W"]:
    """Returns pictures in -1..1 of what the words say, at the start of the clip, seen along the rays."""
    ddim = scheduler()
    ddim.set_timesteps(steps)
    B, size = len(words), model.config.size
    x = torch.randn((B, 4, size, size), generator=generator)
    nothing, times = torch.zeros_like(words), torch.zeros(B)
    for k, t in enumerate(ddim.timesteps):
        levels = torch.full((B,), (float(t) + 1) / TRAIN_STEPS)
        x0 = model(x, levels, rays, times, words)
        if guidance != 1.0:
            bare = model(x, levels, rays, times, nothing)
            x0 = bare + guidance * (x0 - bare)
        x = fresh_step(ddim, x0.clamp(-1, 1), int(t), x, generator)
        if progress is not None:
            progress(k + 1, steps)
    return x
