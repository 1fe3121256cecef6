"""Camera models: where a point in camera space lands in the image, and the Jacobian of that map.

Symbols: (x, y, z) is the point in the OpenCV camera frame (+X right, +Y down, +Z forward), (u, v) its pixel position,
f and c the focal lengths and the principal point in pixels. Shapes carry B batches, C cameras, N Gaussians.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .constants import FOV_MARGIN

CAMERA_MODELS = ("pinhole", "ortho", "fisheye")

_SERIES_BELOW = 1e-2
"""Below this (r / z)^2 the fisheye terms use their power series: the closed forms cancel there."""


def project_points(
    points: Float[Tensor, "B C N 3"],
    Ks: Float[Tensor, "B C 3 3"],
    width: int,
    height: int,
    camera_model: str,
) -> tuple[Float[Tensor, "B C N 2"], Float[Tensor, "B C N 2 3"]]:
    """Returns pixel positions [B, C, N, 2] and the Jacobian d(u, v)/d(x, y, z) [B, C, N, 2, 3].

    Args:
        points: positions in the camera frame, world units.
        Ks: intrinsics in pixels; only fx, fy, cx, cy are read (skew is not modelled).
        width: image width in pixels.
        height: image height in pixels.
        camera_model: one of `CAMERA_MODELS`.
    """
    x, y, z = points.unbind(-1)
    fx, fy = Ks[..., 0, 0, None], Ks[..., 1, 1, None]
    cx, cy = Ks[..., 0, 2, None], Ks[..., 1, 2, None]
    if camera_model == "pinhole":
        return _pinhole(x, y, z, fx, fy, cx, cy, width, height)
    if camera_model == "ortho":
        return _ortho(x, y, fx, fy, cx, cy)
    if camera_model == "fisheye":
        return _fisheye(x, y, z, fx, fy, cx, cy)
    raise ValueError(f"camera_model must be one of {CAMERA_MODELS}, got {camera_model!r}")


def _pinhole(
    x: Tensor, y: Tensor, z: Tensor, fx: Tensor, fy: Tensor, cx: Tensor, cy: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor]:
    """Returns the perspective projection, its Jacobian taken at a point held near the field of view.

    The linearisation of Zwicker et al., EWA Volume Splatting (2001), section 6.2.2 grows without bound towards 90
    degrees; holding the point it is taken at to the image plus a margin keeps far-off Gaussians from covering it.
    """
    margin_x = FOV_MARGIN * 0.5 * width / fx
    margin_y = FOV_MARGIN * 0.5 * height / fy
    held_x = z * torch.clamp(x / z, min=-(cx / fx + margin_x), max=(width - cx) / fx + margin_x)
    held_y = z * torch.clamp(y / z, min=-(cy / fy + margin_y), max=(height - cy) / fy + margin_y)
    pixels = torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)
    zero = torch.zeros_like(z)
    rows = [fx / z, zero, -fx * held_x / z**2, zero, fy / z, -fy * held_y / z**2]
    return pixels, _as_jacobian(rows)


def _ortho(x: Tensor, y: Tensor, fx: Tensor, fy: Tensor, cx: Tensor, cy: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the orthographic projection (f in pixels per world unit) and its constant Jacobian."""
    pixels = torch.stack([fx * x + cx, fy * y + cy], dim=-1)
    zero = torch.zeros_like(x)
    return pixels, _as_jacobian([fx + zero, zero, zero, zero, fy + zero, zero])


def _fisheye(x: Tensor, y: Tensor, z: Tensor, fx: Tensor, fy: Tensor, cx: Tensor, cy: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the equidistant fisheye projection and its exact Jacobian.

    With r = sqrt(x^2 + y^2) and theta = atan2(r, z) the pixel is f * (x, y) * ratio + c, ratio = theta / r. The
    derivatives of ratio are r * slope along r, slope = (z / (r^2 + z^2) - ratio) / r^2, and -1 / (r^2 + z^2) along z.
    """
    ratio, slope = _fisheye_ratio(x * x + y * y, z)
    along_z = 1.0 / (x * x + y * y + z * z)
    pixels = torch.stack([fx * x * ratio + cx, fy * y * ratio + cy], dim=-1)
    rows = [
        fx * (ratio + x * x * slope),
        fx * x * y * slope,
        -fx * x * along_z,
        fy * x * y * slope,
        fy * (ratio + y * y * slope),
        -fy * y * along_z,
    ]
    return pixels, _as_jacobian(rows)


def _fisheye_ratio(r2: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Returns theta / r and its derivative along r divided by r, both finite on the optical axis."""
    on_axis = (z > 0) & (r2 < _SERIES_BELOW * z * z)
    # Both branches get harmless arguments where they are not used, or their gradients would be NaN times zero.
    r2_far = torch.where(on_axis, torch.ones_like(r2), r2)
    z_far = torch.where(on_axis, torch.ones_like(z), z)
    r_far = torch.sqrt(r2_far)
    ratio_far = torch.atan2(r_far, z_far) / r_far
    slope_far = (z_far / (r2_far + z_far * z_far) - ratio_far) / r2_far

    z_near = torch.where(on_axis, z, torch.ones_like(z))
    q = torch.where(on_axis, r2, torch.zeros_like(r2)) / (z_near * z_near)
    ratio_series = torch.zeros_like(q)
    slope_series = torch.zeros_like(q)
    for k in range(8, -1, -1):
        sign = -1.0 if k % 2 else 1.0
        ratio_series = ratio_series * q + sign / (2 * k + 1)
        slope_series = slope_series * q - sign * (2 * k + 2) / (2 * k + 3)
    ratio = torch.where(on_axis, ratio_series / z_near, ratio_far)
    slope = torch.where(on_axis, slope_series / z_near**3, slope_far)
    return ratio, slope


def _as_jacobian(entries: list[Tensor]) -> Tensor:
    """Returns six row-major entries as [..., 2, 3]."""
    return torch.stack(entries, dim=-1).unflatten(-1, (2, 3))
