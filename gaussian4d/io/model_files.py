"""Our own `.g4d` as a model: the columns and shared tensors of its motion model, checked, and its manifest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from .g4d import load_g4d, save_g4d

if TYPE_CHECKING:
    from ..model import DynamicGaussians
    from ..motion import MotionModel


def write_model(path: str | os.PathLike[str], model: DynamicGaussians) -> None:
    """Writes the model whole, atomically."""
    arrays = {name: np.ascontiguousarray(value.detach().cpu().numpy()) for name, value in model.params.items()}
    manifest = {
        "motion": _named(model.motion),
        "background": None if model.background is None else [float(c) for c in model.background],
        "fps": model.fps,
        "times": None if model.times is None else [float(t) for t in model.times],
        "meta": model.meta,
    }
    save_g4d(path, arrays, manifest)


def read_model(path: str | os.PathLike[str]) -> DynamicGaussians:
    """Returns the model of a `.g4d`; raises `UserError` when a column is missing or misshapen."""
    import torch

    from ..model import DynamicGaussians
    from ..motion import make_motion

    source = Path(path)
    arrays, manifest = load_g4d(source)
    try:
        stated = manifest["motion"]
        origin = stated.get("origin")
        motion = make_motion(stated["name"], stated["config"], origin if isinstance(origin, dict) else None)
        background, times = manifest["background"], manifest["times"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{source} lacks {error} in its manifest; it was not written by this program") from None
    rows = len(arrays.get("means", ()))
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), **motion.columns()}
    if "shN" not in arrays or arrays["shN"].ndim != 3 or arrays["shN"].shape[::2] != (rows, 3):
        raise UserError(f"{source} lacks spherical harmonics shN [N, K, 3]; restore it from its source")
    expected = {name: (rows, *shape) for name, shape in shapes.items()}
    _check_shapes(source, "column", arrays, expected)
    _check_shapes(source, "array", arrays, motion.shared_shapes())
    meta: dict[str, Any] = manifest.get("meta") or {}
    return DynamicGaussians(
        # Copies: arrays are views of the file.
        params={name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in arrays.items()},
        motion=motion,
        background=None if background is None else torch.tensor(background, dtype=torch.float32),
        fps=manifest.get("fps"),
        times=None if times is None else np.asarray(times, dtype=np.float64),
        meta=meta,
    )


def _named(motion: MotionModel) -> dict[str, Any]:
    """Returns what a manifest says of the motion; of a model from outside also where it comes from."""
    from ..motion import motion_origin

    origin = motion_origin(motion)
    return {"name": motion.name, "config": motion.config_dict()} | ({"origin": origin} if origin else {})


def _check_shapes(source: Path, kind: str, arrays: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]) -> None:
    for name, shape in expected.items():
        got = arrays[name].shape if name in arrays else None
        if got != shape:
            raise UserError(f"{source}: {kind} {name} must have shape {shape}, got {got}; the file is damaged")
