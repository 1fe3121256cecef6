"""From pictures of an object over time, seen by one camera, to Gaussians that move: the whole of a STAG4D fit."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera
from gaussian4d.devices import choose_device
from gaussian4d.errors import UserError
from gaussian4d.fitting.checkpoint import list_checkpoints, load_checkpoint
from gaussian4d.fitting.parts import params_of
from gaussian4d.fitting.progress import Reporter
from gaussian4d.fitting.training import graceful_interrupt
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import Static
from gaussian4d.run_folder import RunFolder
from gaussian4d.scene import load_scene
from gaussian4d.view_block import KEY as VIEW
from gaussian4d.view_block import ViewBlock

from ..cameras import orbit_cameras
from ..models.pieces import Moves
from ..priors.base import DistillationPrior, Fusion, GaussianReconstructor, MultiViewPrior
from .anchors import Anchors, make_anchors
from .config import RIGID, StagConfig, fit_settings, load_run_config, save_run_config
from .drawing import NEAR
from .initialise import start_params
from .rigid import moved_params, rigid_motion
from .scene import write_scene
from .trainer import StagTrainer, canonical_instant


class Interrupted(Exception):
    """A fit that was asked to stop; its checkpoint and the model so far are in the run folder."""

    def __init__(self, model: DynamicGaussians) -> None:
        super().__init__("the fit was interrupted")
        self.model = model


def fit_asset(
    frames: Float[Tensor, "T 4 H W"],
    times: Sequence[float],
    camera: Camera,
    prior: Any,
    out: Path,
    config: StagConfig,
    *,
    reconstructor: GaussianReconstructor | None = None,
    anchors: Anchors | None = None,
    moves: Moves | None = None,
    rest: DynamicGaussians | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
    fps: float | None = None,
    caption: str | None = None,
    meta: dict[str, Any] | None = None,
    resume_line: str | None = None,
) -> DynamicGaussians:
    """Returns the asset fitted to the input; everything about the fit is in the run folder `out`.

    The folder is laid out like that of `gaussian4d.fit`, with the input and the anchors as its scene. When the input
    moves, `model.g4d` is the static asset of the middle instant as soon as that stands, the moving one at the end.

    Args:
        frames: The input's pictures, premultiplied colour and alpha.
        times: [T] clip times.
        camera: Where they were taken from, in the frame of `generators.cameras`.
        prior: A `MultiViewPrior` for anchors not given, a `DistillationPrior` for score distillation; None where the
            settings need neither.
        config: See `StagConfig`; `resume` takes the saved one instead.
        reconstructor: Gives the start; None carves the outlines of the anchors.
        anchors: Views of the prior made before; None makes them, in `out / "anchors"`.
        moves: How the object moves, where that is known (motion `rigid-parts`): then anchors are of the first instant
            only, and resuming needs them again.
        rest: With `moves`, an asset at rest to start from, at the first instant.
        resume: Go on from the newest checkpoint in `out`.
        reporter: Who is told; None opens one for `out`.
        fps: Frames per second of the clip.
        caption: What the object is, for the prior.
        meta: JSON values that travel with the model.
        resume_line: What a user types to go on after Ctrl-C.

    Raises:
        UserError: impossible settings, or a run folder in the wrong state.
        Interrupted: after the first Ctrl-C, when all is saved.
    """
    began = time.monotonic()
    out = Path(out)
    run = RunFolder(out)
    if resume:
        config = load_run_config(run)
    elif run.exists:
        raise UserError(f"{out} already holds a fit; resume it, or choose another folder")
    if len(frames) == 1 and config.motion != "static":
        config, moves = config.replace(motion="static", motion_config={}), None
    _check(frames, times, camera, prior, config, anchors, moves)
    device = choose_device(config.device, config.backend).device
    seen = slice(1) if config.motion == RIGID else slice(None)
    out.mkdir(parents=True, exist_ok=True)
    frames = frames.detach().float().contiguous()
    own = Reporter(out) if reporter is None else None
    report = own or reporter
    assert report is not None
    if own is not None:
        own.__enter__()
    try:
        if config.anchors and anchors is None:
            report.say(f"anchors: {config.anchor_views} views at {len(frames[seen])} instants")
            anchors = make_anchors(
                frames[seen],
                times[seen],
                camera,
                prior,
                orbit_cameras(config.anchor_views, elevation=config.anchor_elevation, size=prior.info.size),
                Fusion() if config.fusion else None,
                config.seed,
                caption=caption,
                folder=out / "anchors",
            )
        used = anchors if config.anchors else None
        if not (out / "scene" / "transforms.json").exists():
            write_scene(out / "scene", frames, times, camera, used, fps)
        save_run_config(run, config, {"path": str((out / "scene").resolve())})
        view = ViewBlock.of_scene(load_scene(out / "scene"), near=NEAR)
        meta = {**(meta or {}), VIEW: view.to_dict()}
        settings = fit_settings(config, len(frames))
        motion = settings.make_motion() if moves is None else rigid_motion(moves, times)
        canonical = canonical_instant(len(frames)) if moves is None else 0
        checkpoints = list_checkpoints(run.checkpoints) if resume else []
        if checkpoints:
            tensors, state = load_checkpoint(checkpoints[-1])
            params = params_of(tensors)
        else:
            tensors, state = {}, {}
            still = motion if moves is None else Static()
            if moves is not None and rest is not None:
                params = rest.params
                report.say(f"start: {len(rest):,} Gaussians of the asset at rest")
            else:
                params = start_params(
                    config, settings, still, frames, times, camera, used, reconstructor, canonical, report.say
                )
            if moves is not None:
                params = moved_params(params, moves)

        def at_rest(model: DynamicGaussians) -> None:
            model.save(run.model_path)
            report.say(f"the static asset stands after {trainer.elapsed:.0f} s: {run.model_path}")

        trainer = StagTrainer(
            config,
            frames,
            times,
            camera,
            used,
            prior if config.sds else None,
            params,
            motion,
            out,
            report,
            fps=fps,
            caption=caption,
            meta=meta,
            at_rest=at_rest,
            elapsed=time.monotonic() - began,
            device=device,
        )
        if checkpoints:
            trainer.load(tensors, state)
            report.say(f"resumed at step {trainer.step} from {checkpoints[-1].name}")
        report.cut_metrics(trainer.step)
        run.mark(False, trainer.step)
        with graceful_interrupt(trainer, report):
            progress = trainer.run()
        model = trainer.model()
        model.save(run.model_path)
        if progress < 1.0:
            report.say(f"stopped at step {trainer.step}; the model so far is {run.model_path}")
            if resume_line:
                report.say(f"go on with: {resume_line}")
            raise Interrupted(model)
        run.mark(True, trainer.step)
        report.say(
            f"fitted in {trainer.elapsed:.0f} s, {trainer.step} steps, {len(model):,} Gaussians: {run.model_path}"
        )
        return model
    finally:
        if own is not None:
            own.__exit__(None, None, None)


def _check(
    frames: Tensor,
    times: Sequence[float],
    camera: Camera,
    prior: Any,
    config: StagConfig,
    anchors: Anchors | None,
    moves: Moves | None,
) -> None:
    """Raises `UserError` for an input that cannot be fitted."""
    if frames.ndim != 4 or frames.shape[1] != 4 or len(frames) == 0:
        raise UserError(f"expected pictures [T, 4, H, W] with alpha, got {list(frames.shape)}")
    if (config.motion == RIGID) != (moves is not None):
        raise UserError(f"the motion {RIGID} and moves known before the fit go together; give both, or neither")
    expected = list(times[:1] if moves is not None else times)
    if len(times) != len(frames) or (config.anchors and anchors is not None and len(anchors.times) != len(expected)):
        raise UserError(f"expected a time, and anchors if any, for each of {len(frames)} pictures, got {len(times)}")
    if tuple(frames.shape[-2:]) != (camera.height, camera.width):
        raise UserError(
            f"the camera is for pictures of {camera.width}x{camera.height},"
            f" these are {frames.shape[-1]}x{frames.shape[-2]}; resize the camera"
        )
    if float(frames[:, 3].max()) < 0.5:
        raise UserError("nothing is opaque in the pictures: there is no object to fit; check their alpha")
    if config.anchors and anchors is None and not isinstance(prior, MultiViewPrior):
        raise UserError("anchors need a prior that makes views, or anchors made before; give one, or switch them off")
    if config.sds and not isinstance(prior, DistillationPrior):
        raise UserError(
            "score distillation needs a prior that predicts clean views, and this one does not; switch sds off"
        )
    given = anchors if config.anchors else None
    if given is not None and not np.allclose(given.times, expected, atol=1e-4):
        raise UserError(f"the anchors are not of the instants of the pictures: {given.times} and {expected}")
