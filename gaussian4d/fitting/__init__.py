"""Fitting a moving scene to its frames.

Read `run.py` (the whole course of a fit), then `trainer.py` (the loop). One idea per file: `config` and `presets`
(settings), `normalise` (the fit's frame), `initialise` with `hull` and `surroundings` (where it starts), `sampler` and
`targets` (what it sees), `losses`, `schedule`, `table` and `densify` (how Gaussians come and go), `checkpoint`,
`divergence`, `progress`, `hooks`, `per_frame` (the baseline: a still fit per instant), `parallel` (several processes as
one), `windows` with `windows_start`, `windows_trainer` and `windows_processes` (long clips in parts).
"""

from __future__ import annotations

from .config import FitConfig
from .hooks import FitHook, load_hook
from .presets import PRESETS, preset_config
from .run import FitResult, fit

__all__ = ["PRESETS", "FitConfig", "FitHook", "FitResult", "fit", "load_hook", "preset_config"]
