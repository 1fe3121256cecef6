"""A file format for models that move: a line of JSON that says what follows, and the tensors as raw float32.

    raw4d 1
    {"motion": ..., "config": ..., "tensors": {NAME: SHAPE, ...}, ...}
    (bytes, little-endian, the tensors in that order)

No pickle: a file can hold numbers only, and nothing is allocated before the counts of the header were held against the
size of the file.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gaussian4d as g4

MAGIC = b"raw4d 1\n"
MOST_HEADER = 1 << 20
CANONICAL = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3)}


def write(path: str | Path, model: g4.DynamicGaussians) -> None:
    """Writes a model whole."""
    header = {
        "motion": model.motion.name,
        "config": model.motion.config_dict(),
        "background": None if model.background is None else model.background.tolist(),
        "fps": model.fps,
        "times": None if model.times is None else [float(time) for time in model.times],
        "near": model.near,
        "tensors": {name: list(value.shape) for name, value in model.params.items()},
    }
    with Path(path).open("wb") as file:
        file.write(MAGIC + json.dumps(header).encode("ascii") + b"\n")
        for value in model.params.values():
            file.write(value.detach().cpu().numpy().astype("<f4").tobytes())


def read(path: str | Path) -> g4.DynamicGaussians:
    """Returns the model of a file; raises `UserError` for one that is not what it says."""
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        if file.readline(len(MAGIC)) != MAGIC:
            raise g4.UserError(f"{path} is not a raw4d file of version 1; export it again")
        try:
            header = json.loads(file.readline(MOST_HEADER))
            shapes = {name: _shape(shape) for name, shape in header["tensors"].items()}
            motion = g4.make_motion(header["motion"], header["config"])
            times = None if header["times"] is None else np.array(header["times"], dtype=np.float64)
            background = None if header["background"] is None else torch.tensor(header["background"]).reshape(3)
            fps, near = None if header["fps"] is None else float(header["fps"]), float(header["near"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise g4.UserError(f"{path} has a damaged header ({type(error).__name__}: {error})") from None
        stated, held = 4 * sum(math.prod(shape) for shape in shapes.values()), size - file.tell()
        if stated != held:
            raise g4.UserError(f"{path}: the header promises {stated} bytes of numbers, the file has {held}")
        _check_columns(path, shapes, motion)
        params = {name: _tensor(file.read(4 * math.prod(shape)), shape) for name, shape in shapes.items()}
    return g4.DynamicGaussians(params, motion, background, fps, times, {"near": near})


def _shape(stated: Any) -> tuple[int, ...]:
    if not all(type(length) is int and length >= 0 for length in stated):
        raise ValueError(f"{stated} is no shape")
    return tuple(stated)


def _check_columns(path: str | Path, shapes: dict[str, tuple[int, ...]], motion: g4.MotionModel) -> None:
    """Raises `UserError` unless the table has what every model needs and what this motion needs."""
    rows = shapes.get("means", (0,))[:1]
    wanted = {name: (*rows, *shape) for name, shape in {**CANONICAL, **motion.columns()}.items()}
    wanted |= motion.shared_shapes()
    # View dependence may be of any degree, and so may have any number of coefficients.
    coefficients = shapes.get("shN", ())
    wanted["shN"] = (*rows, coefficients[1] if len(coefficients) == 3 else 0, 3)
    for name, shape in wanted.items():
        if shapes.get(name) != shape:
            raise g4.UserError(f"{path}: expected the tensor {name} of shape {shape}, got {shapes.get(name)}")


def _tensor(data: bytes, shape: tuple[int, ...]) -> torch.Tensor:
    # A copy, since the bytes cannot be written to.
    return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32).reshape(shape))


RAW4D = g4.Format(
    name="raw4d",
    endings=(".raw4d",),
    title="raw float32 with a JSON header",
    moves=True,
    exact=True,
    reader=read,
    writer=write,
)
