"""A rasterizer backend for the pretend accelerator: the CPU backend's kernels on the data its tensors hold.

Its results are those of the CPU to the bit. As a real one would, it makes the host wait once per call of `blend`: for
how many (Gaussian, tile) pairs there are. The operations are as many as those of a backend must be; `emulated_backend`
is a second one, the `cuda` backend itself with its kernels emulated.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pretend_device import NAME, held, on_pretend, synchronised
from torch import Tensor

from diff_rasterizer import Backend, cpu, cpu_training

PAIRS = "number of instances"
"""What `blend` waits for, as `count_syncs` names it."""


class _Inside:
    """Stands in for the context of an autograd node that runs on held data."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self.saved_tensors: tuple[Any, ...] = ()
        self.constants: tuple[Tensor, ...] = ()

    def save_for_backward(self, *tensors: Any) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        self.constants = tensors


def _on_held_data(node: Any) -> Any:
    """Returns an autograd node that does what `node` does, on the held data of its arguments."""

    class OnHeldData(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *args: Any) -> Any:
            tensors = [x for x in args if isinstance(x, Tensor)]
            wrong = [x for x in tensors if x.device.type != NAME]
            if wrong:
                raise RuntimeError(f"{node.__qualname__}: expected tensors on {NAME}, got one on {wrong[0].device}")
            ctx.inside = _Inside(ctx.needs_input_grad)
            ctx.where = tensors[0].device
            ctx.save_for_backward(*tensors)
            outputs = node.forward(ctx.inside, *(held(x) for x in args))
            many = outputs if isinstance(outputs, tuple) else (outputs,)
            wrapped = tuple(on_pretend(x, ctx.where) for x in many)
            constants = {id(x) for x in ctx.inside.constants}
            ctx.mark_non_differentiable(*(w for w, x in zip(wrapped, many) if id(x) in constants))
            return wrapped if isinstance(outputs, tuple) else wrapped[0]

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            inputs = ctx.saved_tensors
            out = node.backward(ctx.inside, *(held(x) for x in grads))
            for x in inputs:
                if hasattr(held(x), "absgrad"):
                    x.absgrad = on_pretend(held(x).absgrad, ctx.where)
            many = out if isinstance(out, tuple) else (out,)
            return tuple(on_pretend(x, ctx.where) for x in many)

    return OnHeldData


_Project, _ViewColors, _Blend, _SsimL1 = (
    _on_held_data(node) for node in (cpu._Project, cpu._ViewColors, cpu._Blend, cpu_training.SsimL1)
)


def project(
    means: Tensor, quats: Any, scales: Any, covars: Any, opacities: Any, viewmats: Tensor, Ks: Tensor, width: int,
    height: int, **settings: Any,
) -> tuple[Any, ...]:  # fmt: skip
    known = cpu.ProjectSettings(width, height, **settings)
    means2d, depths, conics, compensations, radii = _Project.apply(
        means, quats, scales, covars, opacities, viewmats, Ks, known
    )
    return radii, means2d, depths, conics, compensations if known.compensate else None


def view_colors(degree: int, means: Tensor, campos: Tensor, coeffs: Tensor, radii: Tensor | None) -> Tensor:
    return _ViewColors.apply(degree, means, campos, coeffs, radii)


def blend(
    means2d: Tensor, conics: Tensor, colors: Tensor, opacities: Tensor, depths: Tensor, radii: Tensor,
    image_ids: Tensor, n_images: int, width: int, height: int, backgrounds: Tensor | None, absgrad: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    assert colors.shape[-1] <= 32, "one pass is enough for the tests"
    synchronised(PAIRS)
    return _Blend.apply(
        means2d, conics, colors, opacities, depths, radii, image_ids, n_images, width, height, backgrounds,
        0 if absgrad else None, {},
    )  # fmt: skip


def ssim_and_l1(image: Tensor, target: Tensor, valid: bool) -> tuple[Tensor, Tensor]:
    return _SsimL1.apply(image, target, valid)


def squared_error(image: Tensor, target: Tensor) -> Tensor:
    assert image.device == target.device
    return on_pretend(cpu_training.squared_error(held(image.detach()), held(target)), image.device)


def adam(param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, *numbers: float) -> None:
    tensors = (param, grad, exp_avg, exp_avg_sq)
    assert {x.device for x in tensors} == {param.device}
    cpu_training.adam(*(held(x) for x in tensors), *numbers)


def _rejects(device: torch.device, dtype: torch.dtype) -> str:
    if device.type != NAME:
        return f"it needs tensors on a {NAME} device, they are on {device}"
    return "" if dtype == torch.float32 else "it needs float32 tensors"


PRETEND = Backend(
    name="pretend",
    module=sys.modules[__name__],
    whole=False,
    unavailable=lambda: "",
    rejects=_rejects,
    device_type=NAME,
    training=sys.modules[__name__],
)
"""The CPU backend's kernels."""


def emulated_backend(folder: Path) -> Backend:
    """Returns the `cuda` backend for tensors on the pretend device, its kernels compiled to `folder` and emulated.

    Slow: for a few small pictures.
    """
    # The emulation belongs to the rasterizer's tests.
    sys.path.insert(0, str(Path(__file__).parent / "diff_rasterizer"))
    from cuda_emulation.emulation import EmulationLauncher

    from diff_rasterizer import cuda, cuda_training
    from diff_rasterizer.cuda_launch import set_launcher

    emulation = EmulationLauncher(folder)

    def launch(file: str, entry: str, grid: Any, block: Any, args: Any, macros: Any, shared: int = 0) -> None:
        wrong = [x for x in args if isinstance(x, Tensor) and x.device.type != NAME]
        assert not wrong, f"{entry} got a tensor on {wrong[0].device}"
        emulation.launch(file, entry, grid, block, [held(x) for x in args], macros, shared)

    set_launcher(NAME, lambda device: SimpleNamespace(launch=launch))  # pyright: ignore[reportArgumentType]
    return Backend("emulated", cuda, False, lambda: "", _rejects, NAME, cuda_training)
