"""Fused SSIM and L1 against their plain torch definition."""

from __future__ import annotations

import pytest
import torch

from diff_rasterizer import fused_ssim, l1_ssim_loss, losses
from diff_rasterizer.losses import torch_ssim_l1

SHAPES = [(1, 23, 31, 3), (2, 16, 16, 1), (1, 5, 7, 4), (1, 40, 129, 3)]


def pictures(shape: tuple[int, ...], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(shape, generator=generator)
    return (target + 0.2 * torch.randn(shape, generator=generator)).clamp(0, 1), target


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_matches_the_definition_in_float64(instruction_set: str, shape: tuple[int, ...], padding: str) -> None:
    if padding == "valid" and min(shape[1:3]) < 11:
        pytest.skip("smaller than the window: refused, see below")
    image, target = pictures(shape)
    a, b = image.clone().requires_grad_(), image.double().requires_grad_()
    ours = fused_ssim(a, target, padding)  # type: ignore[arg-type]
    truth, l1 = torch_ssim_l1(b, target.double(), padding)  # type: ignore[arg-type]
    torch.testing.assert_close(ours.double(), truth, rtol=1e-5, atol=1e-5)
    loss = l1_ssim_loss(a, target, 0.3, padding)  # type: ignore[arg-type]
    torch.testing.assert_close(loss.double(), 0.7 * l1 + 0.3 * (1 - truth), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss, a)
    (true_gradient,) = torch.autograd.grad(0.7 * l1 + 0.3 * (1 - truth), b)
    error = (gradient.double() - true_gradient).norm() / true_gradient.norm()
    assert error < 1e-4, error


def test_uint8_target_is_the_same_picture() -> None:
    image, target = pictures((1, 20, 20, 3))
    bytes_ = (target * 255).round().to(torch.uint8)
    assert float(l1_ssim_loss(image, bytes_)) == pytest.approx(float(l1_ssim_loss(image, bytes_ / 255.0)), abs=1e-6)


def test_equal_pictures_score_one() -> None:
    image, _ = pictures((1, 20, 20, 3))
    assert float(fused_ssim(image, image)) == pytest.approx(1.0, abs=1e-5)


def test_float64_goes_through_torch() -> None:
    image, target = pictures((1, 16, 16, 3))
    assert fused_ssim(image.double(), target.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("image", "target", "padding", "message"),
    [
        ((4, 4, 3), (4, 4, 1), "same", "same shape"),
        ((4, 4, 3), (4, 4, 3), "valid", "at least 11x11"),
        ((4, 4, 3), (4, 4, 3), "reflect", "'same' or 'valid'"),
        ((0, 4, 3), (0, 4, 3), "same", "must have pixels"),
    ],
)
def test_refuses(image: tuple[int, ...], target: tuple[int, ...], padding: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fused_ssim(torch.rand(image), torch.rand(target), padding)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_mean_squared_error_is_torchs(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(3)
    # A width that is no multiple of any pack, more than one span of the kernel.
    image = torch.rand(13, 71, 3, generator=g)
    target = torch.rand(13, 71, 3, generator=g)
    if dtype == torch.uint8:
        target = (target * 255).to(torch.uint8)
    wanted = (image.double() - (target.double() / 255 if dtype == torch.uint8 else target.double())).square().mean()
    assert losses.mean_squared_error(image, target) == pytest.approx(float(wanted), rel=1e-6)
    with pytest.raises(ValueError, match="same shape"):
        losses.mean_squared_error(image, target[:, 1:])
