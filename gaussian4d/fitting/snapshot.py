"""The model of a run as it is now, also while another process is still fitting it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..io.g4d import read_manifest
from ..model import DynamicGaussians, load_model
from ..offsets import meta_of
from ..run_folder import RunFolder
from ..scene import Scene
from ..view_block import with_view
from .background import Background
from .checkpoint import list_checkpoints, load_checkpoint, step_of
from .config import FitConfig
from .normalise import Normalisation
from .parts import params_of
from .targets import Targets


def newest_file(run: Path) -> Path | None:
    """Returns the furthest of the model and the checkpoints of a run folder; None when there is neither yet.

    That is the model once the fit is finished, else what has taken more steps. A file's date says nothing: a copy, or
    what comes out of an archive, has another.
    """
    folder = RunFolder(run)
    model, checkpoint = folder.model_path, (list_checkpoints(folder.checkpoints) or [None])[-1]
    if checkpoint is None or (model.exists() and folder.finished):
        return model if model.exists() else None
    steps = _steps(model)
    return checkpoint if steps is None or step_of(checkpoint) > steps else model


def snapshot(run: Path, scene: Scene) -> DynamicGaussians:
    """Returns the newest model of a run folder: `model.g4d`, or what a newer checkpoint holds.

    Raises `UserError` when there is neither, or the newest cannot be read.
    """
    file = newest_file(run)
    if file is None:
        raise UserError(
            f"{run} has no model and no checkpoint yet; wait for the first, a fit writes one every few steps"
        )
    if file == RunFolder(run).model_path:
        return load_model(file)
    try:
        config = RunFolder(run).config()
    except UserError:
        # A run that something else than a fit has made: its checkpoints are its own business.
        return load_model(run)
    return model_of_checkpoint(file, config, scene)


def model_of_checkpoint(file: Path, config: FitConfig, scene: Scene) -> DynamicGaussians:
    """Returns the model that a checkpoint of a fit of `scene` holds, in world coordinates."""
    tensors, state = load_checkpoint(file)
    frames = scene.frames("train")
    normalisation = (
        Normalisation.from_dict(config.normalisation)
        if config.normalisation is not None
        else Normalisation.from_cameras([frame.camera for frame in frames])
    )
    motion = config.make_motion()
    params = params_of(tensors)
    background = Background(config.background, tensors["background/color"], torch.Generator())
    near = config.near * min(1.0, Targets(scene, frames, normalisation).nearest_camera())
    model = DynamicGaussians(
        params=normalisation.undo(params, motion),
        motion=motion,
        background=background.final(),
        fps=scene.fps,
        times=scene.times,
        meta={
            "fit": {"steps": state["step"], "seconds": state["elapsed"]},
            "near": near / normalisation.scale,
            **meta_of(scene.offset),
        },
    )
    return with_view(model, scene)


def _steps(model: Path) -> int | None:
    """Returns how many steps a model file was fitted for; None where there is no such file, or it does not say."""
    if not model.exists():
        return None
    try:
        manifest: dict[str, Any] = read_manifest(model)[1]
        steps = manifest["meta"]["fit"]["steps"]
    except (UserError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None
