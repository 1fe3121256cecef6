"""Checks on the arguments of `rasterization`: shapes, types and settings, never the values of tensors.

They run once per training step, so none of them reads per-Gaussian data or waits for a GPU.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

import torch
from torch import Tensor

from .checks import (
    FLOATS,
    check_choice,
    check_count,
    check_flags,
    check_limit,
    check_number,
    check_tensor,
    is_integer,
    plain,
    raise_shape,
    shown,
    symbols,
)
from .reference.cameras import CAMERA_MODELS
from .spherical_harmonics import MAX_SH_DEGREE
from .tracing import traced

RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")
RASTERIZE_MODES = ("classic", "antialiased")


class RollingShutterType(Enum):
    """When each image row or column is exposed; only GLOBAL is supported, the rest is here for gsplat's signature."""

    ROLLING_TOP_TO_BOTTOM = 0
    ROLLING_LEFT_TO_RIGHT = 1
    ROLLING_BOTTOM_TO_TOP = 2
    ROLLING_RIGHT_TO_LEFT = 3
    GLOBAL = 4


@dataclass(frozen=True)
class Sizes:
    """The sizes all arguments agree on."""

    batch_dims: tuple[int, ...]
    B: int
    """Product of the batch dimensions."""
    C: int
    """Cameras per batch entry."""
    N: int
    """Gaussians per batch entry."""
    per_camera_colors: bool


def reject_unsupported(
    *, distributed: bool, with_ut: bool, with_eval3d: bool, camera_model: str, rolling_shutter: Any, **tensors: Any
) -> None:
    """Raises ValueError naming every argument that asks for a feature of gsplat we do not have."""
    asked = [name for name, value in tensors.items() if value is not None]
    flags = {"distributed": distributed, "with_ut": with_ut, "with_eval3d": with_eval3d}
    check_flags(**flags)
    asked += [f"{name}=True" for name, value in flags.items() if value]
    if isinstance(camera_model, str) and camera_model == "ftheta":
        asked.append("camera_model='ftheta'")
    # By name: callers may pass gsplat's own enum.
    shutter = getattr(rolling_shutter, "name", rolling_shutter)
    if not (isinstance(shutter, str) and shutter == "GLOBAL"):
        asked.append(f"rolling_shutter={shutter if isinstance(shutter, str) else shown(shutter)}")
    if asked:
        raise ValueError(
            f"not supported: {', '.join(asked)}. This rasterizer renders undistorted pinhole, ortho and fisheye "
            "cameras with a global shutter on one device; leave these at their defaults and undistort the images first"
        )


def check_settings(
    *,
    width: int,
    height: int,
    near_plane: float,
    far_plane: float,
    eps2d: float,
    tile_size: int,
    channel_chunk: int,
    render_mode: str,
    rasterize_mode: str,
    camera_model: str,
    sh_degree: int | None,
    radius_clip: float,
    packed: bool,
    sparse_grad: bool,
    absgrad: bool,
    segmented: bool,
    backend: str,
) -> None:
    """Raises ValueError for a setting outside its range."""
    counts = {"width": width, "height": height, "tile_size": tile_size, "channel_chunk": channel_chunk}
    for name, value in counts.items():
        check_count(name, value)
    check_flags(packed=packed, sparse_grad=sparse_grad, absgrad=absgrad, segmented=segmented)
    if not isinstance(backend, str):
        raise ValueError(f"backend must be 'auto' or a name in available_backends(), got {shown(backend)}")
    check_choice("render_mode", render_mode, RENDER_MODES)
    check_choice("rasterize_mode", rasterize_mode, RASTERIZE_MODES)
    check_camera_model(camera_model)
    check_planes(near_plane, far_plane, radius_clip, eps2d)
    if sh_degree is not None and not (is_integer(sh_degree) and 0 <= sh_degree <= MAX_SH_DEGREE):
        raise ValueError(
            f"sh_degree must be None or 0 to {MAX_SH_DEGREE}, got {shown(sh_degree)}; None is for other colors"
        )
    if sparse_grad and not packed:
        raise ValueError("sparse_grad=True needs packed=True, got packed=False; set packed=True or sparse_grad=False")


def check_camera_model(camera_model: Any) -> None:
    """Raises ValueError for a camera model we do not have."""
    check_choice("camera_model", camera_model, CAMERA_MODELS)


def check_planes(near_plane: Any, far_plane: Any, radius_clip: Any, eps2d: Any) -> None:
    """Raises ValueError for limits of the projection that are no numbers, or the wrong way round."""
    near, far = check_number("near_plane", near_plane), check_number("far_plane", far_plane)
    if not near < far:
        raise ValueError(f"near_plane must be less than far_plane, got {near_plane} and {far_plane}")
    check_number("radius_clip", radius_clip)
    check_number("eps2d", eps2d, least=0.0, finite=True)


def check_tensors(
    means: Tensor,
    quats: Tensor | None,
    scales: Tensor | None,
    opacities: Tensor,
    colors: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    backgrounds: Tensor | None,
    covars: Tensor | None,
    sh_degree: int | None,
    render_mode: str,
    sparse_grad: bool,
) -> Sizes:
    """Returns the common sizes after checking that every tensor fits them.

    Raises:
        ValueError: says which argument, the expected and the given shape (or type, device), and the mend.
    """
    given = {
        "means": means,
        "quats": None if covars is not None else quats,
        "scales": None if covars is not None else scales,
        "opacities": opacities,
        "colors": colors,
        "viewmats": viewmats,
        "Ks": Ks,
        "backgrounds": backgrounds,
        "covars": covars,
    }
    optional = {"backgrounds"} | ({"quats", "scales"} if covars is not None else {"covars"})
    if render_mode in ("D", "ED"):
        optional.add("colors")
    _check_kind(given, optional, render_mode)

    if means.ndim < 2 or means.shape[-1] != 3:
        raise ValueError(f"means must have shape (..., N, 3), got {_shape(means)}")
    batch_dims, N = tuple(means.shape[:-2]), means.shape[-2]
    if viewmats.ndim < 3:
        raise ValueError(f"viewmats must have shape (..., C, 4, 4), got {_shape(viewmats)}; use viewmats[None]")
    C = viewmats.shape[-3]
    if C == 0:
        raise ValueError(f"viewmats must hold at least one camera, got {_shape(viewmats)}")
    batch = _named(batch_dims)
    expected = {
        "quats": (*batch, ("N", N), ("", 4)),
        "scales": (*batch, ("N", N), ("", 3)),
        "covars": (*batch, ("N", N), ("", 3), ("", 3)),
        "opacities": (*batch, ("N", N)),
        "viewmats": (*batch, ("C", C), ("", 4), ("", 4)),
        "Ks": (*batch, ("C", C), ("", 3), ("", 3)),
    }
    for name, shape in expected.items():
        tensor = given[name]
        if tensor is not None and tuple(tensor.shape) != tuple(size for _, size in shape):
            raise_shape(name, tensor, shape)

    per_camera_colors = False
    if colors is not None:
        per_camera_colors = _check_colors(colors, batch_dims, C, N, sh_degree)
    if backgrounds is not None:
        channels = None
        if colors is not None and render_mode not in ("D", "ED"):
            channels = 3 if sh_degree is not None else colors.shape[-1]
        if tuple(backgrounds.shape[:-1]) != (*batch_dims, C) or channels not in (None, backgrounds.shape[-1]):
            raise_shape("backgrounds", backgrounds, (*batch, ("C", C), ("D", channels or backgrounds.shape[-1])))
    if sparse_grad and batch_dims:
        raise ValueError(
            f"sparse_grad=True needs means of shape (N, 3), got {_shape(means)}; loop over the batch or set it to False"
        )
    B = math.prod(batch_dims)
    check_limit("the number of Gaussians times the number of cameras", B * C * N, "render fewer cameras per call")
    return Sizes(batch_dims, B, C, N, per_camera_colors)


def check_cameras(viewmats: Tensor, Ks: Tensor) -> None:
    """Raises ValueError for a non-finite camera, on the CPU only: on a GPU the answer would stall the queue.

    A traced call has no values to look at; there the `project` operator asks, when it runs.
    """
    if viewmats.device.type != "cpu" or traced(viewmats):
        return
    for name, matrices in (("viewmats", viewmats), ("Ks", Ks)):
        if not bool(torch.isfinite(matrices).all()):
            raise ValueError(f"{name} must be finite, got NaN or Inf entries; check the camera they come from")


def check_pictures(
    images: int, width: int, height: int, channels: int, like: Tensor, names: str = "width * height"
) -> None:
    """Raises ValueError for more pixels than 32 bits count, or than this machine could hold, before allocating any.

    `like` gives the type and the device, `names` the arguments to blame.
    """
    pixels = images * width * height
    check_limit(f"{names} times the number of images", pixels, "render fewer, or in parts")
    needed = pixels * (channels + 1) * like.element_size()
    # Most calls are small; only a large one is worth asking how much there is.
    if needed > 2**30 and like.device.type == "cpu" and needed > _physical_memory():
        raise ValueError(
            f"{names} times the number of images must fit into memory, got {width}x{height}x{images} with "
            f"{channels} channels, {needed / 2**30:.0f} GiB of {_physical_memory() / 2**30:.0f}; render in parts"
        )


@cache
def _physical_memory() -> float:
    """Returns this machine's memory in bytes, infinity where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def check_backgrounds(backgrounds: Tensor | None) -> None:
    """Raises ValueError for a background that would make whole pictures NaN, where looking costs nothing."""
    if backgrounds is None or backgrounds.device.type != "cpu" or traced(backgrounds):
        return
    if not bool(torch.isfinite(backgrounds).all()):
        raise ValueError("backgrounds must be finite, got NaN or Inf entries; check where they come from")


def _check_kind(given: dict[str, Any], optional: set[str], render_mode: str) -> None:
    """Raises ValueError unless all are floating point tensors of one type on one device."""
    means = given["means"]
    for name, tensor in given.items():
        if tensor is None:
            if name in optional:
                continue
            hint = "; colors=None renders depth only, with render_mode 'D' or 'ED'" if name == "colors" else ""
            raise ValueError(f"{name} must be a tensor, got None (render_mode={render_mode!r}){hint}")
        # A tensor that is none is named as such even where it comes before `means`.
        check_tensor(name, tensor, FLOATS, ("means", means) if isinstance(means, Tensor) else None)


def _check_colors(colors: Tensor, batch_dims: tuple[int, ...], C: int, N: int, sh_degree: int | None) -> bool:
    """Returns whether `colors` differ per camera."""
    shared, tail = (*batch_dims, N), (-1 if sh_degree is None else -2)
    lead = tuple(colors.shape[:tail])
    fits = lead in (shared, (*batch_dims, C, N)) and (sh_degree is None or colors.shape[-1] == 3)
    if not fits:
        batch, last = _named(batch_dims), (("D", None),) if sh_degree is None else (("K", None), ("", 3))
        kind = "feature channels (sh_degree=None)" if sh_degree is None else f"SH coefficients (sh_degree={sh_degree})"
        one = symbols((*batch, ("N", N), *last))
        many = symbols((*batch, ("C", C), ("N", N), *last))
        hint = ""
        if sh_degree is None and tuple(colors.shape[:-2]) == shared and colors.shape[-1] == 3:
            hint = "; pass sh_degree for SH coefficients"
        elif sh_degree is not None and tuple(colors.shape) == (*shared, 3):
            hint = "; use colors[..., None, :] for one coefficient, or sh_degree=None for plain colors"
        raise ValueError(
            f"colors must be {kind} of shape {one} or {many} with N={N}, C={C}, got {_shape(colors)}{hint}"
        )
    if sh_degree is not None and colors.shape[-2] < (sh_degree + 1) ** 2:
        raise ValueError(
            f"colors must hold at least {(sh_degree + 1) ** 2} SH coefficients for sh_degree={sh_degree}, "
            f"got {colors.shape[-2]}; lower sh_degree"
        )
    if sh_degree is None and colors.shape[-1] == 0:
        raise ValueError(f"colors must have at least one channel, got {_shape(colors)}")
    return lead != shared


def _named(batch_dims: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
    return tuple(("", size) for size in batch_dims)


def _shape(tensor: Tensor) -> str:
    return plain(tuple(tensor.shape))
