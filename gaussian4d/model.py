"""A moving scene: one table of per-Gaussian parameters and the motion model that reads it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .errors import UserError
from .gaussians import Gaussians
from .motion import MotionModel, Params, PerFrame, Static, make_motion


@dataclasses.dataclass
class DynamicGaussians:
    """Gaussians that move, in the units and coordinates of the data they were fitted to."""

    params: Params
    """The parameter table: canonical columns (see `motion.base`) and the motion model's own, all with N rows, and the
    motion model's shared tensors, whose names begin with `shared.`."""
    motion: MotionModel
    background: Tensor | None = None
    """[3] colour behind the Gaussians, or None where none belongs to the scene."""
    fps: float | None = None
    times: np.ndarray | None = None
    """[T] clip times of the frames the model was fitted to."""
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    """JSON values that travel with the model: scene, normalisation, how long the fit took."""

    def __len__(self) -> int:
        return self.params["means"].shape[0]

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics."""
        return math.isqrt(1 + self.params["shN"].shape[1]) - 1

    @property
    def near(self) -> float:
        """Distance in world units below which nothing is drawn, as during the fit."""
        return float(self.meta.get("near", 0.01))

    @property
    def frame_interval(self) -> float:
        """Clip time from one frame to the next."""
        if self.times is None or len(self.times) < 2:
            return 1.0 / 30.0
        return float(np.median(np.diff(self.times)))

    def at(self, time: float) -> Gaussians:
        """Returns the Gaussians at clip time `time`."""
        return self.motion.at(self.params, float(time))

    def velocity(self, time: float, interval: float | None = None) -> Float[Tensor, "N 3"]:
        """Returns the velocities around `time`, world units per clip, by a central difference over `interval`."""
        check_connected(self, "velocities")
        half = 0.5 * (interval or self.frame_interval)
        return (self.follow(time, time + half) - self.follow(time, time - half)) / (2.0 * half)

    def follow(self, of: float, time: float) -> Float[Tensor, "N 3"]:
        """Returns the centres at clip time `time` of the Gaussians of `at(of)`, in the same order."""
        check_connected(self, "paths")
        return self.motion.follow(self.params, float(of), float(time))

    def to(self, device: str | torch.device) -> DynamicGaussians:
        """Returns the model with its tensors on `device`."""
        params = {name: value.to(device) for name, value in self.params.items()}
        background = None if self.background is None else self.background.to(device)
        return dataclasses.replace(self, params=params, background=background)

    def save(self, path: str | Path) -> Path:
        """Writes the model whole (`.g4d`), or its Gaussians at time 0 as standard 3DGS (`.ply`); returns the path."""
        path = Path(path)
        if path.suffix == ".g4d":
            from .io.g4d import save_g4d

            save_g4d(path, {name: _numpy(value) for name, value in self.params.items()}, self._manifest())
        elif path.suffix == ".ply":
            from .io.ply import write_ply

            write_ply(path, splat_arrays(self.at(0.0)))
        else:
            raise UserError(f"expected a file name ending in .g4d or .ply, got {path.name}")
        return path

    def _manifest(self) -> dict[str, Any]:
        return {
            "motion": {"name": self.motion.name, "config": self.motion.config_dict()},
            "background": None if self.background is None else [float(c) for c in self.background],
            "fps": self.fps,
            "times": None if self.times is None else [float(t) for t in self.times],
            "meta": self.meta,
        }


def load_model(path: str | Path) -> DynamicGaussians:
    """Returns the model of a run folder, a `.g4d` file or a standard 3DGS `.ply` file (a static model)."""
    path = Path(path)
    if path.is_dir():
        run, path = path, path / "model.g4d"
        if not path.exists():
            raise UserError(f"expected {run} to be a run folder with a model.g4d, found none; finish the fit first")
    if not path.exists():
        raise UserError(f"expected a model file at {path}, found none; check the path")
    if path.suffix == ".g4d":
        from .io.g4d import load_g4d

        arrays, manifest = load_g4d(path)
        return _from_arrays(path, arrays, manifest)
    if path.suffix == ".ply":
        from .io.ply import read_ply

        return DynamicGaussians({name: _tensor(value) for name, value in read_ply(path).items()}, Static())
    raise UserError(f"expected a run folder, .g4d or .ply, got {path.name}; convert it first")


def _from_arrays(path: Path, arrays: dict[str, np.ndarray], manifest: dict[str, Any]) -> DynamicGaussians:
    """Returns the model from the parts of a `.g4d`; raises `UserError` when a column is missing or misshapen."""
    try:
        motion = make_motion(manifest["motion"]["name"], manifest["motion"]["config"])
        background, times = manifest["background"], manifest["times"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} lacks {error} in its manifest; it was not written by this program") from None
    rows = len(arrays.get("means", ()))
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), **motion.columns()}
    if "shN" not in arrays or arrays["shN"].ndim != 3 or arrays["shN"].shape[::2] != (rows, 3):
        raise UserError(f"{path} lacks spherical harmonics shN [N, K, 3]; restore it from its source")
    for name, shape in shapes.items():
        got = arrays[name].shape if name in arrays else None
        if got != (rows, *shape):
            raise UserError(f"{path}: column {name} must have shape {(rows, *shape)}, got {got}; the file is damaged")
    for name, shape in motion.shared_shapes().items():
        got = arrays[name].shape if name in arrays else None
        if got != shape:
            raise UserError(f"{path}: array {name} must have shape {shape}, got {got}; the file is damaged")
    return DynamicGaussians(
        params={name: _tensor(value) for name, value in arrays.items()},
        motion=motion,
        background=None if background is None else torch.tensor(background, dtype=torch.float32),
        fps=manifest.get("fps"),
        times=None if times is None else np.asarray(times, dtype=np.float64),
        meta=manifest.get("meta") or {},
    )


def check_connected(model: DynamicGaussians, wanted: str) -> None:
    """Raises `UserError` when the Gaussians of two times are not the same ones, which `wanted` needs."""
    if isinstance(model.motion, PerFrame):
        raise UserError(
            f"a model of separate instants (motion {model.motion.name}) has no {wanted}: nothing connects the Gaussians"
            " of one instant with those of the next; fit with another --motion"
        )


def splat_arrays(gaussians: Gaussians) -> dict[str, np.ndarray]:
    """Returns the columns of a standard 3DGS file: log scales, logit opacities, sh0 [N, 1, 3], shN [N, K-1, 3]."""
    opacities = gaussians.opacities.double().clamp(1e-7, 1.0 - 1e-7)
    quats = torch.nn.functional.normalize(gaussians.quats, dim=-1)
    return {
        "means": _numpy(gaussians.means),
        "quats": _numpy(quats),
        "scales": _numpy(gaussians.scales.clamp_min(1e-12).log()),
        "opacities": _numpy(torch.logit(opacities).float()),
        "sh0": _numpy(gaussians.colors[:, :1]),
        "shN": _numpy(gaussians.colors[:, 1:]),
    }


def _numpy(value: Tensor) -> np.ndarray:
    return np.ascontiguousarray(value.detach().cpu().numpy())


def _tensor(value: np.ndarray) -> Tensor:
    # A copy: arrays may be read-only views of the file.
    return torch.from_numpy(np.array(value, dtype=np.float32))
