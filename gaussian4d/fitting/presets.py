"""Presets: functions that return the settings of a fit, shaped by what the scene offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import UserError
from ..motion import FreeTime, HexPlane, Spacetime
from ..scene import Scene
from .config import FitConfig

_ONE_CAMERA = 10_000
"""Gaussians, at most, of a subject cut out that one moving camera filmed."""


def quick(scene: Scene) -> FitConfig:
    """Returns settings for a first look: a minute or two on a laptop."""
    return _for_scene(scene, preset="quick", max_steps=2500, max_gaussians=_room(scene, 10_000, 30_000))


def balanced(scene: Scene) -> FitConfig:
    """Returns settings for about ten minutes on a laptop."""
    steps = 16_000 if scene.has_alpha else 8000
    return _for_scene(scene, preset="balanced", max_steps=steps, max_gaussians=_room(scene, 30_000, 50_000))


def best(scene: Scene) -> FitConfig:
    """Returns settings for an hour or more."""
    most = _room(scene, 60_000, 150_000)
    return _for_scene(scene, preset="best", max_steps=30_000, max_gaussians=most, init_points=most // 3, sh_degree=2)


PRESETS: dict[str, Callable[[Scene], FitConfig]] = {"quick": quick, "balanced": balanced, "best": best}


def preset_config(name: str, scene: Scene, overrides: dict[str, Any]) -> FitConfig:
    """Returns the preset `name` for `scene` with `overrides`; a given time limit lifts the preset's limit of steps."""
    if name not in PRESETS:
        raise UserError(f"expected a preset out of {', '.join(PRESETS)}, got {name!r}")
    config = PRESETS[name](scene)
    if overrides.get("max_minutes") is not None and overrides.get("max_steps") is None:
        overrides = {**overrides, "max_steps": None}
    config = config.replace(**overrides)
    return config.replace(**{**_for_motion(config, scene), **overrides})


def _for_motion(config: FitConfig, scene: Scene) -> dict[str, Any]:
    """Returns what a motion model wants to be set otherwise, for whichever was chosen.

    free-time and spacetime: first velocities from neighbouring instants, as FreeTimeGS starts. Its relocation instead
    of densification (every 100 steps, opacity 0.005) was measured and is not used: docs/motion.md, "What was tried".
    Three times the motion's rates make free-time sharper, in short fits and in longer ones.

    hexplane: what 4DGaussians sets for multi-view scenes: half as many grid points in time as frames, a first stage at
    rest (3000 of 17,000 steps), weights 2e-4, 1e-3 and 1e-4 of the planes' penalties, opacities that change. A subject
    cut out has no surroundings to settle first: there the stage at rest was found to cost quality, and is left out.
    """
    if config.motion == FreeTime.name:
        return {"init_velocities": True, "lr_motion_factor": 3.0}
    if config.motion == Spacetime.name:
        return {"init_velocities": True}
    if config.motion != HexPlane.name:
        return {}
    return {
        "motion_config": {
            "time_resolution": max(len(scene.times) // 2, 3),
            "deform_opacities": not scene.has_alpha,
        },
        "coarse": 0.0 if scene.has_alpha else 0.17,
        "plane_variation_weight": 2e-4,
        "time_roughness_weight": 1e-3,
        "time_activity_weight": 1e-4,
    }


def _room(scene: Scene, subject: int, surroundings: int) -> int:
    """Returns the number of Gaussians for a subject cut out, or for one with its surroundings."""
    return subject if scene.has_alpha else surroundings


def _for_scene(scene: Scene, **settings: Any) -> FitConfig:
    """Returns the settings that were found best for the kind of scene, changed by `settings`.

    Of a subject cut out, Gaussians followed through the clip (dual-domain) learn most from few steps or from one moving
    camera; with several cameras and more steps short-lived ones (free-time) end up sharper. Real scenes also have
    surroundings that stand still and things that enter, turn and leave, and their cameras differ in exposure.
    """
    frames = scene.frames("train")
    cameras = len({frame.camera_id for frame in frames})
    together = len(frames) / max(len({frame.time for frame in frames}), 1) >= 3.0
    if scene.has_alpha:
        brief = settings["preset"] == "quick" or not together
        kind: dict[str, Any] = {"motion": "dual-domain" if brief else "free-time", "background": "random"}
        if not together:
            # Every instant is seen from one side only: Gaussians must not jitter where no picture holds them, and more
            # of them than the few pictures can hold learn each picture by heart.
            kind["smoothness_weight"] = 1e-3
            settings["max_gaussians"] = min(settings["max_gaussians"], _ONE_CAMERA)
    else:
        kind = {"motion": "free-time", "background": "model", "init_instants": 50, "exposure": cameras >= 3}
        kind["init_points"] = 30_000
    if len(scene.times) < 2:
        kind["motion"] = "static"
    return FitConfig(**{**kind, **settings})
