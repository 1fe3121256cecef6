"""Whatever the values are, the output and the gradients are finite."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rasterizer_scenes import Scene, make_scene, weighted_sum

from diff_rasterizer import rasterization

EVIL = [math.nan, math.inf, -math.inf, 0.0, -1.0, 1e-45, 1e-30, 1e-12, 1e6, 1e18]
HUGE = [1e30, 3e38, -3e38]
GEOMETRY = st.tuples(
    st.sampled_from(["means", "quats", "scales", "opacities"]),
    st.integers(0, 11),
    st.booleans(),
    st.sampled_from(EVIL + HUGE),
)
# A huge finite colour makes gradients that float32 cannot hold, and rightly so.
COLORS = st.tuples(st.just("colors"), st.integers(0, 11), st.booleans(), st.sampled_from(EVIL))
POISON = st.lists(st.one_of(GEOMETRY, GEOMETRY, GEOMETRY, COLORS), max_size=8)
OPTIONS = st.fixed_dictionaries(
    {
        "camera_model": st.sampled_from(["pinhole", "ortho", "fisheye"]),
        "rasterize_mode": st.sampled_from(["classic", "antialiased"]),
        "render_mode": st.sampled_from(["RGB", "D", "ED", "RGB+D", "RGB+ED"]),
        "packed": st.booleans(),
        "sh_degree": st.sampled_from([None, 0, 3]),
        "absgrad": st.booleans(),
        "eps2d": st.sampled_from([0.3, 0.0]),
        "near_plane": st.sampled_from([0.01, -1e10]),
    }
)


def poisoned(sh_degree: int | None, poison: list[tuple[str, int, bool, float]]) -> Scene:
    """Returns a scene of 12 Gaussians where some rows have one element, or all, replaced."""
    scene = make_scene(n=12, cameras=2, width=20, height=18, focal=18.0, sh_degree=sh_degree, dtype=torch.float32)
    for name, row, whole, value in poison:
        entries = getattr(scene, name)[row]
        if whole or entries.ndim == 0:
            entries.fill_(value)
        else:
            entries.flatten()[0] = value
    return scene


def finite(x: torch.Tensor | None) -> bool:
    return x is None or bool(torch.isfinite(x).all())


@pytest.mark.parametrize("backend_name", ["reference", "cpu"])
@given(poison=POISON, options=OPTIONS)
def test_output_and_gradients_are_finite(
    request: pytest.FixtureRequest, backend_name: str, poison: list[Any], options: dict[str, Any]
) -> None:
    if backend_name == "cpu":
        request.getfixturevalue("cpu_backend")
    clean = poisoned(options["sh_degree"], poison)
    scene = clean.with_gradients()
    renders, alphas, meta = rasterization(**scene.arguments(), **options, backend=backend_name)
    assert finite(renders) and finite(alphas)
    assert float(alphas.detach().min()) >= 0.0 and float(alphas.detach().max()) <= 1.0
    assert finite(meta["means2d"]) and finite(meta["conics"]) and finite(meta["depths"])
    assert int(meta["isect_offsets"].flatten()[-1]) <= len(meta["isect_ids"])
    loss = weighted_sum([renders, alphas])
    if not loss.requires_grad:
        return
    loss.backward()
    good = torch.tensor([i for i in range(12) if i not in {row for _, row, _, _ in poison}])
    for name in ("means", "quats", "scales", "opacities", "colors"):
        grad = scene.tensors()[name].grad
        if grad is None:
            continue
        assert finite(grad[good]), f"{name}: a healthy row got a gradient that is not finite"
        broken = ~torch.isfinite(clean.tensors()[name])
        if name != "colors":
            # One bad number makes the Gaussian invisible; a colour's other channels are still drawn.
            broken = broken.reshape(12, -1).any(-1)
        assert float(grad[broken].abs().sum()) == 0.0, f"{name}: what is not finite must get no gradient"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("sh_degree", [None, 2])
@pytest.mark.parametrize("render_mode", ["RGB", "ED", "RGB+D"])
def test_no_gaussians(backend: str, packed: bool, sh_degree: int | None, render_mode: str) -> None:
    scene = make_scene(n=0, cameras=2, sh_degree=sh_degree, dtype=torch.float32).with_gradients()
    backgrounds = torch.rand(2, 3)
    renders, alphas, meta = rasterization(
        **scene.arguments(),
        packed=packed,
        sh_degree=sh_degree,
        render_mode=render_mode,
        backgrounds=backgrounds,
        absgrad=True,
        backend=backend,
    )
    assert alphas.shape == (2, 35, 45, 1) and float(alphas.detach().abs().max()) == 0.0
    if render_mode == "ED":
        assert float(renders.detach().abs().max()) == 0.0
    else:
        torch.testing.assert_close(renders[..., :3], backgrounds[:, None, None].expand(2, 35, 45, 3))
    if renders.requires_grad:
        renders.sum().backward()
    assert meta["means2d"].shape == ((0, 2) if packed else (2, 0, 2)) and len(meta["isect_ids"]) == 0


@pytest.mark.parametrize("packed", [True, False])
def test_nothing_visible(backend: str, packed: bool) -> None:
    scene = make_scene(n=10, dtype=torch.float32)
    scene = Scene(**(scene.arguments() | {"means": scene.means - 100.0})).with_gradients()
    renders, alphas, meta = rasterization(**scene.arguments(), packed=packed, absgrad=True, backend=backend)
    meta["means2d"].retain_grad()
    (renders.sum() + alphas.sum()).backward()
    assert float(renders.detach().abs().max()) == float(alphas.detach().abs().max()) == 0.0
    for name in ("means", "quats", "scales", "opacities", "colors", "viewmats"):
        grad = scene.tensors()[name].grad
        assert grad is None or float(grad.abs().max()) == 0.0
    assert meta["means2d"].absgrad.shape == meta["means2d"].shape


def test_a_broken_row_leaves_the_others_as_they_are(backend: str) -> None:
    scene = make_scene(n=40, cameras=2, sh_degree=2, dtype=torch.float32)
    keep = torch.ones(40, dtype=torch.bool)
    changed = {k: v.clone() for k, v in scene.tensors().items()}
    for row, (name, value) in enumerate(
        [("means", math.nan), ("quats", 0.0), ("scales", math.inf), ("opacities", math.nan), ("means", math.inf)]
    ):
        changed[name][row] = value
        keep[row] = False
    broken = Scene(**(scene.arguments() | changed)).with_gradients()
    names = ("means", "quats", "scales", "opacities", "colors")
    without = Scene(**(scene.arguments() | {k: getattr(scene, k)[keep] for k in names})).with_gradients()
    results = []
    for x in (broken, without):
        renders, alphas, _ = rasterization(**x.arguments(), sh_degree=2, rasterize_mode="antialiased", backend=backend)
        weighted_sum([renders, alphas]).backward()
        results.append((renders, x))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-6, rtol=0)
    for name in names:
        a, b = (r[1].tensors()[name].grad for r in results)
        torch.testing.assert_close(a[keep], b, atol=1e-4, rtol=1e-4)  # type: ignore[index]
        assert float(a[~keep].abs().max()) == 0.0  # type: ignore[index]


def test_huge_gaussians_and_many_channels(backend: str) -> None:
    scene = make_scene(n=10, channels=50, scale=1e4, dtype=torch.float32).with_gradients()
    renders, _, _ = rasterization(**scene.arguments(), backend=backend)
    renders.sum().backward()
    assert finite(renders) and finite(scene.means.grad) and finite(scene.scales.grad)


def test_a_one_pixel_image(backend: str) -> None:
    scene = make_scene(n=10, width=1, height=1, dtype=torch.float32)
    renders, _, meta = rasterization(**scene.arguments(), backend=backend)
    assert renders.shape == (1, 1, 1, 3) and finite(renders) and meta["isect_offsets"].shape == (1, 1, 1)
