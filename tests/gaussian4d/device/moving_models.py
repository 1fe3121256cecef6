"""A small model of every kind of motion, with every column in use."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gaussian4d.cameras import Camera
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import is_shared, make_motion

SPANS = ((0.0, 0.6), (0.4, 1.0))
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "static": ("static", {}),
    "dual-domain": ("dual-domain", {}),
    "dual-domain that vanishes": ("dual-domain", {"temporal_opacity": True}),
    "free-time": ("free-time", {}),
    "spacetime": ("spacetime", {}),
    "hexplane": (
        "hexplane",
        {"space_resolution": 6, "time_resolution": 4, "features": 2, "width": 5, "deform_opacities": True},
    ),
    "per-frame": ("per-frame", {"times": (0.0, 0.5, 1.0)}),
    "one window": ("windows", {"motion": "free-time", "motion_configs": ({},), "spans": ((0.0, 1.0),)}),
    "windows": ("windows", {"motion": "free-time", "motion_configs": ({}, {}), "spans": SPANS}),
    "windows of hexplanes": (
        "windows",
        {
            "motion": "hexplane",
            "motion_configs": tuple({"space_resolution": 4, "features": 2, "width": 5} for _ in SPANS),
            "spans": SPANS,
        },
    ),
    "rigid-parts": ("rigid-parts", {"times": (0.0, 0.4, 1.0), "parts": 3}),
}
"""Name of the case -> name and settings of the motion model."""


def model_of(kind: str, n: int = 40) -> DynamicGaussians:
    """Returns a model on the CPU whose Gaussians move, turn, and come and go as far as its kind lets them."""
    name, config = KINDS[kind]
    motion = make_motion(name, config)
    g = torch.Generator().manual_seed(7)
    means = 0.4 * torch.randn(n, 3, generator=g)
    params = {
        "means": means,
        "quats": torch.randn(n, 4, generator=g),
        "scales": -2.5 + 0.4 * torch.randn(n, 3, generator=g),
        "opacities": 1.5 * torch.randn(n, generator=g),
        "sh0": 0.8 * torch.randn(n, 1, 3, generator=g),
        "shN": 0.2 * torch.randn(n, 8, 3, generator=g),
        **motion.init(n),
        **motion.init_shared(means, g),
    }
    for key in params:
        if key in ("instants", "windows"):
            # Windows as they are joined, side by side; instants in any order.
            order = torch.arange(n) * 3 // n if key == "instants" else torch.arange(n) * 2 // n
            params[key] = (order[torch.randperm(n, generator=g)] if key == "instants" else order).float()
        elif key == "parts":
            params[key] = (torch.arange(n) % 4 - 1).float()
        elif key == "times":
            params[key] = torch.rand(n, generator=g)
        elif key == "durations":
            params[key] = torch.tensor([0.05, 0.5, torch.inf])[torch.arange(n) % 3].log()
        elif key in motion.columns() or (is_shared(key) and not key.endswith("bounds")):
            params[key] = params[key] + 0.3 * torch.randn(params[key].shape, generator=g)
    return DynamicGaussians(
        params, motion, background=torch.tensor([0.9, 0.8, 0.7]), fps=10.0, times=np.linspace(0.0, 1.0, 5)
    )


CAMERA = Camera.look_at(
    np.array([0.3, -3.0, 0.5]), np.zeros(3), np.array([0.0, 0.0, 1.0]), width=40, height=32, focal=40.0, id="a"
)
