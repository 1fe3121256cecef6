"""Calls the public functions with hostile arguments; a program, so that a crash is seen from outside.

    python fuzz_calls.py FIRST COUNT PROGRESS    calls number FIRST to FIRST + COUNT - 1, each from its own seed
    python fuzz_calls.py --only NUMBER           one of them, shown

Whatever the arguments, a call returns numbers that are no NaN, or raises ValueError (TypeError where Python itself
counts arguments) with a message that names an argument and says what came. `test_fuzz_calls` runs this.
"""

from __future__ import annotations

import faulthandler
import inspect
import math
import random
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import diff_rasterizer as gd

NUMBERS = [
    *(None, -1, 0, 1, 2, 2**31 - 1, 2**31, 2**40, 2**63, -(2**63), 2**100, 1.5, -0.5, 1e300, -1e300, 5e-324),
    *(math.nan, math.inf, -math.inf, True, False, "16", "", b"x", [], {}, (), object(), 1j),
    *(np.int64(3), np.float32(0.5), np.zeros(2), torch.tensor(3), torch.tensor(0.5), torch.zeros(2), torch.zeros(0)),
]
WORDS = ["RGB", "ED", "D", "RGB+D", "pinhole", "ortho", "fisheye", "ftheta", "classic", "antialiased", "same", "cpu"]
VALUES = [math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1e-45, 1e-30, 1e-12, 1e6, 1e18, 3e38, -3e38]
TYPES = [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool, torch.cfloat]
NOT_TENSORS = [None, 3, 0.5, "means", [], [[0.0, 0.0, 1.0]], object(), np.zeros((5, 3), np.float32), (), {}]

Arguments = dict[str, Any]
Case = Callable[[random.Random], tuple[Callable[..., Any], Arguments]]


def uniform(rng: random.Random, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(rng.randrange(2**31)))


def view(rng: random.Random, cameras: int) -> tuple[Tensor, Tensor]:
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    viewmats[:, :3, 3] = uniform(rng, cameras, 3) * 0.2 + torch.tensor([0.0, 0.0, 2.0])
    return viewmats, torch.tensor([[9.0, 0.0, 5.0], [0.0, 9.0, 4.0], [0.0, 0.0, 1.0]]).repeat(cameras, 1, 1)


def rasterization_case(rng: random.Random) -> tuple[Callable[..., Any], Arguments]:
    n, cameras = rng.choice([0, 1, 5, 5, 5]), rng.choice([1, 2])
    sh_degree = rng.choice([None, None, 0, 1])
    viewmats, Ks = view(rng, cameras)
    lead = rng.choice([(n,), (cameras, n)])
    colors = uniform(rng, *lead, 3) if sh_degree is None else uniform(rng, *lead, (sh_degree + 1) ** 2, 3) - 0.5
    arguments: Arguments = {
        "means": uniform(rng, n, 3) - 0.5,
        "quats": uniform(rng, n, 4) - 0.5,
        "scales": uniform(rng, n, 3) * 0.4,
        "opacities": uniform(rng, n),
        "colors": colors,
        "viewmats": viewmats,
        "Ks": Ks,
        "width": rng.choice([1, 9, 17]),
        "height": rng.choice([1, 7]),
        "sh_degree": sh_degree,
        "packed": rng.random() < 0.5,
        "backend": "reference" if rng.random() < 0.01 else "cpu",
    }
    options: Arguments = {
        "near_plane": 0.01,
        "far_plane": 1e10,
        "radius_clip": 0.0,
        "eps2d": 0.3,
        "tile_size": 16,
        "backgrounds": uniform(rng, cameras, 3),
        "render_mode": rng.choice(["RGB", "D", "ED", "RGB+D", "RGB+ED"]),
        "sparse_grad": False,
        "absgrad": rng.random() < 0.5,
        "rasterize_mode": rng.choice(["classic", "antialiased"]),
        "channel_chunk": 32,
        "distributed": False,
        "camera_model": rng.choice(["pinhole", "ortho", "fisheye"]),
        "segmented": False,
        "covars": torch.eye(3).repeat(n, 1, 1) * 0.05,
        "with_ut": False,
        "with_eval3d": False,
        "radial_coeffs": None,
        "ftheta_coeffs": None,
        "rolling_shutter": gd.RollingShutterType.GLOBAL,
        "viewmats_rs": None,
    }
    for name in rng.sample(list(options), rng.randrange(6)):
        arguments[name] = options[name]
    return gd.rasterization, arguments


def projection_case(rng: random.Random) -> tuple[Callable[..., Any], Arguments]:
    viewmats, Ks = view(rng, 2)
    arguments: Arguments = {
        "means": uniform(rng, 5, 3) - 0.5,
        "covars": None,
        "quats": uniform(rng, 5, 4) - 0.5,
        "scales": uniform(rng, 5, 3),
        "viewmats": viewmats,
        "Ks": Ks,
        "width": 9,
        "height": 7,
        "eps2d": 0.3,
        "near_plane": 0.01,
        "far_plane": 1e10,
        "radius_clip": 0.0,
        "packed": rng.random() < 0.5,
        "calc_compensations": rng.random() < 0.5,
        "camera_model": rng.choice(["pinhole", "ortho", "fisheye"]),
        "opacities": uniform(rng, 5),
    }
    return gd.fully_fused_projection, arguments


def lists(rng: random.Random) -> Arguments:
    means2d = uniform(rng, 2, 5, 2) * 12
    radii = (uniform(rng, 2, 5, 2) * 6).int()
    return {
        "means2d": means2d,
        "radii": radii,
        "depths": uniform(rng, 2, 5),
        "tile_size": 4,
        "tile_width": 3,
        "tile_height": 2,
    }


def tiles_case(rng: random.Random) -> tuple[Callable[..., Any], Arguments]:
    arguments = lists(rng)
    if rng.random() < 0.5:
        flat = {name: arguments[name].flatten(0, 1) for name in ("means2d", "radii", "depths")}
        ids = torch.arange(2).repeat_interleave(5)
        arguments |= flat | {"packed": True, "n_images": 2, "image_ids": ids, "gaussian_ids": torch.arange(5).repeat(2)}
    return gd.isect_tiles, arguments


def offsets_case(rng: random.Random) -> tuple[Callable[..., Any], Arguments]:
    ids = gd.isect_tiles(**lists(rng))[1]
    return gd.isect_offset_encode, {"isect_ids": ids, "n_images": 2, "tile_width": 3, "tile_height": 2}


def pixels_case(rng: random.Random) -> tuple[Callable[..., Any], Arguments]:
    made = lists(rng)
    _, ids, flatten_ids = gd.isect_tiles(**made)
    arguments: Arguments = {
        "means2d": made["means2d"],
        "conics": torch.tensor([0.5, 0.1, 0.4]).repeat(2, 5, 1),
        "colors": uniform(rng, 2, 5, 3),
        "opacities": uniform(rng, 2, 5),
        "image_width": 12,
        "image_height": 8,
        "tile_size": 4,
        "isect_offsets": gd.isect_offset_encode(ids, 2, 3, 2),
        "flatten_ids": flatten_ids,
    }
    kind = rng.randrange(3)
    if kind == 0:
        arguments |= {"range_start": 0, "range_end": 10**10, "transmittances": torch.ones(2, 8, 12)}
        del arguments["colors"]
        return gd.rasterize_to_indices_in_range, arguments
    if kind == 1:
        ids = torch.arange(6)
        for name in ("tile_size", "isect_offsets", "flatten_ids"):
            del arguments[name]
        return gd.accumulate, arguments | {"gaussian_ids": ids % 5, "pixel_ids": ids, "image_ids": ids % 2}
    more: Arguments = {
        "backgrounds": uniform(rng, 2, 3),
        "masks": torch.ones(2, 2, 3, dtype=torch.bool),
        "absgrad": True,
        "packed": False,
    }
    return gd.rasterize_to_pixels, arguments | {name: more[name] for name in rng.sample(list(more), rng.randrange(5))}


def geometry_case(rng: random.Random) -> tuple[Callable[..., Any], Arguments]:
    viewmats, Ks = view(rng, 2)
    kind = rng.randrange(3)
    if kind == 0:
        return gd.quat_scale_to_covar_preci, {
            "quats": uniform(rng, 5, 4) - 0.5,
            "scales": uniform(rng, 5, 3) + 0.1,
            "compute_covar": True,
            "compute_preci": rng.random() < 0.5,
            "triu": rng.random() < 0.5,
        }
    covars = torch.eye(3).repeat(5, 1, 1)
    if kind == 1:
        return gd.world_to_cam, {"means": uniform(rng, 5, 3), "covars": covars, "viewmats": viewmats}
    means = uniform(rng, 2, 5, 3) + torch.tensor([0.0, 0.0, 1.0])
    arguments = {"means": means, "covars": covars.repeat(2, 1, 1, 1), "Ks": Ks, "width": 9, "height": 7}
    return gd.proj, arguments | {"camera_model": rng.choice(["pinhole", "ortho", "fisheye"])}


def other_case(rng: random.Random) -> tuple[Callable[..., Any], Arguments]:
    kind = rng.randrange(4)
    if kind == 0:
        arguments = {"degrees_to_use": rng.randrange(3), "dirs": uniform(rng, 5, 3), "coeffs": uniform(rng, 5, 9, 3)}
        masks = torch.tensor([True, False, True, True, False])
        return gd.spherical_harmonics, arguments | ({"masks": masks} if rng.random() < 0.5 else {})
    if kind == 1:
        binoms = torch.ones(4, 4).tril()
        arguments = {"opacities": uniform(rng, 5), "scales": uniform(rng, 5, 3), "ratios": torch.arange(5)}
        return gd.compute_relocation, arguments | {"binoms": binoms}
    pictures = {"image": uniform(rng, 12, 13, 3), "target": uniform(rng, 12, 13, 3), "padding": "same"}
    if kind == 2:
        return gd.fused_ssim, pictures
    pictures["render"] = pictures.pop("image")
    return gd.l1_ssim_loss, pictures | {"ssim_weight": 0.2}


CASES: list[tuple[Case, int]] = [
    (rasterization_case, 60),
    (projection_case, 10),
    (tiles_case, 6),
    (offsets_case, 4),
    (pixels_case, 10),
    (geometry_case, 5),
    (other_case, 5),
]


def hostile_tensor(rng: random.Random, x: Tensor) -> Any:
    """Returns something in place of a tensor: now and then still a good one, in an unusual layout."""
    # From 12 on, only values are spoilt.
    kind = rng.randrange(20)
    if kind == 0:
        return rng.choice(NOT_TENSORS)
    if kind == 1:
        return x.to(rng.choice(TYPES))
    if kind == 2:
        return x.to("meta")
    if kind == 3:
        return x.flatten()
    if kind == 4:
        return x[None]
    if kind == 5 and x.ndim and x.shape[-1]:
        return x[..., 0]
    if kind == 6 and x.ndim >= 2:
        return x.mT
    if kind == 7 and x.ndim:
        dim = rng.randrange(x.ndim)
        return x.narrow(dim, 0, rng.choice([0, max(0, x.shape[dim] - 1)]))
    if kind == 8 and x.ndim:
        return torch.cat([x, x], dim=rng.randrange(x.ndim))
    if kind == 9 and x.ndim and x.numel():
        # The same shape with steps in memory.
        return torch.stack([x, x], dim=-1)[..., 0]
    if kind == 10 and x.ndim and x.numel():
        return x[:1].expand_as(x)
    if kind == 11 and x.layout == torch.strided and x.dtype != torch.bool:
        return x.to_sparse()
    if x.numel() == 0:
        return x
    spoiled = x.clone()
    if x.dtype.is_floating_point:
        value = rng.choice(VALUES)
    elif x.dtype == torch.bool:
        value = False
    else:
        value = rng.choice([-1, 0, 1, 7, 2**31 - 1, -(2**31)])
    if rng.random() < 0.3:
        return spoiled.fill_(value)
    spoiled.view(-1)[rng.randrange(x.numel())] = value
    return spoiled


def mutate(rng: random.Random, arguments: Arguments) -> None:
    """Replaces up to three arguments, and lets some tensors require gradients."""
    for name in rng.sample(list(arguments), min(len(arguments), rng.choice([0, 1, 1, 1, 1, 2, 3]))):
        value = arguments[name]
        if isinstance(value, Tensor):
            arguments[name] = hostile_tensor(rng, value)
        elif isinstance(value, str) and rng.random() < 0.7:
            arguments[name] = rng.choice(WORDS)
        else:
            arguments[name] = rng.choice(NUMBERS)
    for name, value in arguments.items():
        if isinstance(value, Tensor) and value.dtype.is_floating_point and rng.random() < 0.5:
            arguments[name] = value.detach().requires_grad_()


def tensors_in(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return [x for x in result if isinstance(x, Tensor)] if isinstance(result, tuple) else []


@cache
def names_of(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def problem(function: Callable[..., Any], arguments: Arguments) -> str:
    """Returns what is wrong with how the call ends, "" when nothing is."""
    names = names_of(function)
    try:
        result = function(**arguments)
    except (ValueError, TypeError) as error:
        text = str(error)
        if not any(name in text for name in names):
            return f"no argument is named: {type(error).__name__}: {text}"
        if "got" not in text and "not supported" not in text and "cannot be used" not in text:
            return f"what came is not said: {type(error).__name__}: {text}"
        return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}\n{traceback.format_exc()}"
    outputs = [x for x in tensors_in(result) if x.dtype.is_floating_point]
    # Functions of one formula per row give NaN for NaN; pictures and what becomes of them do not.
    if function in (gd.rasterization, gd.fully_fused_projection, gd.rasterize_to_pixels):
        for x in outputs:
            if bool(torch.isnan(x).any()):
                return "NaN in the output"
    differentiable = [x for x in outputs if x.requires_grad]
    if differentiable:
        try:
            sum(x.sum() for x in differentiable).backward()  # type: ignore[union-attr]
        except Exception as error:
            return f"in the backward, {type(error).__name__}: {error}\n{traceback.format_exc()}"
    return ""


def make(number: int) -> tuple[Callable[..., Any], Arguments]:
    rng = random.Random(number)
    case = rng.choices([c for c, _ in CASES], [weight for _, weight in CASES])[0]
    function, arguments = case(rng)
    mutate(rng, arguments)
    return function, arguments


def describe(function: Callable[..., Any], arguments: Arguments) -> str:
    shown = []
    for name, value in arguments.items():
        text = repr(value)
        if isinstance(value, Tensor):
            text = f"{value.dtype} {tuple(value.shape)} {value.device} {value.layout}"
        shown.append(f"{name}={text}")
    return f"{function.__name__}({', '.join(shown)})"


def main() -> int:
    faulthandler.enable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if sys.argv[1] == "--only":
        function, arguments = make(int(sys.argv[2]))
        print(describe(function, arguments))
        print(problem(function, arguments) or "fine")
        return 0
    first, count, progress = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    failures = 0
    with progress.open("w") as file:
        for number in range(first, first + count):
            file.seek(0)
            file.write(f"{number}\n")
            file.flush()
            function, arguments = make(number)
            text = problem(function, arguments)
            if text:
                failures += 1
                if failures <= 20:
                    print(f"call {number}: {text}\n    {describe(function, arguments)}"[:1500])
    print(f"{count} calls, {failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
