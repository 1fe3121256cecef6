"""The `cuda` backend against the reference, its kernels run by the emulation: stage by stage, then end to end.

The stages go through the checks that the CPU backend passes, `test_backends_agree`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import test_backends_agree as agree
import torch
from cuda_emulation.emulation import EmulationLauncher
from rasterizer_scenes import PROJECT_SETTINGS, Scene, make_scene, weighted_sum
from rasterizer_tolerances import assert_close_with_flips, assert_gradients_agree
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diff_rasterizer import cuda, cuda_blend, rasterization, reference

pytestmark = pytest.mark.usefixtures("emulation")


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("covars", [False, True])
@pytest.mark.parametrize("camera_model", agree.CAMERA_MODELS)
@pytest.mark.parametrize("batch,cameras,n", [((), 1, 700), ((2,), 3, 301)])
def test_project(
    batch: tuple[int, ...], cameras: int, n: int, camera_model: str, covars: bool, compensate: bool
) -> None:
    agree.test_project(cuda, batch, cameras, n, camera_model, covars, compensate)


@pytest.mark.parametrize("each_output", ["means2d", "depths", "conics", "compensations"])
@pytest.mark.parametrize("camera_model", agree.CAMERA_MODELS)
def test_project_gradient_of_each_output(camera_model: str, each_output: str) -> None:
    agree.test_project_gradient_of_each_output(cuda, camera_model, each_output)


@pytest.mark.parametrize("per_camera", [False, True])
@pytest.mark.parametrize("degree", range(5))
def test_view_colors(degree: int, per_camera: bool) -> None:
    agree.test_view_colors(cuda, degree, per_camera)


@pytest.mark.parametrize(
    "n,n_images,width,height,channels,scale",
    [
        (300, 3, 37, 29, 3, 2.0),
        (60, 2, 33, 17, 1, 3.0),
        (80, 1, 20, 50, 5, 6.0),
        (50, 1, 31, 30, 32, 3.0),
        (50, 1, 31, 30, 37, 3.0),
        (2000, 1, 30, 30, 3, 8.0),
        (7, 1, 1, 1, 1, 2.0),
        (40, 2, 130, 3, 5, 2.0),
    ],
)
@pytest.mark.parametrize("with_background", [False, True])
def test_blend(
    n: int, n_images: int, width: int, height: int, channels: int, scale: float, with_background: bool
) -> None:
    agree.test_blend(cuda, n, n_images, width, height, channels, scale, with_background)


@pytest.mark.parametrize("n,width,height,channels,scale", [(300, 37, 29, 3, 2.0), (600, 30, 30, 3, 8.0)])
def test_blend_with_large_buckets(
    monkeypatch: pytest.MonkeyPatch, n: int, width: int, height: int, channels: int, scale: float
) -> None:
    """A bucket of 128 instances is what large scenes use."""
    monkeypatch.setattr(cuda_blend, "LARGE_FROM", 0)
    agree.test_blend(cuda, n, 2, width, height, channels, scale, True)


def test_a_clamped_alpha_passes_no_gradient_to_opacity_and_shape() -> None:
    """Opaque Gaussians that are flat around the centre of a pixel."""
    inputs, other = agree.blend_inputs(12, 1, 20, 20, 3, 1.0, seed=15)
    inputs["means2d"] = inputs["means2d"].floor() + 0.5  # type: ignore[union-attr]
    inputs["conics"] = torch.tensor([[1e-3, 0.0, 1e-3]]).repeat(12, 1)
    inputs["opacities"] = torch.ones(12)
    results = []
    for module, dtype in ((cuda, torch.float32), (reference, torch.float64)):
        x = agree.leaves(inputs, dtype)
        renders, alphas = module.blend(**x, **(other | {"depths": other["depths"].to(dtype)}), absgrad=True)
        grads = agree.gradients(weighted_sum([renders, alphas]), x)
        results.append((renders.detach(), grads | {"absgrad": x["means2d"].absgrad}))  # type: ignore[union-attr]
    assert_close_with_flips(results[0][0], results[1][0], atol=1e-4, name="renders")
    for name, wanted in results[1][1].items():
        if name != "backgrounds":  # a thousandth and less shines through
            assert_gradients_agree(results[0][1][name], wanted, relative=2e-3, name=name)


def test_blend_without_rows() -> None:
    agree.test_blend_without_rows(cuda)


def test_blend_without_absgrad_has_the_same_gradients() -> None:
    inputs, other = agree.blend_inputs(120, 2, 40, 30, 3, 3.0, seed=3)
    results = []
    for absgrad in (False, True):
        x = agree.leaves(inputs, torch.float32)
        renders, alphas = cuda.blend(**x, **other, absgrad=absgrad)
        results.append(agree.gradients(weighted_sum([renders, alphas]), x))
        assert hasattr(x["means2d"], "absgrad") == absgrad
    for name, value in results[0].items():
        assert_gradients_agree(value, results[1][name], relative=1e-6, name=name)


def test_blend_without_gradients_stores_no_buckets(emulation: EmulationLauncher) -> None:
    inputs, other = agree.blend_inputs(120, 1, 40, 30, 3, 3.0, seed=4)
    stored = []
    emulation.before = lambda file, entry, grid, block, args, macros: stored.extend(
        args[-3:] if entry == "blend_forward" else []
    )
    x = agree.leaves(inputs, torch.float32)
    with torch.no_grad():
        quiet = cuda.blend(**x, **other, absgrad=False)
    assert stored == [None, None, None]
    assert torch.equal(quiet[0], cuda.blend(**x, **other, absgrad=False)[0])
    assert all(isinstance(s, Tensor) for s in stored[3:])


def test_rows_that_are_not_finite_are_skipped() -> None:
    inputs, other = agree.blend_inputs(60, 1, 40, 30, 3, 3.0, seed=5)
    broken = {k: v.clone() for k, v in inputs.items() if v is not None}
    depths = other["depths"].clone()
    broken["means2d"][0, 1] = torch.nan
    broken["conics"][1, 2] = torch.inf
    broken["colors"][2, 2] = torch.nan
    broken["opacities"][3] = torch.nan
    broken["opacities"][4] = 0.0
    depths[5], depths[6] = torch.nan, torch.inf
    results = []
    for module, dtype in ((cuda, torch.float32), (reference, torch.float64)):
        x = agree.leaves(broken, dtype)
        renders, alphas = module.blend(**x, **(other | {"depths": depths.to(dtype)}), absgrad=True)
        results.append((renders.detach(), agree.gradients(weighted_sum([renders, alphas]), x)))
    assert_close_with_flips(results[0][0], results[1][0], atol=5e-5, flips=2e-3, flip_atol=0.05)
    for name, wanted in results[1][1].items():
        actual = results[0][1][name]
        assert actual is not None and (name == "backgrounds" or float(actual[:7].abs().max()) == 0.0), name
        assert_gradients_agree(actual, wanted, relative=5e-3, name=name)


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("degree", [0, 3])
def test_projection_fused_with_colors(degree: int, activations: bool, compensate: bool) -> None:
    """One launch gives what `project` and `view_colors` give, opacities and gradients included."""
    scene = make_scene(n=300, cameras=2, batch=(2,), sh_degree=3, seed=6, dtype=torch.float32)
    means = scene.means.clone()
    means[..., ::5, :] *= 8.0
    campos = torch.linalg.inv(scene.viewmats)[..., :3, 3]
    raw = {"scales": scene.scales.log(), "opacities": torch.logit(scene.opacities)} if activations else {}
    inputs: dict[str, Tensor | None] = {
        "means": means,
        "quats": scene.quats,
        "scales": raw.get("scales", scene.scales),
        "opacities": raw.get("opacities", scene.opacities),
        "viewmats": scene.viewmats,
        "campos": campos,
        "coeffs": scene.colors,
    }
    settings = PROJECT_SETTINGS | {"compensate": compensate}
    size = (scene.width, scene.height)

    x: Any = agree.leaves(inputs, torch.float32)
    fused = cuda.project_with_colors(
        x["means"], x["quats"], x["scales"], x["opacities"], x["viewmats"], scene.Ks, x["campos"], x["coeffs"], degree,
        *size, activations=activations, **settings,
    )  # fmt: skip
    y: Any = agree.leaves(inputs, torch.float64)
    scales = y["scales"].exp() if activations else y["scales"]
    opacities = y["opacities"].sigmoid() if activations else y["opacities"]
    radii, means2d, depths, conics, compensations = reference.project(
        y["means"], y["quats"], scales, None, opacities.detach(), y["viewmats"], scene.Ks.double(), *size, **settings
    )
    visible = (radii > 0).all(-1)
    seen = opacities[:, None].expand(visible.shape)
    seen = torch.where(visible, seen * compensations, 0.0) if compensate else torch.where(visible, seen, seen.detach())
    colors = reference.view_colors(degree, y["means"], y["campos"], y["coeffs"], radii)
    plain = [radii, means2d, depths, conics, seen, colors]
    assert bool(((fused[0] > 0).all(-1) == visible).all()) and 0.1 < float(visible.double().mean()) < 0.95
    for name, actual, wanted in zip(("means2d", "depths", "conics", "opacities", "colors"), fused[1:], plain[1:]):
        assert_close_with_flips(actual.detach(), wanted.detach(), atol=2e-4, rtol=2e-3, name=name)
    actual, wanted = (agree.gradients(weighted_sum(list(o[1:])), i) for o, i in ((fused, x), (plain, y)))
    for name in wanted:
        if name == "campos" and degree == 0:
            assert float(actual[name].abs().max()) == 0.0  # type: ignore[union-attr]
            continue
        assert_gradients_agree(actual[name], wanted[name], relative=3e-3, name=name)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"packed": False, "absgrad": True},
    {"sh_degree": 3, "absgrad": True},
    {"sh_degree": 2, "packed": False, "render_mode": "RGB+ED", "rasterize_mode": "antialiased"},
    {"render_mode": "ED"},
    {"render_mode": "D", "packed": False},
    {"camera_model": "fisheye"},
    {"camera_model": "ortho", "render_mode": "RGB+D"},
    {"sparse_grad": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(f"{v}" for v in o.values()) or "default")
@pytest.mark.parametrize("batch,cameras", [((), 2), ((2,), 2)])
def test_end_to_end(batch: tuple[int, ...], cameras: int, options: dict[str, Any]) -> None:
    if options.get("sparse_grad") and batch:
        pytest.skip("sparse gradients have no batch dimensions")
    scene = make_scene(
        n=80,
        cameras=cameras,
        batch=batch,
        width=40,
        height=30,
        sh_degree=options.get("sh_degree"),
        camera_model=options.get("camera_model", "pinhole"),
        seed=11,
        dtype=torch.float32,
    )
    backgrounds = torch.rand(*batch, cameras, 3, generator=torch.Generator().manual_seed(1))
    results = []
    for name, dtype in (("cuda", torch.float32), ("reference", torch.float64)):
        x = scene.cast(dtype).with_gradients()
        renders, alphas, meta = rasterization(
            **x.arguments(), **options, backgrounds=backgrounds.to(dtype), backend=name
        )
        meta["means2d"].retain_grad()
        weighted_sum([renders * (alphas.detach() > 0.05), alphas]).backward()
        results.append((x, renders.detach(), alphas.detach(), meta))
    (x, renders, alphas, meta), (ref_x, ref_renders, ref_alphas, ref_meta) = results
    solid = ref_alphas > 0.05
    assert_close_with_flips(alphas, ref_alphas, atol=1e-4, flips=2e-3, flip_atol=2 / 255, name="alphas")
    shown = renders * solid
    assert_close_with_flips(shown, ref_renders * solid, atol=3e-4, rtol=3e-4, flips=4e-3, flip_atol=0.1, name="renders")
    for name, value in ref_x.tensors().items():
        pair = [x.tensors()[name].grad, value.grad]
        pair = [g.to_dense() if g is not None and g.is_sparse else g for g in pair]
        assert_gradients_agree(*pair, relative=1e-2, cosine=0.999, name=name)
    assert meta["radii"].shape == ref_meta["radii"].shape
    assert_gradients_agree(meta["means2d"].grad, ref_meta["means2d"].grad, relative=1e-2, cosine=0.999)
    if options.get("absgrad"):
        assert_gradients_agree(meta["means2d"].absgrad, ref_meta["means2d"].absgrad, relative=1e-2, cosine=0.999)


def test_degenerate_gaussians_are_not_drawn_and_get_no_gradient() -> None:
    scene = make_scene(n=40, cameras=2, sh_degree=1, width=40, height=30, seed=8, dtype=torch.float32)
    tensors = {k: v.clone() for k, v in scene.tensors().items()}
    tensors["means"][0, 1] = torch.nan
    tensors["quats"][1] = 0.0
    tensors["scales"][2, 0] = torch.inf
    tensors["opacities"][3] = torch.nan
    tensors["colors"][4, 2, 1] = torch.nan
    tensors["means"][5] = torch.tensor([0.0, 0.0, -50.0])
    scene = replace(scene, **tensors)
    results = []
    for name, dtype in (("cuda", torch.float32), ("reference", torch.float64)):
        x = scene.cast(dtype).with_gradients()
        renders, alphas, _ = rasterization(**x.arguments(), sh_degree=1, backend=name)
        weighted_sum([renders, alphas]).backward()
        results.append((x, renders.detach()))
    assert_close_with_flips(results[0][1], results[1][1], atol=3e-4, flips=4e-3, flip_atol=0.1, name="renders")
    for name, value in results[1][0].tensors().items():
        actual = results[0][0].tensors()[name].grad
        if value.grad is not None:
            assert_gradients_agree(actual, value.grad, relative=1e-2, cosine=0.999, name=name)
            if name in ("means", "quats", "scales", "opacities"):
                assert float(actual[[0, 1, 2, 3, 5]].abs().max()) == 0.0, name  # type: ignore[index]


@pytest.mark.parametrize("packed", [False, True])
def test_nothing_visible(packed: bool) -> None:
    scene = make_scene(n=10, cameras=2, seed=9, dtype=torch.float32)
    scene = replace(scene, means=scene.means - torch.tensor([0.0, 0.0, 100.0])).with_gradients()
    backgrounds = torch.rand(2, 3)
    renders, alphas, _ = rasterization(**scene.arguments(), packed=packed, backgrounds=backgrounds, backend="cuda")
    assert torch.equal(renders.detach(), backgrounds[:, None, None].expand_as(renders))
    weighted_sum([renders, alphas]).backward()
    assert float(scene.means.grad.abs().max()) == 0.0  # type: ignore[union-attr]


def run_scene(scene: Scene) -> list[Tensor]:
    """Returns renders, alphas and all gradients of one scene."""
    x = scene.with_gradients()
    renders, alphas, _ = rasterization(**x.arguments(), sh_degree=2, packed=False, backend="cuda")
    weighted_sum([renders, alphas]).backward()
    return [renders.detach(), alphas.detach(), *(t.grad for t in x.tensors().values() if t.grad is not None)]


def test_the_order_of_threads_does_not_matter(emulation: EmulationLauncher) -> None:
    scene = make_scene(n=150, cameras=2, sh_degree=2, width=40, height=30, seed=13, dtype=torch.float32)
    forward = run_scene(scene)
    emulation.reverse = True
    backward = run_scene(scene)
    assert torch.equal(forward[0], backward[0]) and torch.equal(forward[1], backward[1])
    # Atomic additions happen in another order.
    for a, b in zip(forward[2:], backward[2:], strict=True):
        assert_gradients_agree(a, b, relative=1e-5)


class _HostReads(TorchDispatchMode):
    """Counts the operations that would wait for a GPU."""

    WAIT = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "bincount", "equal", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        if name in self.WAIT:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_the_host_waits_for_the_device_once() -> None:
    """The number of instances; masks by index, printing and .item() would wait again."""
    scene = make_scene(n=60, cameras=2, sh_degree=1, width=40, height=30, seed=14, dtype=torch.float32)
    x = scene.with_gradients()
    inputs = [t[None] for t in (x.means, x.quats, x.scales)]
    with _HostReads() as reads:
        radii, means2d, depths, conics, _ = cuda.project(
            *inputs, None, x.opacities[None], x.viewmats[None], x.Ks[None], x.width, x.height, **PROJECT_SETTINGS
        )
        colors = cuda.view_colors(1, inputs[0], x.viewmats[None, :, :3, 3], x.colors[None], radii)
        rows = [t.reshape(-1, *t.shape[3:]) for t in (means2d, conics, colors)]
        ids = torch.arange(2, dtype=torch.int32).repeat_interleave(60)
        renders, alphas = cuda.blend(
            *rows, x.opacities.repeat(2), depths.detach().reshape(-1), radii.reshape(-1, 2), ids, 2, x.width, x.height,
            None, True,
        )  # fmt: skip
        torch.autograd.backward([renders, alphas], [torch.ones_like(renders), torch.ones_like(alphas)])
    assert reads.seen == ["_local_scalar_dense"]
