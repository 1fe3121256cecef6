"""The `gsplat` backend: hands the whole call to gsplat's CUDA rasterizer where that works."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import torch
from torch import Tensor


def unavailable() -> str:
    """Returns why gsplat cannot run on this machine, "" when it can.

    gsplat imports without a GPU and fails at its first operation, so its extension is imported here. That may compile
    it, which takes minutes the first time; nothing is compiled where torch sees no GPU.
    """
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU, and gsplat has no CPU code"
    if importlib.util.find_spec("gsplat") is None:
        return "gsplat is not installed; `pip install gaussian4d[gsplat]`"
    try:
        extension = importlib.import_module("gsplat.cuda._backend")._C
    # Its build raises whatever the compiler, the loader or a missing package raised.
    except Exception as error:
        return f"gsplat's CUDA extension does not load ({type(error).__name__}: {error})"
    return "" if extension is not None else "gsplat found no CUDA toolkit to build its extension with"


def rasterize(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    opacities: Tensor,
    colors: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int | None,
    render_mode: str,
    **options: Any,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Returns gsplat's own (renders, alphas, meta); arguments as in `rasterization`, already checked."""
    gsplat = importlib.import_module("gsplat")
    if colors is None:
        # gsplat 1.5.3 reads the shape of colors even where it renders only depth.
        colors, sh_degree = means.new_zeros(*means.shape[:-1], 1), None
    return gsplat.rasterization(
        means,
        quats,
        scales,
        opacities,
        colors,
        viewmats,
        Ks,
        width,
        height,
        sh_degree=sh_degree,
        render_mode=render_mode,
        **options,
    )
