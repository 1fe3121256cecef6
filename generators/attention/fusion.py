"""Attention fusion (STAG4D, section 3.2) where the frames of a video are denoised one after another.

While the first frame is denoised, the tokens that enter keys and values of each self-attention layer are kept, step by
step; in later frames they are blended in. Queries stay the frame's own. The tokens are kept under (step, layer name),
not in the order of the calls, so that skipped layers or steps cannot shift them. `in_batch` is the same for models that
denoise all frames at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gaussian4d.errors import UserError

from ..priors.base import Fusion

_ALL = slice(None)


class FusionStore:
    """The tokens of the first frame and of the frame before, and how they are blended into the current one.

    The sampler says where it is: `begin_frame(k)` with frames in order from 0, then `begin_step(i, n)` at each step.
    """

    def __init__(
        self, fusion: Fusion, layers: Sequence[str], *, half: bool = False, device: torch.device | str | None = None
    ) -> None:
        """Args:
            fusion: Weights, layers and steps.
            layers: Names of the self-attention layers in order of depth, see `self_attention_names`.
            half: Keep tokens as float16: half the memory, and a frame fused with itself is no longer the same to the
                last bit.
            device: Where tokens are kept; None is where they are made.

        Raises:
            UserError: weights outside 0..1, a layer or a range of steps that does not exist.
        """
        check_fusion(fusion, len(layers))
        self.fusion, self.half, self.device = fusion, half, device
        chosen = range(len(layers)) if fusion.layers is None else fusion.layers
        self.chosen = frozenset(layers[k] for k in chosen)
        self._first: dict[tuple[int, str], Tensor] = {}
        self._previous: dict[tuple[int, str], tuple[int, Tensor]] = {}
        self._frame, self._step, self._steps, self._rows, self._active = -1, 0, 1, _ALL, True

    def begin_frame(self, frame: int) -> None:
        """Says that the denoising of `frame` begins; frame 0 forgets the video before."""
        if frame == 0:
            self._first.clear()
            self._previous.clear()
        elif frame != self._frame + 1:
            raise ValueError(f"frames must come in order: expected {self._frame + 1}, got {frame}")
        self._frame = frame

    def begin_step(self, step: int, steps: int, rows: slice = _ALL) -> None:
        """Says which denoising step comes; `rows` of the batch are fused (with guidance: the conditional half)."""
        self._step, self._steps, self._rows = step, steps, rows

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Neither keeps nor blends inside, for calls of the model that are not the frame's own."""
        before, self._active = self._active, False
        try:
            yield
        finally:
            self._active = before

    def acts(self, name: str) -> bool:
        """Returns whether the fusion covers layer `name` at the current step (a step counts by its middle)."""
        low, high = self.fusion.steps
        inside = low <= (self._step + 0.5) / self._steps <= high
        weighted = self.fusion.anchor > 0.0 or self.fusion.previous > 0.0
        return self._active and weighted and inside and name in self.chosen

    def blend(self, name: str, tokens: Float[Tensor, "B N D"], own: int | None = None) -> Float[Tensor, "B N D"]:
        """Returns the input of keys and values for the current frame; keeps what later frames need.

        Args:
            own: The first `own` tokens are the frame's; those behind (of a reference picture) stay as they are.
        """
        if not self.acts(name):
            return tokens
        if self._frame < 0:
            raise ValueError("begin_frame(0) must come before the first denoising step")
        key = (self._step, name)
        mine = tokens[self._rows, :own]
        if self._frame == 0:
            self._first[key] = self._kept(mine)
            if self.fusion.previous > 0.0:
                self._previous[key] = (0, self._first[key])
            return tokens
        # Differences instead of (1 - a - b) h: a frame fused with itself comes out bit for bit.
        mixed = mine + self.fusion.anchor * (self._stored(self._first, key, mine) - mine)
        if self.fusion.previous > 0.0:
            frame, _ = self._previous.get(key, (None, None))
            if frame != self._frame - 1:
                raise ValueError(f"no tokens of frame {self._frame - 1} at step {self._step} for {name}")
            before = self._previous[key][1].to(mine)
            mixed = mixed + self.fusion.previous * (before - mine)
            self._previous[key] = (self._frame, self._kept(mine))
        fused = tokens.clone()
        fused[self._rows, :own] = mixed
        return fused

    @property
    def nbytes(self) -> int:
        """Memory of the kept tokens."""
        kept = {t.data_ptr(): t for t in [*self._first.values(), *(t for _, t in self._previous.values())]}
        return sum(t.numel() * t.element_size() for t in kept.values())

    def _kept(self, tokens: Tensor) -> Tensor:
        dtype = torch.float16 if self.half else tokens.dtype
        return tokens.detach().to(device=self.device or tokens.device, dtype=dtype, copy=True)

    def _stored(self, kept: dict[tuple[int, str], Tensor], key: tuple[int, str], like: Tensor) -> Tensor:
        if key not in kept:
            raise ValueError(f"the first frame left no tokens at step {key[0]} for {key[1]}: use the same steps")
        if kept[key].shape != like.shape:
            raise ValueError(
                f"tokens of {key[1]}: the first frame had {tuple(kept[key].shape)}, now {tuple(like.shape)}"
            )
        return kept[key].to(like)


def check_fusion(fusion: Fusion, layers: int) -> None:
    """Raises `UserError` where `fusion` cannot be applied to a model with so many self-attention layers."""
    a, b = fusion.anchor, fusion.previous
    if not (a >= 0.0 and b >= 0.0 and a + b <= 1.0):
        raise UserError(f"fusion: expected weights of 0 to 1 that sum to at most 1, got anchor {a:g}, previous {b:g}")
    low, high = fusion.steps
    if not 0.0 <= low <= high <= 1.0:
        raise UserError(f"fusion: expected steps as (from, to) inside 0..1, got ({low:g}, {high:g})")
    wrong = [k for k in fusion.layers or () if not 0 <= k < layers]
    if wrong:
        raise UserError(f"fusion: expected layers of 0 to {layers - 1}, got {wrong[0]}; leave layers out for all")


class FusionProcessor:
    """A diffusers attention processor that sends the tokens for keys and values through a `FusionStore`."""

    def __init__(self, base: Callable[..., Any], store: FusionStore, name: str, own: int | None = None) -> None:
        """Args:
        base: The processor that attends.
        own: Tokens of the frame itself; None: as many as there are queries.
        """
        self.base, self.store, self.name, self.own = base, store, name, own

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Tensor:
        if not self.store.acts(self.name):
            return self.base(attn, hidden_states, encoder_hidden_states, *args, **kwargs)
        if hidden_states.ndim != 3 or getattr(attn, "group_norm", None) is not None:
            raise ValueError(f"{self.name}: fusion needs tokens [B, N, D] that are normalised before attention")
        tokens = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        own = hidden_states.shape[1] if self.own is None else self.own
        return self.base(attn, hidden_states, self.store.blend(self.name, tokens, own), *args, **kwargs)


def self_attention_names(model: nn.Module) -> list[str]:
    """Returns the names of the layers `attn1` of a diffusers UNet or transformer that attend to their own tokens, in
    order of depth: down, middle, up. Temporal layers (of motion modules) are left out."""
    depth = {"down_blocks": 0, "mid_block": 1, "up_blocks": 2}
    names = []
    for name, module in model.named_modules():
        spatial = not any(word in name for word in ("temp_", "temporal", "motion_modules", "transformer_in"))
        if name.split(".")[-1] == "attn1" and hasattr(module, "set_processor") and spatial:
            names.append(name)
    # UNets register the up blocks before the middle one.
    return sorted(names, key=lambda name: depth.get(name.split(".")[0], 0))


@contextlib.contextmanager
def processors(model: nn.Module, make: Callable[[Any, str], Any], names: Sequence[str]) -> Iterator[None]:
    """Gives each named layer the processor `make(its present one, its name)` for a while."""
    layers: list[Any] = [model.get_submodule(name) for name in names]
    before = [layer.processor for layer in layers]
    try:
        for layer, base, name in zip(layers, before, names):
            layer.set_processor(make(base, name))
        yield
    finally:
        for layer, base in zip(layers, before):
            layer.set_processor(base)


@contextlib.contextmanager
def fused_attention(
    model: nn.Module, fusion: Fusion | None, *, half: bool = False, device: str | None = None
) -> Iterator[FusionStore | None]:
    """Fuses the self-attention of `model` for a while; yields the `FusionStore`, None where `fusion` is None."""
    if fusion is None:
        yield None
        return
    names = self_attention_names(model)
    store = FusionStore(fusion, names, half=half, device=device)
    with processors(model, lambda base, name: FusionProcessor(base, store, name), names):
        yield store
