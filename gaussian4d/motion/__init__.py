"""Motion models: a table of per-Gaussian parameters and a time in, a static set of Gaussians out.

Read `base.py` first: it says what a model implements. `gaussian4d.plugins.MOTIONS` is the table of all of them, ours
and those of other packages; ours are listed there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..plugins import MOTIONS
from .base import SHARED, MotionModel, NoConfig, Params, canonical_gaussians, is_shared
from .dual_domain import DualDomain, DualDomainConfig
from .free_time import FreeTime, FreeTimeConfig
from .hexplane import HexPlane, HexPlaneConfig
from .per_frame import PerFrame, PerFrameConfig
from .rigid_parts import RigidParts, RigidPartsConfig
from .spacetime import Spacetime, SpacetimeConfig
from .static import Static, StaticConfig
from .windows import Windows, WindowsConfig

__all__ = [
    "MOTIONS",
    "SHARED",
    "DualDomain",
    "DualDomainConfig",
    "FreeTime",
    "FreeTimeConfig",
    "HexPlane",
    "HexPlaneConfig",
    "MotionModel",
    "NoConfig",
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
    "canonical_gaussians",
    "is_shared",
    "make_motion",
    "motion_origin",
]


def make_motion(
    name: str, config: Mapping[str, Any] | None = None, needed: Mapping[str, Any] | None = None
) -> MotionModel:
    """Returns the motion model `name` with the settings `config`.

    Args:
        name: One of `MOTIONS`.
        config: Settings by name; those left out have their defaults.
        needed: What a file or a run recorded of the package that brings the model (`motion_origin`), for the message
            where it is not installed.

    Raises:
        UserError: for an unknown name or setting.
    """
    model, settings = MOTIONS.get(name, needed=needed), dict(config or {})
    for inside in model.made_of(settings):
        if needed and inside == needed.get("name"):
            MOTIONS.get(inside, needed=needed)
    known = {field.name for field in dataclasses.fields(model.config_type) if field.init}
    unknown = set(settings) - known
    if unknown:
        expected = ", ".join(sorted(known)) or "none"
        raise UserError(f"motion {name} has no setting {', '.join(sorted(unknown))}; its settings are: {expected}")
    return model(model.config_type(**settings))


def motion_origin(motion: MotionModel) -> dict[str, str]:
    """Returns where the model that `motion` is or contains comes from, as `Registry.origin` does; empty for our own.

    Of a model that nobody registered it is the package of its class.
    """
    own = type(motion)
    if motion.name not in MOTIONS or MOTIONS.get(motion.name) is not own:
        package = own.__module__.split(".")[0]
        if package == __name__.split(".")[0]:
            return {}
        return {"group": MOTIONS.group, "name": motion.name, "package": package, "version": ""}
    for name in (motion.name, *motion.made_of(motion.config_dict())):
        if origin := MOTIONS.origin(name):
            return origin
    return {}
