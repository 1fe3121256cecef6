"""The loop that trains every embedded model: time-bound schedule, running mean of weights, checkpoints, progress."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gaussian4d.files import write_json

from .muon import Muon

_WARM_UP = 100
_SAVE_EVERY = 180.0
_SAMPLE_EVERY = 4
"""A grid of samples with every fourth checkpoint."""
_PRINT_EVERY = 20.0
_PATIENCE = 30


@dataclasses.dataclass
class LoopConfig:
    out: Path
    minutes: float = 60.0
    """Training time in all, over all sittings; the learning rates fall in its last `decay` share."""
    decay: float = 0.3
    lr: float = 2e-3
    muon_lr: float = 5e-3
    weight_decay: float = 0.02
    ema: float = 0.998
    seed: int = 0
    fast: bool = False
    """Compiled, and with products in bfloat16: for GPUs, and CPUs that have it (AVX512_BF16, AMX)."""


class Loop:
    """Trains `model` on losses until the time is over; goes on where the folder's checkpoint left off.

    Matrices inside the blocks are stepped by Muon, the other parameters by AdamW.
    """

    def __init__(self, model: nn.Module, config: LoopConfig, accelerator: Accelerator) -> None:
        self.model, self.config, self.accelerator = model, config, accelerator
        self.optimizers = optimizers_of(model, config)
        self.ema = EMAModel(model.parameters(), decay=config.ema, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
        self.step, self.objects, self.elapsed = 0, 0, 0.0
        self.history: list[dict[str, float]] = []
        config.out.mkdir(parents=True, exist_ok=True)
        self._resume()
        self.wrapped: nn.Module = accelerator.prepare(model)
        if config.fast:
            self.wrapped = Fast(self.wrapped, accelerator.device.type)

    @property
    def progress(self) -> float:
        return min(self.elapsed / (60.0 * self.config.minutes), 1.0)

    def rate(self) -> float:
        """Returns the factor on the learning rates: warm-up, constant, then a straight line down to 2 %."""
        left = (1.0 - self.progress) / self.config.decay
        return min(1.0, (self.step + 1) / _WARM_UP) * max(min(1.0, left), 0.02)

    def run(self, loss_of: Callable[[nn.Module, float], tuple[Tensor, int, dict[str, float]]],
            sample: Callable[[Path], None] | None = None) -> None:  # fmt: skip
        """Trains. `loss_of(model, progress)` returns the loss, how many objects it saw, and figures to print;
        `sample(path)` draws a grid of samples with the running mean of the weights in place."""
        saved = printed = time.monotonic()
        sums: dict[str, float] = {}
        saves = skipped = 0
        try:
            while self.progress < 1.0:
                began = time.monotonic()
                for optimizer, lr in self.optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = lr * self.rate()
                loss, objects, figures = loss_of(self.wrapped, self.progress)
                self.accelerator.backward(loss)
                # The same in all processes, unlike the loss.
                norm = self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                if torch.isfinite(torch.as_tensor(norm)):
                    skipped = 0
                    for optimizer, _ in self.optimizers:
                        optimizer.step()
                    self.ema.step(self.model.parameters())
                else:
                    skipped += 1
                    if skipped == _PATIENCE:
                        raise FloatingPointError(f"no finite gradient in {_PATIENCE} steps; nothing is learned")
                for optimizer, _ in self.optimizers:
                    optimizer.zero_grad(set_to_none=True)
                self.step += 1
                self.objects += objects * self.accelerator.num_processes
                self.elapsed += time.monotonic() - began
                if self.accelerator.num_processes > 1:
                    # All stop at the same step.
                    clock = torch.tensor(self.elapsed, dtype=torch.float64, device=self.accelerator.device)
                    self.elapsed = float(cast(Tensor, broadcast(clock)))
                for name, value in {"loss": float(loss.detach()), **figures}.items():
                    sums[name] = sums.get(name, 0.0) + value
                    sums[f"n {name}"] = sums.get(f"n {name}", 0.0) + 1.0
                if time.monotonic() - printed > _PRINT_EVERY and self.accelerator.is_main_process:
                    means = {k: v / sums[f"n {k}"] for k, v in sums.items() if not k.startswith("n ")}
                    self.history.append({"step": self.step, "minutes": self.elapsed / 60, **means})
                    text = "  ".join(f"{name} {value:.4f}" for name, value in means.items())
                    left = self.config.minutes - self.elapsed / 60
                    print(f"step {self.step}  {self.objects} toys  {text}  {left:.0f} minutes left", flush=True)
                    sums, printed = {}, time.monotonic()
                if time.monotonic() - saved > _SAVE_EVERY:
                    saves += 1
                    self.save(sample if saves % _SAMPLE_EVERY == 1 else None)
                    saved = time.monotonic()
        finally:
            self.save(sample)

    def save(self, sample: Callable[[Path], None] | None) -> None:
        """Writes a checkpoint to go on from, the running mean as float16, and a grid of samples."""
        if not self.accelerator.is_main_process:
            return
        out = self.config.out
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer, _ in self.optimizers],
            "numbers": {"step": self.step, "objects": self.objects, "elapsed": self.elapsed},
        }
        torch.save(state, out / "checkpoint.part")
        (out / "checkpoint.part").rename(out / "checkpoint.pt")
        write_json(out / "history.json", self.history)
        with self.averaged():
            save_file({k: v.half().contiguous() for k, v in self.model.state_dict().items()}, out / "ema.part")
            (out / "ema.part").rename(out / "ema.safetensors")
            if sample is not None:
                self.model.eval()
                with torch.no_grad():
                    sample(out / "samples.png")
                self.model.train()

    def averaged(self) -> _Averaged:
        """Returns a context in which the model has the running mean of its weights."""
        return _Averaged(self)

    def _resume(self) -> None:
        path = self.config.out / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        for (optimizer, _), saved in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(saved)
        numbers = state["numbers"]
        self.step, self.objects, self.elapsed = numbers["step"], numbers["objects"], numbers["elapsed"]
        history = self.config.out / "history.json"
        self.history = json.loads(history.read_text()) if history.exists() else []
        print(f"going on from step {self.step}, {self.elapsed / 60:.0f} minutes", flush=True)


class Fast(nn.Module):
    """A model compiled for the shapes it meets, its products in bfloat16, what it returns in float32."""

    def __init__(self, model: nn.Module, device: str) -> None:
        super().__init__()
        self.compiled, self.device = torch.compile(model, dynamic=False), device

    def forward(self, *args: Any) -> Any:
        # The backward pass of the fused attention for CPUs takes three times as long as plain products do.
        plain = sdpa_kernel(SDPBackend.MATH) if self.device == "cpu" else contextlib.nullcontext()
        with torch.autocast(self.device, torch.bfloat16), plain:
            made = self.compiled(*args)
        return {name: value.float() for name, value in made.items()} if isinstance(made, dict) else made.float()


class _Averaged:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def __enter__(self) -> None:
        self.loop.ema.store(self.loop.model.parameters())
        self.loop.ema.copy_to(self.loop.model.parameters())

    def __exit__(self, *_: object) -> None:
        self.loop.ema.restore(self.loop.model.parameters())


def optimizers_of(model: nn.Module, config: LoopConfig) -> list[tuple[torch.optim.Optimizer, float]]:
    """Returns the optimisers with their learning rates; see `Loop`."""
    inner = [p for name, p in model.named_parameters() if "blocks." in name and name.endswith("weight")]
    chosen = {id(p) for p in inner}
    others = [p for p in model.parameters() if id(p) not in chosen]
    muon = Muon(inner, lr=config.muon_lr, weight_decay=config.weight_decay)
    adam = torch.optim.AdamW(others, lr=config.lr, betas=(0.9, 0.98), weight_decay=0.0)
    return [(muon, config.muon_lr), (adam, config.lr)]


def load_weights(model: nn.Module, path: Path) -> None:
    """Loads float16 weights into a model; layers that only one of the two has keep what they are."""
    own, saved = model.state_dict(), load_file(path)
    for name, value in saved.items():
        if name in own and own[name].dim() == value.dim():
            # A layer that has grown keeps the new part as it begins.
            window = tuple(slice(0, min(a, b)) for a, b in zip(own[name].shape, value.shape))
            own[name][window] = value[window].float()
    model.load_state_dict(own)


def decibels(error: Tensor) -> float:
    """Returns the PSNR in dB of a mean squared error on the scale -1..1."""
    return -10.0 * math.log10(max(float(error), 1e-10) / 4.0)
