"""Whole calls of `rasterization` on some backend and device against the reference in float64 on the CPU."""

from __future__ import annotations

from typing import Any

import torch
from rasterizer_scenes import make_scene, weighted_sum
from rasterizer_tolerances import assert_close_with_flips, assert_gradients_agree

from diff_rasterizer import rasterization

END_TO_END_OPTIONS: list[dict[str, Any]] = [
    {},
    {"packed": False},
    {"sh_degree": 3},
    {"sh_degree": 3, "packed": False, "render_mode": "RGB+ED", "rasterize_mode": "antialiased"},
    {"render_mode": "ED"},
    {"camera_model": "fisheye"},
    {"camera_model": "ortho", "render_mode": "RGB+D"},
]


def option_id(options: dict[str, Any]) -> str:
    return "-".join(f"{value}" for value in options.values()) or "default"


def assert_agrees_with_reference(
    backend: str,
    device: torch.device,
    options: dict[str, Any],
    backgrounds: bool = False,
    absgrad: bool = True,
    **scene_settings: Any,
) -> None:
    """Asserts equal images, alphas and gradients, those of `means2d` in meta included.

    `options` go to `rasterization`, `scene_settings` to `make_scene`; without `absgrad` the absolute gradients are not
    compared, which are exact up to 32 channels only.
    """
    shape = {k: options[k] for k in ("sh_degree", "camera_model") if k in options}
    scene = make_scene(**shape, **scene_settings, dtype=torch.float32)
    behind = None
    if backgrounds:
        channels = 3 if options.get("sh_degree") is not None else scene.colors.shape[-1]
        behind = torch.rand(*scene.viewmats.shape[:-2], channels, generator=torch.Generator().manual_seed(3))
    results = []
    for name, where, dtype in ((backend, device, torch.float32), ("reference", torch.device("cpu"), torch.float64)):
        x = scene.cast(dtype).on(where).with_gradients()
        given = None if behind is None else behind.to(where, dtype).clone().requires_grad_()
        renders, alphas, meta = rasterization(**x.arguments(), **options, backgrounds=given, absgrad=True, backend=name)
        assert renders.device == where and renders.dtype == dtype
        meta["means2d"].retain_grad()
        # Expected depth is a quotient; where nothing is seen its gradient is as large as rounding makes it.
        weighted_sum([renders * (alphas.detach() > 0.05), alphas]).backward()
        leaves = x.tensors() | ({} if given is None else {"backgrounds": given})
        grads = {key: None if value.grad is None else value.grad.cpu() for key, value in leaves.items()}
        means2d = meta["means2d"]
        results.append(
            (renders.detach().cpu(), alphas.detach().cpu(), grads, means2d.grad.cpu(), means2d.absgrad.cpu())
        )
    (renders, alphas, grads, *means2d), (ref_renders, ref_alphas, ref_grads, *ref_means2d) = results
    solid = ref_alphas > 0.05
    assert bool(solid.any()), "the scene should be seen"
    assert_close_with_flips(alphas, ref_alphas, atol=1e-4, flips=2e-3, flip_atol=2 / 255, name="alphas")
    shown = renders * solid
    assert_close_with_flips(shown, ref_renders * solid, atol=3e-4, rtol=3e-4, flips=4e-3, flip_atol=0.1, name="renders")
    for name, expected in ref_grads.items():
        assert_gradients_agree(grads[name], expected, relative=1e-2, cosine=0.999, name=name)
    if means2d[0].shape == ref_means2d[0].shape:
        for name, actual, expected in zip(("means2d", "absgrad"), means2d, ref_means2d, strict=True):
            if absgrad or name != "absgrad":
                assert_gradients_agree(actual, expected, relative=1e-2, cosine=0.999, name=name)
    else:
        assert options.get("packed", True), "dense meta always has one shape"
