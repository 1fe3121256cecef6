"""`fully_fused_projection`: Gaussians in the world to ellipses in every image, culled, dense or packed."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..checks import check_count, check_flags, check_floats, check_limit, check_ndim, check_shape
from ..gradient_routes import SeenRows, sparse_rows
from ..validation import check_camera_model, check_cameras, check_planes
from .backend import operations
from .geometry import symmetric_from_upper


def fully_fused_projection(
    means: Float[Tensor, "*batch N 3"],
    covars: Float[Tensor, "*batch N 6"] | None,
    quats: Float[Tensor, "*batch N 4"] | None,
    scales: Float[Tensor, "*batch N 3"] | None,
    viewmats: Float[Tensor, "*batch C 4 4"],
    Ks: Float[Tensor, "*batch C 3 3"],
    width: int,
    height: int,
    eps2d: float = 0.3,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    packed: bool = False,
    sparse_grad: bool = False,
    calc_compensations: bool = False,
    camera_model: Literal["pinhole", "ortho", "fisheye", "ftheta"] = "pinhole",
    opacities: Float[Tensor, "*batch N"] | None = None,
) -> tuple[Any, ...]:
    """Returns (radii, means2d, depths, conics, compensations), [..., C, N, ...]; see `reference.project`.

    With `packed` only visible rows, [nnz, ...], after their (batch_ids, camera_ids, gaussian_ids), int64, ordered by
    these. Radii are int32 pairs. Compensations are None unless `calc_compensations`. A culled row of the dense form
    holds zeros.

    Args:
        means: centres, world frame.
        covars: upper triangles xx, xy, xz, yy, yz, zz of covariances, instead of `quats` and `scales`.
        quats: rotations wxyz of any length.
        scales: standard deviations along the rotated axes, world units.
        viewmats: world-to-camera, OpenCV axes.
        Ks: intrinsics in pixels; they receive no gradient.
        width: image width in pixels.
        height: image height in pixels.
        eps2d: variance in square pixels added to every ellipse.
        near_plane: smallest depth that is drawn.
        far_plane: largest depth that is drawn.
        radius_clip: rows whose radii are both at most this are culled, pixels.
        packed: return visible rows only.
        sparse_grad: gradients of means, covars, quats and scales arrive as sparse COO tensors that hold each visible
            row once. Needs `packed` and no batch dimensions.
        calc_compensations: return sqrt(det before / det after adding `eps2d`) (Mip-Splatting, Yu et al. 2024).
        camera_model: "pinhole", "ortho" or "fisheye".
        opacities: in 0..1; they tighten the radii and cull what stays below 1/255, and receive no gradient.

    Raises:
        ValueError: for arguments that do not fit, "ftheta" included.
    """
    if covars is None and (quats is None or scales is None):
        raise ValueError(
            f"covars, or quats and scales, must be tensors, got covars=None, quats={_kind(quats)}, "
            f"scales={_kind(scales)}; pass one or the other"
        )
    if covars is not None:
        quats = scales = None
    optional = ("covars", "quats", "scales", "opacities")
    check_floats(
        optional, means=means, covars=covars, quats=quats, scales=scales, viewmats=viewmats, Ks=Ks, opacities=opacities
    )
    width, height = check_count("width", width), check_count("height", height)
    check_flags(packed=packed, sparse_grad=sparse_grad, calc_compensations=calc_compensations)
    check_planes(near_plane, far_plane, radius_clip, eps2d)
    check_camera_model(camera_model)
    check_ndim("means", means, 2, "(..., N, 3)", last=3)
    check_ndim("viewmats", viewmats, 3, "(..., C, 4, 4)")
    batch, N, C = means.shape[:-2], means.shape[-2], viewmats.shape[-3]
    shapes: dict[str, tuple[Tensor | None, tuple[Any, ...]]] = {
        "covars": (covars, (("N", N), 6)),
        "quats": (quats, (("N", N), 4)),
        "scales": (scales, (("N", N), 3)),
        "opacities": (opacities, (("N", N),)),
        "viewmats": (viewmats, (("C", C), 4, 4)),
        "Ks": (Ks, (("C", C), 3, 3)),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor is not None:
            check_shape(name, tensor, *batch, *shape)
    if sparse_grad and not packed:
        raise ValueError("sparse_grad=True needs packed=True, got packed=False; set packed=True or sparse_grad=False")
    if sparse_grad and batch:
        raise ValueError(f"sparse_grad=True needs means of shape (N, 3), got {tuple(means.shape)}; loop over the batch")
    check_cameras(viewmats, Ks)
    B = batch.numel()
    check_limit("the number of Gaussians times the number of cameras", B * C * N, "project fewer cameras per call")

    seen = SeenRows() if sparse_grad else None
    if seen is not None:
        means = sparse_rows(means, seen)
        covars, quats, scales = (x if x is None else sparse_rows(x, seen) for x in (covars, quats, scales))
    radii, means2d, depths, conics, compensations = operations(means).project(
        means.reshape(B, N, 3),
        None if quats is None else quats.reshape(B, N, 4),
        None if scales is None else scales.reshape(B, N, 3),
        None if covars is None else symmetric_from_upper(covars).reshape(B, N, 3, 3),
        None if opacities is None else opacities.detach().reshape(B, N),
        viewmats.reshape(B, C, 4, 4),
        Ks.detach().reshape(B, C, 3, 3),
        width,
        height,
        eps2d=float(eps2d),
        near_plane=float(near_plane),
        far_plane=float(far_plane),
        radius_clip=float(radius_clip),
        camera_model=camera_model,
        compensate=calc_compensations,
    )
    outputs = (radii, means2d, depths, conics, compensations)
    if not packed:
        return tuple(None if x is None else x.reshape(*batch, *x.shape[1:]) for x in outputs)
    ids = torch.nonzero((radii > 0).all(-1), as_tuple=True)
    if seen is not None:
        seen.ids = ids[2]
    index = (ids[0] * C + ids[1]) * N + ids[2]
    return *ids, *(None if x is None else x.reshape(-1, *x.shape[3:]).index_select(0, index) for x in outputs)


def _kind(tensor: Any) -> str:
    return "None" if tensor is None else type(tensor).__name__
