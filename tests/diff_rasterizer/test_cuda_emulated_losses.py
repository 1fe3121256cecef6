"""Fused SSIM + L1 and fused Adam of the `cuda` backend, run by the emulation, against torch."""

from __future__ import annotations

import math

import pytest
import torch
from test_losses import pictures

from diff_rasterizer.cuda_losses import ssim_and_l1
from diff_rasterizer.cuda_optim import adam
from diff_rasterizer.losses import torch_ssim_l1

pytestmark = pytest.mark.usefixtures("emulation")


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("shape", [(1, 23, 31, 3), (2, 16, 16, 1), (1, 12, 40, 4), (1, 5, 7, 3)])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_ssim_and_l1(shape: tuple[int, ...], padding: str, as_bytes: bool) -> None:
    valid = padding == "valid"
    if valid and min(shape[1:3]) < 11:
        pytest.skip("smaller than the window: refused before the kernel")
    image, target = pictures(shape)
    target = (target * 255).round().to(torch.uint8) if as_bytes else target
    a, b = image.clone().requires_grad_(), image.double().requires_grad_()
    ours = ssim_and_l1(a, target, valid)
    truth = torch_ssim_l1(b, target if as_bytes else target.double(), padding)  # type: ignore[arg-type]
    for actual, wanted in zip(ours, truth, strict=True):
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.double(), wanted, rtol=1e-5, atol=1e-5)
    # Each by itself, then a mixture: in a sum a large gradient hides a small wrong one.
    for weights in ((1.0, 0.0), (0.0, 1.0), (-0.3, 0.7)):
        gradients = [
            torch.autograd.grad(weights[0] * s + weights[1] * l1, x, retain_graph=True)[0]
            for (s, l1), x in ((ours, a), (truth, b))
        ]
        error = (gradients[0].double() - gradients[1]).norm() / gradients[1].norm()
        assert error < 1e-4, (weights, error)


def test_ssim_without_gradient_keeps_nothing() -> None:
    image, target = pictures((1, 20, 20, 3))
    ssim, l1 = ssim_and_l1(image, target, False)
    assert not ssim.requires_grad and not l1.requires_grad
    assert float(ssim) == pytest.approx(float(torch_ssim_l1(image, target)[0]), abs=1e-5)


@pytest.mark.parametrize("count", [1, 3, 4, 1023, 1024, 2050])
@pytest.mark.parametrize("offset", [0, 1])
def test_adam(count: int, offset: int) -> None:
    """An offset of one float is a view that float4 cannot load."""
    g = torch.Generator().manual_seed(count)
    ours, grad, m, v = (torch.zeros(count + offset)[offset:] for _ in range(4))
    ours.copy_(torch.randn(count, generator=g))
    theirs = ours.clone().requires_grad_()
    optimizer = torch.optim.Adam([theirs], lr=0.02, betas=(0.8, 0.95), eps=1e-15)
    for step in range(1, 5):
        grad.copy_(torch.randn(count, generator=g))
        theirs.grad = grad.clone()
        optimizer.step()
        adam(ours, grad, m, v, 0.8, 0.95, 0.02 / (1 - 0.8**step), 1 / math.sqrt(1 - 0.95**step), 1e-15)
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(m, optimizer.state[theirs]["exp_avg"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(v, optimizer.state[theirs]["exp_avg_sq"], rtol=1e-5, atol=1e-6)


def test_adam_of_nothing_launches_nothing() -> None:
    empty = torch.zeros(0)
    adam(empty, empty, empty, empty, 0.9, 0.999, 0.1, 1.0, 1e-15)
