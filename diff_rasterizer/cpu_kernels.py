"""The extension's kernels as functions from tensors to tensors, outside autograd.

Two callers share them: the autograd nodes of `cpu` and the operators of `cpu_ops`. Arguments must be contiguous
float32 tensors on the CPU that need no gradient (`ready`); the extension checks their sizes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import _cpu  # torch is imported first, so that both use the same OpenMP runtime

CAMERA_MODELS = {"pinhole": 0, "ortho": 1, "fisheye": 2}
# Rows and columns of the upper triangle of a symmetric 3x3 matrix, in the kernels' order.
_TRIANGLE = ([0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2])


class ProjectSettings(NamedTuple):
    """What `project` needs besides tensors."""

    width: int
    height: int
    eps2d: float
    near_plane: float
    far_plane: float
    radius_clip: float
    camera_model: str
    compensate: bool


def ready(x: Tensor) -> Tensor:
    """Returns `x` as the extension takes it: contiguous and outside autograd."""
    return x.detach().contiguous()


def maybe(x: Tensor | None) -> Tensor | None:
    """Returns `ready(x)`, or None."""
    return None if x is None else ready(x)


def triangles_of(covars: Tensor | None) -> Tensor | None:
    """Returns the upper triangles [B, N, 6] of symmetric matrices [B, N, 3, 3]."""
    return None if covars is None else ready(covars[..., _TRIANGLE[0], _TRIANGLE[1]])


def symmetric_of(triangles: Tensor) -> Tensor:
    """Returns matrices [B, N, 3, 3] that hold the entries [B, N, 6] above and below the diagonal."""
    matrices = triangles.new_empty(*triangles.shape[:-1], 3, 3)
    matrices[..., _TRIANGLE[0], _TRIANGLE[1]] = triangles
    matrices[..., _TRIANGLE[1], _TRIANGLE[0]] = triangles
    return matrices


def project(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    triangles: Tensor | None,
    opacities: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    settings: ProjectSettings,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Returns radii, means2d, depths, conics and, if wanted, compensations; shapes as in `cpu.project`."""
    B, N = means.shape[:2]
    C = viewmats.shape[1]
    radii = torch.empty(B, C, N, 2, dtype=torch.int32)
    means2d, depths, conics = torch.empty(B, C, N, 2), torch.empty(B, C, N), torch.empty(B, C, N, 3)
    compensations = torch.empty(B, C, N) if settings.compensate else None
    _cpu.project_forward(
        means, quats, scales, triangles, opacities, viewmats, Ks, settings.width, settings.height,
        CAMERA_MODELS[settings.camera_model], settings.eps2d, settings.near_plane, settings.far_plane,
        settings.radius_clip, radii, means2d, depths, conics, compensations, torch.get_num_threads(),
    )  # fmt: skip
    return radii, means2d, depths, conics, compensations


def project_backward(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    triangles: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    outputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None],
    grads: tuple[Tensor, Tensor, Tensor, Tensor | None],
    settings: ProjectSettings,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """Returns the gradients of means, quats, scales, triangles and viewmats.

    Args:
        outputs: what `project` returned.
        grads: gradients of means2d, depths, conics and compensations.
    """
    B, N = means.shape[:2]
    C = viewmats.shape[1]
    v_means = torch.zeros_like(means)
    v_quats = None if quats is None or triangles is not None else torch.zeros_like(quats)
    v_scales = None if scales is None or triangles is not None else torch.zeros_like(scales)
    v_triangles = None if triangles is None else torch.zeros_like(triangles)
    v_views = torch.empty(B, -(-N // _cpu.CHUNK), C, 3, 4)
    _cpu.project_backward(
        means, quats, scales, triangles, viewmats, Ks, settings.width, settings.height,
        CAMERA_MODELS[settings.camera_model], settings.eps2d, *outputs, *grads,
        v_means, v_quats, v_scales, v_triangles, v_views, torch.get_num_threads(),
    )  # fmt: skip
    return v_means, v_quats, v_scales, v_triangles, torch.nn.functional.pad(v_views.sum(1), (0, 0, 0, 1))


def view_colors(degree: int, means: Tensor, campos: Tensor, coeffs: Tensor, radii: Tensor | None) -> Tensor:
    """Returns colours [B, C, N, 3]."""
    colors = torch.empty(means.shape[0], campos.shape[1], means.shape[1], 3)
    _cpu.colors_forward(degree, means, campos, coeffs, radii, colors, torch.get_num_threads())
    return colors


def view_colors_backward(
    degree: int, means: Tensor, campos: Tensor, coeffs: Tensor, colors: Tensor, v_colors: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of means, campos and coeffs."""
    v_means, v_coeffs = torch.zeros_like(means), torch.zeros_like(coeffs)
    v_campos = torch.empty(means.shape[0], -(-means.shape[1] // _cpu.CHUNK), campos.shape[1], 3)
    _cpu.colors_backward(
        degree, means, campos, coeffs, colors, v_colors, v_coeffs, v_means, v_campos, torch.get_num_threads()
    )
    return v_means, v_campos.sum(1), v_coeffs


def blend(
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
) -> tuple[Tensor, Tensor, _cpu.BlendState]:
    """Returns renders [I, H, W, D], alphas [I, H, W, 1] and what the backward needs."""
    renders = torch.empty(n_images, height, width, colors.shape[1])
    alphas = torch.empty(n_images, height, width, 1)
    state = _cpu.blend_forward(
        means2d, conics, colors, opacities, depths, radii, image_ids, n_images, width, height, backgrounds, renders,
        alphas, None, torch.get_num_threads(),
    )  # fmt: skip
    return renders, alphas, state


def blend_backward(
    state: _cpu.BlendState,
    rows: int,
    backgrounds: Tensor | None,
    v_renders: Tensor,
    v_alphas: Tensor,
    absgrad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Returns the gradients of means2d, conics, colors and opacities, and the absolute one of means2d if wanted."""
    v_means2d, v_conics = torch.zeros(rows, 2), torch.zeros(rows, 3)
    v_colors, v_opacities = torch.zeros(rows, v_renders.shape[-1]), torch.zeros(rows)
    v_abs = torch.zeros(rows, 2) if absgrad else None
    _cpu.blend_backward(
        state, backgrounds, v_renders, v_alphas, v_means2d, v_abs, v_conics, v_colors, v_opacities,
        torch.get_num_threads(),
    )  # fmt: skip
    return v_means2d, v_conics, v_colors, v_opacities, v_abs
