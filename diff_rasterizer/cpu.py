"""The `cpu` backend: the three rasterizer operations as autograd nodes over the C++ extension.

Same functions as `diff_rasterizer.reference`, float32 on the CPU only. Results do not depend on the number of threads.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import (
    _cpu,  # torch is imported first, so that both use the same OpenMP runtime
    cpu_kernels,
    cpu_ops,  # noqa: F401  registers the operators
)
from .cpu_kernels import ProjectSettings, maybe, ready, symmetric_of, triangles_of
from .tracing import traced

if not _cpu.has_openmp():
    warnings.warn("diff_rasterizer was built without OpenMP: the CPU backend uses one thread", stacklevel=2)
if _cpu.instruction_sets() == ["generic"] and not os.environ.get("GAUSSIAN4D_ISA"):
    warnings.warn(
        "this processor has neither AVX-512 nor AVX2: the CPU backend is several times slower than with them",
        stacklevel=2,
    )


def project(
    means: Float[Tensor, "B N 3"],
    quats: Float[Tensor, "B N 4"] | None,
    scales: Float[Tensor, "B N 3"] | None,
    covars: Float[Tensor, "B N 3 3"] | None,
    opacities: Float[Tensor, "B N"] | None,
    viewmats: Float[Tensor, "B C 4 4"],
    Ks: Float[Tensor, "B C 3 3"],
    width: int,
    height: int,
    *,
    eps2d: float,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    camera_model: str,
    compensate: bool,
) -> tuple[Int[Tensor, "B C N 2"], Tensor, Tensor, Tensor, Tensor | None]:
    """Returns radii, means2d, depths, conics, compensations of every Gaussian in every camera.

    See `diff_rasterizer.reference.project`, the definition. Rows that are not drawn hold zeros.
    """
    settings = ProjectSettings(width, height, eps2d, near_plane, far_plane, radius_clip, camera_model, compensate)
    tensors = (means, quats, scales, covars, opacities, viewmats, Ks)
    if traced(means):
        outputs = torch.ops.diff_rasterizer.project(*tensors, *settings)
    else:
        outputs = _Project.apply(*tensors, settings)
    means2d, depths, conics, compensations, radii = outputs  # pyright: ignore[reportGeneralTypeIssues]
    return radii, means2d, depths, conics, compensations if compensate else None


def view_colors(
    degree: int,
    means: Float[Tensor, "B N 3"],
    campos: Float[Tensor, "B C 3"],
    coeffs: Float[Tensor, "B N K 3"] | Float[Tensor, "B C N K 3"],
    radii: Int[Tensor, "B C N 2"] | None,
) -> Float[Tensor, "B C N 3"]:
    """Returns max(SH(view direction) + 0.5, 0) of every Gaussian in every camera; zeros where the radii are zero."""
    if traced(means):
        return torch.ops.diff_rasterizer.view_colors(degree, means, campos, coeffs, radii)
    return _ViewColors.apply(degree, means, campos, coeffs, radii)  # pyright: ignore[reportReturnType]


def blend(
    means2d: Float[Tensor, "E 2"],
    conics: Float[Tensor, "E 3"],
    colors: Float[Tensor, "E D"],
    opacities: Float[Tensor, "E"],
    depths: Float[Tensor, "E"],
    radii: Int[Tensor, "E 2"],
    image_ids: Int[Tensor, "E"],
    n_images: int,
    width: int,
    height: int,
    backgrounds: Float[Tensor, "I D"] | None,
    absgrad: bool,
) -> tuple[Float[Tensor, "I H W D"], Float[Tensor, "I H W 1"]]:
    """Returns renders and alphas of the Gaussians of each image, blended front to back.

    See `diff_rasterizer.reference.blend`, the definition. More than 32 channels are blended 32 at a time; then
    `.absgrad` is the sum of the passes' absolute gradients, an upper bound of that of the whole.

    Raises:
        ValueError: for `absgrad` with fake tensors: an attribute set by the backward cannot be traced.
    """
    use_op = traced(means2d)
    if use_op and absgrad:
        raise ValueError("absgrad=True cannot be traced: the backward sets an attribute; use absgrad=False here")
    channels, limit = colors.shape[-1], _cpu.MAX_CHANNELS
    # Absolute gradients of each pass; a later backward replaces those of an earlier one.
    absgrads: dict[int, Tensor] = {}
    renders, alphas = [], None
    for begin in range(0, channels, limit):
        part = slice(begin, begin + limit)
        background = None if backgrounds is None else backgrounds[:, part]
        arguments = (means2d, conics, colors[:, part], opacities, depths, radii, image_ids, n_images, width, height)
        if use_op:
            render, alpha, _ = torch.ops.diff_rasterizer.blend(*arguments, background)
        else:
            render, alpha = _Blend.apply(*arguments, background, begin if absgrad else None, absgrads)
        renders.append(render)
        # One alpha is enough: the gradient of the others' would be counted again.
        alphas = alpha if alphas is None else alphas
    assert alphas is not None
    return renders[0] if len(renders) == 1 else torch.cat(renders, dim=-1), alphas


def count_pairs(
    means2d: Float[Tensor, "E 2"],
    conics: Float[Tensor, "E 3"],
    opacities: Float[Tensor, "E"],
    depths: Float[Tensor, "E"],
    radii: Int[Tensor, "E 2"],
    width: int,
    height: int,
) -> int:
    """Returns how many (Gaussian, pixel) pairs one image blends: past the 1/255 threshold and before the stop."""
    pairs = torch.zeros(1, dtype=torch.int64)
    colors = opacities.detach()[:, None].contiguous()
    ids = torch.zeros(len(opacities), dtype=torch.int32)
    render, alpha = torch.empty(1, height, width, 1), torch.empty(1, height, width, 1)
    rows = [x.detach().contiguous() for x in (means2d, conics)]
    _cpu.blend_forward(
        *rows, colors, opacities.detach().contiguous(), depths.detach().contiguous(), radii.contiguous(), ids, 1,
        width, height, None, render, alpha, pairs, torch.get_num_threads(),
    )  # fmt: skip
    return int(pairs)


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        quats: Tensor | None,
        scales: Tensor | None,
        covars: Tensor | None,
        opacities: Tensor | None,
        viewmats: Tensor,
        Ks: Tensor,
        settings: ProjectSettings,
    ) -> tuple[Tensor, ...]:
        inputs = [ready(means), maybe(quats), maybe(scales), triangles_of(covars)]
        cameras = [ready(viewmats), ready(Ks)]
        outputs = cpu_kernels.project(*inputs, maybe(opacities), *cameras, settings)  # type: ignore[arg-type]
        ctx.save_for_backward(*inputs, *cameras, *outputs)
        ctx.settings = settings
        ctx.mark_non_differentiable(outputs[0])
        # Autograd functions return tensors only.
        return *outputs[1:4], means.new_empty(0) if outputs[4] is None else outputs[4], outputs[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means, quats, scales, triangles, viewmats, Ks, *outputs = ctx.saved_tensors
        v_means2d, v_depths, v_conics, v_compensations = (ready(grad) for grad in grads[:4])
        v_means, v_quats, v_scales, v_triangles, v_viewmats = cpu_kernels.project_backward(
            means, quats, scales, triangles, viewmats, Ks, tuple(outputs),
            (v_means2d, v_depths, v_conics, v_compensations if ctx.settings.compensate else None), ctx.settings,
        )  # fmt: skip
        v_covars = None if v_triangles is None else symmetric_of(v_triangles)
        # Opacities only decide what is drawn.
        return v_means, v_quats, v_scales, v_covars, None, v_viewmats, None, None


class _ViewColors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, degree: int, means: Tensor, campos: Tensor, coeffs: Tensor, radii: Tensor | None) -> Tensor:
        means, campos, coeffs = ready(means), ready(campos), ready(coeffs)
        colors = cpu_kernels.view_colors(degree, means, campos, coeffs, maybe(radii))
        ctx.save_for_backward(means, campos, coeffs, colors)
        ctx.degree = degree
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_colors: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        v_means, v_campos, v_coeffs = cpu_kernels.view_colors_backward(
            ctx.degree, *ctx.saved_tensors, v_colors=ready(v_colors)
        )
        return None, v_means, v_campos, v_coeffs, None


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        colors: Tensor,
        opacities: Tensor,
        depths: Tensor,
        radii: Tensor,
        image_ids: Tensor,
        n_images: int,
        width: int,
        height: int,
        backgrounds: Tensor | None,
        absgrad_key: int | None,
        absgrads: dict[int, Tensor],
    ) -> tuple[Tensor, Tensor]:
        renders, alphas, ctx.state = cpu_kernels.blend(
            ready(means2d), ready(conics), ready(colors), ready(opacities), ready(depths), ready(radii),
            ready(image_ids), n_images, width, height, maybe(backgrounds),
        )  # fmt: skip
        # means2d is kept as it came: `.absgrad` is set on the caller's tensor.
        ctx.save_for_backward(means2d, backgrounds, alphas)
        ctx.absgrad_key, ctx.absgrads = absgrad_key, absgrads
        return renders, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_renders: Tensor, v_alphas: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        means2d, backgrounds, alphas = ctx.saved_tensors
        v_renders = ready(v_renders)
        v_means2d, v_conics, v_colors, v_opacities, v_abs = cpu_kernels.blend_backward(
            ctx.state, len(means2d), maybe(backgrounds), v_renders, ready(v_alphas), ctx.absgrad_key is not None
        )
        if v_abs is not None:
            ctx.absgrads[ctx.absgrad_key] = v_abs
            means2d.absgrad = sum(ctx.absgrads.values())
        v_backgrounds = None
        if backgrounds is not None and ctx.needs_input_grad[10]:
            v_backgrounds = (v_renders * (1.0 - alphas)).sum((1, 2))
        return (
            v_means2d, v_conics, v_colors, v_opacities, None, None, None, None, None, None, v_backgrounds, None, None,
        )  # fmt: skip
