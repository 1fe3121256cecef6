"""Presets: functions that return the settings of a fit, shaped by what the scene offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import UserError
from ..scene import Scene
from .config import FLAT_NAMES, FitConfig

_ONE_CAMERA = 10_000
"""Gaussians, at most, of a subject cut out that one moving camera filmed."""


def quick(scene: Scene) -> FitConfig:
    """Returns settings for a first look: a minute or two on a laptop."""
    return _for_scene(scene, preset="quick", max_steps=2500, most=_room(scene, 10_000, 30_000))


def balanced(scene: Scene) -> FitConfig:
    """Returns settings for about ten minutes on a laptop."""
    steps = 16_000 if scene.has_alpha else 8000
    return _for_scene(scene, preset="balanced", max_steps=steps, most=_room(scene, 30_000, 50_000))


def best(scene: Scene) -> FitConfig:
    """Returns settings for an hour or more."""
    most = _room(scene, 60_000, 150_000)
    more = {"init.points": most // 3, "sh_degree": 2}
    return _for_scene(scene, more, preset="best", max_steps=30_000, most=most)


PRESETS: dict[str, Callable[[Scene], FitConfig]] = {"quick": quick, "balanced": balanced, "best": best}


def preset_config(name: str, scene: Scene, overrides: dict[str, Any]) -> FitConfig:
    """Returns the preset `name` for `scene` with `overrides`; a given time limit lifts the preset's limit of steps."""
    if name not in PRESETS:
        raise UserError(f"expected a preset out of {', '.join(PRESETS)}, got {name!r}")
    config = PRESETS[name](scene)
    if overrides.get("max_minutes") is not None and overrides.get("max_steps") is None:
        overrides = {**overrides, "max_steps": None}
    overrides = {FLAT_NAMES.get(name, name): value for name, value in overrides.items()}
    # Twice: what a motion model wants depends on which was chosen, and what was given comes last.
    moved = {name: value for name, value in overrides.items() if name in ("motion", "motion_config")}
    wishes = config.replace(moved).make_motion().fit_settings(scene)
    return config.replace({**wishes, **overrides})


def _room(scene: Scene, subject: int, surroundings: int) -> int:
    """Returns the number of Gaussians for a subject cut out, or for one with its surroundings."""
    return subject if scene.has_alpha else surroundings


def _for_scene(
    scene: Scene, more: dict[str, Any] | None = None, *, preset: str, max_steps: int, most: int
) -> FitConfig:
    """Returns the settings found best for the kind of scene, with at most `most` Gaussians, changed by `more`.

    Of a subject cut out, Gaussians followed through the clip (dual-domain) learn most from few steps or from one moving
    camera; with several cameras and more steps short-lived ones (free-time) end up sharper. Real scenes also have
    surroundings that stand still and things that enter, turn and leave, and their cameras differ in exposure.
    """
    frames = scene.frames("train")
    cameras = len({frame.camera_id for frame in frames})
    together = len(frames) / max(len({frame.time for frame in frames}), 1) >= 3.0
    if scene.has_alpha:
        brief = preset == "quick" or not together
        kind: dict[str, Any] = {"motion": "dual-domain" if brief else "free-time", "background": "random"}
        if not together:
            # Every instant is seen from one side only: Gaussians must not jitter where no picture holds them, and more
            # of them than the few pictures can hold learn each picture by heart.
            kind["loss.smoothness"] = 1e-3
            most = min(most, _ONE_CAMERA)
    else:
        kind = {"motion": "free-time", "background": "model", "init.instants": 50, "exposure": cameras >= 3}
        kind["init.points"] = 30_000
    if len(scene.times) < 2:
        kind["motion"] = "static"
    base = FitConfig(preset=preset, max_steps=max_steps)
    return base.replace({**kind, "densify.max_gaussians": most, **(more or {})})
