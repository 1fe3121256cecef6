"""Fits with every motion model under the same conditions, each done once and taken up again after an interruption."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluation import evaluate
from ..files import read_json
from ..fitting.windows import scene_options
from ..model import DynamicGaussians, load_model
from ..reconstruction import fit
from ..run_folder import RunFolder
from ..scene import Scene

VARIANTS: dict[str, dict[str, Any]] = {
    "static": {"motion": "static"},
    "dual-domain": {"motion": "dual-domain"},
    "dual-domain-temporal": {"motion": "dual-domain", "motion_config": {"temporal_opacity": True}},
    "free-time": {"motion": "free-time"},
    "spacetime": {"motion": "spacetime"},
    "hexplane": {"motion": "hexplane"},
    "per-frame": {"motion": "per-frame"},
}
"""Settings of a fit with each motion model, by the name in tables; `-temporal` is dual-domain with temporal opacity."""


@dataclasses.dataclass
class Fitted:
    """A finished fit."""

    path: Path
    model: DynamicGaussians
    metrics: dict[str, Any]
    """The content of eval/metrics.json."""

    @property
    def megabytes(self) -> float:
        """Size of model.g4d in millions of bytes."""
        return (self.path / "model.g4d").stat().st_size / 1e6

    @property
    def steps(self) -> int | None:
        """Steps taken, where the model says so."""
        return (self.model.meta.get("fit") or {}).get("steps")


def check_variants(names: list[str]) -> list[str]:
    """Returns `names`; raises `UserError` for one that is not in `VARIANTS`."""
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise UserError(f"expected motions out of {', '.join(VARIANTS)}, got {', '.join(unknown)}")
    return names


def fit_once(
    scene: Scene,
    out: Path,
    variant: str,
    preset: str,
    *,
    max_minutes: float | None = None,
    max_steps: int | None = None,
) -> Fitted:
    """Returns the fit of `variant` in the folder `out`: what is there already, resumed if it was not finished.

    The limits are those of `fit`.

    Raises:
        UserError: when `out` holds a fit of another scene or with other settings.
        KeyboardInterrupt: when the fit was interrupted; the next call goes on with it.
    """
    if RunFolder(out).exists:
        _check_same(
            out, scene, {"preset": preset, **VARIANTS[variant], "max_minutes": max_minutes, "max_steps": max_steps}
        )
        if not (out / "eval" / "metrics.json").exists():
            result = fit(scene, out=out, resume=True, evaluate=False)
            if result.interrupted:
                raise KeyboardInterrupt
            evaluate(out, scene)
    else:
        settings = VARIANTS[variant]
        result = fit(scene, preset, out, max_minutes=max_minutes, max_steps=max_steps, evaluate=False, **settings)
        if result.interrupted:
            raise KeyboardInterrupt
        evaluate(out, scene)
    return Fitted(out, load_model(out), read_json(out / "eval" / "metrics.json"))


def _check_same(out: Path, scene: Scene, wanted: dict[str, Any]) -> None:
    config, options = RunFolder(out).config(), RunFolder(out).scene_options()
    if options != scene_options(scene):
        raise UserError(f"{out} holds a fit of another scene, or of this one at another size; choose another --out")
    for name, value in wanted.items():
        got = getattr(config, name)
        # The preset sets what was not given, and fills in motion settings of its own.
        same = value is None or got == value or (isinstance(value, dict) and value.items() <= got.items())
        if not same:
            raise UserError(f"{out} holds a fit with {name} {got}, asked for was {value}; choose another --out")
