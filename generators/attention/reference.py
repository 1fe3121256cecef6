"""Reference attention (Zero123++, Shi et al., 2023, section 2.3): self-attention that also sees a reference picture.

The UNet runs on the noised latent of the reference first (the write pass) and keeps what enters each self-attention
layer; then it runs on the picture that is denoised, whose layers attend to their own tokens and to those kept (the read
pass).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .fusion import FusionProcessor, processors, self_attention_names

_ALL = slice(None)


class ReferenceBank:
    """The tokens of the reference picture, by layer, and the pass that runs."""

    def __init__(self) -> None:
        self.tokens: dict[str, Tensor] = {}
        self.mode: Literal["write", "read"] | None = None
        self.rows: slice = _ALL
        """Rows of the batch that read the reference; the others attend to themselves alone."""

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Calls of the model inside keep the tokens of the reference."""
        self.tokens.clear()
        yield from self._during("write", _ALL)

    @contextlib.contextmanager
    def reading(self, rows: slice = _ALL) -> Iterator[None]:
        """Calls of the model inside attend to the kept tokens too."""
        yield from self._during("read", rows)

    def _during(self, mode: Literal["write", "read"], rows: slice) -> Iterator[None]:
        self.mode, self.rows = mode, rows
        try:
            yield
        finally:
            self.mode, self.rows = None, _ALL


class ReferenceProcessor:
    """A diffusers attention processor of one self-attention layer that writes to or reads from a `ReferenceBank`."""

    def __init__(self, base: Callable[..., Any], bank: ReferenceBank, name: str) -> None:
        self.base, self.bank, self.name = base, bank, name
        # Fusion is for what a frame's own condition says: not for the reference itself, nor for rows without one.
        self.plain = base.base if isinstance(base, FusionProcessor) else base

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        if self.bank.mode is None:
            return self.base(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        if encoder_hidden_states is not None:
            raise ValueError(f"{self.name}: reference attention is for self-attention")
        if self.bank.mode == "write":
            self.bank.tokens[self.name] = hidden_states
            return self.plain(attn, hidden_states, None, *args, **kwargs)
        if self.name not in self.bank.tokens:
            raise ValueError(f"{self.name}: no reference was written before reading")
        readers = torch.zeros(hidden_states.shape[0], dtype=torch.bool)
        readers[self.bank.rows] = True
        own = hidden_states[readers]
        reference = self.bank.tokens[self.name].to(own)
        reference = reference.expand(own.shape[0], -1, -1) if reference.shape[0] == 1 else reference
        read = self.base(attn, own, torch.cat([own, reference], dim=1), *args, **kwargs)
        if readers.all():
            return read
        attended = torch.empty_like(hidden_states)
        attended[readers] = read
        attended[~readers] = self.plain(attn, hidden_states[~readers], None, *args, **kwargs)
        return attended


@contextlib.contextmanager
def reference_attention(model: nn.Module) -> Iterator[ReferenceBank]:
    """Lets the layers `attn1` of `model` see a reference for a while; yields the bank.

    Enter it inside `fusion.fused_attention`, so that the fusion gets the tokens with the reference's behind them; only
    rows that read are fused then, and the rows of `FusionStore.begin_step` count among those.
    """
    bank = ReferenceBank()
    with processors(model, lambda base, name: ReferenceProcessor(base, bank, name), self_attention_names(model)):
        yield bank
