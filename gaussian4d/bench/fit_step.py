"""How many steps per second a fit takes: what a user waits for."""

from __future__ import annotations

import io
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..cameras import Camera
from ..conventions import opengl_from_opencv
from ..files import write_json
from ..fitting.config import DensifyConfig, FitConfig, OptimConfig
from ..fitting.normalise import Normalisation
from ..fitting.progress import Reporter
from ..fitting.targets import Targets
from ..fitting.trainer import Trainer
from ..model import DynamicGaussians
from ..motion import Static
from ..rendering import render
from ..scene import load_scene
from .figures import CaseResult, Figure, median, timed

_GAUSSIANS, _WIDTH, _HEIGHT, _CAMERAS = 7000, 320, 180, 12
_WARM_UP, _ROUNDS, _STEPS = 20, 9, 25
_SH_C0 = 0.28209479177387814


def fit_step() -> CaseResult:
    """Returns steps per second of a static fit of 7,000 Gaussians to pictures of 320x180 pixels.

    The trainer's own step: picture from the cache, motion model, rasterizer, SSIM and L1, regularisation, gradients,
    statistics for densification, Adam. The number of Gaussians stays as it is.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer, pairs = _trainer(Path(folder))
        steps = iter(range(10**9))

        def some(count: int) -> None:
            for _ in range(count):
                trainer.take_step(0.5)
                trainer.step = next(steps)

        some(_WARM_UP)
        rounds = [timed(lambda: some(_STEPS)) for _ in range(_ROUNDS)]
        assert isinstance(trainer.reporter, Reporter)
        trainer.reporter.__exit__()
    from diff_rasterizer import _cpu

    return CaseResult(
        "fit-step",
        "static fit of 7,000 Gaussians at 320x180, SH degree 1: loading, rendering, SSIM, gradients, Adam",
        [
            Figure("steps", _STEPS / median([r.wall for r in rounds]), "per second", 80.0),
            Figure("CPU time of a step", 1e3 * median([r.cpu for r in rounds]) / _STEPS, "milliseconds"),
        ],
        {
            "gaussians": _GAUSSIANS,
            "pixels": _WIDTH * _HEIGHT,
            "pairs_per_pixel": round(pairs / (_WIDTH * _HEIGHT), 1),
            "threads": torch.get_num_threads(),
            "instruction_set": _cpu.instruction_set(),
        },
    )


def _params() -> dict[str, Tensor]:
    """Returns Gaussians in a box about the origin, in world units."""
    g = torch.Generator().manual_seed(0)
    opacities = 0.05 + 0.9 * torch.rand(_GAUSSIANS, generator=g) ** 2.2
    return {
        "means": (torch.rand(_GAUSSIANS, 3, generator=g) - 0.5) * torch.tensor([1.9, 1.9, 1.6]),
        "quats": torch.randn(_GAUSSIANS, 4, generator=g),
        "scales": torch.log(0.008 + 0.066 * torch.rand(_GAUSSIANS, 3, generator=g)),
        "opacities": torch.logit(opacities),
        "sh0": (torch.rand(_GAUSSIANS, 1, 3, generator=g) - 0.5) / _SH_C0,
        "shN": 0.05 * torch.randn(_GAUSSIANS, 3, 3, generator=g),
    }


def _trainer(folder: Path) -> tuple[Trainer, int]:
    """Returns a trainer that starts a little beside the truth, and the mean number of contributing pairs per view."""
    cameras = []
    for k in range(_CAMERAS):
        angle = 2 * math.pi * k / _CAMERAS
        eye = 3.0 * np.array([math.cos(angle), math.sin(angle), 0.4])
        up = np.array([0.0, 0.0, 1.0])
        cameras.append(Camera.look_at(eye, np.zeros(3), up, width=_WIDTH, height=_HEIGHT, focal=300.0, id=str(k)))
    params = _params()
    _write_scene(folder, params, cameras)
    scene = load_scene(folder)
    frames = scene.frames("train")
    normalisation = Normalisation.from_cameras([frame.camera for frame in frames])
    g = torch.Generator().manual_seed(1)
    params["means"] = params["means"] + 0.005 * torch.randn(params["means"].shape, generator=g)
    params["means"] = torch.from_numpy(normalisation.points(params["means"].numpy())).float()
    params["scales"] = params["scales"] + math.log(normalisation.scale)
    config = FitConfig(
        motion="static",
        max_steps=10**9,
        background="black",
        optim=OptimConfig(resolutions=((0.0, 1.0),), sh_start=0.0),
        densify=DensifyConfig(start=1.0, stop=1.0),
    )
    out = folder / "run"
    out.mkdir()
    targets = Targets(scene, frames, normalisation)
    trainer = Trainer(scene, targets, config, normalisation, params, out, Reporter(out, io.StringIO()))
    return trainer, _pairs(trainer)


def _write_scene(folder: Path, params: dict[str, Tensor], cameras: list[Camera]) -> None:
    """Writes what the cameras see of the Gaussians as a nerfstudio scene."""
    model = DynamicGaussians(
        params=params, motion=Static(), background=torch.zeros(3), fps=None, times=np.zeros(1), meta={}
    )
    frames = []
    for camera in cameras:
        rgb = render(model, camera).rgb
        assert rgb is not None
        name = f"{camera.id}.png"
        Image.fromarray((rgb.clamp(0, 1) * 255 + 0.5).byte().numpy()).save(folder / name)
        pose = opengl_from_opencv(np.linalg.inv(camera.viewmat))
        frames.append({"file_path": name, "transform_matrix": pose.tolist(), "time": 0.0})
    lens = {"w": _WIDTH, "h": _HEIGHT, "fl_x": 300.0, "fl_y": 300.0, "cx": _WIDTH / 2, "cy": _HEIGHT / 2}
    names = [frame["file_path"] for frame in frames]
    write_json(folder / "transforms.json", {**lens, "frames": frames, "train_filenames": names})


@torch.no_grad()
def _pairs(trainer: Trainer) -> int:
    from diff_rasterizer import cpu, rasterization

    total = 0
    state = trainer.motion.at(trainer.table.params, 0.0)
    for index in range(len(trainer.targets)):
        target = trainer.targets.get(index, 1.0)
        _, _, meta = rasterization(
            **state.to_rasterizer(), viewmats=target.viewmat[None], Ks=target.K[None], width=target.width,
            height=target.height, near_plane=trainer.near, packed=False, backend="cpu",
        )  # fmt: skip
        means2d, conics, opacities, depths, radii = (
            meta[name][0] for name in ("means2d", "conics", "opacities", "depths", "radii")
        )
        total += cpu.count_pairs(means2d, conics, opacities, depths, radii, target.width, target.height)
    return total // len(trainer.targets)
