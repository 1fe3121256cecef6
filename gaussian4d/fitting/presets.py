"""Presets: functions that return the settings of a fit, shaped by what the scene offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import UserError
from ..scene import Scene
from .config import FitConfig


def quick(scene: Scene) -> FitConfig:
    """Returns settings for a first look: a minute or two on a laptop."""
    return _for_scene(scene, preset="quick", max_steps=1500, max_gaussians=20_000, init_points=12_000)


def balanced(scene: Scene) -> FitConfig:
    """Returns settings for about ten minutes on a laptop."""
    return _for_scene(scene, preset="balanced", max_steps=6000)


def best(scene: Scene) -> FitConfig:
    """Returns settings for an hour or more."""
    return _for_scene(scene, preset="best", max_steps=30_000, max_gaussians=150_000, init_points=50_000, sh_degree=2)


PRESETS: dict[str, Callable[[Scene], FitConfig]] = {"quick": quick, "balanced": balanced, "best": best}


def preset_config(name: str, scene: Scene, overrides: dict[str, Any]) -> FitConfig:
    """Returns the preset `name` for `scene` with `overrides`; a given time limit lifts the preset's limit of steps."""
    if name not in PRESETS:
        raise UserError(f"expected a preset out of {', '.join(PRESETS)}, got {name!r}")
    config = PRESETS[name](scene)
    if overrides.get("max_minutes") is not None and overrides.get("max_steps") is None:
        overrides = {**overrides, "max_steps": None}
    return config.replace(**overrides)


def _for_scene(scene: Scene, **settings: Any) -> FitConfig:
    if len(scene.times) < 2:
        settings["motion"] = "static"
    if scene.has_alpha:
        settings["background"] = "random"
    return FitConfig(**settings)
