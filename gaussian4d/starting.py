"""Where a fit starts, for training loops of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .fitting.config import FitConfig
from .fitting.initialise import initial_params, initial_points
from .fitting.normalise import Normalisation
from .fitting.opening import register_objects
from .model import DynamicGaussians
from .motion import MotionModel
from .offsets import meta_of
from .scene import Scene
from .view_block import with_view


def initial_model(
    scene: Scene,
    motion: str | MotionModel = "free-time",
    *,
    points: int = 20_000,
    sh_degree: int = 1,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> DynamicGaussians:
    """Returns the Gaussians from which a fit of the training frames of `scene` starts, in world coordinates.

    Rates with which `fit` learns are for a scene of unit size: `meta["normalisation"]["scale"]` is one unit of it per
    world unit. Lengths (`means` and the motion model's `length_columns` and `position_columns`) are learnt as fast when
    their rates are divided by it.

    Args:
        scene: What will be fitted.
        motion: How the Gaussians move: the name of a model, or a `MotionModel`.
        points: Gaussians at the start, at most.
        sh_degree: Degree of the spherical harmonics, whose coefficients above 0 start at zero.
        seed: Of the choice of points.
        device: Where the tensors are put.

    Raises:
        UserError: for an unknown motion model, or a scene in which no points are found.
    """
    given: dict[str, Any] = {"init.points": points, "sh_degree": sh_degree, "seed": seed, "max_steps": 1}
    config = FitConfig(max_steps=1).replace({**given, **register_objects(motion, (), None)})
    frames = scene.frames("train")
    normalisation = Normalisation.from_cameras([frame.camera for frame in frames])
    found = initial_points(scene, frames, normalisation, config, seed, lambda line: None)
    model = config.make_motion()
    places = [normalisation.points(frame.camera.position) for frame in frames]
    nearest = min(1.0, *(float(np.linalg.norm(place)) for place in places))
    start = DynamicGaussians(
        params=normalisation.undo(initial_params(found, model, config), model),
        motion=model,
        background=torch.ones(3) if scene.has_alpha else None,
        fps=scene.fps,
        times=scene.times,
        meta={
            "normalisation": normalisation.to_dict(),
            "near": config.near * nearest / normalisation.scale,
            **meta_of(scene.offset),
        },
    )
    return with_view(start, scene).to(device)
