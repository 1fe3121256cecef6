"""Real spherical harmonics of any degree, in the order and with the signs of 3D Gaussian splatting files."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def sh_basis(degree: int, dirs: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch K"]:
    """Returns the K = (degree + 1)^2 basis values at unit directions.

    Entry l^2 + l + m is Y_l^m, an orthonormal real basis with the Condon-Shortley phase: z takes the Legendre part and
    (x + iy)^|m| the azimuth, so that no angle is formed. Recurrences: Sloan, Efficient Spherical Harmonic Evaluation
    (JCGT 2013), section 2.
    """
    x, y, z = dirs.unbind(-1)
    one = torch.ones_like(z)
    cosines, sines = [one], [torch.zeros_like(z)]
    for _ in range(degree):
        cosine, sine = cosines[-1], sines[-1]
        # The minus signs are the Condon-Shortley phase, (-1)^m.
        cosines.append(-(x * cosine - y * sine))
        sines.append(-(x * sine + y * cosine))
    values: list[Tensor] = [one] * (degree + 1) ** 2
    for m in range(degree + 1):
        legendre = _legendre_over_sine(m, degree, z, one)
        for band in range(m, degree + 1):
            centre = band * band + band
            if m == 0:
                values[centre] = _norm(band, 0) * legendre[band - m]
            else:
                scaled = math.sqrt(2.0) * _norm(band, m) * legendre[band - m]
                values[centre + m] = scaled * cosines[m]
                values[centre - m] = scaled * sines[m]
    return torch.stack(values, dim=-1)


def _legendre_over_sine(m: int, degree: int, z: Tensor, one: Tensor) -> list[Tensor]:
    """Returns P_l^m(z) / (1 - z^2)^(m/2) for l = m..degree, without the phase."""
    values = [one * float(math.prod(range(1, 2 * m, 2)))]
    if degree > m:
        values.append((2 * m + 1) * z * values[0])
    for band in range(m + 2, degree + 1):
        values.append(((2 * band - 1) * z * values[-1] - (band + m - 1) * values[-2]) / (band - m))
    return values


def _norm(band: int, m: int) -> float:
    """Returns the factor that makes Y_l^m orthonormal over the sphere."""
    return math.sqrt((2 * band + 1) / (4 * math.pi) * math.factorial(band - m) / math.factorial(band + m))
