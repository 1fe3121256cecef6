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

from . import _cpu  # torch is imported first, so that both use the same OpenMP runtime

_CAMERA_MODELS = {"pinhole": 0, "ortho": 1, "fisheye": 2}
# Rows and columns of the upper triangle of a symmetric 3x3 matrix, in the kernels' order.
_TRIANGLE = ([0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2])

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
    settings = (width, height, _CAMERA_MODELS[camera_model], eps2d, near_plane, far_plane, radius_clip)
    radii, means2d, depths, conics, compensations = _Project.apply(
        means, quats, scales, covars, opacities, viewmats, Ks, settings, compensate
    )  # pyright: ignore[reportGeneralTypeIssues]
    return radii, means2d, depths, conics, compensations if compensate else None


def view_colors(
    degree: int,
    means: Float[Tensor, "B N 3"],
    campos: Float[Tensor, "B C 3"],
    coeffs: Float[Tensor, "B N K 3"] | Float[Tensor, "B C N K 3"],
    radii: Int[Tensor, "B C N 2"] | None,
) -> Float[Tensor, "B C N 3"]:
    """Returns max(SH(view direction) + 0.5, 0) of every Gaussian in every camera; zeros where the radii are zero."""
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
    """
    channels, limit = colors.shape[-1], _cpu.MAX_CHANNELS
    # Absolute gradients of each pass; a later backward replaces those of an earlier one.
    absgrads: dict[int, Tensor] = {}
    renders, alphas = [], None
    for begin in range(0, channels, limit):
        part = slice(begin, begin + limit)
        background = None if backgrounds is None else backgrounds[:, part]
        render, alpha = _Blend.apply(
            means2d, conics, colors[:, part], opacities, depths, radii, image_ids, n_images, width, height, background,
            begin if absgrad else None, absgrads,
        )  # fmt: skip
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


def _ready(x: Tensor) -> Tensor:
    """Returns `x` as the extension takes it: contiguous and outside autograd."""
    return x.detach().contiguous()


def _maybe(x: Tensor | None) -> Tensor | None:
    return None if x is None else _ready(x)


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
        settings: tuple[Any, ...],
        compensate: bool,
    ) -> tuple[Tensor, ...]:
        B, N = means.shape[:2]
        C = viewmats.shape[1]
        triangles = None if covars is None else _ready(covars[..., _TRIANGLE[0], _TRIANGLE[1]])
        inputs = [_ready(means), _maybe(quats), _maybe(scales), triangles]
        cameras = [_ready(viewmats), _ready(Ks)]
        radii = torch.empty(B, C, N, 2, dtype=torch.int32)
        means2d, depths, conics = torch.empty(B, C, N, 2), torch.empty(B, C, N), torch.empty(B, C, N, 3)
        compensations = torch.empty(B, C, N) if compensate else None
        outputs = [radii, means2d, depths, conics, compensations]
        _cpu.project_forward(*inputs, _maybe(opacities), *cameras, *settings, *outputs, torch.get_num_threads())
        ctx.save_for_backward(*inputs, *cameras, *outputs)
        ctx.settings = settings
        ctx.mark_non_differentiable(radii)
        # Autograd functions return tensors only.
        return radii, means2d, depths, conics, means.new_empty(0) if compensations is None else compensations

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        means, quats, scales, triangles, viewmats, Ks, radii, means2d, depths, conics, compensations = ctx.saved_tensors
        _, v_means2d, v_depths, v_conics, v_compensations = grads
        B, N = means.shape[:2]
        C = viewmats.shape[1]
        width, height, model, eps2d = ctx.settings[:4]
        v_means = torch.zeros_like(means)
        v_quats = None if triangles is not None else torch.zeros_like(quats)
        v_scales = None if triangles is not None else torch.zeros_like(scales)
        v_triangles = None if triangles is None else torch.zeros_like(triangles)
        chunks = -(-N // _cpu.CHUNK)
        v_views = torch.empty(B, chunks, C, 3, 4)
        _cpu.project_backward(
            means, quats, scales, triangles, viewmats, Ks, width, height, model, eps2d,
            radii, means2d, depths, conics, compensations,
            _ready(v_means2d), _ready(v_depths), _ready(v_conics),
            None if compensations is None else _ready(v_compensations),
            v_means, v_quats, v_scales, v_triangles, v_views, torch.get_num_threads(),
        )  # fmt: skip
        v_covars = None
        if v_triangles is not None:
            v_covars = means.new_empty(B, N, 3, 3)
            v_covars[..., _TRIANGLE[0], _TRIANGLE[1]] = v_triangles
            v_covars[..., _TRIANGLE[1], _TRIANGLE[0]] = v_triangles
        v_viewmats = None
        if ctx.needs_input_grad[5]:
            v_viewmats = torch.nn.functional.pad(v_views.sum(1), (0, 0, 0, 1))
        # Opacities only decide what is drawn.
        return v_means, v_quats, v_scales, v_covars, None, v_viewmats, None, None, None


class _ViewColors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, degree: int, means: Tensor, campos: Tensor, coeffs: Tensor, radii: Tensor | None) -> Tensor:
        means, campos, coeffs = _ready(means), _ready(campos), _ready(coeffs)
        colors = torch.empty(means.shape[0], campos.shape[1], means.shape[1], 3)
        _cpu.colors_forward(degree, means, campos, coeffs, _maybe(radii), colors, torch.get_num_threads())
        ctx.save_for_backward(means, campos, coeffs, colors)
        ctx.degree = degree
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_colors: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        means, campos, coeffs, colors = ctx.saved_tensors
        v_means, v_coeffs = torch.zeros_like(means), torch.zeros_like(coeffs)
        v_campos = torch.empty(means.shape[0], -(-means.shape[1] // _cpu.CHUNK), campos.shape[1], 3)
        _cpu.colors_backward(
            ctx.degree, means, campos, coeffs, colors, _ready(v_colors), v_coeffs, v_means, v_campos,
            torch.get_num_threads(),
        )  # fmt: skip
        return None, v_means, v_campos.sum(1), v_coeffs, None


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
        renders = torch.empty(n_images, height, width, colors.shape[1])
        alphas = torch.empty(n_images, height, width, 1)
        ctx.state = _cpu.blend_forward(
            _ready(means2d), _ready(conics), _ready(colors), _ready(opacities), _ready(depths), _ready(radii),
            _ready(image_ids), n_images, width, height, _maybe(backgrounds), renders, alphas, None,
            torch.get_num_threads(),
        )  # fmt: skip
        # means2d is kept as it came: `.absgrad` is set on the caller's tensor.
        ctx.save_for_backward(means2d, backgrounds, alphas)
        ctx.absgrad_key, ctx.absgrads = absgrad_key, absgrads
        ctx.channels = colors.shape[1]
        return renders, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_renders: Tensor, v_alphas: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        means2d, backgrounds, alphas = ctx.saved_tensors
        rows = len(means2d)
        v_renders = _ready(v_renders)
        v_means2d, v_conics = torch.zeros(rows, 2), torch.zeros(rows, 3)
        v_colors, v_opacities = torch.zeros(rows, ctx.channels), torch.zeros(rows)
        v_abs = None if ctx.absgrad_key is None else torch.zeros(rows, 2)
        _cpu.blend_backward(
            ctx.state, _maybe(backgrounds), v_renders, _ready(v_alphas), v_means2d, v_abs, v_conics, v_colors,
            v_opacities, torch.get_num_threads(),
        )  # fmt: skip
        if v_abs is not None:
            ctx.absgrads[ctx.absgrad_key] = v_abs
            means2d.absgrad = sum(ctx.absgrads.values())
        v_backgrounds = None
        if backgrounds is not None and ctx.needs_input_grad[10]:
            v_backgrounds = (v_renders * (1.0 - alphas)).sum((1, 2))
        return (
            v_means2d, v_conics, v_colors, v_opacities, None, None, None, None, None, None, v_backgrounds, None, None,
        )  # fmt: skip
