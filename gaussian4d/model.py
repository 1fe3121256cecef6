"""A moving scene: one table of per-Gaussian parameters and the motion model that reads it."""

from __future__ import annotations

import dataclasses
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .devices import choose_device
from .errors import UserError
from .gaussians import Gaussians
from .motion import MotionModel, Params
from .run_folder import RunFolder
from .system import check_ordinary


@dataclasses.dataclass(repr=False)
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

    def __repr__(self) -> str:
        said = self.motion.describe(self.params)
        motion = f"motion {self.motion.name}{f' ({said})' if said else ''}"
        times = (
            "" if self.times is None else f", {len(self.times)} frames" + (f" at {self.fps:g} fps" if self.fps else "")
        )
        fit = self.meta.get("fit")
        fitted = f", fitted in {fit['steps']} steps" if isinstance(fit, dict) and "steps" in fit else ""
        return (
            f"DynamicGaussians: {len(self):,} Gaussians, {motion}, SH degree {self.sh_degree}\n"
            f"    on {self.params['means'].device}{times}{fitted}, nothing nearer than {self.near:.4g}"
        )

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics."""
        return math.isqrt(1 + self.params["shN"].shape[1]) - 1

    @property
    def near(self) -> float:
        """Distance in world units below which nothing is drawn, as during the fit."""
        return float(self.meta.get("near", 0.01))

    @property
    def antialiased(self) -> bool:
        """Whether it is drawn with the compensation of Mip-Splatting, as the file says that it was fitted.

        A Gaussian smaller than a pixel is then as much fainter as it is drawn larger.
        """
        return self.meta.get("antialiased") is True

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
        """Returns the model with its tensors on `device`; itself when they are there."""
        device = torch.device(device)
        tensors = [*self.params.values(), *([] if self.background is None else [self.background])]
        if all(_on(value, device) for value in tensors):
            return self
        params = {name: value.to(device) for name, value in self.params.items()}
        background = None if self.background is None else self.background.to(device)
        return dataclasses.replace(self, params=params, background=background)

    def save(self, path: str | Path) -> Path:
        """Writes the model in the format that the ending of `path` means; returns the path.

        `.g4d` keeps all of it. A format without motion gets the Gaussians at time 0 (`io.formats`).
        """
        from .io.registry import write_model

        path = Path(path)
        write_model(path, self)
        return path


def _on(value: Tensor, device: torch.device) -> bool:
    """Returns whether a tensor is on `device`; without an index any device of the type will do."""
    return value.device.type == device.type and device.index in (None, value.device.index)


def load_model(path: str | Path, device: str | torch.device | None = None) -> DynamicGaussians:
    """Returns the model of a run folder, a folder of frames, or a file of Gaussians in any format we read.

    It is on the CPU, or on `device` (see `devices.choose_device`), which is looked for before anything is read.
    """
    if device is not None:
        placement = choose_device(device)
        return load_model(path).to(placement.device)
    path = Path(path)
    if path.is_dir():
        from .io.sequence import find_frames, gaussians_in, read_sequence, why_no_clip

        if not (path / "model.g4d").exists() and find_frames(path):
            return read_sequence(path)
        found = gaussians_in(path)
        if found is None:
            nothing = "to be a run folder with a model.g4d or a folder of frames, found neither"
            raise UserError(why_no_clip(path) or f"expected {path} {nothing}; {_hint(path)}")
        path = found
    check_ordinary(path, "a model file")
    from .io.registry import read_model

    model = read_model(path)
    if not len(model):
        warnings.warn(f"{path} holds no Gaussians: there is nothing to see", stacklevel=2)
    return model


def runs_in(folder: str | Path) -> list[Path]:
    """Returns the run folders right inside `folder`, as `demo` makes one."""
    folder = Path(folder)
    return sorted(path.parent for path in folder.glob("*/model.g4d")) if folder.is_dir() else []


def _hint(folder: Path) -> str:
    if runs := runs_in(folder):
        return f"it contains a run: {runs[0]}"
    if RunFolder(folder).exists:
        return f"finish the fit first: gaussian4d fit SCENE --out {folder} --resume"
    return f"if it is a scene, fit it first: gaussian4d fit {folder} --out RUN"


def check_connected(model: DynamicGaussians, wanted: str) -> None:
    """Raises `UserError` when the Gaussians of two times are not the same ones, which `wanted` needs."""
    if not model.motion.connected:
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
