"""Every setting of a fit, as nested dataclasses that are saved with the run.

A setting has a path: `max_steps`, `densify.grad`, `loss.opacity`. Paths are what `fit --set`, `fit(settings=...)` and
error messages speak of. `loss.NAME` is the weight of the term NAME where no setting bears that name, so that terms of
other packages are switched on like our own. The flat names of schema 1 (`densify_grad`) are still understood: in old
runs, and as keyword arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ..errors import UserError
from ..motion import make_motion
from ..plugins import FIT_STAGES, MOTIONS, STRATEGIES, TERMS, Registry
from .settings import checked_dataclass, known_paths
from .weights import Weight, checked_weight, is_on

SCHEMA_VERSION = 2
BACKGROUNDS = ("white", "black", "random", "model")

Pair = tuple[float, float]
"""A value at the start and one at the end of the fit, with a constant factor per progress between them."""


@dataclasses.dataclass
class InitConfig:
    """Where a fit starts."""

    points: int = 20_000
    """Gaussians at the start, at most."""
    sampled: float = 0.0
    """Share of the static start that is sampled in space; the rest is found by comparing pictures."""
    instants: int = 24
    """Instants at which moving points are looked for."""
    opacity: float = 0.3
    """First opacity."""
    scale: float = 0.6
    """First scale over the distance to the nearest neighbours."""
    duration: float = 1.5
    """First duration of a point found at one instant, in distances between the instants looked at."""
    velocities: bool = False
    """Whether points found at instants start with the velocity of their neighbours towards the nearest points of the
    instants before and after (free-time and spacetime; FreeTimeGS)."""


def _weights() -> dict[str, Weight]:
    return {"photometric": 1.0, "alpha": 0.1, "opacity": 0.01, "anisotropy": 0.05}


@dataclasses.dataclass
class LossConfig:
    """What is minimised: the weights of the terms, and what the terms of this package can be told besides."""

    weights: dict[str, Weight] = dataclasses.field(default_factory=_weights)
    """Weight of each term by name: a number, or (progress, weight) pairs between which it is interpolated. Terms that
    are not named have weight 0; one of weight 0 is not computed."""
    settings: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Arguments of terms that are made from a class, by the term's name (`--set loss.settings.NAME.KEY=VALUE`)."""
    ssim: float = 0.2
    """Share of 1 - SSIM in the term `photometric`; the rest is L1."""
    opacity_at_time: bool = True
    """Whether the term `opacity` counts each Gaussian as far as it is there at the time drawn (FreeTimeGS's 4D
    regularisation), not always in full."""
    anisotropy_limit: float = 8.0
    """The term `anisotropy` pulls the longest axis below so many times the middle one, against needles."""
    rigidity_neighbours: int = 20
    """Gaussians per patch of neighbours (Dynamic 3D Gaussians and Gaussian-Flow: 20)."""
    rigidity_span: float = 0.1
    """Clips, at most, between the two times at which a patch is compared."""
    smoothness_step: float = 0.02
    """Clips between the instants whose second difference is the acceleration."""


@dataclasses.dataclass
class OptimConfig:
    """How the steps are taken: learning rates at the start and the end, and what is switched on when."""

    means: Pair = (4e-4, 4e-6)
    """Learning rate of the positions."""
    scales: Pair = (5e-3, 1e-3)
    """Learning rate of the log scales."""
    quats: Pair = (1e-3, 2e-4)
    """Learning rate of the rotations."""
    opacities: Pair = (5e-2, 1e-2)
    """Learning rate of the opacity logits."""
    sh0: Pair = (5e-3, 5e-4)
    """Learning rate of the base colours."""
    shN: Pair = (2.5e-4, 2.5e-5)
    """Learning rate of the other harmonics."""
    background: Pair = (5e-3, 5e-4)
    """Learning rate of the fitted background."""
    motion_factor: float = 1.0
    """Factor on the motion model's own learning rates."""
    factor: float = 1.0
    """Factor on the learning rates of all Gaussians' parameters; a fit that diverged goes on with half of it."""
    coarse: float = 0.0
    """Progress until which the Gaussians are fitted without their motion (4DGaussians: 3000 of 17000 steps)."""
    sh_start: float = 0.2
    """Progress at which the first degree of view dependence is switched on; the others follow at equal steps."""
    resolutions: tuple[tuple[float, float], ...] = ((0.0, 2.0), (0.3, 1.0))
    """(progress, downscale) pairs: from that progress on, pictures are this much smaller."""


@dataclasses.dataclass
class DensifyConfig:
    """How the number of Gaussians changes."""

    strategy: str = "densify"
    """densify (clone, split, prune), relocate (dead Gaussians move to where detail is needed, noise explores), none, or
    one of another package. Relocation was found no better in short fits (docs/motion.md)."""
    max_gaussians: int = 40_000
    """Gaussians, at most."""
    start: float = 0.05
    """Progress at which the number of Gaussians begins to change."""
    stop: float = 0.6
    """Progress at which it stops changing."""
    every: int = 50
    """Steps from one change to the next."""
    fraction: float = 0.08
    """Largest growth per densification, as a fraction of the Gaussians there are."""
    grad: float = 1.5e-4
    """Mean gradient of the projected position, in half picture sizes, above which a Gaussian is refined."""
    split_scale: float = 0.02
    """Gaussians longer than this split, shorter ones are cloned."""
    prune_opacity: float = 0.01
    """Gaussians whose largest opacity over the clip is less are removed (or relocated)."""
    prune_scale: float = 1.0
    """Gaussians longer than this are removed."""
    static_after: float | None = None
    """Gaussians whose temporal opacity has a standard deviation of more clips than this stop for good and are always
    there (free-time and spacetime); looked at whenever Gaussians are refined. None: never.

    Oh et al., "Hybrid 3D-4D Gaussian Splatting for Fast Dynamic Scene Representation", 2025."""
    noise: float = 0.0
    """Strength of the exploring noise of `relocate`, in mean learning rates."""


@dataclasses.dataclass
class ExtraConfig:
    """Frames beside those of the scene, such as repaired renderings; see `fit_stages`."""

    frames: str | None = None
    """Folder of a scene, in the world of the one that is fitted, whose training frames are drawn as well."""
    share: float = 0.25
    """Share of the pictures drawn that come from there."""


@dataclasses.dataclass
class KeepConfig:
    """What is kept, and how often."""

    checkpoint_every: int = 500
    """Steps from one checkpoint to the next."""
    checkpoints: int = 2
    """Checkpoints that stay on disk."""
    log_every: int = 50
    """Steps from one line of metrics.jsonl to the next."""


@dataclasses.dataclass
class FitConfig:
    """Settings of a fit. Lengths are in the normalised scene, whose cameras stand about 1 from the centre.

    `progress` runs from 0 to 1 over the fit: the larger of the step over `max_steps` and the time over `max_minutes`.
    """

    preset: str = "balanced"
    """The preset that the settings began with: quick, balanced or best."""
    motion: str = "free-time"
    """How Gaussians move: the name of a motion model (docs/motion.md)."""
    motion_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of the motion model that differ from its own defaults."""
    sh_degree: int = 1
    """Degree of the spherical harmonics, 0 to 4."""
    max_steps: int | None = None
    """Steps to take."""
    max_minutes: float | None = None
    """Minutes of fitting; loading counts, evaluation does not. With this set a run is not repeatable."""
    batch: int = 1
    """Pictures per step, over all processes (see `parallel`); the loss is their mean."""
    seed: int = 0
    """Start of everything random."""
    device: str = "auto"
    """Where to fit; see `fit --device`."""
    backend: str = "auto"
    """Rasterizer backend."""
    background: str = "model"
    """white, black, random (a new colour every step; needs alpha), model (one colour, fitted)."""
    exposure: bool = False
    """Fits a gain and an offset per training camera; unseen cameras get none."""
    normalisation: dict[str, Any] | None = None
    """Centre and scale of the fit's frame (see `normalise`); None: from the training cameras. Windows of one clip share
    theirs."""
    near: float = 0.2
    """Nothing nearer to a camera than this is drawn, as a fraction of the nearest camera's distance to the centre.

    Gaussians right before a lens fit one picture and hide everything from the camera next to it."""
    init: InitConfig = dataclasses.field(default_factory=InitConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    densify: DensifyConfig = dataclasses.field(default_factory=DensifyConfig)
    extra: ExtraConfig = dataclasses.field(default_factory=ExtraConfig)
    keep: KeepConfig = dataclasses.field(default_factory=KeepConfig)
    stages: list[str] = dataclasses.field(default_factory=list)
    """What runs after training, by name (see `stages`)."""
    plugins: list[dict[str, str]] = dataclasses.field(default_factory=list)
    """Packages that brought something this run needs: group, name, package, version of each."""

    def __post_init__(self) -> None:
        checked = checked_dataclass(type(self), _shallow(self), "")
        for name, value in checked.items():
            setattr(self, name, value)
        self.loss.weights = {name: checked_weight(name, weight) for name, weight in self.loss.weights.items()}
        self._check()
        self.plugins = self._origins()

    def _check(self) -> None:
        """Raises `UserError` for settings that do not go together."""
        motion = self.make_motion()
        for name in self.loss.weights:
            if self.loss.weights[name] != 0.0 and name not in motion.terms() and name not in TERMS:
                # Names the package that brought it, where the run knows.
                if (needed := self.needed(TERMS, name)) is not None:
                    TERMS.get(name, needed=needed)
                raise UserError(
                    f"loss.{name}: expected a term out of {', '.join([*TERMS.names(), *motion.terms()])}, or a setting"
                    f" out of {', '.join(field.name for field in dataclasses.fields(LossConfig))}, got {name!r}"
                )
        if self.densify.strategy not in STRATEGIES:
            STRATEGIES.get(self.densify.strategy, needed=self.needed(STRATEGIES, self.densify.strategy))
        static_after = self.densify.static_after
        if static_after is not None and not (static_after > 0 and motion.can_freeze):
            raise UserError(
                "densify.static_after must be a positive number of clips and the motion free-time or spacetime, got"
                f" {static_after} with {self.motion}; leave it out"
            )
        if self.init.velocities and not motion.can_start_moving:
            raise UserError(
                f"init.velocities is for the motion free-time or spacetime, got {self.motion}; leave it out"
            )
        if not 0.0 <= self.optim.coarse < 1.0:
            raise UserError(
                f"optim.coarse is a part of the fit, 0 up to but not including 1, got {self.optim.coarse:g}"
            )
        if self.background not in BACKGROUNDS:
            raise UserError(f"expected a background out of {', '.join(BACKGROUNDS)}, got {self.background!r}")
        if self.max_steps is None and self.max_minutes is None:
            raise UserError("a fit must end: set max_steps, max_minutes or both")
        for path in _POSITIVE:
            value = self.get(path)
            if value is not None and value <= 0:
                raise UserError(f"{path} must be positive, got {value:g}")
        if self.loss.rigidity_neighbours < 2:
            raise UserError(f"loss.rigidity_neighbours must be at least 2, got {self.loss.rigidity_neighbours}")
        for path in ("loss.ssim", "extra.share"):
            if not 0.0 <= self.get(path) <= 1.0:
                raise UserError(f"{path} must lie in 0..1, got {self.get(path):g}")
        if not 0 <= self.sh_degree <= 4:
            raise UserError(f"sh_degree must be 0 to 4, got {self.sh_degree}")

    def make_motion(self) -> Any:
        """Returns the motion model; raises `UserError` that names the package when that is not installed."""
        return make_motion(self.motion, self.motion_config, needed=self.needed(MOTIONS, self.motion))

    def get(self, path: str) -> Any:
        """Returns the setting at `path`, such as `densify.grad`; a term that is not named has weight 0."""
        head, _, name = path.partition(".")
        if not name:
            return getattr(self, head)
        part = getattr(self, head)
        if head == "loss" and not hasattr(part, name):
            return part.weights.get(name, 0.0)
        return getattr(part, name)

    def replace(self, settings: Mapping[str, Any] | None = None, **overrides: Any) -> FitConfig:
        """Returns the settings with some changed, by path or by a flat name of schema 1.

        Raises:
            UserError: for an unknown name, or a value of another kind; the message names the setting.
        """
        values = dataclasses.asdict(self)
        for path, value in {**(settings or {}), **overrides}.items():
            _put(values, FLAT_NAMES.get(path, path), value)
        return _made(values)

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON values, with the schema version."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FitConfig:
        """Returns the settings from JSON values of this schema or the one before.

        Raises:
            UserError: for another schema version, unknown settings, or a plugin that is not installed.
        """
        values = dict(values)
        version = values.pop("schema_version", None)
        if version == 1:
            return cls.from_flat(values)
        if version != SCHEMA_VERSION:
            raise UserError(f"expected settings of schema version 1 or {SCHEMA_VERSION}, got {version}; fit anew")
        return _made(values)

    @classmethod
    def from_flat(cls, values: Mapping[str, Any]) -> FitConfig:
        """Returns the settings from the flat names of schema 1, which are read but no longer written."""
        nested: dict[str, Any] = {}
        for name, value in values.items():
            if name not in FLAT_NAMES and name not in {field.name for field in dataclasses.fields(cls)}:
                _put(nested, name, value)
            # The weights of schema 1 were there for every model, whether it had the term or not.
            path = FLAT_NAMES.get(name, name)
            weight = path.removeprefix("loss.") if path.startswith("loss.") and not _is_loss_setting(path) else None
            if weight is None or value != 0 or weight in _weights():
                _put(nested, path, value)
        # They meant nothing where the motion model lacks the term.
        known = make_motion(nested.get("motion", cls.motion), nested.get("motion_config")).terms()
        weights = nested.get("loss", {}).get("weights", {})
        for name in [name for name in weights if name not in TERMS and name not in known]:
            del weights[name]
        return _made(nested)

    def active_terms(self) -> list[str]:
        """Returns the names of the terms that have a weight at some time, in the order in which they are added up."""
        motion = self.make_motion().terms()
        own = [name for name in TERMS.names() if name not in _LAST]
        order = [*own, *motion, *(name for name in _LAST if name in TERMS)]
        return [name for name in order if is_on(self.loss.weights.get(name, 0.0))]

    def needed(self, registry: Registry[Any], name: str) -> dict[str, str] | None:
        """Returns what was recorded about the plugin `name` of a registry."""
        return next((item for item in self.plugins if (item["group"], item["name"]) == (registry.group, name)), None)

    def _origins(self) -> list[dict[str, str]]:
        used: list[tuple[Registry[Any], str]] = [(MOTIONS, self.motion), (STRATEGIES, self.densify.strategy)]
        used += [(TERMS, name) for name in self.loss.weights] + [(FIT_STAGES, name) for name in self.stages]
        found = [registry.origin(name) for registry, name in used]
        return [item for item in found if item]


# The order of schema 1: what concerns the motion of neighbours came after what one motion model has for itself.
_LAST = ("rigidity", "isometry", "smoothness")

_POSITIVE = (
    "max_steps",
    "max_minutes",
    "batch",
    "optim.factor",
    "densify.every",
    "densify.max_gaussians",
    "loss.rigidity_span",
    "loss.smoothness_step",
    "keep.checkpoint_every",
    "keep.checkpoints",
    "keep.log_every",
)

FLAT_NAMES = {
    **{f"init_{name}": f"init.{name}" for name in ("points", "sampled", "instants", "opacity", "scale", "duration")},
    "init_velocities": "init.velocities",
    "ssim_weight": "loss.ssim",
    "alpha_weight": "loss.alpha",
    "opacity_weight": "loss.opacity",
    "opacity_at_time": "loss.opacity_at_time",
    "scale_weight": "loss.scale",
    "anisotropy_limit": "loss.anisotropy_limit",
    "anisotropy_weight": "loss.anisotropy",
    "velocity_weight": "loss.velocity",
    "series_weight": "loss.series",
    "plane_variation_weight": "loss.plane-variation",
    "time_roughness_weight": "loss.time-roughness",
    "time_activity_weight": "loss.time-activity",
    "rigidity_weight": "loss.rigidity",
    "isometry_weight": "loss.isometry",
    "rigidity_neighbours": "loss.rigidity_neighbours",
    "rigidity_span": "loss.rigidity_span",
    "smoothness_weight": "loss.smoothness",
    "smoothness_step": "loss.smoothness_step",
    "coarse": "optim.coarse",
    **{f"lr_{name}": f"optim.{name}" for name in ("means", "scales", "quats", "opacities", "sh0", "shN", "background")},
    "lr_motion_factor": "optim.motion_factor",
    "lr_factor": "optim.factor",
    "sh_start": "optim.sh_start",
    "resolutions": "optim.resolutions",
    "strategy": "densify.strategy",
    "max_gaussians": "densify.max_gaussians",
    **{f"densify_{name}": f"densify.{name}" for name in ("start", "stop", "every", "fraction", "grad")},
    **{name: f"densify.{name}" for name in ("split_scale", "prune_opacity", "prune_scale", "static_after", "noise")},
    "checkpoint_every": "keep.checkpoint_every",
    "keep_checkpoints": "keep.checkpoints",
    "log_every": "keep.log_every",
}
"""The settings of schema 1, which were flat, and where they are now."""


def setting_paths() -> list[str]:
    """Returns every path that `--set` takes, terms aside."""
    return [path for path in known_paths(FitConfig) if path not in ("plugins", "loss.weights")]


def _made(values: dict[str, Any]) -> FitConfig:
    """Returns the settings of nested values, with the name of a setting in the message when one is wrong."""
    return FitConfig(**checked_dataclass(FitConfig, values, ""))


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    """Sets the value at `path` in nested `values`; raises `UserError` for a path that there is not."""
    head, *rest = path.split(".")
    fields = {field.name for field in dataclasses.fields(FitConfig)}
    tables = {"init", "loss", "optim", "densify", "extra", "keep", "motion_config", "normalisation"}
    if head not in fields or head == "plugins" or (rest and head not in tables):
        raise _unknown(path)
    if not rest:
        values[head] = value
        return
    inner = values.setdefault(head, {})
    if head == "loss" and not _is_loss_setting(path):
        # Anything else is the weight of a term.
        weights = inner.setdefault("weights", _weights())
        weights[".".join(rest)] = value
        return
    for name in rest[:-1]:
        inner = inner.setdefault(name, {}) if isinstance(inner, dict) else None
    if not isinstance(inner, dict):
        raise _unknown(path)
    inner[rest[-1]] = value


def _is_loss_setting(path: str) -> bool:
    """Returns whether `loss.NAME` is a setting and not the weight of a term."""
    return path.split(".")[1] in {field.name for field in dataclasses.fields(LossConfig)}


def _unknown(path: str) -> UserError:
    known = ", ".join([*setting_paths(), "loss.TERM"])
    return UserError(f"unknown fit setting {path}; the settings are: {known}")


def _shallow(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


__all__ = [
    "BACKGROUNDS",
    "FLAT_NAMES",
    "DensifyConfig",
    "ExtraConfig",
    "FitConfig",
    "InitConfig",
    "KeepConfig",
    "LossConfig",
    "OptimConfig",
    "setting_paths",
]
