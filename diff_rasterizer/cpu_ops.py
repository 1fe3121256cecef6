"""The CPU backend as `torch.library` operators, for `torch.compile`, fake tensors and `torch.export`.

    diff_rasterizer::project, ::view_colors, ::blend   and each one's ..._backward

Each has a schema, the CPU implementation, a fake one that knows shapes only, and a gradient. Plain eager calls do not
come here: an operator and its generic autograd wrapper cost 100 to 250 us more per forward and backward than `cpu`'s
own autograd nodes (measured on empty work), and between forward and backward `blend` must copy its state into a
tensor, which those nodes keep as an object.

What an optional output would be is an empty tensor: operators return tensors only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _cpu, cpu_kernels
from .cpu_kernels import ProjectSettings, maybe, ready, symmetric_of, triangles_of
from .op_library import define, differentiable
from .validation import check_cameras

_CAMERA = "SymInt width, SymInt height, float eps2d, float near_plane, float far_plane, float radius_clip, "
_PROJECT = (
    "Tensor means, Tensor? quats, Tensor? scales, Tensor? covars, Tensor? opacities, Tensor viewmats, Tensor Ks, "
    + _CAMERA
    + "str camera_model, bool compensate"
)
_BLEND = (
    "Tensor means2d, Tensor conics, Tensor colors, Tensor opacities, Tensor depths, Tensor radii, Tensor image_ids, "
    "SymInt n_images, SymInt width, SymInt height, Tensor? backgrounds"
)


def _f32(like: Tensor, *shape: Any) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


# project


def _project(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    covars: Tensor | None,
    opacities: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    # Traced code cannot look at values; this is the first place that sees them.
    check_cameras(viewmats, Ks)
    outputs = cpu_kernels.project(
        ready(means), maybe(quats), maybe(scales), triangles_of(covars), maybe(opacities), ready(viewmats), ready(Ks),
        ProjectSettings(*settings),
    )  # fmt: skip
    return *outputs[1:4], means.new_empty(0) if outputs[4] is None else outputs[4], outputs[0]


def _project_fake(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    covars: Tensor | None,
    opacities: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    rows = (means.shape[0], viewmats.shape[1], means.shape[1])
    return (
        _f32(means, *rows, 2),
        _f32(means, *rows),
        _f32(means, *rows, 3),
        _f32(means, *rows) if settings[-1] else _f32(means, 0),
        means.new_empty((*rows, 2), dtype=torch.int32),
    )


def _project_backward(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    covars: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    means2d: Tensor,
    depths: Tensor,
    conics: Tensor,
    compensations: Tensor,
    radii: Tensor,
    v_means2d: Tensor,
    v_depths: Tensor,
    v_conics: Tensor,
    v_compensations: Tensor,
    *settings: Any,
) -> tuple[Tensor, ...]:
    known = ProjectSettings(*settings)
    wanted = known.compensate
    v_means, v_quats, v_scales, v_triangles, v_viewmats = cpu_kernels.project_backward(
        ready(means), maybe(quats), maybe(scales), triangles_of(covars), ready(viewmats), ready(Ks),
        (ready(radii), ready(means2d), ready(depths), ready(conics), ready(compensations) if wanted else None),
        (ready(v_means2d), ready(v_depths), ready(v_conics), ready(v_compensations) if wanted else None), known,
    )  # fmt: skip
    v_covars = None if v_triangles is None else symmetric_of(v_triangles)
    empty = (means.new_empty(0) for _ in range(3))
    return v_means, *(next(empty) if v is None else v for v in (v_quats, v_scales, v_covars)), v_viewmats


def _project_backward_fake(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    covars: Tensor | None,
    viewmats: Tensor,
    *rest: Any,
) -> tuple[Tensor, ...]:
    given = [None, None, covars] if covars is not None else [quats, scales, None]
    return (
        _f32(means, *means.shape),
        *(_f32(means, 0) if x is None else _f32(means, *x.shape) for x in given),
        _f32(means, *viewmats.shape),
    )


def _project_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    means, quats, scales, covars, _, viewmats, Ks, *settings = inputs
    ctx.save_for_backward(means, quats, scales, covars, viewmats, Ks, *output)
    ctx.settings = settings


def _project_gradient(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    means, quats, scales, covars, *rest = ctx.saved_tensors
    v_means, v_quats, v_scales, v_covars, v_viewmats = torch.ops.diff_rasterizer.project_backward(
        means, quats, scales, covars, *rest, *grads[:4], *ctx.settings
    )
    by_matrix = covars is not None
    return (
        v_means,
        None if by_matrix or quats is None else v_quats,
        None if by_matrix or scales is None else v_scales,
        v_covars if by_matrix else None,
        # Opacities only decide what is drawn.
        None,
        v_viewmats,
        *[None] * (1 + len(ctx.settings)),
    )


define(
    "project",
    _PROJECT,
    # Floating point first: opcheck adds the outputs up in the type of the first.
    "Tensor means2d, Tensor depths, Tensor conics, Tensor compensations, Tensor radii",
    _project,
    _project_fake,
)
define(
    "project_backward",
    "Tensor means, Tensor? quats, Tensor? scales, Tensor? covars, Tensor viewmats, Tensor Ks, "
    "Tensor means2d, Tensor depths, Tensor conics, Tensor compensations, Tensor radii, Tensor v_means2d, "
    "Tensor v_depths, Tensor v_conics, Tensor v_compensations, " + _CAMERA + "str camera_model, bool compensate",
    "Tensor v_means, Tensor v_quats, Tensor v_scales, Tensor v_covars, Tensor v_viewmats",
    _project_backward,
    _project_backward_fake,
)
differentiable("project", _project_setup, _project_gradient)


# view_colors


def _view_colors(degree: int, means: Tensor, campos: Tensor, coeffs: Tensor, radii: Tensor | None) -> Tensor:
    return cpu_kernels.view_colors(degree, ready(means), ready(campos), ready(coeffs), maybe(radii))


def _view_colors_fake(degree: int, means: Tensor, campos: Tensor, coeffs: Tensor, radii: Tensor | None) -> Tensor:
    return _f32(means, means.shape[0], campos.shape[1], means.shape[1], 3)


def _view_colors_backward(
    degree: int, means: Tensor, campos: Tensor, coeffs: Tensor, colors: Tensor, v_colors: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return cpu_kernels.view_colors_backward(
        degree, ready(means), ready(campos), ready(coeffs), ready(colors), ready(v_colors)
    )


def _view_colors_backward_fake(
    degree: int, means: Tensor, campos: Tensor, coeffs: Tensor, colors: Tensor, v_colors: Tensor
) -> tuple[Tensor, ...]:
    return _f32(means, *means.shape), _f32(means, *campos.shape), _f32(means, *coeffs.shape)


def _view_colors_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.degree = inputs[0]
    ctx.save_for_backward(*inputs[1:4], output)


def _view_colors_gradient(ctx: Any, v_colors: Tensor) -> tuple[Any, ...]:
    grads = torch.ops.diff_rasterizer.view_colors_backward(ctx.degree, *ctx.saved_tensors, v_colors)
    return None, *grads, None


define(
    "view_colors",
    "int degree, Tensor means, Tensor campos, Tensor coeffs, Tensor? radii",
    "Tensor colors",
    _view_colors,
    _view_colors_fake,
)
define(
    "view_colors_backward",
    "int degree, Tensor means, Tensor campos, Tensor coeffs, Tensor colors, Tensor v_colors",
    "Tensor v_means, Tensor v_campos, Tensor v_coeffs",
    _view_colors_backward,
    _view_colors_backward_fake,
)
differentiable("view_colors", _view_colors_setup, _view_colors_gradient)


# blend


def _blend(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    prepared: list[Any] = [ready(x) if isinstance(x, Tensor) else x for x in arguments]
    renders, alphas, state = cpu_kernels.blend(*prepared)
    bytes_ = torch.empty(state.n_bytes, dtype=torch.uint8)
    state.write(bytes_)
    return renders, alphas, bytes_


def _blend_fake(
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
) -> tuple[Tensor, Tensor, Tensor]:
    # How many (Gaussian, tile) pairs there are depends on the values.
    size = torch.library.get_ctx().new_dynamic_size(min=64)
    return (
        _f32(colors, n_images, height, width, colors.shape[1]),
        _f32(colors, n_images, height, width, 1),
        colors.new_empty(size, dtype=torch.uint8),
    )


def _blend_backward(
    state: Tensor, means2d: Tensor, backgrounds: Tensor | None, alphas: Tensor, v_renders: Tensor, v_alphas: Tensor
) -> tuple[Tensor, ...]:
    n_images, height, width, channels = v_renders.shape
    state = ready(state)
    if state.data_ptr() % 64:
        state = state.clone()
    rows = len(means2d)
    known = _cpu.BlendState.read(state, rows, n_images, width, height, channels)
    v_renders = ready(v_renders)
    grads = cpu_kernels.blend_backward(known, rows, maybe(backgrounds), v_renders, ready(v_alphas), False)
    v_backgrounds = v_renders.new_empty(0)
    if backgrounds is not None:
        v_backgrounds = (v_renders * (1.0 - alphas)).sum((1, 2))
    return *grads[:4], v_backgrounds


def _blend_backward_fake(
    state: Tensor, means2d: Tensor, backgrounds: Tensor | None, alphas: Tensor, v_renders: Tensor, v_alphas: Tensor
) -> tuple[Tensor, ...]:
    rows = means2d.shape[0]
    return (
        _f32(v_renders, rows, 2),
        _f32(v_renders, rows, 3),
        _f32(v_renders, rows, v_renders.shape[-1]),
        _f32(v_renders, rows),
        _f32(v_renders, 0) if backgrounds is None else _f32(v_renders, *backgrounds.shape),
    )


def _blend_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, alphas, state = output
    ctx.save_for_backward(state, inputs[0], inputs[10], alphas)


def _blend_gradient(ctx: Any, v_renders: Tensor, v_alphas: Tensor, _: Tensor) -> tuple[Any, ...]:
    *grads, v_backgrounds = torch.ops.diff_rasterizer.blend_backward(*ctx.saved_tensors, v_renders, v_alphas)
    return *grads, *[None] * 6, None if ctx.saved_tensors[2] is None else v_backgrounds


define("blend", _BLEND, "Tensor renders, Tensor alphas, Tensor state", _blend, _blend_fake)
define(
    "blend_backward",
    "Tensor state, Tensor means2d, Tensor? backgrounds, Tensor alphas, Tensor v_renders, Tensor v_alphas",
    "Tensor v_means2d, Tensor v_conics, Tensor v_colors, Tensor v_opacities, Tensor v_backgrounds",
    _blend_backward,
    _blend_backward_fake,
)
differentiable("blend", _blend_setup, _blend_gradient)
