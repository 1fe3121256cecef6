"""Fitting a moving scene to its frames.

Read `trainer.py` (what a step is), then `loop.py` (what every fit has in common); `opening` and `training` are the
course of a fit, whose whole is `gaussian4d.reconstruction`. One idea per file: `config`, `settings`, `weights` and
`presets` (settings), `normalise` (the fit's frame), `initialise` with `hull` and `surroundings` (where it starts),
`sampler`, `targets` and `uploads` (what it sees), `step`, `drawing` and `terms` with `coherence` (what is minimised),
`schedule`, `table`, `strategies` and `densify` (how Gaussians come and go), `checkpoint`, `divergence`, `progress`,
`hooks`, `stages`, `parts` with `per_frame` (the baseline: a still fit per instant), `parallel` (several processes as
one), `windows` with `windows_start`, `windows_trainer` and `windows_processes` (long clips in parts).
"""

from __future__ import annotations

from .config import FitConfig
from .hooks import FitHook, load_hook
from .presets import PRESETS, preset_config

__all__ = ["PRESETS", "FitConfig", "FitHook", "load_hook", "preset_config"]
