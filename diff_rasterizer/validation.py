"""Checks on the arguments of `rasterization`: shapes, types and settings, never the values of tensors.

They run once per training step, so none of them reads per-Gaussian data or waits for a GPU.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

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
    asked += [f"{name}=True" for name, value in flags.items() if value]
    if camera_model == "ftheta":
        asked.append("camera_model='ftheta'")
    # By name: callers may pass gsplat's own enum.
    if getattr(rolling_shutter, "name", rolling_shutter) != "GLOBAL":
        asked.append(f"rolling_shutter={getattr(rolling_shutter, 'name', rolling_shutter)}")
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
    packed: bool,
    sparse_grad: bool,
) -> None:
    """Raises ValueError for a setting outside its range."""
    counts = {"width": width, "height": height, "tile_size": tile_size, "channel_chunk": channel_chunk}
    for name, value in counts.items():
        if not _is_integer(value) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    _check_choice("render_mode", render_mode, RENDER_MODES)
    _check_choice("rasterize_mode", rasterize_mode, RASTERIZE_MODES)
    _check_choice("camera_model", camera_model, CAMERA_MODELS)
    if not near_plane < far_plane:
        raise ValueError(f"near_plane must be less than far_plane, got {near_plane} and {far_plane}")
    if not eps2d >= 0:
        raise ValueError(f"eps2d must be at least 0, got {eps2d}")
    if sh_degree is not None and not (_is_integer(sh_degree) and 0 <= sh_degree <= MAX_SH_DEGREE):
        raise ValueError(
            f"sh_degree must be None or 0 to {MAX_SH_DEGREE}, got {sh_degree!r}; use None for colors that are no SH"
        )
    if sparse_grad and not packed:
        raise ValueError("sparse_grad=True needs packed=True, got packed=False; set packed=True or sparse_grad=False")


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
        raise ValueError(f"means must have shape (..., N, 3), got {_shown(means)}")
    batch_dims, N = tuple(means.shape[:-2]), means.shape[-2]
    if viewmats.ndim < 3:
        raise ValueError(f"viewmats must have shape (..., C, 4, 4), got {_shown(viewmats)}; use viewmats[None]")
    C = viewmats.shape[-3]
    if C == 0:
        raise ValueError(f"viewmats must hold at least one camera, got {_shown(viewmats)}")
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
            _raise_shape(name, tensor, shape)

    per_camera_colors = False
    if colors is not None:
        per_camera_colors = _check_colors(colors, batch_dims, C, N, sh_degree)
    if backgrounds is not None:
        channels = None
        if colors is not None and render_mode not in ("D", "ED"):
            channels = 3 if sh_degree is not None else colors.shape[-1]
        if tuple(backgrounds.shape[:-1]) != (*batch_dims, C) or channels not in (None, backgrounds.shape[-1]):
            _raise_shape("backgrounds", backgrounds, (*batch, ("C", C), ("D", channels or backgrounds.shape[-1])))
    if sparse_grad and batch_dims:
        raise ValueError(
            f"sparse_grad=True needs means of shape (N, 3), got {_shown(means)}; loop over the batch or set it to False"
        )
    B = 1
    for size in batch_dims:
        B *= size
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


def _check_kind(given: dict[str, Any], optional: set[str], render_mode: str) -> None:
    """Raises ValueError unless all are floating point tensors of one type on one device."""
    means = given["means"]
    for name, tensor in given.items():
        if tensor is None:
            if name in optional:
                continue
            hint = "; colors=None renders depth only, with render_mode 'D' or 'ED'" if name == "colors" else ""
            raise ValueError(f"{name} must be a tensor, got None (render_mode={render_mode!r}){hint}")
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}; use torch.as_tensor({name})")
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} must be float32 or float64, got {_type(tensor)}; use {name}.float()")
        if tensor.dtype != means.dtype:
            raise ValueError(
                f"{name} must be {_type(means)} like means, got {_type(tensor)}; use {name}.to(means.dtype)"
            )
        if tensor.device != means.device:
            raise ValueError(
                f"{name} must be on {means.device} like means, got {tensor.device}; use {name}.to(means.device)"
            )


def _check_colors(colors: Tensor, batch_dims: tuple[int, ...], C: int, N: int, sh_degree: int | None) -> bool:
    """Returns whether `colors` differ per camera."""
    shared, tail = (*batch_dims, N), (-1 if sh_degree is None else -2)
    lead = tuple(colors.shape[:tail])
    fits = lead in (shared, (*batch_dims, C, N)) and (sh_degree is None or colors.shape[-1] == 3)
    if not fits:
        batch, last = _named(batch_dims), (("D", None),) if sh_degree is None else (("K", None), ("", 3))
        kind = "feature channels (sh_degree=None)" if sh_degree is None else f"SH coefficients (sh_degree={sh_degree})"
        one = _symbols((*batch, ("N", N), *last))
        many = _symbols((*batch, ("C", C), ("N", N), *last))
        hint = ""
        if sh_degree is None and tuple(colors.shape[:-2]) == shared and colors.shape[-1] == 3:
            hint = "; pass sh_degree for SH coefficients"
        elif sh_degree is not None and tuple(colors.shape) == (*shared, 3):
            hint = "; use colors[..., None, :] for one coefficient, or sh_degree=None for plain colors"
        raise ValueError(
            f"colors must be {kind} of shape {one} or {many} with N={N}, C={C}, got {_shown(colors)}{hint}"
        )
    if sh_degree is not None and colors.shape[-2] < (sh_degree + 1) ** 2:
        raise ValueError(
            f"colors must hold at least {(sh_degree + 1) ** 2} SH coefficients for sh_degree={sh_degree}, "
            f"got {colors.shape[-2]}; lower sh_degree"
        )
    if sh_degree is None and colors.shape[-1] == 0:
        raise ValueError(f"colors must have at least one channel, got {_shown(colors)}")
    return lead != shared


def _raise_shape(name: str, tensor: Tensor, shape: tuple[tuple[str, int | None], ...]) -> None:
    """Raises ValueError with the expected shape in letters and numbers, and a mend where one is plain."""
    sizes = tuple(size for _, size in shape)
    came = tuple(tensor.shape)
    mend = ""
    if came == (*sizes, 1):
        mend = f"; use {name}[..., 0]"
    elif came == sizes[1:] and sizes[0] == 1:
        mend = f"; use {name}[None]"
    elif came == (1, *sizes):
        mend = f"; use {name}[0]"
    elif len(came) == len(sizes) and sorted(came) == sorted(s for s in sizes if s is not None):
        mend = "; check the order of its dimensions"
    letters = _symbols(shape)
    numbers = "" if letters == _plain(sizes) else f" = {_plain(sizes)}"
    raise ValueError(f"{name} must have shape {letters}{numbers}, got {_shown(tensor)}{mend}")


def _named(batch_dims: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
    return tuple(("", size) for size in batch_dims)


def _symbols(shape: tuple[tuple[str, int | None], ...]) -> str:
    return _plain(tuple(letter or size for letter, size in shape))


def _plain(sizes: tuple[Any, ...]) -> str:
    return "(" + ", ".join(str(size) for size in sizes) + ("," if len(sizes) == 1 else "") + ")"


def _shown(tensor: Tensor) -> str:
    return _plain(tuple(tensor.shape))


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _is_integer(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)
    except TypeError:
        return False
    return True
