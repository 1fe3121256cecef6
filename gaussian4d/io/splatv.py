"""antimatter15's `.splatv`: cubic motion, linear rotation and a temporal window per Gaussian, 64 bytes each.

Magic 0x674b, the length of a JSON list of chunks, the list, then the chunk of type `splat`: a texture 4096 texels of
four 32-bit words wide, four texels per Gaussian. Position 3 float32; then float16: quaternion wxyz 4, linear scale 3,
unused 1; red green blue opacity 4 bytes; float16 again: motion 9 (linear, square, cubic), unused 1, spin 4, centre and
width of the window. opacity(t) = opacity exp(-((t - centre) / width)^2), time 0..1. Colour is plain rgb, no harmonics.
"""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..clip_length import recorded_span
from ..files import atomic_write
from ..model import DynamicGaussians
from ..motion import Spacetime
from ..motion.spacetime import SpacetimeConfig
from .bells import as_bells, over_span
from .packed import broken, read_whole, to_unorm
from .splats import color_from_sh0, log_scales, logit, only_gaussians, sh0_from_color, sigmoid, unit
from .view_files import as_text, of_splatv, splatv_cameras

MAGIC = 0x674B
ROW = np.dtype(
    [
        ("means", "<f4", 3),
        ("quats", "<f2", 4),
        ("scales", "<f2", 4),
        ("rgba", "u1", 4),
        ("motion", "<f2", 9),
        ("pad", "<f2"),
        ("spins", "<f2", 4),
        ("window", "<f2", 2),
    ]
)
_WIDTH = 4096
_PER_ROW = _WIDTH // 4
_LARGEST_HALF = 65504.0
_MAX_JSON_BYTES = 1 << 24
_HALF_SMALLEST = 6.0e-8


def write_splatv(path: str | os.PathLike[str], model: DynamicGaussians) -> None:
    """Writes `model` as cubics under temporal windows, atomically; see `as_bells` for what is exact.

    Numbers lose precision to float16, colours lose their dependence on the direction.
    """
    params = over_span(as_bells(model).params, recorded_span(model))
    table = {name: value.detach().cpu().numpy().astype(np.float32) for name, value in params.items()}
    count = len(table["means"])
    length = np.maximum(np.linalg.norm(table["quats"], axis=1, keepdims=True), 1e-12)
    rows = np.zeros(_PER_ROW * max(1, math.ceil(count / _PER_ROW)), ROW)
    used = rows[:count]
    used["means"] = table["means"]
    # The viewer adds the spin before it normalises, so both are divided by the same length.
    used["quats"] = unit(table["quats"])
    used["spins"] = np.clip(table["spins"] / length, -_LARGEST_HALF, _LARGEST_HALF)
    used["scales"][:, :3] = np.clip(np.exp(table["scales"]), _HALF_SMALLEST, _LARGEST_HALF)
    used["rgba"][:, :3] = to_unorm(np.clip(color_from_sh0(table["sh0"][:, 0]), 0.0, 1.0), 8)
    used["rgba"][:, 3] = to_unorm(sigmoid(table["opacities"]), 8)
    used["motion"] = np.clip(table["trajectories"].reshape(count, 9), -_LARGEST_HALF, _LARGEST_HALF)
    used["window"][:, 0] = table["times"]
    used["window"][:, 1] = np.clip(np.exp(np.minimum(table["durations"], 80.0)), _HALF_SMALLEST, _LARGEST_HALF)
    chunk: dict[str, Any] = {"type": "splat", "size": rows.nbytes, "texwidth": _WIDTH}
    chunk |= {"texheight": len(rows) // _PER_ROW, "cameras": splatv_cameras(model)}
    if (view := as_text(model, cameras=False)) is not None:
        # Viewers pass over it; it brings back what their cameras do not say.
        chunk["view"] = json.loads(view)
    text = json.dumps([chunk]).encode("utf-8")
    with atomic_write(path) as temporary:
        temporary.write_bytes(struct.pack("<II", MAGIC, len(text)) + text + rows.tobytes())


def read_splatv(path: str | os.PathLike[str]) -> DynamicGaussians:
    """Returns the model of a `.splatv`, motion `spacetime`; raises `UserError` when it is missing or damaged."""
    source = Path(path)
    data = read_whole(source, ".splatv")
    if len(data) < 8 or struct.unpack_from("<I", data)[0] != MAGIC:
        raise broken(source, ".splatv", "it does not start with its magic number 0x674b")
    (length,) = struct.unpack_from("<I", data, 4)
    if 8 + length > len(data) or length > _MAX_JSON_BYTES:
        raise broken(source, ".splatv", f"its list of chunks claims {length} bytes")
    start, size, chunk = _chunk(source, data[8 : 8 + length], 8 + length)
    if start + size > len(data):
        raise broken(source, ".splatv", f"its Gaussians claim {size} bytes, {len(data) - start} follow")
    rows = np.frombuffer(data, ROW, size // ROW.itemsize, start)
    # The texture's last row is filled up with zeros, whose window has no width.
    filled = np.flatnonzero(rows["window"][:, 1] != 0)
    rows = rows[: filled[-1] + 1 if len(filled) else 0]
    count = len(rows)
    rgba = rows["rgba"].astype(np.float32) / np.float32(255.0)
    with np.errstate(invalid="ignore"):
        quats = rows["quats"].astype(np.float32)
        width = np.abs(rows["window"][:, 1].astype(np.float32))
        scales = rows["scales"][:, :3].astype(np.float32)
        table = {
            "means": rows["means"].copy(),
            "quats": np.where(np.isfinite(quats), quats, np.float32(np.nan)),
            "scales": np.where(np.isfinite(scales), log_scales(scales), np.float32(np.nan)),
            "opacities": logit(rgba[:, 3]),
            "sh0": sh0_from_color(rgba[:, None, :3]),
            "shN": np.zeros((count, 0, 3), np.float32),
            "trajectories": rows["motion"].astype(np.float32).reshape(count, 3, 3),
            "spins": rows["spins"].astype(np.float32),
            "times": rows["window"][:, 0].astype(np.float32),
            "durations": np.log(np.maximum(width, _HALF_SMALLEST)).astype(np.float32),
        }
    table["width"] = width
    table = only_gaussians(source, table)
    width = table.pop("width")
    # Infinity stops a Gaussian for good, so only what stands still anyway gets it back.
    still = ~table["trajectories"].any(axis=(1, 2)) & ~table["spins"].any(axis=1)
    table["durations"][still & (width >= _LARGEST_HALF)] = np.inf
    params = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in table.items()}
    view = of_splatv(source, chunk.get("cameras"), chunk.get("view"))
    meta = {} if view is None else {"view": view}
    return DynamicGaussians(params, Spacetime(SpacetimeConfig(degree=3)), times=None, meta=meta)


def _chunk(source: Path, text: bytes, start: int) -> tuple[int, int, dict[str, Any]]:
    """Returns (offset, size, itself) of the chunk of type `splat`, from the JSON list of chunks."""
    try:
        chunks = json.loads(text.decode("utf-8"))
        for chunk in chunks:
            size = chunk["size"]
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise ValueError(f"size {size!r}")
            if chunk["type"] == "splat":
                return start, size, chunk
            start += size
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise broken(source, ".splatv", f"its list of chunks is not of the layout ({error})") from None
    raise broken(source, ".splatv", "it has no chunk of type splat")
