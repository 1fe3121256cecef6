"""The `.splat` file of antimatter15's viewer: 32 bytes per Gaussian, no spherical harmonics, no header.

Per Gaussian: position 3 float32, linear scale 3 float32, red green blue opacity 4 bytes, quaternion wxyz 4 bytes of
128 + 128 q.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import atomic_write
from .contents import other_kind
from .packed import broken, read_whole, to_unorm
from .splats import (
    Splats,
    check_splats,
    color_from_sh0,
    log_scales,
    logit,
    only_gaussians,
    sh0_from_color,
    sigmoid,
    unit,
)

ROW = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])


def write_splat(path: str | os.PathLike[str], gaussians: Splats) -> None:
    """Writes the Gaussians' positions, scales, rotations, opacities and colours of degree 0, atomically."""
    splats = check_splats(gaussians)
    rows = np.empty(len(splats["means"]), ROW)
    rows["means"] = splats["means"]
    rows["scales"] = np.exp(splats["scales"])
    rows["rgba"][:, :3] = to_unorm(np.clip(color_from_sh0(splats["sh0"][:, 0]), 0.0, 1.0), 8)
    rows["rgba"][:, 3] = to_unorm(sigmoid(splats["opacities"]), 8)
    rows["quats"] = np.clip(np.round(unit(splats["quats"]) * 128.0 + 128.0), 0, 255)
    with atomic_write(path) as temporary:
        temporary.write_bytes(rows.tobytes())


def read_splat(path: str | os.PathLike[str]) -> Splats:
    """Returns the Gaussians of a `.splat`; raises `UserError` when it is missing, cut short or holds NaN."""
    source = Path(path)
    data = read_whole(source, ".splat")
    # Without a header of its own, anything of the right length would be read as Gaussians.
    if data and (other := other_kind(source, data[:4096])):
        raise UserError(f"{source} is not a .splat file: {other}")
    if len(data) % ROW.itemsize:
        raise broken(source, ".splat", f"{len(data)} bytes are not a whole number of Gaussians of {ROW.itemsize} bytes")
    rows = np.frombuffer(data, ROW)
    rgba = rows["rgba"].astype(np.float32) / np.float32(255.0)
    return only_gaussians(
        source,
        {
            "means": rows["means"].copy(),
            "quats": unit((rows["quats"].astype(np.float32) - 128.0) / 128.0),
            "scales": log_scales(rows["scales"]),
            "opacities": logit(rgba[:, 3]),
            "sh0": sh0_from_color(rgba[:, None, :3]),
            "shN": np.zeros((len(rows), 0, 3), np.float32),
        },
    )
