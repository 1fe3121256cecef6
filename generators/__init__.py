"""Diffusion priors and the loop around them: multi-view, video, score distillation, feed-forward reconstruction.

    from generators import EmbeddedPrior, orbit_cameras
    prior = EmbeddedPrior.load()
    views = prior.sample_views(picture[None], orbit_camera(0, 15), orbit_cameras(8))     # [1, 8, 4, 64, 64]

`gaussian4d generate` is the whole path. Where to look: `priors.base` says what a prior is, `priors.embedded` is the
one that comes along, `external` those of published weights, `feedback` and `attention` the two hooks into sampling,
`stag4d` the fit, `pipeline` the command's stages, `inputs` what people give, `training` and `models` how the embedded
ones came to be, `figures` what is measured. `gaussian4d` and `diff_rasterizer` never import this package.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "EmbeddedPrior": "priors.embedded",
    "EmbeddedReconstructor": "priors.reconstructor",
    "Fusion": "priors",
    "RenderFeedback": "feedback",
    "StagConfig": "stag4d",
    "fit_asset": "stag4d",
    "make_anchors": "stag4d",
    "open_external": "external.loading",
    "orbit_camera": "cameras",
    "orbit_cameras": "cameras",
    "render_rgba": "views",
    "with_feedback": "feedback",
}

__all__ = [
    "EmbeddedPrior",
    "EmbeddedReconstructor",
    "Fusion",
    "RenderFeedback",
    "StagConfig",
    "fit_asset",
    "make_anchors",
    "open_external",
    "orbit_camera",
    "orbit_cameras",
    "render_rgba",
    "with_feedback",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'generators' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
