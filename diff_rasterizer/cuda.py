"""The `cuda` backend: the three rasterizer operations as autograd nodes over CUDA kernels.

Same functions as `diff_rasterizer.reference`, float32 only. Memory, sorts and scans are torch's; everything else is a
kernel of `csrc/cuda`, launched through `cuda_launch.launcher`. Blending adds gradients atomically, so they repeat up to
rounding; the rest repeats bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from .cuda_blend import blend as blend
from .cuda_launch import launcher
from .cuda_tiles import BLOCK, launch_rows

_CAMERA_MODELS = {"pinhole": 0, "ortho": 1, "fisheye": 2}
# Rows and columns of the upper triangle of a symmetric 3x3 matrix, in the kernels' order.
_TRIANGLE = ([0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2])


@dataclass(frozen=True)
class _ProjectSettings:
    """What shapes a projection besides its tensors."""

    width: int
    height: int
    camera_model: str
    eps2d: float
    near_plane: float
    far_plane: float
    radius_clip: float
    compensate: bool
    sh_degree: int = -1
    activations: bool = False

    @property
    def macros(self) -> dict[str, int]:
        return {"GD_SH_DEGREE": self.sh_degree, "GD_ACTIVATIONS": int(self.activations)}

    def camera(self) -> list[np.generic]:
        return [np.int32(self.width), np.int32(self.height), np.int32(_CAMERA_MODELS[self.camera_model])]


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
    settings = _ProjectSettings(
        width, height, camera_model, eps2d, near_plane, far_plane, radius_clip, compensate
    )  # fmt: skip
    opacities = None if opacities is None else opacities.detach()
    radii, means2d, depths, conics, compensations, _, _ = _Project.apply(
        means, quats, scales, covars, opacities, viewmats, Ks, None, None, settings
    )  # pyright: ignore[reportGeneralTypeIssues]
    return radii, means2d, depths, conics, compensations if compensate else None


def project_with_colors(
    means: Float[Tensor, "B N 3"],
    quats: Float[Tensor, "B N 4"],
    scales: Float[Tensor, "B N 3"],
    opacities: Float[Tensor, "B N"],
    viewmats: Float[Tensor, "B C 4 4"],
    Ks: Float[Tensor, "B C 3 3"],
    campos: Float[Tensor, "B C 3"],
    coeffs: Float[Tensor, "B N K 3"],
    degree: int,
    width: int,
    height: int,
    *,
    eps2d: float,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    camera_model: str,
    compensate: bool,
    activations: bool = False,
) -> tuple[Int[Tensor, "B C N 2"], Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Returns radii, means2d, depths, conics, opacities [B, C, N], colors [B, C, N, 3]: `project` and `view_colors` in
    one launch, forward and backward.

    The opacities are those seen: times the compensation with `compensate`, which is 0 for what is not drawn. Gradients
    flow through those of the rows that are drawn. With `activations`, `scales` are logarithms and `opacities` logits.
    """
    settings = _ProjectSettings(
        width, height, camera_model, eps2d, near_plane, far_plane, radius_clip, compensate, degree, activations
    )  # fmt: skip
    radii, means2d, depths, conics, _, seen, colors = _Project.apply(
        means, quats, scales, None, opacities, viewmats, Ks, campos, coeffs, settings
    )  # pyright: ignore[reportGeneralTypeIssues]
    return radii, means2d, depths, conics, seen, colors


def view_colors(
    degree: int,
    means: Float[Tensor, "B N 3"],
    campos: Float[Tensor, "B C 3"],
    coeffs: Float[Tensor, "B N K 3"] | Float[Tensor, "B C N K 3"],
    radii: Int[Tensor, "B C N 2"] | None,
) -> Float[Tensor, "B C N 3"]:
    """Returns max(SH(view direction) + 0.5, 0) of every Gaussian in every camera; zeros where the radii are zero."""
    return _ViewColors.apply(degree, means, campos, coeffs, radii)  # pyright: ignore[reportReturnType]


def _ready(x: Tensor) -> Tensor:
    """Returns `x` as the kernels take it: contiguous and outside autograd."""
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
        campos: Tensor | None,
        coeffs: Tensor | None,
        settings: _ProjectSettings,
    ) -> tuple[Tensor, ...]:
        s = settings
        B, N = means.shape[:2]
        C = viewmats.shape[1]
        triangles = None if covars is None else _ready(covars[..., _TRIANGLE[0], _TRIANGLE[1]])
        inputs = [_ready(means), _maybe(quats), _maybe(scales), triangles, _maybe(opacities)]
        cameras = [_ready(viewmats), _ready(Ks)]
        radii = torch.empty(B, C, N, 2, dtype=torch.int32, device=means.device)
        means2d, depths, conics = (means.new_empty(B, C, N, *tail) for tail in ((2,), (), (3,)))
        compensations = means.new_empty(B, C, N) if s.compensate else None
        seen = colors = None
        if coeffs is not None:
            seen, colors = means.new_empty(B, C, N), means.new_empty(B, C, N, 3)
        lit = [_maybe(campos), _maybe(coeffs), np.int32(0 if coeffs is None else coeffs.shape[-2]), colors]
        launch_rows(
            means.device, "project", "project_gaussians", B * C * N,
            [
                np.int32(B), np.int32(C), np.int32(N), *inputs, *cameras, *s.camera(), np.float32(s.eps2d),
                np.float32(s.near_plane), np.float32(s.far_plane), np.float32(s.radius_clip), np.int32(s.compensate),
                radii, means2d, depths, conics, compensations, seen, *lit,
            ],
            s.macros,
        )  # fmt: skip
        ctx.save_for_backward(*inputs, *cameras, lit[0], lit[1], radii, conics, compensations, colors)
        ctx.settings = s
        ctx.mark_non_differentiable(radii)
        # Autograd functions return tensors only.
        none = means.new_empty(0)
        return radii, means2d, depths, conics, *(none if x is None else x for x in (compensations, seen, colors))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        s: _ProjectSettings = ctx.settings
        saved = ctx.saved_tensors
        (
            means,
            quats,
            scales,
            triangles,
            opacities,
            viewmats,
            Ks,
            campos,
            coeffs,
            radii,
            conics,
            compensations,
            colors,
        ) = saved
        _, v_means2d, v_depths, v_conics, v_compensations, v_seen, v_colors = grads
        B, N = means.shape[:2]
        C = viewmats.shape[1]
        blocks = -(-N // BLOCK)
        v_means = torch.empty_like(means)
        v_quats, v_scales = (None, None) if triangles is not None else (torch.empty_like(x) for x in (quats, scales))
        v_triangles = None if triangles is None else torch.empty_like(triangles)
        v_opacities = v_coeffs = None
        if coeffs is not None:
            v_opacities, v_coeffs = torch.empty_like(opacities), torch.zeros_like(coeffs)
        v_views = means.new_empty(B, blocks, C, 3, 4) if ctx.needs_input_grad[5] else None
        v_campos = means.new_empty(B, blocks, C, 3) if ctx.needs_input_grad[7] else None
        if B * C * N:
            launcher(means.device).launch(
                "project", "project_gaussians_backward", (B * blocks, 1, 1), (BLOCK, 1, 1),
                [
                    np.int32(C), np.int32(N), means, quats, scales, triangles, opacities, viewmats, Ks, *s.camera(),
                    np.float32(s.eps2d), radii, conics, compensations, _ready(v_means2d), _ready(v_depths),
                    _ready(v_conics), _ready(v_compensations) if compensations is not None else None,
                    _ready(v_seen) if coeffs is not None else None, campos, coeffs,
                    np.int32(0 if coeffs is None else coeffs.shape[-2]), colors,
                    _ready(v_colors) if coeffs is not None else None, v_means, v_quats, v_scales, v_triangles,
                    v_opacities, v_coeffs, v_views, v_campos,
                ],
                s.macros,
            )  # fmt: skip
        else:
            for x in (v_means, v_quats, v_scales, v_triangles, v_opacities):
                if x is not None:
                    x.zero_()
        v_covars = None
        if v_triangles is not None:
            v_covars = means.new_empty(B, N, 3, 3)
            v_covars[..., _TRIANGLE[0], _TRIANGLE[1]] = v_triangles
            v_covars[..., _TRIANGLE[1], _TRIANGLE[0]] = v_triangles
        v_viewmats = None if v_views is None else torch.nn.functional.pad(v_views.sum(1), (0, 0, 0, 1))
        v_centers = None if v_campos is None else v_campos.sum(1)
        return v_means, v_quats, v_scales, v_covars, v_opacities, v_viewmats, None, v_centers, v_coeffs, None


class _ViewColors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, degree: int, means: Tensor, campos: Tensor, coeffs: Tensor, radii: Tensor | None) -> Tensor:
        means, campos, coeffs = _ready(means), _ready(campos), _ready(coeffs)
        B, C, N = means.shape[0], campos.shape[1], means.shape[1]
        colors = means.new_empty(B, C, N, 3)
        sizes = [np.int32(C), np.int32(N), np.int32(coeffs.shape[-2]), np.int32(coeffs.ndim == 5)]
        launch_rows(
            means.device, "colors", "colors_forward", B * C * N,
            [np.int32(B), *sizes, means, campos, coeffs, _maybe(radii), colors], {"GD_SH_DEGREE": degree},
        )  # fmt: skip
        ctx.save_for_backward(means, campos, coeffs, colors)
        ctx.degree, ctx.sizes = degree, sizes
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_colors: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        means, campos, coeffs, colors = ctx.saved_tensors
        B, C, N = means.shape[0], campos.shape[1], means.shape[1]
        blocks = -(-N // BLOCK)
        v_means, v_coeffs = torch.zeros_like(means), torch.zeros_like(coeffs)
        v_campos = means.new_empty(B, blocks, C, 3) if ctx.needs_input_grad[2] else None
        if B * C * N:
            launcher(means.device).launch(
                "colors", "colors_backward", (B * blocks, 1, 1), (BLOCK, 1, 1),
                [*ctx.sizes, means, campos, coeffs, colors, _ready(v_colors), v_coeffs, v_means, v_campos],
                {"GD_SH_DEGREE": ctx.degree},
            )  # fmt: skip
        return None, v_means, None if v_campos is None else v_campos.sum(1), v_coeffs, None
