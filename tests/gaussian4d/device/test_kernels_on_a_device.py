"""Rasterizer, losses and Adam on a device of another type: the seams through which a backend serves it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pretend_device import count_syncs
from torch import Tensor

from diff_rasterizer import FusedAdam, backends, fused_ssim, l1_ssim_loss, optim, rasterization
from diff_rasterizer.losses import mean_squared_error, squared_error

CPU = torch.device("cpu")
WIDTH, HEIGHT = 40, 30

OPTIONS: list[dict[str, Any]] = [
    {"sh_degree": 2, "packed": False},
    {"sh_degree": 2},
    {"sh_degree": 1, "packed": False, "absgrad": True},
    {"sh_degree": 1, "absgrad": True},
    {"sh_degree": None, "packed": False},
    {"sh_degree": 1, "packed": False, "render_mode": "RGB+ED", "rasterize_mode": "antialiased"},
    {"sh_degree": None, "packed": False, "render_mode": "ED"},
    {"sh_degree": 1, "packed": False, "camera_model": "fisheye"},
    {"sh_degree": 1, "packed": False, "camera_model": "ortho", "render_mode": "RGB+D"},
]


def scene(n: int = 60) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(4)
    means = torch.rand(n, 3, generator=g) * 2.0 - 1.0 + torch.tensor([0.0, 0.0, 3.0])
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[1, 0, 3] = 0.3
    return {
        "means": means,
        "quats": torch.randn(n, 4, generator=g),
        "scales": torch.rand(n, 3, generator=g) * 0.2 + 0.02,
        "opacities": torch.rand(n, generator=g),
        "colors": torch.rand(n, 9, 3, generator=g),
        "viewmats": viewmats,
        "backgrounds": torch.rand(2, 3, generator=g),
    }


def rendered(device: torch.device, options: dict[str, Any], n: int = 60) -> dict[str, Tensor]:
    """Returns the pictures, what meta holds and all gradients."""
    x = {name: value.to(device).requires_grad_() for name, value in scene(n).items()}
    if options["sh_degree"] is None:
        x["colors"] = x["colors"].detach()[:, 0].contiguous().requires_grad_()
    K = torch.tensor([[30.0, 0.0, WIDTH / 2], [0.0, 30.0, HEIGHT / 2], [0.0, 0.0, 1.0]], device=device).repeat(2, 1, 1)
    renders, alphas, meta = rasterization(**x, Ks=K, width=WIDTH, height=HEIGHT, **options)
    meta["means2d"].retain_grad()
    assert renders.device == device and meta["radii"].device == device
    (renders.sin().sum() + alphas.square().sum()).backward()
    found = {"renders": renders.detach(), "alphas": alphas.detach(), "means2d": meta["means2d"].grad}
    found |= {name: meta[name].detach() for name in ("radii", "depths", "conics", "opacities", "isect_offsets")}
    if options.get("absgrad"):
        found["absgrad"] = meta["means2d"].absgrad
    found |= {f"d {name}": value.grad for name, value in x.items() if value.grad is not None}
    return found


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(f"{value}" for value in options.values()))
def test_rasterization_is_that_of_the_cpu_to_the_bit(pretend: torch.device, options: dict[str, Any]) -> None:
    here, there = rendered(CPU, options), rendered(pretend, options)
    assert here.keys() == there.keys() and len(here) > 12
    for name, value in here.items():
        assert there[name].device == pretend, name
        assert torch.equal(value, there[name].cpu()), name


def test_dense_rasterization_waits_for_the_number_of_instances_only(pretend: torch.device) -> None:
    x = {name: value.to(pretend).requires_grad_() for name, value in scene().items()}
    K = torch.eye(3).repeat(2, 1, 1).to(pretend)
    with count_syncs() as syncs:
        renders, _, _ = rasterization(**x, Ks=K, width=WIDTH, height=HEIGHT, sh_degree=2, packed=False)
        renders.sum().backward()
    assert syncs.names == ["number of instances"]


def pictures(device: torch.device, as_bytes: bool) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    image, target = torch.rand(20, 30, 3, generator=g), torch.rand(20, 30, 3, generator=g)
    target = (target * 255).to(torch.uint8) if as_bytes else target
    return image.to(device).requires_grad_(), target.to(device)


def losses(device: torch.device, as_bytes: bool) -> list[Tensor]:
    image, target = pictures(device, as_bytes)
    loss = l1_ssim_loss(image, target, 0.3) + fused_ssim(image, target, "valid")
    error = squared_error(image, target)
    loss.backward()
    assert image.grad is not None and not error.requires_grad and error.dtype == torch.float64
    return [loss.detach(), image.grad, error]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_losses_are_those_of_the_cpu_to_the_bit_and_do_not_wait(pretend: torch.device, as_bytes: bool) -> None:
    here = losses(CPU, as_bytes)
    image, target = pictures(pretend, as_bytes)
    there = losses(pretend, as_bytes)
    for a, b in zip(here, there, strict=True):
        assert b.device == pretend and torch.equal(a, b.cpu())
    with count_syncs() as syncs:
        (l1_ssim_loss(image, target, 0.3) + fused_ssim(image, target, "valid")).backward()
        squared_error(image, target)
    assert not syncs.names
    assert mean_squared_error(image, target) == float(here[2])


def stepped(device: torch.device, optimizer_type: Any) -> list[Tensor]:
    g = torch.Generator().manual_seed(2)
    params = [torch.nn.Parameter(torch.randn(7, 3, generator=g).to(device)) for _ in range(2)]
    optimizer = optimizer_type([{"params": params, "lr": 0.01}], eps=1e-15)
    grads = [torch.randn(7, 3, generator=g).to(device) for _ in range(6)]
    with count_syncs() as syncs:
        for k in range(3):
            for p, grad in zip(params, grads[2 * k : 2 * k + 2]):
                p.grad = grad
            optimizer.step()
    assert not syncs.names
    state = optimizer.state[params[0]]
    assert state["step"].device.type == "cpu" and state["exp_avg"].device == device
    return [*(p.detach() for p in params), state["exp_avg"], state["exp_avg_sq"]]


def test_adam_is_that_of_the_cpu_to_the_bit_and_does_not_wait(pretend: torch.device) -> None:
    for a, b in zip(stepped(CPU, FusedAdam), stepped(pretend, FusedAdam), strict=True):
        assert b.device == pretend and torch.equal(a, b.cpu())


def test_without_kernels_losses_and_adam_go_through_torch(pretend: torch.device, monkeypatch: Any) -> None:
    monkeypatch.setattr(backends, "_registered", {})
    monkeypatch.setattr(optim, "_warned", set())
    for a, b in zip(losses(CPU, False), losses(pretend, False), strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=2e-4, atol=1e-6)
    with pytest.warns(UserWarning, match="on pretend:0 is not fused.*no backend has kernels for it") as said:
        there = stepped(pretend, FusedAdam)
    assert len(said) == 1
    for a, b in zip(stepped(CPU, FusedAdam), there, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-5, atol=1e-7)


# The kernels of the `cuda` backend, emulated.


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[5]], ids=["colours", "depth"])
def test_emulated_cuda_kernels_agree(emulated: torch.device, cpu_backend: Any, options: dict[str, Any]) -> None:
    here, there = rendered(CPU, options, 20), rendered(emulated, options, 20)
    for name, value in here.items():
        if value.dtype.is_floating_point:
            error = (there[name].cpu() - value).norm() / value.norm().clamp_min(1e-6)
            assert float(error) < 2e-3, (name, float(error))


def test_the_emulated_cuda_backend_waits_once(emulated: torch.device) -> None:
    """What `pretend_kernels.blend` says of it is true."""
    x = {name: value.to(emulated).requires_grad_() for name, value in scene(10).items()}
    K = torch.eye(3).repeat(2, 1, 1).to(emulated)
    with count_syncs() as syncs:
        renders, _, _ = rasterization(**x, Ks=K, width=WIDTH, height=HEIGHT, sh_degree=2, packed=False)
        renders.sum().backward()
    assert syncs.names == ["item"]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_emulated_losses_agree_and_do_not_wait(emulated: torch.device, cpu_backend: Any, as_bytes: bool) -> None:
    with count_syncs() as syncs:
        there = losses(emulated, as_bytes)
    assert syncs.names == ["upload", "upload"]  # the two pictures
    for a, b in zip(losses(CPU, as_bytes), there, strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=2e-4, atol=1e-6)


def test_emulated_adam_agrees_and_does_not_wait(emulated: torch.device, cpu_backend: Any) -> None:
    for a, b in zip(stepped(CPU, FusedAdam), stepped(emulated, FusedAdam), strict=True):
        torch.testing.assert_close(b.cpu(), a, rtol=1e-5, atol=1e-7)
