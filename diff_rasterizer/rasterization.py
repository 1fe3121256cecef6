"""The public rasterizer: gsplat 1.5.3's `rasterization`, on whichever backend can run."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .backends import select_backend
from .gradient_routes import SeenRows, flatten_means2d, keep_until_backward, sparse_rows
from .meta import make_meta
from .tracing import traced
from .validation import (
    RollingShutterType,
    Sizes,
    check_backgrounds,
    check_cameras,
    check_pictures,
    check_settings,
    check_tensors,
    reject_unsupported,
)

_CPU_TAKES = ("cpu", torch.float32)


def rasterization(
    means: Float[Tensor, "*batch N 3"],
    quats: Float[Tensor, "*batch N 4"] | None,
    scales: Float[Tensor, "*batch N 3"] | None,
    opacities: Float[Tensor, "*batch N"],
    colors: Tensor | None,
    viewmats: Float[Tensor, "*batch C 4 4"],
    Ks: Float[Tensor, "*batch C 3 3"],
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int = 16,
    backgrounds: Float[Tensor, "*batch C D"] | None = None,
    render_mode: Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"] = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    channel_chunk: int = 32,
    distributed: bool = False,
    camera_model: Literal["pinhole", "ortho", "fisheye", "ftheta"] = "pinhole",
    segmented: bool = False,
    covars: Float[Tensor, "*batch N 3 3"] | None = None,
    with_ut: bool = False,
    with_eval3d: bool = False,
    radial_coeffs: Tensor | None = None,
    tangential_coeffs: Tensor | None = None,
    thin_prism_coeffs: Tensor | None = None,
    ftheta_coeffs: Any = None,
    rolling_shutter: Any = RollingShutterType.GLOBAL,
    viewmats_rs: Tensor | None = None,
    *,
    backend: str = "auto",
) -> tuple[Float[Tensor, "*batch C H W X"], Float[Tensor, "*batch C H W 1"], dict[str, Any]]:
    """Returns (renders [..., C, H, W, X], alphas [..., C, H, W, 1], meta) of N Gaussians seen by C cameras.

    A drop-in for gsplat 1.5.3: same parameters, defaults, shapes and meta keys. Gradients flow to means, quats, scales,
    covars, opacities, colors (SH: through the view direction to means and viewmats too), viewmats and backgrounds, not
    to Ks. A Gaussian with a NaN, an Inf or a zero quaternion is not drawn and gets no gradient.

    Args:
        means: centres, world frame. Leading `...` dimensions are a batch of independent scenes.
        quats: rotations wxyz of any length. Ignored, and may be None, when `covars` is given.
        scales: standard deviations along the rotated axes, world units. Ignored when `covars` is given.
        opacities: in 0..1.
        colors: with `sh_degree` None, D feature channels [..., N, D] or per camera [..., C, N, D]; otherwise SH
            coefficients [..., N, K, 3] or [..., C, N, K, 3], rendered as max(SH + 0.5, 0). May be None in the modes D
            and ED.
        viewmats: world-to-camera, OpenCV axes (+X right, +Y down, +Z forward).
        Ks: intrinsics in pixels; pixel centres lie at +0.5.
        width: image width in pixels.
        height: image height in pixels.
        near_plane: Gaussians with a smaller depth are not drawn, world units.
        far_plane: Gaussians with a larger depth are not drawn.
        radius_clip: Gaussians whose radii in pixels are both at most this are not drawn.
        eps2d: variance in square pixels added to every projected Gaussian.
        sh_degree: degree to evaluate, 0 to 4, at most what `colors` holds; None for plain channels.
        packed: meta and the tensors between the stages hold only visible Gaussians, [nnz, ...], instead of
            [..., C, N, ...]. The images are equal.
        tile_size: tile edge in pixels for the tile lists in meta; rendering does not depend on it.
        backgrounds: colours behind everything, [..., C, D]; a depth channel always has background 0.
        render_mode: RGB the channels, D the depth summed with the blending weights, ED that divided by alpha; RGB+D
            and RGB+ED append the depth as the last channel. Depth is the camera-frame z of the centre.
        sparse_grad: gradients of means, quats, scales and covars arrive as sparse COO tensors holding the visible
            rows. Needs `packed` and no batch dimensions.
        absgrad: the backward also sets `meta["means2d"].absgrad` (AbsGS, Ye et al. 2024).
        rasterize_mode: "antialiased" multiplies opacities by the compensation of Mip-Splatting (Yu et al. 2024).
        channel_chunk: accepted for gsplat's signature; all channels are rendered at once, with the same result.
        distributed: not supported.
        camera_model: "pinhole", "ortho" (focal lengths in pixels per world unit) or "fisheye" (equidistant).
        segmented: accepted for gsplat's signature; it changes how gsplat sorts, not what it renders.
        covars: covariances instead of quats and scales; the upper triangle is read.
        with_ut: not supported.
        with_eval3d: not supported.
        radial_coeffs: not supported.
        tangential_coeffs: not supported.
        thin_prism_coeffs: not supported.
        ftheta_coeffs: not supported.
        rolling_shutter: not supported; GLOBAL only.
        viewmats_rs: not supported.
        backend: "auto", or a name of `available_backends()`.

    The meta dict holds batch_ids, camera_ids, gaussian_ids [nnz] (None unless packed), radii [..., 2] int32, means2d,
    depths, conics, opacities (compensated), tile_width, tile_height, tiles_per_gauss, isect_ids, flatten_ids,
    isect_offsets (these four are computed when first read), width, height, tile_size, n_batches, n_cameras.

    Raises:
        ValueError: for arguments that do not fit, are not supported, or a backend that cannot run.
    """
    if torch.compiler.is_compiling() and (absgrad or sparse_grad):
        return _outside_the_graph(locals())
    reject_unsupported(
        distributed=distributed,
        with_ut=with_ut,
        with_eval3d=with_eval3d,
        camera_model=camera_model,
        rolling_shutter=rolling_shutter,
        radial_coeffs=radial_coeffs,
        tangential_coeffs=tangential_coeffs,
        thin_prism_coeffs=thin_prism_coeffs,
        ftheta_coeffs=ftheta_coeffs,
        viewmats_rs=viewmats_rs,
    )
    check_settings(
        width=width,
        height=height,
        near_plane=near_plane,
        far_plane=far_plane,
        eps2d=eps2d,
        tile_size=tile_size,
        channel_chunk=channel_chunk,
        render_mode=render_mode,
        rasterize_mode=rasterize_mode,
        camera_model=camera_model,
        sh_degree=sh_degree,
        radius_clip=radius_clip,
        packed=packed,
        sparse_grad=sparse_grad,
        absgrad=absgrad,
        segmented=segmented,
        backend=backend,
    )
    sizes = check_tensors(
        means, quats, scales, opacities, colors, viewmats, Ks, backgrounds, covars, sh_degree, render_mode, sparse_grad
    )
    width, height, tile_size = int(width), int(height), int(tile_size)
    channels = 1 if colors is None else 3 if sh_degree is not None else colors.shape[-1]
    check_pictures(sizes.B * sizes.C, width, height, channels, means)
    check_cameras(viewmats, Ks)
    check_backgrounds(backgrounds)
    if torch.compiler.is_compiling() and backend in ("auto", "cpu") and (means.device.type, means.dtype) == _CPU_TAKES:
        ops, whole = _cpu_backend(), False
    else:
        ops, whole = select_backend(backend, means.device, means.dtype)
    settings = {
        "near_plane": float(near_plane),
        "far_plane": float(far_plane),
        "radius_clip": float(radius_clip),
        "eps2d": float(eps2d),
        "camera_model": camera_model,
    }
    if whole:
        return ops.rasterize(
            means,
            quats,
            scales,
            opacities,
            colors,
            viewmats,
            Ks,
            width,
            height,
            sh_degree=sh_degree,
            packed=packed,
            tile_size=tile_size,
            backgrounds=backgrounds,
            render_mode=render_mode,
            sparse_grad=sparse_grad,
            absgrad=absgrad,
            rasterize_mode=rasterize_mode,
            channel_chunk=channel_chunk,
            segmented=segmented,
            covars=covars,
            **settings,
        )

    seen = SeenRows() if sparse_grad else None
    if seen is not None:
        means = sparse_rows(means, seen)
        quats, scales, covars = (x if x is None else sparse_rows(x, seen) for x in (quats, scales, covars))
    B, C, N = sizes.B, sizes.C, sizes.N
    means, viewmats, Ks = means.reshape(B, N, 3), viewmats.reshape(B, C, 4, 4), Ks.reshape(B, C, 3, 3).detach()
    opacities = opacities.reshape(B, N)
    if covars is not None:
        # Only the upper triangle counts, as in gsplat; backends get symmetric matrices.
        covars = covars.reshape(B, N, 3, 3)
        covars = covars.triu() + covars.triu(1).mT
        quats = scales = None
    else:
        assert quats is not None and scales is not None
        quats, scales = quats.reshape(B, N, 4), scales.reshape(B, N, 3)
    settings["compensate"] = rasterize_mode == "antialiased"
    fused = getattr(ops, "project_with_colors", None)
    if fused is not None and sh_degree is not None and quats is not None and not sizes.per_camera_colors:
        assert colors is not None
        centres = torch.linalg.inv_ex(viewmats)[0][..., :3, 3]
        coeffs = colors.reshape(B, N, *colors.shape[-2:])
        radii, means2d, depths, conics, seen_opacities, channels = fused(
            means, quats, scales, opacities, viewmats, Ks, centres, coeffs, sh_degree, width, height, **settings
        )
        if render_mode != "RGB":
            parts = [channels] if render_mode.startswith("RGB") else []
            channels = torch.cat([*parts, depths[..., None]], dim=-1)
    else:
        radii, means2d, depths, conics, compensations = ops.project(
            means, quats, scales, covars, opacities.detach(), viewmats, Ks, width, height, **settings
        )
        seen_opacities = opacities[:, None].expand(B, C, N)
        if compensations is not None:
            # A culled row may have a NaN opacity, which times its zero gradient would reach the compensation.
            visible = (radii > 0).all(-1)
            seen_opacities = torch.where(visible, seen_opacities, torch.zeros_like(seen_opacities)) * compensations
        channels = _channels(ops, sizes, means, viewmats, radii, depths, colors, sh_degree, render_mode)

    dense = _Rows(radii, means2d, depths, conics, seen_opacities)
    if packed:
        rows, channels, ids = _pack(dense, channels, sizes)
        if seen is not None:
            seen.ids = ids[2]
        meta_rows, means2d_rows = rows, rows.means2d
        image_ids = (ids[0] * C + ids[1]).to(torch.int32)
    else:
        ids = (None, None, None)
        meta_rows = _Rows(*(x.reshape(*sizes.batch_dims, *x.shape[1:]) for x in dense.tensors()))
        means2d_rows = flatten_means2d(meta_rows.means2d) if absgrad else meta_rows.means2d.reshape(-1, 2)
        rows = _Rows(*(x.reshape(-1, *x.shape[3:]) for x in dense.tensors()))
        channels = channels.reshape(B * C * N, channels.shape[-1])
        image_ids = torch.arange(B * C, device=means.device, dtype=torch.int32).repeat_interleave(N)

    renders, alphas = ops.blend(
        means2d_rows,
        rows.conics,
        channels,
        rows.opacities,
        rows.depths.detach(),
        rows.radii,
        image_ids,
        B * C,
        width,
        height,
        _backgrounds(backgrounds, B * C, channels.shape[-1], render_mode),
        absgrad,
    )
    if absgrad:
        keep_until_backward(means2d_rows, renders, alphas)
    if render_mode in ("ED", "RGB+ED"):
        expected = renders[..., -1:] / alphas.clamp(min=1e-10)
        renders = torch.cat([renders[..., :-1], expected], dim=-1)
    meta = make_meta(
        batch_ids=ids[0],
        camera_ids=ids[1],
        gaussian_ids=ids[2],
        radii=meta_rows.radii,
        means2d=meta_rows.means2d,
        depths=meta_rows.depths,
        conics=meta_rows.conics,
        opacities=meta_rows.opacities,
        image_ids=image_ids,
        image_dims=(*sizes.batch_dims, C),
        n_batches=B,
        width=width,
        height=height,
        tile_size=tile_size,
    )
    lead = (*sizes.batch_dims, C)
    return renders.reshape(*lead, *renders.shape[1:]), alphas.reshape(*lead, *alphas.shape[1:]), meta


@torch.compiler.disable(recursive=True)
def _outside_the_graph(arguments: dict[str, Any]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Rasterizes uncompiled: absgrad and sparse_grad hand gradients over in ways torch.compile cannot record."""
    return rasterization(**arguments)


@dataclass(frozen=True)
class _Rows:
    """What the projection says about each Gaussian in each image, rows [B, C, N], [..., C, N] or [nnz]."""

    radii: Tensor
    means2d: Tensor
    depths: Tensor
    conics: Tensor
    opacities: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        return self.radii, self.means2d, self.depths, self.conics, self.opacities


def _channels(
    ops: ModuleType,
    sizes: Sizes,
    means: Tensor,
    viewmats: Tensor,
    radii: Tensor,
    depths: Tensor,
    colors: Tensor | None,
    sh_degree: int | None,
    render_mode: str,
) -> Float[Tensor, "B C N X"]:
    """Returns what is blended: colours, depth, or both."""
    B, C, N = sizes.B, sizes.C, sizes.N
    if render_mode in ("D", "ED"):
        return depths[..., None]
    assert colors is not None
    lead = (B, C, N) if sizes.per_camera_colors else (B, N)
    if sh_degree is None:
        channels = colors.reshape(*lead, colors.shape[-1])
        if not sizes.per_camera_colors:
            channels = channels[:, None].expand(B, C, N, -1)
    else:
        coeffs = colors.reshape(*lead, *colors.shape[-2:])
        # Not detached: a Gaussian that moves is seen from another direction, and so is one whose camera moves.
        channels = ops.view_colors(sh_degree, means, _camera_centres(viewmats), coeffs, radii)
    if render_mode in ("RGB+D", "RGB+ED"):
        channels = torch.cat([channels, depths[..., None]], dim=-1)
    return channels


def _cpu_backend() -> ModuleType:
    """Returns what `select_backend` would; torch.compile does not follow its imports by name."""
    from . import cpu

    return cpu


def _camera_centres(viewmats: Float[Tensor, "B C 4 4"]) -> Float[Tensor, "B C 3"]:
    if viewmats.device.type != "cpu":
        # Asking whether it is singular would wait for the device.
        return torch.linalg.inv_ex(viewmats)[0][..., :3, 3]
    if traced(viewmats):
        # This one complains by itself about a singular matrix, when it runs.
        return torch.linalg.inv(viewmats)[..., :3, 3]
    inverse, info = torch.linalg.inv_ex(viewmats)
    if bool(info.any()):
        raise ValueError("viewmats must be invertible, got a singular matrix; check the camera it comes from")
    return inverse[..., :3, 3]


def _pack(dense: _Rows, channels: Tensor, sizes: Sizes) -> tuple[_Rows, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Returns the visible rows, their channels and their (batch, camera, gaussian) ids, int64, in image order."""
    visible = (dense.radii > 0).all(-1)
    batch_ids, camera_ids, gaussian_ids = torch.nonzero(visible, as_tuple=True)
    index = (batch_ids * sizes.C + camera_ids) * sizes.N + gaussian_ids

    def take(x: Tensor) -> Tensor:
        # index_select: the backward of x[index] is a sequential scatter on the CPU.
        return x.reshape(-1, *x.shape[3:]).index_select(0, index)

    rows = _Rows(*(take(x) for x in dense.tensors()))
    return rows, take(channels), (batch_ids, camera_ids, gaussian_ids)


def _backgrounds(backgrounds: Tensor | None, n_images: int, n_channels: int, render_mode: str) -> Tensor | None:
    """Returns backgrounds [I, X] with 0 behind the depth channel, None where nothing but depth is rendered."""
    if backgrounds is None or render_mode in ("D", "ED"):
        return None
    backgrounds = backgrounds.reshape(n_images, backgrounds.shape[-1])
    missing = n_channels - backgrounds.shape[-1]
    return torch.nn.functional.pad(backgrounds, (0, missing)) if missing else backgrounds
