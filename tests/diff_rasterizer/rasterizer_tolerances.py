"""How two rasterizers are compared.

Exact agreement is too much to ask: a pair whose alpha lies within rounding of 1/255 is blended by one and skipped by
the other, and a pixel whose transmittance lies within rounding of the stop ends one Gaussian earlier. Such flips are
rare and small. Systematic errors are neither.
"""

from __future__ import annotations

import torch
from torch import Tensor


def assert_close_with_flips(
    actual: Tensor,
    expected: Tensor,
    *,
    atol: float,
    rtol: float = 0.0,
    flips: float = 0.0,
    flip_atol: float = 0.0,
    name: str = "value",
) -> None:
    """Asserts closeness of all elements, except that a fraction `flips` may be off by up to `flip_atol`."""
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    expected = expected.to(torch.float64)
    actual = actual.to(torch.float64)
    assert bool(torch.isfinite(actual).all()), f"{name}: not finite"
    error = (actual - expected).abs()
    off = error > atol + rtol * expected.abs()
    count, allowed = int(off.sum()), int(flips * off.numel())
    worst = float(error.max()) if error.numel() else 0.0
    assert count <= allowed, (
        f"{name}: {count} of {off.numel()} elements off, {allowed} allowed; worst error {worst:.3g}"
    )
    assert count == 0 or worst <= flip_atol, f"{name}: a flip of {worst:.3g} is larger than {flip_atol:.3g}"


def assert_gradients_agree(
    actual: Tensor | None, expected: Tensor | None, *, relative: float, cosine: float = 0.9999, name: str = "gradient"
) -> None:
    """Asserts a small relative L2 error and the same direction; both must be missing, or zero, together."""
    assert (actual is None) == (expected is None), f"{name}: {actual is not None=}, {expected is not None=}"
    if actual is None or expected is None:
        return
    assert actual.shape == expected.shape, f"{name}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    actual, expected = actual.to(torch.float64).flatten(), expected.to(torch.float64).flatten()
    assert bool(torch.isfinite(actual).all()), f"{name}: not finite"
    scale = float(expected.norm())
    if scale == 0.0:
        assert float(actual.norm()) == 0.0, f"{name}: expected zero, norm is {float(actual.norm()):.3g}"
        return
    error = float((actual - expected).norm()) / scale
    assert error <= relative, f"{name}: relative L2 error {error:.3g}, {relative:.3g} allowed"
    direction = float(actual @ expected) / (float(actual.norm()) * scale)
    assert direction >= cosine, f"{name}: cosine {direction:.6f}, at least {cosine} expected"
