"""Covariances, camera frames and image planes of Gaussians, one step at a time; plain torch, differentiable."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ..checks import check_count, check_flags, check_floats, check_ndim, check_shape
from ..reference.cameras import project_points
from ..reference.projection import rotation_matrices
from ..validation import check_camera_model

_UPPER = ([0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2])


def quat_scale_to_covar_preci(
    quats: Float[Tensor, "*batch 4"],
    scales: Float[Tensor, "*batch 3"],
    compute_covar: bool = True,
    compute_preci: bool = True,
    triu: bool = False,
) -> tuple[Tensor | None, Tensor | None]:
    """Returns covariances R S S R^T and their inverses, [..., 3, 3] or, with `triu`, the upper triangles [..., 6].

    Args:
        quats: rotations wxyz of any length but 0.
        scales: standard deviations along the rotated axes.
        compute_covar: None in place of the covariances when False.
        compute_preci: None in place of the inverses when False.
        triu: six numbers per matrix: xx, xy, xz, yy, yz, zz.

    Raises:
        ValueError: for tensors that do not fit.
    """
    check_floats(quats=quats, scales=scales)
    check_flags(compute_covar=compute_covar, compute_preci=compute_preci, triu=triu)
    check_ndim("quats", quats, 1, "(..., 4)", last=4)
    check_shape("scales", scales, *quats.shape[:-1], 3)
    rotations = rotation_matrices(quats)

    def matrix(diagonal: Tensor) -> Tensor:
        factor = rotations * diagonal[..., None, :]
        symmetric = factor @ factor.mT
        return symmetric[..., _UPPER[0], _UPPER[1]] if triu else symmetric

    return matrix(scales) if compute_covar else None, matrix(1.0 / scales) if compute_preci else None


def world_to_cam(
    means: Float[Tensor, "*batch N 3"], covars: Float[Tensor, "*batch N 3 3"], viewmats: Float[Tensor, "*batch C 4 4"]
) -> tuple[Float[Tensor, "*batch C N 3"], Float[Tensor, "*batch C N 3 3"]]:
    """Returns centres and covariances in each camera's frame.

    Raises:
        ValueError: for tensors that do not fit.
    """
    check_floats(means=means, covars=covars, viewmats=viewmats)
    check_ndim("means", means, 2, "(..., N, 3)", last=3)
    check_ndim("viewmats", viewmats, 3, "(..., C, 4, 4)")
    batch = means.shape[:-2]
    check_shape("covars", covars, *means.shape, 3)
    check_shape("viewmats", viewmats, *batch, ("C", viewmats.shape[-3]), 4, 4)
    rotations = viewmats[..., None, :3, :3]
    moved = (rotations @ means[..., None, :, :, None])[..., 0] + viewmats[..., None, :3, 3]
    return moved, rotations @ covars[..., None, :, :, :] @ rotations.mT


def proj(
    means: Float[Tensor, "*batch C N 3"],
    covars: Float[Tensor, "*batch C N 3 3"],
    Ks: Float[Tensor, "*batch C 3 3"],
    width: int,
    height: int,
    camera_model: Literal["pinhole", "ortho", "fisheye", "ftheta"] = "pinhole",
) -> tuple[Float[Tensor, "*batch C N 2"], Float[Tensor, "*batch C N 2 2"]]:
    """Returns ellipse centres and covariances in pixels of Gaussians in the camera frame, without any culling.

    Args:
        means: centres in the camera frame.
        covars: covariances in the camera frame.
        Ks: intrinsics in pixels; skew is not modelled. They receive no gradient.
        width: image width in pixels; with `height` it bounds where the pinhole Jacobian is taken.
        height: image height in pixels.
        camera_model: "pinhole", "ortho" or "fisheye".

    Raises:
        ValueError: for arguments that do not fit, "ftheta" included.
    """
    check_floats(means=means, covars=covars, Ks=Ks)
    width, height = check_count("width", width), check_count("height", height)
    check_camera_model(camera_model)
    check_ndim("means", means, 3, "(..., C, N, 3)", last=3)
    check_shape("covars", covars, *means.shape, 3)
    check_shape("Ks", Ks, *means.shape[:-2], 3, 3)
    flat_means, flat_Ks = means.reshape(-1, *means.shape[-3:]), Ks.detach().reshape(-1, *Ks.shape[-3:])
    means2d, jacobians = project_points(flat_means, flat_Ks, width, height, camera_model)
    jacobians = jacobians.reshape(*means.shape[:-1], 2, 3)
    return means2d.reshape(*means.shape[:-1], 2), jacobians @ covars @ jacobians.mT


def symmetric_from_upper(triangles: Float[Tensor, "*batch 6"]) -> Float[Tensor, "*batch 3 3"]:
    """Returns the symmetric matrices with these upper triangles (xx, xy, xz, yy, yz, zz)."""
    return triangles[..., [0, 1, 2, 1, 3, 4, 2, 4, 5]].unflatten(-1, (3, 3))
