"""Turning spherical harmonics: what a rotation of the world, or of a part of it, does to their coefficients."""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor


def harmonic_rotations(rotations: Float[Tensor, "*batch 3 3"], degree: int) -> Float[Tensor, "*batch M M"]:
    """Returns the matrices that turn the M = 2l + 1 coefficients of degree l, float64 on the CPU.

    A turned function is f'(d) = f(R^T d). Its coefficients follow from more directions than unknowns, exactly up to
    rounding, because functions of one degree stay of that degree under rotation.
    """
    directions, inverse = _directions(degree)
    turns = rotations.detach().cpu().double()
    values = _basis((directions @ turns).reshape(-1, 3), degree)
    return inverse @ values.reshape(*turns.shape[:-2], len(directions), 2 * degree + 1)


def rotated_harmonics(
    rest: Float[Tensor, "*batch K 3"], rotations: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*batch K 3"]:
    """Returns the coefficients of degrees 1 and up, K = 3, 8, 15 or 24 of them, turned by `rotations`."""
    bands, start, degree = [], 0, 1
    while start < rest.shape[-2]:
        width = 2 * degree + 1
        turn = harmonic_rotations(rotations, degree).to(rest)
        bands.append(turn @ rest[..., start : start + width, :])
        start, degree = start + width, degree + 1
    return torch.cat(bands, dim=-2) if bands else rest


@functools.cache
def _directions(degree: int) -> tuple[Tensor, Tensor]:
    """Returns unit directions [D, 3] and the pseudoinverse [2l + 1, D] of the harmonics there."""
    generator = torch.Generator().manual_seed(degree)
    directions = torch.randn(8 * (2 * degree + 1), 3, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(directions, dim=1)
    return directions, torch.linalg.pinv(_basis(directions, degree))


def _basis(directions: Float[Tensor, "D 3"], degree: int) -> Float[Tensor, "D M"]:
    """Returns the rasterizer's spherical harmonics of degree l at unit directions."""
    from diff_rasterizer import spherical_harmonics

    width = 2 * degree + 1
    coefficients = torch.zeros(width, (degree + 1) ** 2, 3, dtype=torch.float64)
    coefficients[:, -width:, 0] = torch.eye(width, dtype=torch.float64)
    many = coefficients[None].expand(len(directions), -1, -1, -1)
    return spherical_harmonics(degree, directions[:, None].expand(-1, width, -1), many)[..., 0]
