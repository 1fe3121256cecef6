"""Picture losses that would otherwise eat a fit's time: SSIM and L1 fused, forward and backward.

Each runs on the training kernels of the tensors' device (`backends.training_kernels`), or in torch where it has none.

SSIM is that of Wang et al. 2004 ("Image quality assessment: from error visibility to structural similarity", eq. 13)
with an 11x11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03 and data range 1, averaged over pixels and channels.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .backends import training_kernels
from .checks import FLOATS, check_number, check_tensor, shown
from .tracing import traced

Padding = Literal["same", "valid"]


def fused_ssim(image: Float[Tensor, "*batch H W C"], target: Tensor, padding: Padding = "same") -> Float[Tensor, ""]:
    """Returns the mean SSIM of float32 `image` against `target` of the same shape, float32 in 0..1 or uint8.

    `padding` "same" counts every pixel, with zeros outside the picture; "valid" only those whose window lies inside.
    Differentiable with respect to `image`. Tensors that are not float32, or on a device without kernels of a backend
    that can run, go through torch, and so does a `target` that requires gradients.

    Raises:
        ValueError: for shapes that differ, or a picture smaller than the window with "valid".
    """
    return _ssim_and_l1(image, target, padding, "image")[0]


def l1_ssim_loss(
    render: Float[Tensor, "*batch H W C"], target: Tensor, ssim_weight: float = 0.2, padding: Padding = "same"
) -> Float[Tensor, ""]:
    """Returns (1 - w) * mean |render - target| + w * (1 - SSIM), the loss of 3D Gaussian Splatting (eq. 7, w = 0.2)."""
    ssim_weight = check_number("ssim_weight", ssim_weight, finite=True)
    ssim, l1 = _ssim_and_l1(render, target, padding, "render")
    return (1.0 - ssim_weight) * l1 + ssim_weight * (1.0 - ssim)


def mean_squared_error(image: Float[Tensor, "H W C"], target: Tensor) -> float:
    """Returns `squared_error` as a number, which waits for the device."""
    return float(squared_error(image, target))


@torch.no_grad()
def squared_error(image: Float[Tensor, "H W C"], target: Tensor) -> Float[Tensor, ""]:
    """Returns the mean of (image - target)^2 over a picture, for figures: without a gradient, on the image's device.

    `target` has the shape of `image` and is float in 0..1 or uint8. The mean is taken in float64. float32 on the CPU
    takes one pass over memory.
    """
    if image.shape != target.shape:
        raise ValueError(
            f"image and target must have the same shape, got {tuple(image.shape)} and {tuple(target.shape)}"
        )
    if image.dtype == torch.float32 and target.dtype in (torch.float32, torch.uint8):
        kernels, _ = training_kernels(image.device)
        if kernels is not None:
            return kernels.squared_error(image, target)
    scaled = target.to(image.dtype) / 255.0 if target.dtype == torch.uint8 else target
    return (image - scaled).square().mean(dtype=torch.float64)


def _ssim_and_l1(image: Tensor, target: Tensor, padding: Padding, name: str) -> tuple[Tensor, Tensor]:
    check_tensor(name, image, FLOATS)
    check_tensor("target", target, (*FLOATS, torch.uint8), (name, image))
    if image.ndim < 3 or image.shape != target.shape:
        raise ValueError(
            f"{name} and target must have the same shape [..., H, W, C], got {tuple(image.shape)} and "
            f"{tuple(target.shape)}"
        )
    if not isinstance(padding, str) or padding not in ("same", "valid"):
        raise ValueError(f"padding must be 'same' or 'valid', got {shown(padding)}")
    height, width, channels = image.shape[-3:]
    if image.numel() == 0:
        raise ValueError(f"{name} must have pixels, got the shape {tuple(image.shape)}")
    if padding == "valid" and min(height, width) < 11:
        raise ValueError(f"padding='valid' needs pictures of at least 11x11 pixels, got {width}x{height}")
    image, target = image.reshape(-1, height, width, channels), target.reshape(-1, height, width, channels)
    fused = image.dtype == torch.float32 and target.dtype in (torch.float32, torch.uint8) and not target.requires_grad
    if fused and image.device.type == "cpu" and traced(image):
        from . import loss_ops  # noqa: F401  registers the operator

        ssim, l1, _ = torch.ops.diff_rasterizer.ssim_l1(image, target, padding == "valid")
        return ssim, l1
    kernels = training_kernels(image.device)[0] if fused else None
    if kernels is not None:
        return kernels.ssim_and_l1(image, target, padding == "valid")
    return torch_ssim_l1(image, target, padding)


def torch_ssim_l1(
    image: Float[Tensor, "I H W C"], target: Tensor, padding: Padding = "same"
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Returns (mean SSIM, mean absolute error) in plain torch, any float type and device: the definition."""
    if target.dtype == torch.uint8:
        target = target.to(image.dtype) / 255.0
    offsets = torch.arange(-5, 6, dtype=image.dtype, device=image.device)
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = window / window.sum()
    x, y = image.permute(0, 3, 1, 2), target.permute(0, 3, 1, 2)
    maps = torch.stack([x, y, x * x, y * y, x * y])
    flat = maps.flatten(0, 2)[:, None]
    pad = 5 if padding == "same" else 0
    flat = torch.nn.functional.conv2d(flat, window.view(1, 1, 11, 1), padding=(pad, 0))
    flat = torch.nn.functional.conv2d(flat, window.view(1, 1, 1, 11), padding=(0, pad))
    mu_x, mu_y, xx, yy, xy = flat.view(5, *x.shape[:2], *flat.shape[-2:])
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mu_x * mu_y + c1) * (2 * (xy - mu_x * mu_y) + c2)
    denominator = (mu_x**2 + mu_y**2 + c1) * (xx - mu_x**2 + yy - mu_y**2 + c2)
    return (numerator / denominator).mean(), (image - target).abs().mean()
