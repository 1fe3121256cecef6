"""The compiled CPU backend against the reference in float64, stage by stage on identical inputs, then end to end.

Depth ties and threshold flips add up through the stages; one stage at a time keeps the tolerances tight enough to see
a wrong term.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from rasterizer_checks import END_TO_END_OPTIONS, assert_agrees_with_reference, option_id
from rasterizer_scenes import PROJECT_SETTINGS, Scene, make_scene, weighted_sum
from rasterizer_tolerances import assert_close_with_flips, assert_gradients_agree
from torch import Tensor

from diff_rasterizer import rasterization, reference

CAMERA_MODELS = ("pinhole", "ortho", "fisheye")


def leaves(tensors: dict[str, Tensor | None], dtype: torch.dtype) -> dict[str, Tensor | None]:
    """Returns the same values as leaves of the graph in the given type."""
    return {k: None if x is None else x.detach().to(dtype).clone().requires_grad_() for k, x in tensors.items()}


def gradients(loss: Tensor, inputs: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    given = {k: x for k, x in inputs.items() if x is not None}
    return dict(zip(given, torch.autograd.grad(loss, list(given.values()), allow_unused=True), strict=True))


def projection_inputs(
    scene: Scene, covars: bool, with_opacities: bool
) -> tuple[dict[str, Tensor | None], Tensor | None, Tensor]:
    """Returns the differentiable inputs [B, ...], opacities and Ks of `project`."""
    lead = 3 - scene.means.ndim
    means, quats, scales, opacities, viewmats, Ks = (
        x.reshape(*[1] * lead, *x.shape)
        for x in (scene.means, scene.quats, scene.scales, scene.opacities, scene.viewmats, scene.Ks)
    )
    inputs: dict[str, Tensor | None] = {
        "means": means,
        "quats": None if covars else quats,
        "scales": None if covars else scales,
        "covars": None,
        "viewmats": viewmats,
    }
    if covars:
        factor = reference.projection.rotation_matrices(quats) * scales[..., None, :]
        inputs["covars"] = (factor @ factor.mT).to(torch.float32)
    return inputs, opacities if with_opacities else None, Ks


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("covars", [False, True])
@pytest.mark.parametrize("camera_model", CAMERA_MODELS)
@pytest.mark.parametrize("batch,cameras,n", [((), 1, 700), ((2,), 3, 301)])
def test_project(
    cpu_backend: ModuleType,
    batch: tuple[int, ...],
    cameras: int,
    n: int,
    camera_model: str,
    covars: bool,
    compensate: bool,
) -> None:
    scene = make_scene(
        n=n, cameras=cameras, batch=batch, camera_model=camera_model, scale=0.4, seed=n, dtype=torch.float32
    )
    # Some Gaussians outside the image, behind the camera, and too faint.
    means = scene.means.clone()
    means[..., ::4, :] *= 6.0
    opacities = scene.opacities.clone()
    opacities[..., ::11] *= 0.01
    scene = Scene(**(scene.arguments() | {"means": means, "opacities": opacities}))
    inputs, given_opacities, Ks = projection_inputs(scene, covars, with_opacities=n == 700)
    settings = PROJECT_SETTINGS | {"camera_model": camera_model, "compensate": compensate, "radius_clip": 1.0}

    def run(module: ModuleType, dtype: torch.dtype) -> tuple[dict[str, Tensor | None], tuple[Tensor, ...]]:
        x = leaves(inputs, dtype)
        o = None if given_opacities is None else given_opacities.to(dtype)
        out = module.project(
            x["means"],
            x["quats"],
            x["scales"],
            x["covars"],
            o,
            x["viewmats"],
            Ks.to(dtype),
            scene.width,
            scene.height,
            **settings,
        )
        return x, out

    cpu_inputs, cpu_out = run(cpu_backend, torch.float32)
    ref_inputs, ref_out = run(reference, torch.float64)
    assert cpu_out[0].dtype == torch.int32
    visible, expected = (cpu_out[0] > 0).all(-1), (ref_out[0] > 0).all(-1)
    assert 0.1 < float(expected.double().mean()) < 0.95, "the scene should have both visible and culled rows"
    assert int((visible != expected).sum()) <= 2, "only a row on a cut-off may be culled by one and not the other"
    both = visible & expected
    # A radius within rounding of an integer may be rounded up by one of them.
    assert_close_with_flips(cpu_out[0][both], ref_out[0][both], atol=0.5, flips=0.01, flip_atol=1.0, name="radii")
    names = ("means2d", "depths", "conics", "compensations")
    for name, actual, wanted in zip(names, cpu_out[1:], ref_out[1:], strict=True):
        if wanted is None:
            assert actual is None
            continue
        rtol, atol = (2e-3, 2e-5) if name in ("conics", "compensations") else (1e-5, 2e-4)
        assert_close_with_flips(actual[both].detach(), wanted[both].detach(), atol=atol, rtol=rtol, name=name)
        assert float(actual[~visible].detach().abs().sum()) == 0.0, f"{name}: culled rows must hold zeros"

    def loss(out: tuple[Tensor, ...]) -> Tensor:
        mask = both.to(out[2].dtype)
        terms = [out[1] * mask[..., None], out[2] * mask, out[3] * mask[..., None]]
        return weighted_sum(terms + ([out[4] * mask] if compensate else []))

    actual, wanted = gradients(loss(cpu_out), cpu_inputs), gradients(loss(ref_out), ref_inputs)
    for name in wanted:
        pair = [actual[name], wanted[name]]
        if name == "covars":
            # Symmetric input: only the sum of the gradients of the two equal entries means anything.
            pair = [None if x is None else x + x.mT for x in pair]
        assert_gradients_agree(*pair, relative=3e-3, name=name)


@pytest.mark.parametrize("each_output", ["means2d", "depths", "conics", "compensations"])
@pytest.mark.parametrize("camera_model", CAMERA_MODELS)
def test_project_gradient_of_each_output(cpu_backend: ModuleType, camera_model: str, each_output: str) -> None:
    """One output at a time: in a sum a large gradient hides a small wrong one."""
    scene = make_scene(n=200, cameras=2, camera_model=camera_model, seed=5, dtype=torch.float32)
    inputs, opacities, Ks = projection_inputs(scene, covars=False, with_opacities=False)
    settings = PROJECT_SETTINGS | {"camera_model": camera_model, "compensate": True}
    index = {"means2d": 1, "depths": 2, "conics": 3, "compensations": 4}[each_output]
    results = []
    for module, dtype in ((cpu_backend, torch.float32), (reference, torch.float64)):
        x = leaves(inputs, dtype)
        out = module.project(
            *(x[k] for k in ("means", "quats", "scales", "covars")),
            opacities,
            x["viewmats"],
            Ks.to(dtype),
            scene.width,
            scene.height,
            **settings,
        )
        results.append(gradients(weighted_sum([out[index]]), x))
    for name, wanted in results[1].items():
        actual = results[0][name]
        if wanted is None:
            # Autograd knows that there is no path, a fused backward returns zeros.
            assert actual is None or float(actual.abs().max()) == 0.0
            continue
        # What should vanish (depths by scales, say) is rounding in the compiled backward.
        if float(wanted.norm()) > 1e-9:
            assert_gradients_agree(actual, wanted, relative=2e-3, name=f"{each_output} by {name}")


@pytest.mark.parametrize("per_camera", [False, True])
@pytest.mark.parametrize("degree", range(5))
def test_view_colors(cpu_backend: ModuleType, degree: int, per_camera: bool) -> None:
    g = torch.Generator().manual_seed(degree)
    B, C, N, K = 2, 3, 131, 25
    inputs: dict[str, Tensor | None] = {
        "means": torch.randn(B, N, 3, generator=g),
        "campos": 3.0 * torch.randn(B, C, 3, generator=g),
        "coeffs": 1.5 * torch.randn(*((B, C, N, K, 3) if per_camera else (B, N, K, 3)), generator=g),
    }
    radii = torch.randint(0, 4, (B, C, N, 1), generator=g, dtype=torch.int32).expand(-1, -1, -1, 2).contiguous()
    for r in (radii, None):
        results = []
        for module, dtype in ((cpu_backend, torch.float32), (reference, torch.float64)):
            x = leaves(inputs, dtype)
            out = module.view_colors(degree, x["means"], x["campos"], x["coeffs"], r)
            results.append((out.detach(), gradients(weighted_sum([out]), x)))
        (actual, actual_grads), (wanted, wanted_grads) = results
        assert_close_with_flips(actual, wanted, atol=2e-5, name="colors")
        assert 0.02 < float((wanted == 0).double().mean()) < 0.8
        for name in wanted_grads:
            if degree == 0 and name != "coeffs":
                assert actual_grads[name] is None or float(actual_grads[name].abs().max()) == 0.0  # type: ignore[union-attr]
            else:
                assert_gradients_agree(actual_grads[name], wanted_grads[name], relative=2e-3, name=name)


def blend_inputs(
    n: int, n_images: int, width: int, height: int, channels: int, scale: float, seed: int
) -> tuple[dict[str, Tensor | None], dict[str, Any]]:
    """Returns differentiable and other inputs of `blend` whose radii fit their conics, some rows of radius 0."""
    g = torch.Generator().manual_seed(seed)
    rows = n * n_images
    size = torch.tensor([float(width), float(height)])
    factor = torch.randn(rows, 2, 2, generator=g, dtype=torch.float64) * scale
    cov = factor @ factor.mT + 0.3 * torch.eye(2, dtype=torch.float64)
    inverse = torch.linalg.inv(cov)
    conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], dim=-1).float()
    radii = torch.ceil(3.33 * cov.diagonal(dim1=-2, dim2=-1).sqrt()).to(torch.int32)
    radii[::13] = 0
    depths = torch.rand(rows, generator=g)
    # Ties, which the row index breaks.
    depths[5::10] = depths[4::10][: len(depths[5::10])]
    inputs: dict[str, Tensor | None] = {
        "means2d": (torch.rand(rows, 2, generator=g) * 1.2 - 0.1) * size,
        "conics": conics,
        "colors": torch.randn(rows, channels, generator=g),
        "opacities": 0.05 + 0.95 * torch.rand(rows, generator=g),
        "backgrounds": torch.rand(n_images, channels, generator=g),
    }
    other = {
        "depths": depths,
        "radii": radii,
        "image_ids": torch.arange(n_images, dtype=torch.int32).repeat_interleave(n),
        "n_images": n_images,
        "width": width,
        "height": height,
    }
    return inputs, other


@pytest.mark.parametrize(
    "n,n_images,width,height,channels,scale",
    [
        (300, 1, 64, 48, 3, 3.0),
        (300, 3, 37, 29, 3, 2.0),
        (60, 2, 33, 17, 1, 3.0),
        (80, 1, 20, 50, 4, 6.0),
        (50, 1, 31, 30, 40, 3.0),
        (2000, 1, 30, 30, 3, 8.0),
        (7, 1, 1, 1, 2, 2.0),
        (40, 2, 130, 3, 5, 2.0),
    ],
)
@pytest.mark.parametrize("with_background", [False, True])
def test_blend(
    cpu_backend: ModuleType,
    n: int,
    n_images: int,
    width: int,
    height: int,
    channels: int,
    scale: float,
    with_background: bool,
) -> None:
    inputs, other = blend_inputs(n, n_images, width, height, channels, scale, seed=n + channels)
    if not with_background:
        inputs["backgrounds"] = None
    results = []
    for module, dtype in ((cpu_backend, torch.float32), (reference, torch.float64)):
        x = leaves(inputs, dtype)
        cast = {k: v.to(dtype) if k == "depths" else v for k, v in other.items()}
        renders, alphas = module.blend(**x, **cast, absgrad=True)
        grads = gradients(weighted_sum([renders, alphas]), x)
        results.append((renders.detach(), alphas.detach(), grads, x["means2d"].absgrad))  # type: ignore[union-attr]
    (renders, alphas, grads, absgrad), (ref_renders, ref_alphas, ref_grads, ref_absgrad) = results
    band = 4.0 * float(inputs["colors"].abs().max()) / 255.0  # type: ignore[union-attr]
    assert_close_with_flips(renders, ref_renders, atol=5e-5, flips=2e-3, flip_atol=band, name="renders")
    assert_close_with_flips(alphas, ref_alphas, atol=2e-5, flips=2e-3, flip_atol=1.5 / 255.0, name="alphas")
    for name in ref_grads:
        assert_gradients_agree(grads[name], ref_grads[name], relative=5e-3, name=name)
    if channels <= 32:
        assert_gradients_agree(absgrad, ref_absgrad, relative=5e-3, name="absgrad")
    else:
        # Blended in passes of 32 channels, whose absolute gradients add up: an upper bound.
        assert bool((absgrad >= ref_absgrad * 0.999 - 1e-4).all())  # type: ignore[operator]


def test_blend_without_rows(cpu_backend: ModuleType) -> None:
    inputs, other = blend_inputs(0, 2, 20, 10, 3, 1.0, seed=0)
    backgrounds = inputs["backgrounds"]
    for module in (cpu_backend, reference):
        renders, alphas = module.blend(**inputs, **other, absgrad=False)
        assert renders.shape == (2, 10, 20, 3) and float(alphas.abs().max()) == 0.0
        torch.testing.assert_close(renders, backgrounds[:, None, None].expand_as(renders))  # type: ignore[index]


@pytest.mark.parametrize("options", END_TO_END_OPTIONS, ids=option_id)
@pytest.mark.parametrize("batch,cameras", [((), 1), ((2,), 2)])
def test_end_to_end(cpu_backend: ModuleType, batch: tuple[int, ...], cameras: int, options: dict[str, Any]) -> None:
    assert_agrees_with_reference("cpu", torch.device("cpu"), options, batch=batch, cameras=cameras, n=300, seed=11)


def test_end_to_end_with_covariances_and_feature_channels(cpu_backend: ModuleType) -> None:
    scene = make_scene(n=200, channels=7, seed=12, dtype=torch.float32)
    factor = 0.2 * torch.randn(200, 3, 3, generator=torch.Generator().manual_seed(1))
    results = []
    for name, dtype in (("cpu", torch.float32), ("reference", torch.float64)):
        covars = (factor @ factor.mT).to(dtype).requires_grad_()
        arguments = scene.cast(dtype).arguments() | {"quats": None, "scales": None, "covars": covars}
        renders, alphas, _ = rasterization(**arguments, backend=name)
        weighted_sum([renders, alphas]).backward()
        results.append((renders.detach(), covars.grad))
    assert_close_with_flips(results[0][0], results[1][0], atol=2e-4, flips=2e-3, flip_atol=0.05, name="renders")
    assert_gradients_agree(results[0][1], results[1][1], relative=1e-2, name="covars")


def test_cpu_results_repeat_bit_for_bit(cpu_backend: ModuleType) -> None:
    scene = make_scene(n=400, cameras=2, sh_degree=2, seed=13, dtype=torch.float32)
    runs = []
    for _ in range(2):
        x = scene.with_gradients()
        renders, alphas, _ = rasterization(**x.arguments(), sh_degree=2, backend="cpu")
        weighted_sum([renders, alphas]).backward()
        runs.append([renders.detach(), alphas.detach(), *(t.grad for t in x.tensors().values() if t.grad is not None)])
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)
