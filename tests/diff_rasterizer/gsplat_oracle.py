"""gsplat 1.5.3's own torch code, made to run without CUDA and nerfacc.

Its reference renderer calls three things that exist only there: nerfacc's scan over rays and two CUDA functions that
give index lists. Stand-ins, written here or tested by themselves in `test_gsplat_conformance`, take their places.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

gsplat = pytest.importorskip("gsplat")

from gsplat import rendering  # noqa: E402
from gsplat.cuda import _torch_impl as torch_impl  # noqa: E402
from gsplat.cuda import _wrapper as wrapper  # noqa: E402

import diff_rasterizer  # noqa: E402

# torch.testing.assert_close arguments of gsplat 1.5.3's tests.
TOLERANCES: dict[str, dict[str, float]] = {
    "means2d of proj": {"rtol": 1e-4, "atol": 1e-4},
    "covars of proj": {"rtol": 1e-1, "atol": 3e-2},
    "projection": {"rtol": 1e-4, "atol": 1e-4},
    "compensations": {"rtol": 1e-4, "atol": 1e-3},
    "v_viewmats": {"rtol": 2e-3, "atol": 2e-3},
    "v_quats": {"rtol": 2e-1, "atol": 2e-2},
    "v_scales": {"rtol": 5e-1, "atol": 2e-1},
    "v_means": {"rtol": 1e-2, "atol": 6e-2},
    "pixels": {"rtol": 1.3e-6, "atol": 1e-5},
    "v_means2d": {"rtol": 5e-3, "atol": 5e-3},
    "v_conics": {"rtol": 1e-3, "atol": 1e-3},
    "v_colors": {"rtol": 1e-3, "atol": 1e-3},
    "v_opacities": {"rtol": 8e-3, "atol": 6e-3},
    "v_backgrounds": {"rtol": 1e-3, "atol": 1e-3},
    "spherical harmonics": {"rtol": 1e-4, "atol": 1e-4},
    "end to end": {"rtol": 1e-4, "atol": 1e-4},
}


def close(name: str, actual: Tensor | None, expected: Tensor | None, tolerance: str | None = None) -> None:
    """Asserts agreement within the tolerance that gsplat's tests give to `tolerance`, by default `name`."""
    assert actual is not None and expected is not None, name
    torch.testing.assert_close(actual, expected, **TOLERANCES[tolerance or name], msg=lambda text: f"{name}: {text}")


def _render_weight_from_alpha(alphas: Tensor, *, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    """nerfacc's function of that name, ray after ray: weights and the transmittance in front of each sample."""
    counts = torch.bincount(ray_indices, minlength=n_rays)
    width = int(counts.max()) if len(alphas) else 0
    column = torch.arange(len(alphas)) - (torch.cumsum(counts, 0) - counts)[ray_indices]
    through = torch.ones(n_rays, width + 1, dtype=alphas.dtype)
    through = through.index_put((ray_indices, column + 1), 1.0 - alphas)
    in_front = torch.cumprod(through, dim=1)[ray_indices, column]
    return alphas * in_front, in_front


def _accumulate_along_rays(weights: Tensor, values: Tensor | None, *, ray_indices: Tensor, n_rays: int) -> Tensor:
    source = weights[:, None] if values is None else weights[:, None] * values
    return source.new_zeros(n_rays, source.shape[1]).index_add(0, ray_indices, source)


@contextmanager
def without_cuda() -> Iterator[None]:
    """Replaces what gsplat's torch renderer takes from elsewhere."""
    nerfacc = types.ModuleType("nerfacc")
    nerfacc.render_weight_from_alpha = _render_weight_from_alpha  # type: ignore[attr-defined]
    nerfacc.accumulate_along_rays = _accumulate_along_rays  # type: ignore[attr-defined]

    def harmonics(degree: int, dirs: Tensor, coeffs: Tensor, masks: Tensor | None = None) -> Tensor:
        colors = torch_impl._spherical_harmonics(degree, dirs, coeffs)
        return colors if masks is None else torch.where(masks[..., None], colors, torch.zeros_like(colors))

    with (
        mock.patch.dict(sys.modules, {"nerfacc": nerfacc}),
        mock.patch.object(wrapper, "rasterize_to_indices_in_range", diff_rasterizer.rasterize_to_indices_in_range),
        mock.patch.object(rendering, "isect_tiles", diff_rasterizer.isect_tiles),
        mock.patch.object(rendering, "isect_offset_encode", diff_rasterizer.isect_offset_encode),
        mock.patch.object(rendering, "spherical_harmonics", harmonics),
    ):
        yield


def oracle_pixels(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """gsplat's `_rasterize_to_pixels`."""
    with without_cuda():
        return torch_impl._rasterize_to_pixels(*arguments, **options)


def oracle_rasterization(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """gsplat's `_rasterization`."""
    with without_cuda():
        return rendering._rasterization(*arguments, **options)
