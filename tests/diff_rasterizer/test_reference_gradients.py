"""The reference's autograd against finite differences in float64, on scenes away from the cut-offs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rasterizer_scenes import Scene, make_scene, weighted_sum
from torch import Tensor

from diff_rasterizer import rasterization, spherical_harmonics
from diff_rasterizer.reference import cameras

STEP = 1e-6


def assert_matches_differences(function: Callable[[Tensor], Tensor], x: Tensor, name: str) -> None:
    """Asserts that d function / dx by autograd equals central differences in the elements of x, at most 64 of them."""
    x = x.detach().clone().requires_grad_()
    (analytic,) = torch.autograd.grad(function(x), x)
    assert float(analytic.abs().max()) > 1e-3, f"{name}: a zero gradient proves nothing"
    elements = torch.randperm(x.numel(), generator=torch.Generator().manual_seed(0))[:64]
    numeric = torch.zeros(len(elements), dtype=x.dtype)
    with torch.no_grad():
        for k, i in enumerate(elements.tolist()):
            moved = []
            for sign in (1.0, -1.0):
                probe = x.detach().clone()
                probe.view(-1)[i] += sign * STEP
                moved.append(function(probe))
            numeric[k] = (moved[0] - moved[1]) / (2 * STEP)
    atol = 2e-6 * float(analytic.abs().max())
    torch.testing.assert_close(
        analytic.flatten()[elements], numeric, rtol=2e-5, atol=atol, msg=lambda text: f"{name}: {text}"
    )


def check_inputs(scene: Scene, names: tuple[str, ...], extra: dict[str, Tensor] | None = None, **options: Any) -> None:
    """Checks the gradient of renders and alphas with respect to each named input."""
    arguments = scene.arguments() | (extra or {})
    for name in names:

        def loss(value: Tensor, name: str = name) -> Tensor:
            changed = arguments | {name: value}
            renders, alphas, _ = rasterization(**changed, **options, backend="reference")
            return weighted_sum([renders, alphas])

        assert_matches_differences(loss, arguments[name], name)


ALL = ("means", "quats", "scales", "opacities", "colors", "viewmats")


def small_scene(**options: Any) -> Scene:
    return make_scene(n=6, width=14, height=11, focal=14.0, scale=0.5, **options)


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
@pytest.mark.parametrize("camera_model", ["pinhole", "ortho", "fisheye"])
def test_every_input_in_every_camera_model(camera_model: str, rasterize_mode: str) -> None:
    scene = small_scene(camera_model=camera_model, seed=1)
    check_inputs(scene, ALL, camera_model=camera_model, rasterize_mode=rasterize_mode)


@pytest.mark.parametrize("packed", [True, False])
def test_harmonics_of_degree_4_through_the_view_direction(packed: bool) -> None:
    scene = small_scene(sh_degree=4, cameras=2, seed=2)
    check_inputs(scene, ("means", "colors", "viewmats"), sh_degree=4, packed=packed)


def test_covariances() -> None:
    scene = small_scene(seed=3)
    factor = 0.3 * torch.randn(6, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(factor: Tensor) -> Tensor:
        arguments = scene.arguments() | {"quats": None, "scales": None, "covars": factor @ factor.mT}
        renders, alphas, _ = rasterization(**arguments, backend="reference", rasterize_mode="antialiased")
        return weighted_sum([renders, alphas])

    assert_matches_differences(loss, factor, "covars")


@pytest.mark.parametrize("render_mode", ["D", "ED", "RGB+D", "RGB+ED"])
def test_depth_modes(render_mode: str) -> None:
    names = ("means", "opacities", "viewmats") + (("colors",) if "RGB" in render_mode else ())
    check_inputs(small_scene(seed=4), names, render_mode=render_mode)


@pytest.mark.parametrize("render_mode", ["RGB", "RGB+ED"])
def test_backgrounds(render_mode: str) -> None:
    backgrounds = torch.tensor([[0.3, 0.8, 0.1]], dtype=torch.float64)
    check_inputs(
        small_scene(seed=5), ("backgrounds", "opacities"), {"backgrounds": backgrounds}, render_mode=render_mode
    )


def test_several_cameras_and_a_batch() -> None:
    check_inputs(small_scene(seed=6, cameras=2, batch=(2,)), ("means", "quats", "opacities", "viewmats"))


def test_a_pixel_that_stops_early() -> None:
    scene = make_scene(n=30, width=8, height=8, focal=14.0, scale=1.2, seed=7)
    scene = Scene(**(scene.arguments() | {"opacities": scene.opacities * 0.3 + 0.65}))
    with torch.no_grad():
        _, alphas, _ = rasterization(**scene.arguments(), backend="reference")
    assert float(alphas.max()) > 0.999, "the scene is meant to reach the stop"
    check_inputs(scene, ("means", "opacities", "colors", "scales"))


def test_means_beyond_the_field_of_view_margin() -> None:
    """There the pinhole Jacobian is taken at the margin, which is part of the gradient."""
    scene = small_scene(seed=8)
    means = scene.means.clone()
    means[:3, 0] += 3.5
    means[3:, 1] -= 3.0
    scales = torch.full_like(scene.scales, 1.4)
    check_inputs(Scene(**(scene.arguments() | {"means": means, "scales": scales})), ("means", "scales", "viewmats"))


def test_fisheye_near_and_on_the_optical_axis() -> None:
    """The series near the axis joins the closed form in value and slope, and is exact on the axis."""
    Ks = torch.tensor([[[[20.0, 0.0, 3.0], [0.0, 22.0, 4.0], [0.0, 0.0, 1.0]]]], dtype=torch.float64)
    offsets = [[0.0, 0.0], [1e-9, 0.0], [0.01, -0.02], [0.0999 * 2, 0.0], [0.1001 * 2, 0.0], [1.5, 2.5]]
    points = torch.tensor([[[[x, y, 2.0] for x, y in offsets]]], dtype=torch.float64)
    pixels, jacobians = cameras.project_points(points, Ks, 10, 10, "fisheye")
    torch.testing.assert_close(pixels[0, 0, 0], Ks.new_tensor([3.0, 4.0]))
    torch.testing.assert_close(jacobians[0, 0, 0], Ks.new_tensor([[10.0, 0.0, 0.0], [0.0, 11.0, 0.0]]))
    for i in range(len(offsets)):
        for out in range(2):

            def pixel(point: Tensor, out: int = out) -> Tensor:
                return cameras.project_points(point.reshape(1, 1, 1, 3), Ks, 10, 10, "fisheye")[0][0, 0, 0, out]

            numeric = torch.autograd.functional.jacobian(pixel, points[0, 0, i])
            torch.testing.assert_close(jacobians[0, 0, i, out], numeric, rtol=1e-9, atol=1e-9)
    x = points[0, 0].clone().requires_grad_()
    _, jacobians = cameras.project_points(x[None, None], Ks, 10, 10, "fisheye")
    (gradient,) = torch.autograd.grad(jacobians.sum(), x)
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("degree", range(5))
def test_spherical_harmonics(degree: int) -> None:
    g = torch.Generator().manual_seed(degree)
    dirs = torch.randn(5, 3, dtype=torch.float64, generator=g)
    coeffs = torch.randn(5, 25, 3, dtype=torch.float64, generator=g)
    assert_matches_differences(lambda c: weighted_sum([spherical_harmonics(degree, dirs, c)]), coeffs, "coeffs")
    if degree > 0:
        assert_matches_differences(lambda d: weighted_sum([spherical_harmonics(degree, d, coeffs)]), dirs, "dirs")
