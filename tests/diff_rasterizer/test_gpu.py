"""The `cuda` backend on a real GPU: the same comparisons as everywhere, and what only a GPU can show.

pytest -m gpu tests/diff_rasterizer/test_gpu.py
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from rasterizer_checks import END_TO_END_OPTIONS, assert_agrees_with_reference, option_id
from rasterizer_scenes import PROJECT_SETTINGS, Scene, make_scene, weighted_sum
from rasterizer_tolerances import assert_close_with_flips, assert_gradients_agree
from torch import Tensor

from diff_rasterizer import FusedAdam, available_backends, l1_ssim_loss, rasterization
from diff_rasterizer.losses import torch_ssim_l1

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu() -> torch.device:
    """The first GPU. A machine with a GPU on which the backend cannot run fails the tests."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA GPU")
    reason = available_backends()["cuda"]
    assert reason == "", reason
    return torch.device("cuda", 0)


@pytest.fixture
def cuda_backend(gpu: torch.device) -> ModuleType:
    from diff_rasterizer import cuda

    return cuda


def images(scene: Scene, device: torch.device, **options: Any) -> list[Tensor]:
    """Returns render, alpha and the gradients of one call, all on the CPU."""
    x = scene.on(device).with_gradients()
    renders, alphas, _ = rasterization(**x.arguments(), **options, backend="cuda")
    weighted_sum([renders, alphas]).backward()
    grads = [value.grad for value in x.tensors().values() if value.grad is not None]
    return [value.detach().cpu() for value in (renders, alphas, *grads)]


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    """Forward bit for bit; gradients are added up atomically, in any order."""
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])
    for a, b in zip(actual[2:], expected[2:], strict=True):
        assert_gradients_agree(a, b, relative=1e-4)


@pytest.mark.parametrize("options", END_TO_END_OPTIONS, ids=option_id)
@pytest.mark.parametrize("batch,cameras", [((), 1), ((2,), 2)])
def test_end_to_end(gpu: torch.device, batch: tuple[int, ...], cameras: int, options: dict[str, Any]) -> None:
    assert_agrees_with_reference("cuda", gpu, options, batch=batch, cameras=cameras, n=300, seed=11)


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 8, 32, 40])
def test_feature_channels_and_backgrounds(gpu: torch.device, channels: int) -> None:
    assert_agrees_with_reference(
        "cuda", gpu, {}, backgrounds=True, absgrad=channels <= 32, channels=channels, cameras=2, n=200, seed=channels
    )


@pytest.mark.parametrize("degree", range(5))
def test_sh_degrees(gpu: torch.device, degree: int) -> None:
    assert_agrees_with_reference("cuda", gpu, {"sh_degree": degree}, backgrounds=True, n=200, seed=degree)


def test_covariances(gpu: torch.device) -> None:
    scene = make_scene(n=200, seed=12, dtype=torch.float32)
    factor = 0.2 * torch.randn(200, 3, 3, generator=torch.Generator().manual_seed(1))
    results = []
    for name, device, dtype in (("cuda", gpu, torch.float32), ("reference", torch.device("cpu"), torch.float64)):
        covars = (factor @ factor.mT).to(device, dtype).requires_grad_()
        arguments = scene.cast(dtype).on(device).arguments() | {"quats": None, "scales": None, "covars": covars}
        renders, alphas, _ = rasterization(**arguments, backend=name)
        weighted_sum([renders, alphas]).backward()
        assert covars.grad is not None
        results.append((renders.detach().cpu(), covars.grad.cpu()))
    assert_close_with_flips(results[0][0], results[1][0], atol=2e-4, flips=2e-3, flip_atol=0.05, name="renders")
    assert_gradients_agree(results[0][1], results[1][1], relative=1e-2, name="covars")


def test_many_gaussians_many_instances(gpu: torch.device, cpu_backend: ModuleType) -> None:
    """Deep tiles, many buckets, Gaussians over many tiles; too much for the reference, so the CPU backend judges."""
    scene = make_scene(n=20_000, width=321, height=203, focal=250.0, scale=0.15, seed=3, dtype=torch.float32)
    results = []
    for name, device in (("cuda", gpu), ("cpu", torch.device("cpu"))):
        x = scene.on(device).with_gradients()
        renders, alphas, _ = rasterization(**x.arguments(), backend=name)
        weighted_sum([renders, alphas]).backward()
        results.append([renders.detach().cpu(), alphas.detach().cpu(), *(v.grad for v in x.tensors().values())])
    for name, actual, expected in zip(("renders", "alphas"), *(result[:2] for result in results), strict=True):
        assert_close_with_flips(actual, expected, atol=1e-3, flips=5e-3, flip_atol=0.1, name=name)
    for name, actual, expected in zip(scene.tensors(), *(result[2:] for result in results), strict=True):
        moved = None if actual is None else actual.cpu()
        assert_gradients_agree(moved, expected, relative=2e-2, cosine=0.999, name=name)


@pytest.mark.parametrize(("width", "height", "cameras"), [(3840, 2160, 1), (3840, 2160, 3), (17, 9, 1)])
def test_tile_keys_of_either_width(
    gpu: torch.device, cpu_backend: ModuleType, width: int, height: int, cameras: int
) -> None:
    """4K has 32,400 tiles: one camera's fit 16 bits, three cameras' do not."""
    scene = make_scene(n=300, cameras=cameras, width=width, height=height, focal=1.1 * width, scale=0.05, seed=5)
    scene = scene.cast(torch.float32)
    with torch.no_grad():
        actual = rasterization(**scene.on(gpu).arguments(), backend="cuda")
        expected = rasterization(**scene.arguments(), backend="cpu")
    assert float(expected[1].max()) > 0.5, "the scene should be seen"
    for name, a, b in zip(("renders", "alphas"), actual[:2], expected[:2], strict=True):
        assert_close_with_flips(a.cpu(), b, atol=1e-3, flips=1e-3, flip_atol=0.1, name=name)


def test_nothing_to_see(gpu: torch.device) -> None:
    scene = make_scene(n=20, seed=1, dtype=torch.float32)
    behind = Scene(**(scene.arguments() | {"means": scene.means - torch.tensor([0.0, 0.0, 100.0])}))
    for empty in (behind, make_scene(n=0, dtype=torch.float32)):
        renders, alphas, *gradients = images(empty, gpu)
        assert float(renders.abs().sum()) == float(alphas.abs().sum()) == 0.0
        assert all(float(g.abs().sum()) == 0.0 for g in gradients)


def test_bad_rows_are_not_drawn(gpu: torch.device) -> None:
    scene = make_scene(n=60, seed=2, dtype=torch.float32)
    good = Scene(**{k: v[10:] if isinstance(v, Tensor) and len(v) == 60 else v for k, v in scene.arguments().items()})
    scene.means[:3] = torch.nan
    scene.means[3] = torch.inf
    scene.scales[4:6] = torch.nan
    scene.quats[6] = 0.0
    scene.opacities[7:10] = torch.nan
    actual, expected = images(scene, gpu), images(good, gpu)
    torch.testing.assert_close(actual[:2], expected[:2])
    assert all(bool(g.isfinite().all()) for g in actual[2:])


def test_work_is_queued_on_the_current_stream(gpu: torch.device) -> None:
    """On a stream whose inputs are not there yet: kernels on any other stream would read zeros."""
    scene = make_scene(n=300, seed=4, sh_degree=2, dtype=torch.float32).on(gpu)
    expected = images(scene, gpu, sh_degree=2)
    late = {name: torch.zeros_like(value) for name, value in scene.tensors().items()}
    torch.cuda.synchronize()
    stream = torch.cuda.Stream(gpu)
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)
        for name, value in scene.tensors().items():
            late[name].copy_(value)
        actual = images(Scene(**(scene.arguments() | late)), gpu, sh_degree=2)
    assert_same(actual, expected)


def test_a_fresh_thread_can_render_and_train(gpu: torch.device) -> None:
    """A new thread has no current device; neither have autograd's own, on which each backward runs."""
    scene = make_scene(n=100, seed=6, dtype=torch.float32)
    expected = images(scene, gpu)
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(images(scene, gpu))
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for result in results:
        assert not isinstance(result, Exception), result
        assert_same(result, expected)


def test_a_second_gpu(gpu: torch.device) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one GPU")
    scene = make_scene(n=200, seed=7, dtype=torch.float32)
    expected = images(scene, gpu)
    with torch.cuda.device(0):
        assert_same(images(scene, torch.device("cuda", 1)), expected)
        assert torch.cuda.current_device() == 0
    with torch.cuda.device(1):
        assert_same(images(scene, gpu), expected)
        assert torch.cuda.current_device() == 1


@contextmanager
def synchronisations() -> Iterator[list[str]]:
    """Collects what torch says about each time the host waits for the GPU."""
    found: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
            found += [str(w.message) for w in caught if "synchroniz" in str(w.message)]


def test_the_host_waits_once_forward_and_never_backward(gpu: torch.device, cuda_backend: ModuleType) -> None:
    scene = make_scene(n=500, cameras=2, seed=8, dtype=torch.float32).on(gpu)
    x = {name: value[None].clone().requires_grad_() for name, value in scene.tensors().items()}
    ids = torch.arange(2, dtype=torch.int32, device=gpu).repeat_interleave(500)

    def forward() -> tuple[Tensor, Tensor]:
        radii, means2d, depths, conics, _ = cuda_backend.project(
            x["means"], x["quats"], x["scales"], None, x["opacities"].detach(), x["viewmats"], x["Ks"].detach(),
            scene.width, scene.height, **PROJECT_SETTINGS,
        )  # fmt: skip
        colors, opacities = (x[k][:, None].expand(1, 2, *x[k].shape[1:]) for k in ("colors", "opacities"))
        rows = [v.reshape(1000, *v.shape[3:]) for v in (means2d, conics, colors, opacities, depths.detach(), radii)]
        return cuda_backend.blend(*rows, ids, 2, scene.width, scene.height, None, False)

    weights = torch.rand(2, scene.height, scene.width, 3, device=gpu)
    for _ in range(2):  # the first call compiles and loads
        with synchronisations() as waits_forward:
            renders, alphas = forward()
        with synchronisations() as waits_backward:
            ((renders * weights).sum() + alphas.sum()).backward()
    assert len(waits_forward) == 1, waits_forward
    assert waits_backward == []


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kind", [torch.float32, torch.uint8])
def test_the_fused_loss_is_the_torch_loss(gpu: torch.device, kind: torch.dtype, padding: Any) -> None:
    g = torch.Generator().manual_seed(0)
    image, target = torch.rand(2, 37, 50, 3, generator=g), torch.rand(2, 37, 50, 3, generator=g)
    if kind == torch.uint8:
        target = (target * 255).to(torch.uint8)
    x = image.to(gpu).clone().requires_grad_()
    loss = l1_ssim_loss(x, target.to(gpu), padding=padding)
    loss.backward()
    y = image.double().requires_grad_()
    ssim, l1 = torch_ssim_l1(y, target if kind == torch.uint8 else target.double(), padding)
    expected = 0.8 * l1 + 0.2 * (1 - ssim)
    expected.backward()
    torch.testing.assert_close(loss.cpu().double(), expected.detach(), atol=1e-5, rtol=1e-5, check_dtype=False)
    assert x.grad is not None and y.grad is not None
    assert_gradients_agree(x.grad.cpu(), y.grad, relative=1e-3)


def test_fused_adam_is_adam(gpu: torch.device) -> None:
    g = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=g) for shape in ((1001,), (64, 3), (5, 7, 2))]
    ours, theirs = ([torch.nn.Parameter(p.to(gpu)) for p in start] for _ in range(2))
    a, b = FusedAdam(ours, lr=1e-2, eps=1e-15), torch.optim.Adam(theirs, lr=1e-2, eps=1e-15)
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=g).to(gpu)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_short_fit_reaches_its_target(gpu: torch.device) -> None:
    """Many steps of forward, loss, backward and Adam: whatever is left in a buffer or raced for would show."""
    target_scene = make_scene(n=150, seed=9, dtype=torch.float32).on(gpu)
    with torch.no_grad():
        target = rasterization(**target_scene.arguments(), backend="cuda")[0]
    moved = make_scene(n=150, seed=9, dtype=torch.float32)
    moved.colors.fill_(0.5)
    moved.means.add_(0.02 * torch.randn(150, 3, generator=torch.Generator().manual_seed(1)))
    x = moved.on(gpu)
    means, colors = x.means.requires_grad_(), x.colors.requires_grad_()
    optimiser = FusedAdam([{"params": [means], "lr": 2e-3}, {"params": [colors], "lr": 2e-2}])
    losses = []
    for _ in range(200):
        renders = rasterization(**x.arguments(), backend="cuda")[0]
        loss = l1_ssim_loss(renders, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.25 * losses[0], losses[::20]
