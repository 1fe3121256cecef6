"""The module of a package that brings one thing of every kind; tests install it as `swings`."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import torch

from gaussian4d.cameras import Camera
from gaussian4d.data import FrameRecord, ImagePicture, Lens, ProblemList, SceneRecord
from gaussian4d.gaussians import Gaussians
from gaussian4d.io.formats import Format
from gaussian4d.metrics import metric
from gaussian4d.motion import MotionModel
from gaussian4d.named_paths import PathRequest, takes_camera


@dataclasses.dataclass
class OscillatorConfig:
    """How fast everything swings."""

    turns: float = 1.0


class Oscillator(MotionModel):
    """Gaussians that swing along a line of their own."""

    name = "oscillator"
    config_type = OscillatorConfig
    length_columns = ("swings",)

    def columns(self) -> dict[str, tuple[int, ...]]:
        return {"swings": (3,)}

    def learning_rates(self) -> dict[str, tuple[float, float]]:
        return {"swings": (2e-3, 1e-4)}

    def at(self, params: dict, time: float, sh_degree: int | None = None) -> Gaussians:
        phase = math.sin(2.0 * math.pi * self.config.turns * time)
        return Gaussians(
            means=params["means"] + phase * params["swings"],
            quats=params["quats"],
            scales=params["scales"].exp(),
            opacities=params["opacities"].sigmoid(),
            colors=torch.cat([params["sh0"], params["shN"]], dim=1),
        )


class SwingReader:
    """Reads `swing.txt`: a line per picture of one camera that stands still."""

    looked_for = "swing.txt (swings)"

    def recognises(self, folder: Path) -> bool:
        return (folder / "swing.txt").is_file()

    def read(self, folder: Path, problems: ProblemList) -> SceneRecord:
        names = (folder / "swing.txt").read_text(encoding="utf-8").split()
        viewmat = np.eye(4)
        viewmat[2, 3] = 3.0
        lens = Lens(20.0, 20.0, 8.0, 8.0, 16, 16)
        frames = [
            FrameRecord("front", viewmat, lens, ImagePicture(folder / name), index / max(len(names) - 1, 1), "train")
            for index, name in enumerate(names)
        ]
        return SceneRecord("swing", frames, fps=10.0)


reader = SwingReader()


def _write(path: Path, splats: dict) -> None:
    Path(path).write_text(json.dumps({name: value.tolist() for name, value in splats.items()}), encoding="ascii")


def _read(path: Path) -> dict:
    values = json.loads(Path(path).read_text(encoding="ascii"))
    count = len(values["means"])
    return {name: np.array(value, np.float32).reshape(count, *SHAPES[name]) for name, value in values.items()}


SHAPES = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "shN": (-1, 3)}
SWING = Format("swing", (".swing", ".swing.ply"), "a file of swings", False, True, _read, _write, frames=True)


def export_text(opened, path: Path) -> None:
    path.write_text(f"{len(opened.model)} Gaussians\n", encoding="ascii")
    print(f"wrote {path}")


@metric(unit="levels", higher_is_better=False, default=True)
def largest_error(prediction: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None) -> float:
    return 255.0 * float((prediction - truth).abs().max())


@metric(region="foreground")
def foreground_error(prediction: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor | None) -> float:
    assert mask is not None
    return float((prediction - truth).abs()[mask].mean())


def pendulum(request: PathRequest) -> list[tuple[Camera, float]]:
    """Looks from the cameras in turn, from the first to the last and back."""
    there = [request.cameras[k % len(request.cameras)] for k in range(request.count)]
    return [(camera, k / max(request.count - 1, 1)) for k, camera in enumerate(there)]


@takes_camera
def standing(request: PathRequest) -> list[tuple[Camera, float]]:
    chosen = next(camera for camera in request.cameras if request.camera in (None, camera.id))
    return [(chosen, 0.5)] * request.count


@dataclasses.dataclass
class Push:
    """Give a push."""

    EXAMPLES = "gaussian4d push"
    force: float = 1.0
    """How hard."""

    def run(self) -> None:
        print(f"pushed with {self.force:g}")


GROUPS = {
    "motions": {"oscillator": "swings:Oscillator"},
    "readers": {"swing": "swings:reader"},
    "formats": {"swing": "swings:SWING"},
    "exporters": {"swing.txt": "swings:export_text"},
    "metrics": {"largest-error": "swings:largest_error", "foreground-error": "swings:foreground_error"},
    "paths": {"pendulum": "swings:pendulum", "standing": "swings:standing"},
    "commands": {"push": "swings:Push"},
}

SOURCE = Path(__file__).read_text(encoding="ascii")
