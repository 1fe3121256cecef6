"""The SH basis: known values, orthonormality, and the public function's errors."""

from __future__ import annotations

import math

import pytest
import torch

from diff_rasterizer import spherical_harmonics
from diff_rasterizer.reference.harmonics import sh_basis


def test_low_degrees_have_the_known_polynomials() -> None:
    dirs = torch.nn.functional.normalize(torch.randn(20, 3, dtype=torch.float64), dim=-1)
    x, y, z = dirs.unbind(-1)
    c0, c1 = 0.5 / math.sqrt(math.pi), math.sqrt(3 / (4 * math.pi))
    c2 = math.sqrt(15 / (4 * math.pi))
    expected = torch.stack(
        [
            torch.full_like(x, c0),
            -c1 * y,
            c1 * z,
            -c1 * x,
            c2 * x * y,
            -c2 * y * z,
            c2 / math.sqrt(12.0) * (3 * z * z - 1),
            -c2 * x * z,
            c2 / 2 * (x * x - y * y),
        ],
        dim=-1,
    )
    torch.testing.assert_close(sh_basis(2, dirs), expected, atol=1e-12, rtol=0)


def test_basis_is_orthonormal_over_the_sphere() -> None:
    """Exact quadrature: Gauss-Legendre in z, equal steps in azimuth, enough for products of degree 8."""
    import numpy as np

    z, weights = np.polynomial.legendre.leggauss(12)
    azimuth = 2 * np.pi * np.arange(24) / 24
    zz, aa = np.meshgrid(z, azimuth, indexing="ij")
    r = np.sqrt(1 - zz**2)
    dirs = torch.from_numpy(np.stack([r * np.cos(aa), r * np.sin(aa), zz], axis=-1).reshape(-1, 3))
    w = torch.from_numpy(np.repeat(weights, 24) * 2 * np.pi / 24)
    basis = sh_basis(4, dirs)
    torch.testing.assert_close(basis.T @ (w[:, None] * basis), torch.eye(25, dtype=torch.float64), atol=1e-12, rtol=0)


def test_directions_are_normalised_and_higher_bands_are_ignored() -> None:
    dirs, coeffs = torch.randn(4, 2, 3, dtype=torch.float64), torch.randn(4, 2, 25, 3, dtype=torch.float64)
    for degree in range(5):
        full = spherical_harmonics(degree, dirs, coeffs)
        short = spherical_harmonics(degree, 7.5 * dirs, coeffs[..., : (degree + 1) ** 2, :])
        torch.testing.assert_close(full, short)


def test_masked_rows_are_zero_and_keep_nan_to_themselves() -> None:
    dirs, coeffs = torch.randn(3, 3), torch.randn(3, 4, 3)
    dirs[1], coeffs[1] = float("nan"), float("inf")
    masks = torch.tensor([True, False, True])
    dirs.requires_grad_()
    coeffs.requires_grad_()
    out = spherical_harmonics(1, dirs, coeffs, masks)
    assert out[1].tolist() == [0.0, 0.0, 0.0]
    out.sum().backward()
    assert bool(torch.isfinite(dirs.grad).all()) and bool(torch.isfinite(coeffs.grad).all())  # type: ignore[arg-type]
    torch.testing.assert_close(out[[0, 2]], spherical_harmonics(1, dirs[[0, 2]], coeffs[[0, 2]]))


def test_a_zero_direction_is_finite() -> None:
    dirs = torch.zeros(2, 3, requires_grad=True)
    spherical_harmonics(4, dirs, torch.ones(2, 25, 3)).sum().backward()
    assert bool(torch.isfinite(dirs.grad).all())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "degree,dirs,coeffs,mask,message",
    [
        (5, (2, 3), (2, 36, 3), None, "0 to 4, got 5"),
        (-1, (2, 3), (2, 1, 3), None, "0 to 4, got -1"),
        (1, (2, 4), (2, 4, 3), None, r"dirs must have shape \(..., 3\), got \(2, 4\)"),
        (1, (2, 3), (3, 4, 3), None, r"coeffs must have shape \(2, K, 3\)"),
        (2, (2, 3), (2, 4, 3), None, "at least 9 coefficients for degree 2, got 4"),
        (0, (2, 3), (2, 1, 3), (3,), r"masks must have shape \(2,\)"),
    ],
)
def test_errors(degree: int, dirs: tuple, coeffs: tuple, mask: tuple | None, message: str) -> None:
    masks = None if mask is None else torch.ones(mask, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        spherical_harmonics(degree, torch.ones(dirs), torch.ones(coeffs), masks)
