"""A transformer over frames: pictures from any cameras at any times, some known, the others to be made up.

One set of weights serves as multi-view prior (one time, many cameras), as video prior (one camera, many times) and for
what lies between. A frame is 64 tokens of 8x8 pixels; every token of every frame attends to all others and to the
caption's words. A frame's camera enters by Pluecker rays (Sitzmann et al., "Light Field Networks", 2021), its clip time
and noise level by a modulation of the layer norms shared between layers (Chen et al., "PixArt-alpha", 2024, section
2.3). A small convolutional head turns tokens into pixels. The attention blocks are diffusers' own, so that attention
processors written for diffusers (`generators.attention`) work here as well.

Shapes: B batch, F frames, L words, D width. Pictures are premultiplied RGBA scaled to -1..1.
"""

from __future__ import annotations

import dataclasses
import math

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gaussian4d.toys.captions import VOCABULARY

from .noise import wiener

DRAWN_CHANNELS = 8
"""Of a drawing of known geometry: rgb, alpha, canonical xyz (Ouroboros3D; Wen et al., CVPR 2025), and how the surface
faces the camera; see `surface.surface_conditions`."""
DRAWINGS = 3
"""What was seen of the object, and guesses at its far side and at its sides."""
CONDITION_CHANNELS = DRAWINGS * DRAWN_CHANNELS


@dataclasses.dataclass(frozen=True)
class ViewTransformerConfig:
    size: int = 64
    """Edge of a picture in pixels."""
    patch: int = 8
    width: int = 192
    layers: int = 6
    heads: int = 6
    words: int = 96
    """Places for words; the vocabulary may grow up to it."""
    caption_length: int = 20
    head_channels: int = 16
    """Channels per pixel between tokens and the convolutional head."""

    def __post_init__(self) -> None:
        assert self.words > len(VOCABULARY), "the vocabulary has outgrown the table of words"


class Frames:
    """What the transformer is told about F frames besides their pixels; B may be 1 to share it over a batch."""

    def __init__(
        self,
        rays: Float[Tensor, "B F 6 H W"],
        times: Float[Tensor, "B F"],
        known: Bool[Tensor, "B F"],
        words: Int[Tensor, "B L"] | None = None,
        conditions: Float[Tensor, "B F 24 H W"] | None = None,
    ) -> None:
        """Args: `conditions` are drawings of what is known of the object; see `surface`. None where nothing is."""
        self.rays, self.times, self.known, self.words, self.conditions = rays, times, known, words, conditions


class Block(nn.Module):
    """Attention and feed-forward, both modulated per frame."""

    def __init__(self, config: ViewTransformerConfig) -> None:
        super().__init__()
        D = config.width
        self.norm1 = nn.LayerNorm(D, elementwise_affine=False)
        self.attn1 = Attention(D, heads=config.heads, dim_head=D // config.heads, bias=True)
        self.norm2 = nn.LayerNorm(D, elementwise_affine=False)
        self.ff = FeedForward(D, mult=4, activation_fn="gelu-approximate")
        self.shift = nn.Parameter(torch.zeros(6, D))

    def forward(
        self, x: Float[Tensor, "B N D"], modulation: Float[Tensor, "B F 6 D"], patches: int
    ) -> Float[Tensor, "B N D"]:
        """Args: of the N tokens the first F * `patches` are frames', the others words, which nothing modulates."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (modulation + self.shift)[:, :, None].unbind(-2)
        x = self._add(x, self.attn1(self._scale(self.norm1(x), scale1, shift1, patches)), gate1, patches)
        return self._add(x, self.ff(self._scale(self.norm2(x), scale2, shift2, patches)), gate2, patches)

    @staticmethod
    def _scale(x: Tensor, scale: Tensor, shift: Tensor, patches: int) -> Tensor:
        count = scale.shape[1] * patches
        scaled = torch.addcmul(shift, x[:, :count].unflatten(1, (-1, patches)), 1 + scale).flatten(1, 2)
        return torch.cat([scaled, x[:, count:]], dim=1) if x.shape[1] > count else scaled

    @staticmethod
    def _add(x: Tensor, update: Tensor, gate: Tensor, patches: int) -> Tensor:
        count = gate.shape[1] * patches
        gated = (gate * update[:, :count].unflatten(1, (-1, patches))).flatten(1, 2)
        return x + (torch.cat([gated, update[:, count:]], dim=1) if x.shape[1] > count else gated)


def modulation(width: int) -> nn.Sequential:
    """Returns the layers that turn a signal into the shifts, scales and gates of every block."""
    rise = nn.Linear(width, 6 * width)
    nn.init.normal_(rise.weight, std=0.02)
    with torch.no_grad():
        # Gates start at a tenth: nearly the identity, but gradients flow.
        rise.bias.zero_().view(6, width)[[2, 5]] = 0.1
    return nn.Sequential(nn.SiLU(), rise)


class Caption(nn.Module):
    """A whole caption as one vector that modulates: what its words say reaches every layer from the first step on."""

    def __init__(self, words: int, length: int, width: int, each: int = 24) -> None:
        super().__init__()
        self.words = nn.Embedding(words, each)
        self.mix = nn.Sequential(nn.Linear(length * each, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, words: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        return self.mix(self.words(words).flatten(1))


class Weave(nn.Module):
    """A small U-shaped network of convolutions that sees drawings and tokens side by side, at three scales.

    Which of several drawings is right at a place, and where the object ends, is decided by what lies around it, which
    convolutions learn sooner than attention between tokens of 8x8 pixels.
    """

    def __init__(self, channels: int, out: int, width: int = 48) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        self.coarser = nn.Conv2d(width, 64, 4, stride=2, padding=1)
        self.inner = nn.ModuleList(nn.Conv2d(64, 64, 3, padding=1) for _ in range(2))
        self.up = nn.Conv2d(64, width, 1)
        self.join = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, out, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, maps: Float[Tensor, "N C H W"]) -> Float[Tensor, "N out H W"]:
        act = nn.functional.silu
        half = act(self.coarse(maps))
        quarter = act(self.coarser(half))
        for layer in self.inner:
            quarter = quarter + act(layer(quarter))
        half = half + act(self.join(half + _doubled(self.up(quarter))))
        return _doubled(self.out(half))


def _doubled(maps: Tensor) -> Tensor:
    return nn.functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


class ViewTransformer(nn.Module):
    """Returns per-token features of frames; `picture` turns them into pictures. See the module's description."""

    def __init__(self, config: ViewTransformerConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or ViewTransformerConfig()
        D, grid = c.width, c.size // c.patch
        self.pixels_in = nn.Linear(8 * c.patch**2, D)
        self.rays_in = nn.Linear(6 * 4, D)
        self.conditions_in = nn.Linear(CONDITION_CHANNELS * c.patch**2, D)
        nn.init.zeros_(self.conditions_in.weight)
        nn.init.zeros_(self.conditions_in.bias)
        self.place = nn.Parameter(0.3 * torch.randn(grid * grid, D))
        self.known_in = nn.Embedding(2, D)
        self.level_in = nn.Sequential(nn.Linear(128, D), nn.SiLU(), nn.Linear(D, D))
        self.time_in = nn.Sequential(nn.Linear(64, D), nn.SiLU(), nn.Linear(D, D))
        self.words_in = nn.Embedding(c.words, D)
        self.word_place = nn.Parameter(0.02 * torch.randn(c.caption_length, D))
        self.modulation = modulation(D)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(D)
        self.pixels_out = nn.Linear(D, c.head_channels * c.patch**2)
        last = nn.Conv2d(32, 4, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.head = nn.Sequential(nn.Conv2d(c.head_channels + 8, 32, 3, padding=1), nn.SiLU(), last)
        self.drawn_in = nn.Conv2d(CONDITION_CHANNELS, 32, 3, padding=1, bias=False)
        nn.init.zeros_(self.drawn_in.weight)
        self.weave = Weave(c.head_channels + 8 + CONDITION_CHANNELS, 32)
        # How far each drawing is trusted, and how much darker or lighter it has to be.
        self.trust = nn.Conv2d(32, 2 * DRAWINGS, 3, padding=1)
        nn.init.zeros_(self.trust.weight)
        self.trust.bias = nn.Parameter(torch.tensor([1.0, -1.0, -2.0, 0.0, 0.0, 0.0]))

    def keep_features_only(self) -> None:
        """Deletes the layers that `features` of plain pictures does without: for networks with another head."""
        for name in ("pixels_out", "head", "drawn_in", "weave", "trust", "conditions_in", "words_in", "word_place"):
            delattr(self, name)

    def forward(
        self, images: Float[Tensor, "B F 4 H W"], levels: Float[Tensor, "B F"], frames: Frames
    ) -> Float[Tensor, "B F 4 H W"]:
        """Returns the clean pictures predicted from noisy ones (known frames: whatever comes out).

        Args:
            images: Known frames clean, the others at noise `levels`.
            levels: Timesteps as shares of the training timesteps, 0 clean to 1 pure noise; 0 for known frames.
        """
        given = wiener(images, levels)
        return self.picture(self.features(given, levels, frames), given, frames)

    def features(self, images: Tensor, levels: Tensor, frames: Frames) -> Float[Tensor, "B F P D"]:
        """Returns the tokens after the last block, P per frame."""
        B, F = images.shape[:2]
        c = self.config
        x = self.pixels_in(patches(torch.cat([images, lead(images, frames.known)], dim=2), c.patch))
        x = x + self.rays_in(coarse_rays(frames.rays, c.size // c.patch)) + self.place
        if frames.conditions is not None:
            x = x + self.conditions_in(patches(frames.conditions, c.patch))
        signal = self.level_in(waves(levels, 128, 1000.0)) + self.time_in(waves(frames.times, 64, 12.0))
        signal = signal + self.known_in(frames.known.long())
        gates = self.modulation(signal.expand(B, F, -1)).unflatten(-1, (6, -1))
        count, x = x.shape[2], x.flatten(1, 2)
        if frames.words is not None:
            text = self.words_in(frames.words) + self.word_place[: frames.words.shape[1]]
            x = torch.cat([x, text.expand(B, -1, -1)], dim=1)
        for block in self.blocks:
            x = block(x, gates, count)
        return self.norm(x[:, : F * count]).unflatten(1, (F, count))

    def picture(self, tokens: Float[Tensor, "B F P D"], images: Tensor, frames: Frames) -> Float[Tensor, "B F 4 H W"]:
        """Returns the pictures that tokens stand for; the other arguments are what the transformer was given."""
        c = self.config
        coarse = unpatched(self.pixels_out(tokens), c.patch, c.size)
        B, F = coarse.shape[:2]
        both = torch.cat([coarse, images, lead(images, frames.known)], dim=2).flatten(0, 1)
        # The first four channels are a picture already; the convolutions add what patches cannot know of each other.
        hidden = self.head[0](both)
        if frames.conditions is not None:
            drawn = frames.conditions.flatten(0, 1)
            hidden = hidden + self.drawn_in(drawn) + self.weave(torch.cat([both, drawn], dim=1))
        hidden = self.head[1](hidden)
        made = (coarse[:, :, :4] + self.head[2](hidden).unflatten(0, (B, F))).to(images)
        if frames.conditions is None:
            return made
        # What faces the camera is kept as far as the network trusts it, most of all what was seen; the rest is made up.
        trust, shade = self.trust(hidden).unflatten(0, (B, F)).split(DRAWINGS, dim=2)
        trust, shade = trust.sigmoid(), torch.exp(0.7 * shade.tanh())
        for k in reversed(range(DRAWINGS)):
            drawing = frames.conditions[:, :, k * DRAWN_CHANNELS : (k + 1) * DRAWN_CHANNELS]
            rgb, alpha, facing = drawing[:, :, :3], drawing[:, :, 3:4], drawing[:, :, 7:]
            rgb = (rgb / alpha.clamp_min(0.05) * shade[:, :, k, None]).clamp_max(1.0)
            shown = torch.cat([rgb, torch.ones_like(alpha)], dim=2) * 2 - 1
            made = torch.lerp(made, shown.expand_as(made), alpha * (4.0 * facing).clamp(0, 1) * trust[:, :, k, None])
        return made


def lead(images: Float[Tensor, "B F C H W"], known: Bool[Tensor, "B F"]) -> Float[Tensor, "B F C H W"]:
    """Returns, for every frame, the picture of the first frame where that is known, else zeros.

    Said at every place, the input picture is there from the first step of training; by attention alone it took
    thousands of steps before any frame took after it.
    """
    return (images[:, :1] * known[:, :1, None, None, None]).expand_as(images)


def patches(images: Float[Tensor, "B F C H W"], patch: int) -> Float[Tensor, "B F P N"]:
    """Returns pictures cut into P patches of N = C * patch^2 values, row by row."""
    B, F, C, H, W = images.shape
    cut = images.reshape(B, F, C, H // patch, patch, W // patch, patch)
    return cut.permute(0, 1, 3, 5, 2, 4, 6).reshape(B, F, (H // patch) * (W // patch), C * patch * patch)


def unpatched(values: Float[Tensor, "B F P N"], patch: int, size: int) -> Float[Tensor, "B F C H W"]:
    """Returns the pictures whose `patches` these are."""
    B, F = values.shape[:2]
    grid = size // patch
    cut = values.reshape(B, F, grid, grid, -1, patch, patch)
    return cut.permute(0, 1, 4, 2, 5, 3, 6).reshape(B, F, -1, size, size)


def coarse_rays(rays: Float[Tensor, "B F 6 H W"], grid: int) -> Float[Tensor, "B F P 24"]:
    """Returns four rays per patch: within one they change so evenly that more say nothing new."""
    B, F = rays.shape[:2]
    pooled = nn.functional.adaptive_avg_pool2d(rays.flatten(0, 1), 2 * grid).unflatten(0, (B, F))
    return patches(pooled, 2)


def waves(values: Float[Tensor, "B F"], channels: int, finest: float) -> Float[Tensor, "B F channels"]:
    """Returns sines and cosines of values in 0..1, wavelengths from 4 down to 4 / `finest` (Vaswani et al., 2017)."""
    half = channels // 2
    rates = torch.exp(math.log(finest) * torch.arange(half, device=values.device) / (half - 1)) * (math.pi / 2)
    angles = values[..., None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
