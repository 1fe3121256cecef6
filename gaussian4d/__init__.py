"""Dynamic 3D scenes as Gaussians: load, fit, render, evaluate, export.

Attributes load on first use, so that `import gaussian4d` costs milliseconds and brings in neither torch nor a viewer.
No module bears the name of a public function: importing a submodule binds its name here and would hide the function.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cameras import Camera as Camera
    from .errors import UserError as UserError
    from .evaluation import evaluate as evaluate
    from .fitting import FitConfig as FitConfig
    from .gaussians import Gaussians as Gaussians
    from .model import DynamicGaussians as DynamicGaussians
    from .model import load_model as load_model
    from .reconstruction import FitResult as FitResult
    from .reconstruction import fit as fit
    from .rendering import RenderOutput as RenderOutput
    from .rendering import render as render
    from .scene import Frame as Frame
    from .scene import FrameData as FrameData
    from .scene import FrameSource as FrameSource
    from .scene import Scene as Scene
    from .scene import load_scene as load_scene
    from .tracks import track_points as track_points

__version__ = "0.1.0"

_HOME = {
    "Camera": "cameras",
    "DynamicGaussians": "model",
    "FitConfig": "fitting",
    "Frame": "scene",
    "FrameData": "scene",
    "FrameSource": "scene",
    "Gaussians": "gaussians",
    "RenderOutput": "rendering",
    "Scene": "scene",
    "UserError": "errors",
    "evaluate": "evaluation",
    "fit": "reconstruction",
    "load_model": "model",
    "load_scene": "scene",
    "render": "rendering",
    "track_points": "tracks",
}

__all__ = [
    "Camera",
    "DynamicGaussians",
    "FitConfig",
    "Frame",
    "FrameData",
    "FrameSource",
    "Gaussians",
    "RenderOutput",
    "Scene",
    "UserError",
    "__version__",
    "evaluate",
    "fit",
    "load_model",
    "load_scene",
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
