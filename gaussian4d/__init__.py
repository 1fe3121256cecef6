"""Dynamic 3D scenes as Gaussians: load, fit, render, evaluate, export.

Attributes load on first use, so that `import gaussian4d` costs milliseconds and brings in neither torch nor a viewer.
No module bears the name of a public function: importing a submodule binds its name here and would hide the function.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cameras import Camera as Camera
    from .crop import CropBox as CropBox
    from .errors import UserError as UserError
    from .evaluation import evaluate as evaluate
    from .fitting import FitConfig as FitConfig
    from .fitting.stages import Stage as Stage
    from .fitting.step import Step as Step
    from .fitting.strategies import Strategy as Strategy
    from .fitting.terms import Term as Term
    from .gaussians import Gaussians as Gaussians
    from .io.formats import Format as Format
    from .keyframes import Keyframe as Keyframe
    from .metrics import metric as metric
    from .model import DynamicGaussians as DynamicGaussians
    from .model import load_model as load_model
    from .motion import MotionModel as MotionModel
    from .motion import Params as Params
    from .motion import canonical_gaussians as canonical_gaussians
    from .motion import make_motion as make_motion
    from .named_paths import PathRequest as PathRequest
    from .reconstruction import FitResult as FitResult
    from .reconstruction import fit as fit
    from .rendering import RenderOutput as RenderOutput
    from .rendering import render as render
    from .run_folder import RunFolder as RunFolder
    from .scene import Frame as Frame
    from .scene import FrameData as FrameData
    from .scene import FrameSource as FrameSource
    from .scene import Scene as Scene
    from .scene import load_scene as load_scene
    from .starting import initial_model as initial_model
    from .tracks import track_points as track_points

__version__ = "0.1.0"

_HOME = {
    "Camera": "cameras",
    "CropBox": "crop",
    "DynamicGaussians": "model",
    "FitConfig": "fitting",
    "FitResult": "reconstruction",
    "Format": "io.formats",
    "Frame": "scene",
    "FrameData": "scene",
    "FrameSource": "scene",
    "Gaussians": "gaussians",
    "Keyframe": "keyframes",
    "MotionModel": "motion",
    "Params": "motion",
    "PathRequest": "named_paths",
    "RenderOutput": "rendering",
    "RunFolder": "run_folder",
    "Scene": "scene",
    "Stage": "fitting.stages",
    "Step": "fitting.step",
    "Strategy": "fitting.strategies",
    "Term": "fitting.terms",
    "UserError": "errors",
    "canonical_gaussians": "motion",
    "evaluate": "evaluation",
    "fit": "reconstruction",
    "initial_model": "starting",
    "load_model": "model",
    "load_scene": "scene",
    "make_motion": "motion",
    "metric": "metrics",
    "render": "rendering",
    "track_points": "tracks",
}

__all__ = [
    "Camera",
    "CropBox",
    "DynamicGaussians",
    "FitConfig",
    "FitResult",
    "Format",
    "Frame",
    "FrameData",
    "FrameSource",
    "Gaussians",
    "Keyframe",
    "MotionModel",
    "Params",
    "PathRequest",
    "RenderOutput",
    "RunFolder",
    "Scene",
    "Stage",
    "Step",
    "Strategy",
    "Term",
    "UserError",
    "__version__",
    "canonical_gaussians",
    "evaluate",
    "fit",
    "initial_model",
    "load_model",
    "load_scene",
    "make_motion",
    "metric",
    "render",
    "track_points",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'gaussian4d' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
