"""Against gsplat 1.5.3's own torch code, with the tolerances of gsplat's tests (`gsplat_oracle.TOLERANCES`)."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gsplat_oracle import close, gsplat, oracle_pixels, oracle_rasterization, torch_impl, wrapper
from rasterizer_scenes import weighted_sum
from torch import Tensor

import diff_rasterizer as ours

FUNCTIONS = {
    "accumulate": torch_impl.accumulate,
    "compute_relocation": gsplat.relocation.compute_relocation,
    "fully_fused_projection": wrapper.fully_fused_projection,
    "isect_offset_encode": wrapper.isect_offset_encode,
    "isect_tiles": wrapper.isect_tiles,
    "proj": wrapper.proj,
    "quat_scale_to_covar_preci": wrapper.quat_scale_to_covar_preci,
    "rasterization": gsplat.rasterization,
    "rasterize_to_indices_in_range": wrapper.rasterize_to_indices_in_range,
    "rasterize_to_pixels": wrapper.rasterize_to_pixels,
    "spherical_harmonics": wrapper.spherical_harmonics,
    "world_to_cam": wrapper.world_to_cam,
}


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    """Returns names, kinds and defaults, enums by name: theirs and ours are different classes."""
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, getattr(p.default, "name", p.default)) for p in found]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_gsplats(name: str) -> None:
    mine = parameters(getattr(ours, name))
    if name == "rasterization":
        assert mine.pop()[:2] == ("backend", inspect.Parameter.KEYWORD_ONLY)
    assert mine == parameters(FUNCTIONS[name])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [x.detach().clone().requires_grad_() for x in tensors]


def scene(n: int = 400, cameras: int = 3, batch: tuple[int, ...] = (), size: tuple[int, int] = (90, 60)) -> Any:
    """Returns means, quats, scales, opacities, viewmats, Ks of Gaussians in front of cameras, some outside the view."""
    width, height = size
    means = (random(*batch, n, 3, seed=1) - 0.5) * torch.tensor([6.0, 4.0, 3.0]) + torch.tensor([0.0, 0.0, 3.5])
    viewmats = torch.eye(4).repeat(*batch, cameras, 1, 1)
    viewmats[..., :3, 3] = 0.2 * normal(*batch, cameras, 3, seed=2)
    turn = torch.linalg.matrix_exp(torch.stack([_skew(0.1 * normal(3, seed=9 + c)) for c in range(cameras)]))
    viewmats[..., :3, :3] = turn
    Ks = torch.tensor([[70.0, 0.0, width / 2 + 1.5], [0.0, 75.0, height / 2 - 2.0], [0.0, 0.0, 1.0]])
    return (
        means,
        normal(*batch, n, 4, seed=3),
        0.02 + 0.2 * random(*batch, n, 3, seed=4),
        0.05 + 0.9 * random(*batch, n, seed=5),
        viewmats,
        Ks.repeat(*batch, cameras, 1, 1),
    )


def _skew(w: Tensor) -> Tensor:
    x, y, z = w.tolist()
    return torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
@pytest.mark.parametrize("triu", [False, True])
def test_quat_scale_to_covar_preci(triu: bool, batch: tuple[int, ...]) -> None:
    inputs = [leaves(normal(*batch, 50, 4), 0.1 + random(*batch, 50, 3)) for _ in range(2)]
    results = [
        function(*x, compute_covar=True, compute_preci=True, triu=triu)
        for function, x in zip((ours.quat_scale_to_covar_preci, torch_impl._quat_scale_to_covar_preci), inputs)
    ]
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-4)
    for outputs in results:
        weighted_sum([outputs[0], 1e-3 * outputs[1]]).backward()
    for a, b in zip(*inputs, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-3)
    only = ours.quat_scale_to_covar_preci(*inputs[0], compute_covar=False)
    assert only[0] is None and only[1] is not None


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("camera_model", ["pinhole", "ortho", "fisheye"])
def test_world_to_cam_and_proj(camera_model: str, batch: tuple[int, ...]) -> None:
    means, quats, scales, _, viewmats, Ks = scene(80, batch=batch)
    covars = ours.quat_scale_to_covar_preci(quats, scales)[0]
    assert covars is not None
    inputs = [leaves(means, covars, viewmats) for _ in range(2)]
    theirs = {"pinhole": torch_impl._persp_proj, "ortho": torch_impl._ortho_proj, "fisheye": torch_impl._fisheye_proj}
    mine = ours.world_to_cam(*inputs[0])
    other = torch_impl._world_to_cam(*inputs[1])
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    projected = (ours.proj(*mine, Ks, 90, 60, camera_model), theirs[camera_model](*other, Ks, 90, 60))
    close("means2d", projected[0][0], projected[1][0], "means2d of proj")
    close("covars2d", projected[0][1], projected[1][1], "covars of proj")
    for outputs in projected:
        weighted_sum([outputs[0], 1e-2 * outputs[1]]).backward()
    for name, a, b in zip(("v_means", "v_scales", "v_viewmats"), *inputs, strict=True):
        scale = b.grad.abs().max()
        close(name, a.grad / scale, b.grad / scale)


def projection_inputs(by_covars: bool, batch: tuple[int, ...]) -> tuple[list[Tensor], list[Any], Tensor, Tensor]:
    """Returns leaves (means, quats, scales, viewmats), the shape arguments made of them, Ks, opacities."""
    means, quats, scales, opacities, viewmats, Ks = scene(300, batch=batch)
    inputs = leaves(means, quats, scales, viewmats)
    if by_covars:
        triangles = ours.quat_scale_to_covar_preci(inputs[1], inputs[2], compute_preci=False, triu=True)[0]
        return inputs, [triangles, None, None], Ks, opacities
    return inputs, [None, inputs[1], inputs[2]], Ks, opacities


@pytest.mark.parametrize("batch", [(), (1, 2)])
@pytest.mark.parametrize("by_covars", [False, True], ids=["quats", "covars"])
@pytest.mark.parametrize("camera_model", ["pinhole", "ortho", "fisheye"])
def test_fully_fused_projection(cpu_backend: Any, camera_model: str, by_covars: bool, batch: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"calc_compensations": True, "camera_model": camera_model}
    inputs, shape, Ks, _ = projection_inputs(by_covars, batch)
    radii, *mine = ours.fully_fused_projection(inputs[0], *shape, inputs[3], Ks, 90, 60, **options)
    other = leaves(*inputs)
    covars = torch_impl._quat_scale_to_covar_preci(other[1], other[2], True, False)[0]
    their_radii, *theirs = torch_impl._fully_fused_projection(other[0], covars, other[3], Ks, 90, 60, **options)
    assert float((radii - their_radii).abs().max()) <= 1
    seen = (radii > 0).all(-1) & (their_radii > 0).all(-1)
    assert 50 < int(seen.sum()) < seen.numel()
    for name, a, b in zip(("means2d", "depths", "conics", "compensations"), mine, theirs, strict=True):
        close(name, a[seen], b[seen], "compensations" if name == "compensations" else "projection")
    for outputs in (mine, theirs):
        weighted_sum([0.1 * x[seen] for x in outputs]).backward()
    for name, a, b in zip(("v_means", "v_quats", "v_scales", "v_viewmats"), inputs, other, strict=True):
        # Relative to the largest: gsplat's test has gradients of about that size.
        scale = b.grad.abs().max()
        close(name, a.grad / scale, b.grad / scale)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize("sparse", [False, True])
def test_packed_projection_is_the_dense_one_without_culled_rows(
    cpu_backend: Any, sparse: bool, batch: tuple[int, ...]
) -> None:
    if sparse and batch:
        with pytest.raises(ValueError, match="sparse_grad=True needs means of shape"):
            inputs, shape, Ks, _ = projection_inputs(False, batch)
            ours.fully_fused_projection(inputs[0], *shape, inputs[3], Ks, 90, 60, packed=True, sparse_grad=True)
        return
    results = []
    for packed in (True, False):
        inputs, shape, Ks, opacities = projection_inputs(False, batch)
        outputs = ours.fully_fused_projection(
            inputs[0], *shape, inputs[3], Ks, 90, 60, packed=packed, sparse_grad=packed and sparse,
            calc_compensations=True, opacities=opacities, radius_clip=2.0,
        )  # fmt: skip
        results.append((inputs, outputs))
    (inputs, (batch_ids, camera_ids, gaussian_ids, *rows)), (dense_inputs, dense) = results
    assert all(x.dtype == torch.int64 for x in (batch_ids, camera_ids, gaussian_ids))
    images = [x.reshape(-1, 3, 300, *x.shape[len(batch) + 2 :]) for x in dense]
    assert len(batch_ids) == int((images[0] > 0).all(-1).sum()) > 50
    for a, b in zip(rows, images, strict=True):
        assert torch.equal(a, b[batch_ids, camera_ids, gaussian_ids])
    seen = (images[0] > 0).all(-1)
    weighted_sum(rows[1:]).backward()
    weighted_sum([x[seen] for x in images[1:]]).backward()
    for a, b in zip(inputs[:3], dense_inputs[:3], strict=True):
        assert a.grad is not None and a.grad.is_sparse == sparse
        torch.testing.assert_close(a.grad.to_dense(), b.grad, rtol=1e-5, atol=1e-5)
        if sparse:
            assert torch.equal(a.grad.coalesce().indices()[0], torch.unique(gaussian_ids))


def test_radius_clip_drops_small_rows_only(cpu_backend: Any) -> None:
    inputs, shape, Ks, _ = projection_inputs(False, ())
    radii = ours.fully_fused_projection(inputs[0], *shape, inputs[3], Ks, 90, 60)[0]
    clipped = ours.fully_fused_projection(inputs[0], *shape, inputs[3], Ks, 90, 60, radius_clip=6.0)[0]
    small = (radii <= 6).all(-1)
    assert bool(small.any()) and int(clipped[small].max()) == 0 and torch.equal(clipped[~small], radii[~small])


def boxes(images: tuple[int, ...] = (2,), n: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    means2d = random(*images, n, 2, seed=11) * torch.tensor([110.0, 80.0]) - 10.0
    radii = (random(*images, n, 2, seed=12) * 14).int()
    return means2d, radii, random(*images, n, seed=13) * 5


@pytest.mark.parametrize("tile_size", [16, 11])
@pytest.mark.parametrize("images", [(), (2,), (1, 3)])
def test_isect_tiles_and_offsets_are_exact(images: tuple[int, ...], tile_size: int) -> None:
    means2d, radii, depths = boxes(images)
    tiles = (math.ceil(90 / tile_size), math.ceil(60 / tile_size))
    for sort in (True, False):
        mine = ours.isect_tiles(means2d, radii, depths, tile_size, *tiles, sort=sort, segmented=sort)
        theirs = torch_impl._isect_tiles(means2d, radii, depths, tile_size, *tiles, sort=sort)
        for a, b in zip(mine, theirs, strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)
    n_images = math.prod(images)
    isect_ids = ours.isect_tiles(means2d, radii, depths, tile_size, *tiles)[1]
    offsets = ours.isect_offset_encode(isect_ids, n_images, *tiles)
    expected = torch_impl._isect_offset_encode(isect_ids, n_images, *tiles)
    assert offsets.dtype == expected.dtype and torch.equal(offsets, expected)


def test_packed_tiles_are_those_of_the_dense_rows() -> None:
    means2d, radii, depths = boxes((3,))
    seen = (radii > 0).all(-1)
    image_ids, gaussian_ids = torch.nonzero(seen, as_tuple=True)
    counts, isect_ids, flatten_ids = ours.isect_tiles(means2d, radii, depths, 16, 6, 4)
    packed = ours.isect_tiles(
        means2d[seen], radii[seen], depths[seen], 16, 6, 4, packed=True, n_images=3, image_ids=image_ids,
        gaussian_ids=gaussian_ids,
    )  # fmt: skip
    assert torch.equal(packed[0], counts[seen]) and torch.equal(packed[1], isect_ids)
    assert torch.equal((image_ids * 40 + gaussian_ids)[packed[2].long()], flatten_ids.long())


def pixels_case(channels: int, n: int = 120, images: tuple[int, ...] = (2,)) -> dict[str, Any]:
    """Returns inputs of `rasterize_to_pixels` for 45x35 pixels: tensors, and lists that our functions made."""
    means, quats, scales, opacities, viewmats, Ks = scene(n, cameras=images[-1], batch=images[:-1], size=(45, 35))
    Ks[..., :2, :2] *= 0.5
    radii, means2d, depths, conics, _ = ours.fully_fused_projection(means, None, quats, scales, viewmats, Ks, 45, 35)
    opacities = opacities[..., None, :].expand(*images, n).contiguous()
    _, isect_ids, flatten_ids = ours.isect_tiles(means2d, radii, depths, 16, 3, 3)
    offsets = ours.isect_offset_encode(isect_ids, math.prod(images), 3, 3).reshape(*images, 3, 3)
    return {
        "means2d": means2d,
        "conics": conics,
        "colors": random(*images, n, channels, seed=21),
        "opacities": opacities,
        "backgrounds": random(*images, channels, seed=22),
        "offsets": offsets,
        "flatten_ids": flatten_ids,
    }


NAMES = ("means2d", "conics", "colors", "opacities", "backgrounds")


def run_pixels(function: Callable[..., Any], case: dict[str, Any], **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the outputs and the gradients of means2d, conics, colors, opacities, backgrounds."""
    inputs = [case[name].detach().requires_grad_() for name in NAMES]
    for x in inputs:
        x.grad = None
    outputs = function(*inputs[:4], 45, 35, 16, case["offsets"], case["flatten_ids"], backgrounds=inputs[4], **options)
    weighted_sum(list(outputs)).backward()
    return [x.detach() for x in outputs], [x.grad.clone() for x in inputs]  # type: ignore[union-attr]


def assert_pixels_agree(mine: tuple[list[Tensor], list[Tensor]], theirs: tuple[list[Tensor], list[Tensor]]) -> None:
    for name, a, b in zip(("renders", "alphas"), mine[0], theirs[0], strict=True):
        close(name, a, b, "pixels")
    for name, a, b in zip(NAMES, mine[1], theirs[1], strict=True):
        close(f"v_{name}", a, b)
        assert float(b.abs().max()) > 0.1


@pytest.mark.parametrize("path", ["binned", "listed"])
@pytest.mark.parametrize("channels", [3, 32, 128])
def test_rasterize_to_pixels(cpu_backend: Any, monkeypatch: pytest.MonkeyPatch, channels: int, path: str) -> None:
    """Our own lists go to the C++ backend, a copy of them, which nobody vouches for, to the reference."""
    calls: list[int] = []
    blend = cpu_backend.blend
    monkeypatch.setattr(cpu_backend, "blend", lambda *a: calls.append(1) or blend(*a))
    case = pixels_case(channels)
    if path == "listed":
        case["flatten_ids"] = case["flatten_ids"].clone()
    assert_pixels_agree(run_pixels(ours.rasterize_to_pixels, case), run_pixels(oracle_pixels, case))
    assert len(calls) == (path == "binned")


@pytest.mark.parametrize("images", [(1,), (1, 2)])
def test_rasterize_to_pixels_with_other_image_dimensions(cpu_backend: Any, images: tuple[int, ...]) -> None:
    case = pixels_case(5, images=images)
    assert_pixels_agree(run_pixels(ours.rasterize_to_pixels, case), run_pixels(oracle_pixels, case))


def test_lists_of_the_callers_own_are_rendered_as_they_are(cpu_backend: Any) -> None:
    """Half of the entries dropped, the rest in reverse: no binning by ourselves would give that."""
    case = pixels_case(3)
    full = run_pixels(ours.rasterize_to_pixels, case)[0][0]
    counts = torch.diff(case["offsets"].flatten(), append=torch.tensor([len(case["flatten_ids"])], dtype=torch.int32))
    parts = [x.flip(0)[::2] for x in case["flatten_ids"].split(counts.tolist())]
    lengths = torch.tensor([len(x) for x in parts])
    case |= {
        "flatten_ids": torch.cat(parts),
        "offsets": (torch.cumsum(lengths, 0) - lengths).int().reshape(case["offsets"].shape),
    }
    mine = run_pixels(ours.rasterize_to_pixels, case)
    assert_pixels_agree(mine, run_pixels(oracle_pixels, case))
    assert float((mine[0][0] - full).abs().max()) > 0.1


def test_lists_whose_boxes_cut_the_ellipses_are_not_widened(cpu_backend: Any) -> None:
    case = pixels_case(3)
    # Culled rows, whose conics are zero, stay out.
    radii = 2 * (case["conics"] != 0).any(-1, keepdim=True).int().expand(2, 120, 2)
    _, isect_ids, flatten_ids = ours.isect_tiles(case["means2d"], radii, random(2, 120), 16, 3, 3)
    case |= {"flatten_ids": flatten_ids, "offsets": ours.isect_offset_encode(isect_ids, 2, 3, 3)}
    assert_pixels_agree(run_pixels(ours.rasterize_to_pixels, case), run_pixels(oracle_pixels, case))


def test_means_changed_in_place_are_followed(cpu_backend: Any) -> None:
    """The lists no longer fit the ellipses, and are rendered all the same."""
    case = pixels_case(3)
    case["means2d"].add_(9.0)
    assert_pixels_agree(run_pixels(ours.rasterize_to_pixels, case), run_pixels(oracle_pixels, case))


def test_inference_mode(cpu_backend: Any) -> None:
    expected = run_pixels(ours.rasterize_to_pixels, pixels_case(3))[0]
    with torch.inference_mode():
        case = pixels_case(3)
        rows = [case[name] for name in ("means2d", "conics", "colors", "opacities")]
        lists = (case["offsets"], case["flatten_ids"])
        actual = ours.rasterize_to_pixels(*rows, 45, 35, 16, *lists, backgrounds=case["backgrounds"])
    for a, b in zip(actual, expected, strict=True):
        assert torch.equal(a, b)


def test_lists_changed_in_place_are_followed(cpu_backend: Any) -> None:
    case = pixels_case(3)
    # Every row's place is taken by the row of the same image counted from the other end.
    row = case["flatten_ids"] % 120
    case["flatten_ids"].add_(119 - 2 * row)
    assert_pixels_agree(run_pixels(ours.rasterize_to_pixels, case), run_pixels(oracle_pixels, case))


def test_packed_rows_masks_and_absgrad(cpu_backend: Any) -> None:
    case = pixels_case(3)
    dense = run_pixels(ours.rasterize_to_pixels, case)
    rows = {name: case[name].flatten(0, 1) for name in ("means2d", "conics", "colors", "opacities")}
    packed = run_pixels(ours.rasterize_to_pixels, case | rows, packed=True, absgrad=True)
    for a, b in zip(packed[0], dense[0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed[1][0].reshape(dense[1][0].shape), dense[1][0], rtol=1e-4, atol=1e-4)

    masks = random(2, 3, 3, seed=31) > 0.4
    masked = run_pixels(ours.rasterize_to_pixels, case, masks=masks)
    pixels = masks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :35, :45, None]
    expected = torch.where(pixels, dense[0][0], case["backgrounds"][:, None, None])
    torch.testing.assert_close(masked[0][0], expected)
    torch.testing.assert_close(masked[0][1], torch.where(pixels, dense[0][1], torch.zeros(())))

    for lists in (case, case | {"flatten_ids": case["flatten_ids"].clone()}):
        means2d = lists["means2d"].detach().requires_grad_()
        rest = [lists[name] for name in ("conics", "colors", "opacities")]
        renders, _ = ours.rasterize_to_pixels(
            means2d, *rest, 45, 35, 16, lists["offsets"], lists["flatten_ids"], absgrad=True
        )
        renders.sum().backward()
        assert means2d.absgrad.shape == means2d.shape  # type: ignore[attr-defined]
        assert bool((means2d.absgrad >= means2d.grad.abs() - 1e-5).all())  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:rasterizing with the pure torch reference")
def test_double_precision_goes_through_the_reference() -> None:
    case = {k: v.double() if v.dtype == torch.float32 else v for k, v in pixels_case(3).items()}
    outputs, gradients = run_pixels(ours.rasterize_to_pixels, case)
    assert all(x.dtype == torch.float64 for x in outputs + gradients)


def test_indices_against_a_loop() -> None:
    """rasterize_to_indices_in_range pixel by pixel as section 4 of the 3DGS paper says, in two ranges."""
    case = pixels_case(3, n=30)
    arrays = [case[name] for name in ("means2d", "conics", "opacities")]
    means2d, conics, opacities = arrays
    radii = torch.full((2, 30, 2), 20, dtype=torch.int32)
    _, isect_ids, flatten_ids = ours.isect_tiles(means2d, radii, random(2, 30), 4, 12, 9)
    offsets = ours.isect_offset_encode(isect_ids, 2, 12, 9)
    light = 0.3 + 0.7 * random(2, 35, 45, seed=41)
    expected = []
    ends = torch.cat([offsets.flatten(), torch.tensor([len(flatten_ids)])]).tolist()
    for image, y, x in itertools.product(range(2), range(0, 35, 3), range(0, 45, 4)):
        tile = (image * 9 + y // 4) * 12 + x // 4
        T = float(light[image, y, x])
        for row in flatten_ids[ends[tile] + 16 : min(ends[tile] + 32, ends[tile + 1])].tolist():
            dx, dy = (means2d[image, row % 30] - torch.tensor([x + 0.5, y + 0.5])).tolist()
            a, b, c = conics[image, row % 30].tolist()
            sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
            alpha = min(0.999, float(opacities[image, row % 30]) * math.exp(-sigma))
            if sigma < 0 or alpha < 1 / 255:
                continue
            if T * (1 - alpha) <= 1e-4:
                break
            T *= 1 - alpha
            expected.append((row % 30, y * 45 + x, image))
    ids = ours.rasterize_to_indices_in_range(1, 2, light, *arrays, 45, 35, 4, offsets, flatten_ids)
    got = [t for t in zip(*(x.tolist() for x in ids)) if t[1] // 45 % 3 == 0 and t[1] % 45 % 4 == 0]
    assert len(expected) > 50 and got == expected
    behind = ours.rasterize_to_indices_in_range(9, 1e10, light, *arrays, 45, 35, 4, offsets, flatten_ids)  # type: ignore[arg-type]
    assert all(len(x) == 0 for x in behind)


def test_accumulate_against_gsplats() -> None:
    from gsplat_oracle import without_cuda

    case = pixels_case(4)
    results = []
    for function in (ours.accumulate, torch_impl.accumulate):
        inputs = leaves(*(case[name] for name in ("means2d", "conics", "opacities", "colors")))
        ids = ours.rasterize_to_indices_in_range(
            0, 10**10, torch.ones(2, 35, 45), *(x.detach() for x in inputs[:3]), 45, 35, 16, case["offsets"],
            case["flatten_ids"],
        )  # fmt: skip
        with without_cuda():
            outputs = function(*inputs, *ids, 45, 35)
        weighted_sum(list(outputs)).backward()
        results.append(([x.detach() for x in outputs], [x.grad for x in inputs]))
    for a, b in zip(results[0][0], results[1][0], strict=True):
        close("accumulate", a, b, "pixels")
    for name, a, b in zip(("v_means2d", "v_conics", "v_opacities", "v_colors"), results[0][1], results[1][1]):
        close(name, a, b)


@pytest.mark.parametrize("degree", range(5))
def test_spherical_harmonics(degree: int) -> None:
    inputs = [leaves(normal(200, 3), normal(200, 25, 3, seed=1)) for _ in range(2)]
    results = [f(degree, *x) for f, x in zip((ours.spherical_harmonics, torch_impl._spherical_harmonics), inputs)]
    close("colors", results[0], results[1], "spherical harmonics")
    for x in results:
        weighted_sum([x]).backward()
    close("v_coeffs", inputs[0][1].grad, inputs[1][1].grad, "spherical harmonics")
    if degree:
        close("v_dirs", inputs[0][0].grad, inputs[1][0].grad, "spherical harmonics")


@pytest.mark.parametrize("batch", [(), (2,), (1, 2)])
@pytest.mark.parametrize("render_mode", ["RGB", "RGB+D", "D"])
@pytest.mark.parametrize("sh_degree", [None, 3])
@pytest.mark.parametrize("per_view_color", [True, False])
def test_end_to_end(
    cpu_backend: Any, per_view_color: bool, sh_degree: int | None, render_mode: str, batch: tuple[int, ...]
) -> None:
    """The scene of gsplat's own end-to-end test, smaller: huge splats around the cameras, packed and unpacked."""
    n, cameras, width, height = 50, 3, 60, 40
    viewmats = torch.eye(4).repeat(*batch, cameras, 1, 1)
    Ks = torch.tensor([[60.0, 0, width / 2], [0, 60.0, height / 2], [0, 0, 1]]).repeat(*batch, cameras, 1, 1)
    lead = (*batch, cameras, n) if per_view_color else (*batch, n)
    colors = random(*lead, 3, seed=51) if sh_degree is None else normal(*lead, 16, 3, seed=51)
    tensors = [random(*batch, n, 3, seed=52), normal(*batch, n, 4, seed=53), random(*batch, n, 3, seed=54)]
    tensors += [random(*batch, n, seed=55), colors]
    options = {"sh_degree": sh_degree, "render_mode": render_mode}
    expected = oracle_rasterization(*tensors, viewmats, Ks, width, height, **options)
    for packed in (True, False):
        actual = ours.rasterization(*tensors, viewmats, Ks, width, height, packed=packed, **options, backend="cpu")
        close("renders", actual[0], expected[0], "end to end")
        close("alphas", actual[1], expected[1], "end to end")
        assert list(actual[2]) == list(expected[2])
        if packed:
            continue
        for key, value in expected[2].items():
            if isinstance(value, Tensor):
                assert actual[2][key].dtype == value.dtype, key
                if "isect" not in key and "flatten" not in key:
                    assert actual[2][key].shape == value.shape, key
            else:
                assert actual[2][key] == value, key
        assert actual[2]["isect_offsets"].shape == expected[2]["isect_offsets"].shape


@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
def test_end_to_end_gradients(cpu_backend: Any, rasterize_mode: str) -> None:
    means, quats, scales, opacities, viewmats, Ks = scene(60, size=(45, 35))
    results = []
    for function, options in ((oracle_rasterization, {}), (ours.rasterization, {"backend": "cpu"})):
        inputs = leaves(means, quats, scales, opacities, normal(60, 16, 3, seed=61), viewmats)
        renders, alphas, _ = function(
            *inputs, Ks, 45, 35, sh_degree=3, render_mode="RGB+ED", rasterize_mode=rasterize_mode,
            backgrounds=random(3, 3, seed=62), **options,
        )  # fmt: skip
        weighted_sum([renders, alphas]).backward()
        results.append([x.grad for x in inputs])
    for name, a, b in zip(("means", "quats", "scales", "opacities", "colors", "viewmats"), *results, strict=True):
        assert a is not None and b is not None
        relative = float((a - b).norm() / a.norm())
        assert relative < 2e-3, f"{name}: {relative}"


def test_channel_chunk_and_many_channels(cpu_backend: Any) -> None:
    means, quats, scales, opacities, viewmats, Ks = scene(60, size=(45, 35))
    features = random(60, 40, seed=71)
    expected = oracle_rasterization(means, quats, scales, opacities, features, viewmats, Ks, 45, 35, channel_chunk=16)
    for chunk in (1, 16, 64):
        renders, alphas, _ = ours.rasterization(
            means, quats, scales, opacities, features, viewmats, Ks, 45, 35, channel_chunk=chunk, backend="cpu"
        )
        close("renders", renders, expected[0], "end to end")
        close("alphas", alphas, expected[1], "end to end")
