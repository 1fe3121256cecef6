"""Attention fusion (STAG4D) where all frames of a video are denoised in one batch.

The frames' own tokens enter keys and values blended with those of the batch's first row and of the row before; queries
and all other tokens (known pictures, words) stay as they are. See `generators.priors.Fusion`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from jaxtyping import Float
from torch import Tensor, nn

from ..priors.base import Fusion


class InBatchFusion(AttnProcessor2_0):
    """A processor for self-attention over [T, N, D]: T instants of one video in order."""

    def __init__(self, fusion: Fusion, own: slice) -> None:
        """Args: `own` are the tokens to blend."""
        super().__init__()
        self.fusion, self.own, self.active = fusion, own, True

    def __call__(  # type: ignore[override]
        self, attn: Attention, hidden_states: Float[Tensor, "T N D"], *args, **kwargs
    ) -> Float[Tensor, "T N D"]:
        if not self.active:
            return super().__call__(attn, hidden_states, *args, **kwargs)
        a, b = self.fusion.anchor, self.fusion.previous
        mixed = hidden_states.clone()
        own = hidden_states[:, self.own]
        mixed[1:, self.own] = (1.0 - a - b) * own[1:] + a * own[:1] + b * own[:-1]
        return super().__call__(attn, hidden_states, mixed)


@contextlib.contextmanager
def fused(blocks: nn.ModuleList, fusion: Fusion | None, own: slice) -> Iterator[list[InBatchFusion]]:
    """Gives the `attn1` of the chosen blocks a fusion processor for a while; yields the processors."""
    if fusion is None:
        yield []
        return
    chosen = range(len(blocks)) if fusion.layers is None else fusion.layers
    layers: list[Attention] = [blocks[k].attn1 for k in chosen]  # pyright: ignore[reportAssignmentType]
    before = [layer.processor for layer in layers]
    processors = [InBatchFusion(fusion, own) for _ in layers]
    try:
        for layer, processor in zip(layers, processors):
            layer.set_processor(processor)  # pyright: ignore[reportArgumentType]
        yield processors
    finally:
        for layer, processor in zip(layers, before):
            layer.set_processor(processor)
