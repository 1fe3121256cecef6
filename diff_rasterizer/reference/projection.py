"""Projection: 3D Gaussians to 2D ellipses in each image, with every rule by which a Gaussian is culled."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .cameras import project_points
from .constants import ALPHA_THRESHOLD, MAX_EXTENT, MAX_RADIUS


def project(
    means: Float[Tensor, "B N 3"],
    quats: Float[Tensor, "B N 4"] | None,
    scales: Float[Tensor, "B N 3"] | None,
    covars: Float[Tensor, "B N 3 3"] | None,
    opacities: Float[Tensor, "B N"] | None,
    viewmats: Float[Tensor, "B C 4 4"],
    Ks: Float[Tensor, "B C 3 3"],
    width: int,
    height: int,
    *,
    eps2d: float,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    camera_model: str,
    compensate: bool,
) -> tuple[
    Int[Tensor, "B C N 2"],
    Float[Tensor, "B C N 2"],
    Float[Tensor, "B C N"],
    Float[Tensor, "B C N 3"],
    Float[Tensor, "B C N"] | None,
]:
    """Returns (radii, means2d, depths, conics, compensations) of every Gaussian in every image.

    Zwicker et al., EWA Volume Splatting (2001): cov2d = J W Sigma W^T J^T, plus `eps2d` on the diagonal. A conic is
    the inverse of that as (a, b, c) = (xx, xy, yy). The compensation is sqrt(det before / det after adding `eps2d`),
    Yu et al., Mip-Splatting (2024), section 4.2. Radii follow Radl et al., StopThePop (2024), section B.2.

    A culled row has radii 0, zeros in every other output and receives no gradient. Culled are: depth outside
    [near_plane, far_plane]; a singular ellipse; an opacity (times the compensation, if asked for) below 1/255; both
    radii at most `radius_clip`; an ellipse outside the image; anything not finite, a zero quaternion included.

    Args:
        means: centres, world frame.
        quats: rotations wxyz, of any length; None with `covars`.
        scales: standard deviations along the rotated axes, world units; None with `covars`.
        covars: symmetric covariances instead of `quats` and `scales`.
        opacities: in 0..1; they only tighten the radii, so no gradient flows to them. None: radii of 3.33 sigma.
        viewmats: world-to-camera, OpenCV axes.
        Ks: intrinsics in pixels.
        width: image width in pixels.
        height: image height in pixels.
        eps2d: variance in square pixels that is added to every ellipse.
        near_plane: smallest depth.
        far_plane: largest depth.
        radius_clip: pixels.
        camera_model: "pinhole", "ortho" or "fisheye".
        compensate: also return the compensations.
    """
    with torch.no_grad():
        points, covars_world, ok = _inputs_in_camera(means, quats, scales, covars, viewmats, Ks)
        means2d, cov2d = _ellipses(points, covars_world, viewmats, Ks, width, height, camera_model)
        conics, compensations, det = _invert(cov2d, eps2d)
        radii = _radii(means2d, cov2d, det, compensations, opacities, width, height, eps2d, radius_clip, compensate)
        depths = points[..., 2]
        keep = ok & (depths >= near_plane) & (depths <= far_plane)
        keep &= torch.isfinite(means2d).all(-1) & torch.isfinite(conics).all(-1)
        radii = torch.where(keep[..., None], radii, torch.zeros_like(radii))
        visible = (radii > 0).all(-1)

    # The same again with gradients, harmless values standing in for every culled row: zeroing its outputs alone would
    # still send 0 * inf back through the row.
    quats, scales, covars, viewmats, Ks = _replace_unseen(visible, quats, scales, covars, viewmats, Ks)
    world = torch.where(visible[..., None], means[:, None], torch.zeros_like(means[:, None]))
    points = _to_camera(world, viewmats)
    points = torch.where(visible[..., None], points, points.new_tensor([0.0, 0.0, 1.0]))
    covars_world = _covariances(quats, scales, covars)[:, None]
    covars_world = torch.where(visible[..., None, None], covars_world, torch.eye(3).to(points))
    means2d, cov2d = _ellipses(points, covars_world, viewmats, Ks, width, height, camera_model)
    conics, compensations, _ = _invert(cov2d, eps2d)
    zero = torch.zeros_like(points[..., :1])
    return (
        radii,
        torch.where(visible[..., None], means2d, zero),
        torch.where(visible, points[..., 2], zero[..., 0]),
        torch.where(visible[..., None], conics, zero),
        torch.where(visible, compensations, zero[..., 0]) if compensate else None,
    )


def rotation_matrices(quats: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch 3 3"]:
    """Returns the rotation of each quaternion (wxyz), which is normalised first; a zero quaternion gives NaN."""
    w, x, y, z = (quats / torch.sqrt((quats * quats).sum(-1, keepdim=True))).unbind(-1)
    entries = [
        1 - 2 * (y * y + z * z),
        2 * (x * y - w * z),
        2 * (x * z + w * y),
        2 * (x * y + w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z - w * x),
        2 * (x * z - w * y),
        2 * (y * z + w * x),
        1 - 2 * (x * x + y * y),
    ]
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def _covariances(quats: Tensor | None, scales: Tensor | None, covars: Tensor | None) -> Tensor:
    """Returns [B, N, 3, 3]: `covars`, or R S S^T R^T."""
    if covars is not None:
        return covars
    assert quats is not None and scales is not None
    factor = rotation_matrices(quats) * scales[..., None, :]
    return factor @ factor.mT


def _to_camera(world: Tensor, viewmats: Tensor) -> Tensor:
    """Returns points [B, C, N, 3] in the camera frames from [B, C or 1, N, 3] in the world frame."""
    return (viewmats[..., None, :3, :3] @ world[..., None])[..., 0] + viewmats[..., None, :3, 3]


def _inputs_in_camera(
    means: Tensor, quats: Tensor | None, scales: Tensor | None, covars: Tensor | None, viewmats: Tensor, Ks: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns camera-frame points [B, C, N, 3], world covariances [B, 1, N, 3, 3] and which rows are finite."""
    points = _to_camera(means[:, None], viewmats)
    covars_world = _covariances(quats, scales, covars)[:, None]
    ok = torch.isfinite(points).all(-1) & torch.isfinite(covars_world).flatten(-2).all(-1)
    for matrices in (viewmats, Ks):
        ok = ok & torch.isfinite(matrices).flatten(-2).all(-1, keepdim=True)
    return points, covars_world, ok


def _ellipses(
    points: Tensor, covars_world: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int, camera_model: str
) -> tuple[Tensor, Tensor]:
    """Returns ellipse centres [B, C, N, 2] and covariances [B, C, N, 2, 2] in pixels, before the blur."""
    means2d, jacobians = project_points(points, Ks, width, height, camera_model)
    to_image = jacobians @ viewmats[..., None, :3, :3]
    return means2d, to_image @ covars_world @ to_image.mT


def _invert(cov2d: Tensor, eps2d: float) -> tuple[Tensor, Tensor, Tensor]:
    """Returns conics [..., 3], compensations [...] and determinants [...] of the blurred ellipses."""
    xx, xy, yy = cov2d[..., 0, 0], cov2d[..., 0, 1], cov2d[..., 1, 1]
    det_sharp = xx * yy - xy * xy
    xx, yy = xx + eps2d, yy + eps2d
    det = xx * yy - xy * xy
    conics = torch.stack([yy / det, -xy / det, xx / det], dim=-1)
    ratio = det_sharp / det
    positive = ratio > 0
    compensations = torch.sqrt(torch.where(positive, ratio, torch.ones_like(ratio)))
    return conics, torch.where(positive, compensations, torch.zeros_like(ratio)), det


def _radii(
    means2d: Tensor,
    cov2d: Tensor,
    det: Tensor,
    compensations: Tensor,
    opacities: Tensor | None,
    width: int,
    height: int,
    eps2d: float,
    radius_clip: float,
    compensate: bool,
) -> Tensor:
    """Returns int32 radii [B, C, N, 2] in pixels along x and y, 0 for what the image does not show."""
    keep = det > 0
    extent = torch.full_like(det, MAX_EXTENT)
    if opacities is not None:
        seen_opacities = opacities[:, None] * compensations if compensate else opacities[:, None].expand_as(det)
        keep = keep & (seen_opacities >= ALPHA_THRESHOLD) & torch.isfinite(seen_opacities)
        reach = torch.sqrt(2.0 * torch.log(torch.clamp(seen_opacities / ALPHA_THRESHOLD, min=1.0)))
        extent = torch.clamp(reach, max=MAX_EXTENT)
    radii = torch.ceil(extent[..., None] * torch.sqrt(cov2d.diagonal(dim1=-2, dim2=-1) + eps2d))
    radii = torch.clamp(torch.nan_to_num(radii, nan=0.0, posinf=MAX_RADIUS), max=MAX_RADIUS)
    size = torch.tensor([width, height], dtype=means2d.dtype, device=means2d.device)
    keep = keep & (radii > radius_clip).any(-1)
    keep = keep & ((means2d + radii > 0) & (means2d - radii < size)).all(-1)
    return torch.where(keep[..., None], radii, torch.zeros_like(radii)).to(torch.int32)


def _replace_unseen(
    visible: Tensor, quats: Tensor | None, scales: Tensor | None, covars: Tensor | None, viewmats: Tensor, Ks: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor, Tensor]:
    """Returns the inputs with identities in place of Gaussians no camera sees and cameras that see nothing."""
    seen = visible.any(1)[..., None]
    camera_sees = visible.any(2)[..., None, None]
    if quats is not None:
        quats = torch.where(seen, quats, quats.new_tensor([1.0, 0.0, 0.0, 0.0]))
    if scales is not None:
        scales = torch.where(seen, scales, torch.ones_like(scales))
    if covars is not None:
        covars = torch.where(seen[..., None], covars, torch.eye(3).to(covars))
    viewmats = torch.where(camera_sees, viewmats, torch.eye(4).to(viewmats))
    Ks = torch.where(camera_sees, Ks, torch.eye(3).to(Ks))
    return quats, scales, covars, viewmats, Ks
