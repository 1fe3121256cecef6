"""Our own `.g4d` as a model: the columns and shared tensors of its motion model, checked, and its manifest."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import STUMBLES, UserError
from ..offsets import KEY, checked
from .g4d import load_g4d, save_g4d
from .splats import only_gaussians

if TYPE_CHECKING:
    from ..model import DynamicGaussians
    from ..motion import MotionModel


_MOST_FPS = 1e5
_SLACK = 1e-3
"""Clip times are 32-bit floats where a program computed them so."""


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
    from ..motion import is_shared, make_motion

    source = Path(path)
    arrays, manifest = load_g4d(source)
    stated = _Manifest(source, manifest)
    try:
        motion = make_motion(*stated.motion())
        columns, shared_shapes = motion.columns(), motion.shared_shapes()
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    except STUMBLES as error:
        raise UserError(f"{source}: its manifest states impossible settings of its motion ({error})") from error
    rows = len(arrays.get("means", ()))
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), **columns}
    if "shN" not in arrays or arrays["shN"].ndim != 3 or arrays["shN"].shape[::2] != (rows, 3):
        raise UserError(f"{source} lacks spherical harmonics shN [N, K, 3]; restore it from its source")
    expected = {name: (rows, *shape) for name, shape in shapes.items()}
    _check_shapes(source, "column", arrays, expected)
    _check_shapes(source, "array", arrays, shared_shapes)
    rows_of = {name: value for name, value in arrays.items() if not is_shared(name)}
    shared = {name: value for name, value in arrays.items() if is_shared(name)}
    for name, value in shared.items():
        if not np.isfinite(value).all():
            raise UserError(f"{source}: {name} holds NaN or infinite numbers; restore the file from its source")
    arrays = {**only_gaussians(source, rows_of), **shared}
    return DynamicGaussians(
        # Copies: arrays are views of the file.
        params={name: torch.from_numpy(np.array(value, dtype=np.float32)) for name, value in arrays.items()},
        motion=motion,
        background=None
        if (background := stated.numbers("background", 3)) is None
        else torch.tensor(background).float(),
        fps=stated.fps(),
        times=stated.times(),
        meta=stated.meta(),
    )


@dataclasses.dataclass
class _Manifest:
    """What a `.g4d` says besides its arrays; every answer is checked, for the file may be a stranger's."""

    source: Path
    values: Any

    def motion(self) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
        """Returns name, settings and origin of the motion model."""
        stated = self.values.get("motion") if isinstance(self.values, dict) else None
        if not isinstance(stated, dict):
            raise UserError(f"{self.source} has no motion in its manifest; it was not written by gaussian4d")
        name, config, origin = stated.get("name"), stated.get("config"), stated.get("origin")
        if not isinstance(name, str) or not isinstance(config, dict):
            raise self._wrong("motion", "a name and settings", stated)
        return name, config, origin if isinstance(origin, dict) else None

    def numbers(self, name: str, count: int | None = 1) -> np.ndarray | None:
        """Returns the finite numbers `name`: one, `count`, or any number of them; None where the file says null."""
        value = self.values.get(name)
        if value is None:
            return None
        listed = [value] if count == 1 else value
        fine = isinstance(listed, list) and all(
            isinstance(x, int | float) and not isinstance(x, bool) and abs(x) < 1e15 for x in listed
        )
        if not fine or (count is not None and len(listed) != count):
            raise self._wrong(name, "a number" if count == 1 else f"{count or 'a list of'} numbers", value)
        return np.asarray(value, dtype=np.float64)

    def fps(self) -> float | None:
        """Returns the frames per second, None where they are not known."""
        fps = self.numbers("fps")
        if fps is not None and not 0.0 <= fps <= _MOST_FPS:
            raise self._wrong("fps", "frames per second", float(fps))
        return float(fps) if fps else None

    def times(self) -> np.ndarray | None:
        """Returns the clip times [T] of the frames, None where they are not known."""
        times = self.numbers("times", None)
        if times is None or not len(times):
            return None
        if times.ndim != 1 or times.min() < -_SLACK or times.max() > 1.0 + _SLACK or (np.diff(times) < 0.0).any():
            raise self._wrong("times", "ascending clip times in [0, 1]", self.values.get("times"))
        return times

    def meta(self) -> dict[str, Any]:
        """Returns what travels with the model."""
        meta = self.values.get("meta") or {}
        if not isinstance(meta, dict):
            raise self._wrong("meta", "an object", meta)
        near = meta.get("near", 0.01)
        if isinstance(near, bool) or not isinstance(near, int | float) or not 0 <= near < 1e15:
            raise self._wrong("meta.near", "a distance", near)
        checked(meta.get(KEY), f"{self.source}: its offset")
        return meta

    def _wrong(self, name: str, expected: str, got: Any) -> UserError:
        return UserError(
            f"{self.source}: expected {expected} as {name} in its manifest, got {str(got)[:80]!r}; restore it"
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
