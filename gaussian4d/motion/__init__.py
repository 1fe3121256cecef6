"""Motion models: a table of per-Gaussian parameters and a time in, a static set of Gaussians out.

Read `base.py` first. To add a model, subclass `MotionModel`, give it a config dataclass and add it to `MOTIONS`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import UserError
from .base import SHARED, MotionModel, Params, is_shared
from .dual_domain import DualDomain, DualDomainConfig
from .free_time import FreeTime, FreeTimeConfig
from .hexplane import HexPlane, HexPlaneConfig
from .per_frame import PerFrame, PerFrameConfig
from .rigid_parts import RigidParts, RigidPartsConfig
from .spacetime import Spacetime, SpacetimeConfig
from .static import Static, StaticConfig
from .windows import Windows, WindowsConfig

MOTIONS: dict[str, tuple[type[MotionModel], type]] = {
    "static": (Static, StaticConfig),
    "dual-domain": (DualDomain, DualDomainConfig),
    "free-time": (FreeTime, FreeTimeConfig),
    "spacetime": (Spacetime, SpacetimeConfig),
    "hexplane": (HexPlane, HexPlaneConfig),
    "per-frame": (PerFrame, PerFrameConfig),
    "windows": (Windows, WindowsConfig),
}
"""Each model's class and the dataclass of its settings, by name: those that can be fitted."""

READ_ONLY: dict[str, tuple[type[MotionModel], type]] = {"rigid-parts": (RigidParts, RigidPartsConfig)}
"""Those that only come from files."""

__all__ = [
    "MOTIONS",
    "READ_ONLY",
    "SHARED",
    "DualDomain",
    "DualDomainConfig",
    "FreeTime",
    "FreeTimeConfig",
    "HexPlane",
    "HexPlaneConfig",
    "MotionModel",
    "Params",
    "PerFrame",
    "PerFrameConfig",
    "RigidParts",
    "RigidPartsConfig",
    "Spacetime",
    "SpacetimeConfig",
    "Static",
    "StaticConfig",
    "Windows",
    "WindowsConfig",
    "is_shared",
    "make_motion",
]


def make_motion(name: str, config: dict[str, Any] | None = None, needed: dict[str, str] | None = None) -> MotionModel:
    """Returns the motion model `name` with the settings `config`; raises `UserError` for an unknown name or setting."""
    every = {**MOTIONS, **READ_ONLY}
    if name not in every:
        raise UserError(f"expected a motion model out of {', '.join(MOTIONS)}, got {name!r}")
    model, config_type = every[name]
    known = {field.name for field in dataclasses.fields(config_type)}
    unknown = set(config or {}) - known
    if unknown:
        expected = ", ".join(sorted(known)) or "none"
        raise UserError(f"motion {name} has no setting {', '.join(sorted(unknown))}; its settings are: {expected}")
    return model(config_type(**(config or {})))
