"""What must hold for any backend: symmetries, linearity, closed forms, and the layouts of one and the same result."""

from __future__ import annotations

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from rasterizer_scenes import Scene, make_scene, weighted_sum
from torch import Tensor

from diff_rasterizer import rasterization


def scene_for(backend: str, **options: Any) -> Scene:
    """Returns a scene in the best type the backend takes."""
    return make_scene(**options, dtype=torch.float32 if backend == "cpu" else torch.float64)


def tolerance(backend: str) -> float:
    return 2e-5 if backend == "cpu" else 1e-10


def render(scene: Scene, backend: str, **options: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    arguments = scene.arguments() | options
    return rasterization(**arguments, backend=backend)


def one_gaussian(backend: str, opacity: float, sigma: float = 0.1, z: float = 2.0) -> Scene:
    """Returns an isotropic Gaussian on the optical axis of a 21x21 camera whose centre pixel it is centred on."""
    dtype = torch.float32 if backend == "cpu" else torch.float64
    return Scene(
        means=torch.tensor([[0.0, 0.0, z]], dtype=dtype),
        quats=torch.tensor([[2.0, 0.0, 0.0, 0.0]], dtype=dtype),
        scales=torch.full((1, 3), sigma, dtype=dtype),
        opacities=torch.tensor([opacity], dtype=dtype),
        colors=torch.tensor([[0.2, 0.5, 0.9]], dtype=dtype),
        viewmats=torch.eye(4, dtype=dtype)[None],
        Ks=torch.tensor([[[40.0, 0.0, 10.5], [0.0, 40.0, 10.5], [0.0, 0.0, 1.0]]], dtype=dtype),
        width=21,
        height=21,
    )


def test_single_gaussian_has_its_closed_form_value(backend: str) -> None:
    renders, alphas, meta = render(one_gaussian(backend, 0.7), backend, render_mode="RGB+D")
    variance = (0.1 * 40.0 / 2.0) ** 2 + 0.3
    rows, columns = torch.meshgrid(torch.arange(21), torch.arange(21), indexing="ij")
    squared = (rows - 10.0) ** 2 + (columns - 10.0) ** 2
    expected = 0.7 * torch.exp(-0.5 * squared.double() / variance)
    expected[expected < 1.0 / 255.0] = 0.0
    atol = 1e-6
    torch.testing.assert_close(alphas[0, ..., 0].double(), expected, atol=atol, rtol=0)
    channels = torch.tensor([0.2, 0.5, 0.9, 2.0], dtype=torch.float64)
    torch.testing.assert_close(renders[0].double(), expected[..., None] * channels, atol=atol * 2, rtol=0)
    extent = math.sqrt(2 * math.log(255 * 0.7))
    assert meta["radii"].tolist() == [[math.ceil(extent * math.sqrt(variance))] * 2]
    torch.testing.assert_close(meta["conics"].double(), torch.tensor([[1 / variance, 0, 1 / variance]]).double())


def test_antialiasing_keeps_the_total_alpha_of_a_tiny_gaussian(backend: str) -> None:
    """Without compensation the blur makes it brighter than it is; the factor is sqrt(det / det blurred)."""
    tiny = one_gaussian(backend, 0.9, sigma=0.02)
    variance = (0.02 * 40.0 / 2.0) ** 2
    _, plain, _ = render(tiny, backend)
    _, smooth, meta = render(tiny, backend, rasterize_mode="antialiased")
    factor = variance / (variance + 0.3)
    assert float(plain[0, 10, 10, 0]) == pytest.approx(0.9, abs=1e-6)
    assert float(smooth[0, 10, 10, 0]) == pytest.approx(0.9 * factor, abs=1e-6)
    assert float(meta["opacities"][0]) == pytest.approx(0.9 * factor, abs=1e-6)


def test_opaque_gaussians_clamp_at_0_999_and_pass_no_gradient(backend: str) -> None:
    scene = one_gaussian(backend, 1.0).with_gradients()
    renders, alphas, _ = render(scene, backend)
    assert float(alphas[0, 10, 10, 0].detach()) == pytest.approx(0.999, abs=1e-6)
    alphas[0, 10, 10, 0].backward()
    assert float(scene.opacities.grad[0]) == 0.0  # type: ignore[index]
    del renders


def test_the_gaussian_that_would_end_the_pixel_is_not_blended(backend: str) -> None:
    """Three layers of alpha 0.98: T is 2e-2, 4e-4, then 8e-6, so the third must be left out."""
    base = one_gaussian(backend, 0.98)
    z = torch.tensor([2.0, 2.5, 3.0], dtype=base.means.dtype)
    layers = Scene(
        means=torch.stack([torch.zeros(3), torch.zeros(3), z], dim=-1).to(base.means),
        quats=base.quats.repeat(3, 1),
        scales=base.scales.repeat(3, 1),
        opacities=base.opacities.repeat(3),
        colors=torch.eye(3, dtype=base.means.dtype),
        **{k: getattr(base, k) for k in ("viewmats", "Ks", "width", "height")},
    )
    renders, alphas, _ = render(layers, backend)
    torch.testing.assert_close(
        renders[0, 10, 10].double(), torch.tensor([0.98, 0.02 * 0.98, 0.0], dtype=torch.float64), atol=1e-6, rtol=1e-4
    )
    assert float(alphas[0, 10, 10, 0]) == pytest.approx(1 - 4e-4, abs=1e-6)


def test_order_of_the_gaussians_does_not_matter(backend: str) -> None:
    scene = scene_for(backend, n=150, cameras=2)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(3))
    per_gaussian = {k: getattr(scene, k)[order] for k in ("means", "quats", "scales", "opacities", "colors")}
    a, b = render(scene, backend), render(Scene(**(scene.arguments() | per_gaussian)), backend)
    torch.testing.assert_close(a[0], b[0], atol=tolerance(backend), rtol=0)
    torch.testing.assert_close(a[1], b[1], atol=tolerance(backend), rtol=0)


def test_moving_scene_and_camera_together_changes_nothing(backend: str) -> None:
    scene = scene_for(backend, n=100, sh_degree=2)
    shift = torch.tensor([0.5, -1.0, 0.25], dtype=scene.means.dtype)
    viewmats = scene.viewmats.clone()
    viewmats[..., :3, 3] -= viewmats[..., :3, :3] @ shift
    moved = Scene(**(scene.arguments() | {"means": scene.means + shift, "viewmats": viewmats}))
    a, b = render(scene, backend, sh_degree=2), render(moved, backend, sh_degree=2)
    # In float32 the moved scene is rounded, and a few pairs cross a threshold.
    error = (a[0] - b[0]).abs().flatten()
    assert float(error.quantile(0.995)) < 10 * tolerance(backend) and float(error.max()) < 0.02


def test_weights_sum_to_alpha(backend: str) -> None:
    scene = scene_for(backend, n=200)
    ones = Scene(**(scene.arguments() | {"colors": torch.ones_like(scene.colors)}))
    renders, alphas, _ = render(ones, backend)
    assert float(alphas.max()) > 0.9
    torch.testing.assert_close(renders, alphas.expand_as(renders), atol=tolerance(backend), rtol=0)


@pytest.mark.parametrize("render_mode", ["RGB", "RGB+D"])
def test_background_shows_through_what_is_not_covered(backend: str, render_mode: str) -> None:
    scene = scene_for(backend, n=60, cameras=2)
    plain, alphas, _ = render(scene, backend, render_mode=render_mode)
    backgrounds = torch.rand(2, 3, dtype=scene.means.dtype)
    over, _, _ = render(scene, backend, render_mode=render_mode, backgrounds=backgrounds)
    expected = plain.clone()
    expected[..., :3] += (1 - alphas) * backgrounds[:, None, None]
    torch.testing.assert_close(over, expected, atol=tolerance(backend), rtol=0)


@pytest.mark.parametrize("sh_degree", [None, 3])
@pytest.mark.parametrize("render_mode", ["RGB", "RGB+ED", "D"])
def test_packed_and_dense_are_equal_with_their_gradients(backend: str, render_mode: str, sh_degree: int | None) -> None:
    scene = scene_for(backend, n=80, cameras=2, batch=(2,), sh_degree=sh_degree)
    results = []
    for packed in (True, False):
        x = scene.with_gradients()
        options = {"render_mode": render_mode, "sh_degree": sh_degree, "rasterize_mode": "antialiased"}
        renders, alphas, meta = render(x, backend, packed=packed, absgrad=True, **options)
        meta["means2d"].retain_grad()
        weighted_sum([renders, alphas]).backward()
        results.append((renders, alphas, meta, x))
    (r1, a1, packed_meta, x1), (r2, a2, dense_meta, x2) = results
    assert torch.equal(r1, r2) and torch.equal(a1, a2)
    for name, tensor in x1.tensors().items():
        expected = x2.tensors()[name].grad
        assert (tensor.grad is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(tensor.grad, expected, atol=1e-4, rtol=1e-4)
    rows = (packed_meta["batch_ids"], packed_meta["camera_ids"], packed_meta["gaussian_ids"])
    assert bool((dense_meta["radii"] > 0).all(-1).sum() == len(rows[0]))
    for key in ("radii", "means2d", "depths", "conics", "opacities"):
        assert torch.equal(packed_meta[key], dense_meta[key][rows]), key
    for attribute in ("grad", "absgrad"):
        a, b = getattr(packed_meta["means2d"], attribute), getattr(dense_meta["means2d"], attribute)
        torch.testing.assert_close(a, b[rows], atol=1e-4, rtol=1e-4)


def test_batch_equals_a_loop(backend: str) -> None:
    scene = scene_for(backend, n=50, cameras=3, batch=(2, 2), sh_degree=1)
    backgrounds = torch.rand(2, 2, 3, 3, dtype=scene.means.dtype)
    renders, alphas, meta = render(scene, backend, sh_degree=1, packed=False, backgrounds=backgrounds)
    assert renders.shape == (2, 2, 3, scene.height, scene.width, 3) and alphas.shape == (*renders.shape[:-1], 1)
    assert meta["means2d"].shape == (2, 2, 3, 50, 2) and meta["n_batches"] == 4 and meta["n_cameras"] == 3
    for i in range(2):
        for j in range(2):
            for c in range(3):
                one = {k: v[i, j] for k, v in scene.tensors().items()}
                one |= {k: one[k][c : c + 1] for k in ("viewmats", "Ks")}
                part = Scene(**one, width=scene.width, height=scene.height)
                single, _, _ = render(part, backend, sh_degree=1, backgrounds=backgrounds[i, j, c : c + 1])
                torch.testing.assert_close(renders[i, j, c], single[0], atol=tolerance(backend), rtol=0)


def test_colors_per_camera(backend: str) -> None:
    scene = scene_for(backend, n=50, cameras=2)
    colors = torch.rand(2, 50, 4, dtype=scene.means.dtype)
    coeffs = torch.randn(2, 50, 9, 3, dtype=scene.means.dtype)
    for values, degree in ((colors, None), (coeffs, 2)):
        for packed in (True, False):
            both, _, _ = render(scene, backend, colors=values, sh_degree=degree, packed=packed)
            for c in range(2):
                one, _, _ = render(scene, backend, colors=values[c], sh_degree=degree, packed=packed)
                torch.testing.assert_close(both[c], one[c], atol=tolerance(backend), rtol=0)


def test_depth_modes(backend: str) -> None:
    scene = scene_for(backend, n=100, cameras=2)
    both, alphas, _ = render(scene, backend, render_mode="RGB+D")
    color, _, _ = render(scene, backend)
    depth, _, _ = render(scene, backend, render_mode="D", colors=None)
    expected, _, _ = render(scene, backend, render_mode="ED", colors=None)
    both_expected, _, _ = render(scene, backend, render_mode="RGB+ED")
    assert depth.shape[-1] == expected.shape[-1] == 1 and both.shape[-1] == both_expected.shape[-1] == 4
    torch.testing.assert_close(both, torch.cat([color, depth], dim=-1), atol=tolerance(backend), rtol=0)
    torch.testing.assert_close(expected, depth / alphas.clamp(min=1e-10), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(both_expected[..., 3:], expected, atol=1e-4, rtol=1e-4)
    seen = alphas[..., 0] > 0.5
    assert bool((expected[seen] > 1.0).all()) and bool((expected[seen] < 6.0).all())


def test_channels_beyond_one_chunk_and_channel_chunk_itself(backend: str) -> None:
    scene = scene_for(backend, n=40, channels=37)
    renders, _, _ = render(scene, backend)
    chunked, _, _ = render(scene, backend, channel_chunk=5)
    assert torch.equal(renders, chunked)
    for channels in (slice(0, 3), slice(31, 37)):
        part, _, _ = render(scene, backend, colors=scene.colors[:, channels])
        torch.testing.assert_close(renders[..., channels], part, atol=tolerance(backend), rtol=0)


@pytest.mark.parametrize("packed", [True, False])
def test_absgrad_bounds_grad(backend: str, packed: bool) -> None:
    scene = scene_for(backend, n=120, cameras=2).with_gradients()
    renders, alphas, meta = render(scene, backend, packed=packed, absgrad=True)
    means2d = meta["means2d"]
    # Nothing but means2d is kept: absgrad must arrive all the same.
    del meta
    means2d.retain_grad()
    weighted_sum([renders, alphas]).backward()
    assert means2d.absgrad.shape == means2d.shape
    assert bool((means2d.absgrad >= means2d.grad.abs() * 0.9999 - 1e-5).all())
    assert float(means2d.absgrad.sum()) > 1.2 * float(means2d.grad.abs().sum())


def test_absgrad_of_a_second_backward_replaces_the_first(backend: str) -> None:
    scene = scene_for(backend, n=20).with_gradients()
    renders, _, meta = render(scene, backend, absgrad=True, packed=False)
    loss = weighted_sum([renders])
    loss.backward(retain_graph=True)
    first = meta["means2d"].absgrad.clone()
    loss.backward()
    assert torch.equal(first, meta["means2d"].absgrad)


@pytest.mark.parametrize("packed", [True, False])
def test_the_graph_is_freed_without_a_backward(backend: str, packed: bool) -> None:
    """A tensor that its own graph node holds is never freed, and a fit would run out of memory."""
    scene = scene_for(backend, n=20).with_gradients()
    gc.disable()
    try:
        renders, alphas, meta = render(scene, backend, packed=packed, absgrad=True)
        watched = [weakref.ref(renders), weakref.ref(meta["means2d"])]
        del renders, alphas, meta
        assert [w() for w in watched] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("sh_degree", [None, 2])
def test_sparse_gradients_hold_the_seen_rows_of_the_dense_ones(backend: str, sh_degree: int | None) -> None:
    scene = scene_for(backend, n=60, cameras=2, sh_degree=sh_degree)
    means = scene.means.clone()
    means[::3, 2] -= 20.0
    scene = Scene(**(scene.arguments() | {"means": means}))
    results = []
    for sparse_grad in (True, False):
        x = scene.with_gradients()
        renders, alphas, meta = render(x, backend, sparse_grad=sparse_grad, sh_degree=sh_degree)
        weighted_sum([renders, alphas]).backward()
        results.append((x, meta))
    (sparse, meta), (dense, _) = results
    seen = torch.unique(meta["gaussian_ids"])
    assert 0 < len(seen) < 60
    for name in ("means", "quats", "scales"):
        grad = sparse.tensors()[name].grad
        assert grad is not None and grad.layout == torch.sparse_coo, name
        assert grad._nnz() == len(seen), "each row once"
        assert torch.equal(grad.coalesce().indices()[0], seen)
        torch.testing.assert_close(grad.to_dense(), dense.tensors()[name].grad, atol=1e-5, rtol=1e-5)
    assert sparse.opacities.grad is not None and sparse.opacities.grad.layout == torch.strided
    torch.optim.SparseAdam([sparse.means], lr=1e-3).step()


def test_covariances_equal_quats_and_scales(backend: str) -> None:
    from diff_rasterizer.reference.projection import rotation_matrices

    scene = scene_for(backend, n=60)
    factor = rotation_matrices(scene.quats) * scene.scales[:, None]
    covars = factor @ factor.mT
    a, _, _ = render(scene, backend)
    b, _, _ = render(scene, backend, quats=None, scales=None, covars=covars)
    torch.testing.assert_close(a, b, atol=20 * tolerance(backend), rtol=0)
    # As in gsplat only the upper triangle is read.
    c, _, _ = render(scene, backend, quats=None, scales=None, covars=covars + torch.ones(3, 3).to(covars).tril(-1))
    assert torch.equal(b, c)


def test_near_and_far_planes_and_radius_clip(backend: str) -> None:
    scene = scene_for(backend, n=100)
    _, _, meta = render(scene, backend)
    depths, radii = meta["depths"], meta["radii"]
    middle = float(depths.median())
    _, _, near = render(scene, backend, near_plane=middle)
    _, _, far = render(scene, backend, far_plane=middle)
    assert torch.equal(near["gaussian_ids"], meta["gaussian_ids"][depths >= middle])
    assert torch.equal(far["gaussian_ids"], meta["gaussian_ids"][depths <= middle])
    clip = float(radii.max(dim=-1).values.median())
    _, _, clipped = render(scene, backend, radius_clip=clip)
    assert torch.equal(clipped["gaussian_ids"], meta["gaussian_ids"][(radii > clip).any(-1)])


def test_gradients_reach_means_and_cameras_through_the_view_direction(backend: str) -> None:
    """With all geometry paths cut (one flat, huge Gaussian), what is left is the view dependence of the colour."""
    scene = one_gaussian(backend, 0.5, sigma=30.0)
    coeffs = torch.zeros(1, 4, 3).to(scene.means)
    coeffs[0, 3] = torch.tensor([0.3, 0.5, -0.4])
    scene = Scene(**(scene.arguments() | {"colors": coeffs})).with_gradients()
    renders, _, _ = render(scene, backend, sh_degree=1)
    renders[0, 10, 10].sum().backward()
    # Y_11 is -0.4886 x / r: the slope along x at distance 2 is -0.4886 / 2, weighted by alpha and the coefficients.
    expected = -0.4886025 / 2.0 * 0.5 * 0.4
    assert float(scene.means.grad[0, 0]) == pytest.approx(expected, rel=1e-3)  # type: ignore[index]
    assert float(scene.viewmats.grad[0, 0, 3]) == pytest.approx(expected, rel=1e-3)  # type: ignore[index]


def test_intrinsics_get_no_gradient(backend: str) -> None:
    scene = scene_for(backend, n=10).with_gradients()
    renders, _, _ = render(scene, backend)
    renders.sum().backward()
    assert scene.Ks.grad is None and scene.viewmats.grad is not None


def test_non_contiguous_and_expanded_inputs(backend: str) -> None:
    scene = scene_for(backend, n=30, cameras=2)
    expected, _, _ = render(scene, backend)
    strided = {k: torch.stack([v, v], dim=-1)[..., 0] for k, v in scene.tensors().items()}
    assert not strided["means"].is_contiguous()
    renders, _, _ = render(Scene(**(scene.arguments() | strided)), backend)
    assert torch.equal(expected, renders)
    batched = {k: v.expand(2, *v.shape) for k, v in scene.tensors().items()}
    renders, _, _ = render(Scene(**(scene.arguments() | batched)), backend)
    torch.testing.assert_close(renders, expected.expand(2, *expected.shape), atol=tolerance(backend), rtol=0)


def test_recomputing_tiles_in_the_backward_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from diff_rasterizer.reference import blending

    scene = scene_for("reference", n=60)
    results = []
    for limit in (blending.RECOMPUTE_ABOVE, 0):
        monkeypatch.setattr(blending, "RECOMPUTE_ABOVE", limit)
        x = scene.with_gradients()
        renders, _, meta = render(x, "reference", absgrad=True)
        weighted_sum([renders]).backward()
        results.append([renders.detach(), x.means.grad, x.colors.grad, meta["means2d"].absgrad])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_chunks_and_tiles_of_the_reference_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    from diff_rasterizer.reference import blending

    scene = scene_for("reference", n=120, scale=0.6)
    results = []
    for tile, chunk in ((32, 256), (16, 7), (64, 1)):
        monkeypatch.setattr(blending, "TILE_SIZE", tile)
        monkeypatch.setattr(blending, "CHUNK", chunk)
        x = scene.with_gradients()
        renders, alphas, _ = render(x, "reference")
        weighted_sum([renders, alphas]).backward()
        results.append([renders.detach(), x.means.grad, x.opacities.grad])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)
