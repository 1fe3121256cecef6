"""Every setting of a fit, as one dataclass that is saved with the run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json, write_json
from ..motion import MOTIONS, make_motion

SCHEMA_VERSION = 1
BACKGROUNDS = ("white", "black", "random", "model")


@dataclasses.dataclass
class FitConfig:
    """Settings of a fit. Lengths are in the normalised scene, whose cameras stand about 1 from the centre.

    `progress` runs from 0 to 1 over the fit: the larger of the step over `max_steps` and the time over `max_minutes`.
    """

    # What is fitted, and for how long.
    preset: str = "balanced"
    motion: str = "free-time"
    motion_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    sh_degree: int = 1
    max_steps: int | None = None
    max_minutes: float | None = None
    """Minutes of fitting; loading counts, evaluation does not. With this set a run is not repeatable."""
    batch: int = 1
    """Pictures per step, over all processes (see `parallel`); the loss is their mean."""
    seed: int = 0
    backend: str = "auto"
    background: str = "model"
    """white, black, random (a new colour every step; needs alpha), model (one colour, fitted)."""

    # Where it starts.
    init_points: int = 20_000
    """Gaussians at the start, at most."""
    init_sampled: float = 0.0
    """Share of the static start that is sampled in space; the rest is found by comparing pictures."""
    init_instants: int = 24
    """Instants at which moving points are looked for."""
    init_opacity: float = 0.3
    init_scale: float = 0.6
    """First scale over the distance to the nearest neighbours."""
    init_duration: float = 1.5
    """First duration of a point found at one instant, in distances between the instants looked at."""
    init_velocities: bool = False
    """Whether points found at instants start with the velocity of their neighbours towards the nearest points of the
    instants before and after (free-time and spacetime; FreeTimeGS)."""

    normalisation: dict[str, Any] | None = None
    """Centre and scale of the fit's frame (see `normalise`); None: from the training cameras. Windows of one clip share
    theirs."""
    near: float = 0.2
    """Nothing nearer to a camera than this is drawn, as a fraction of the nearest camera's distance to the centre.

    Gaussians right before a lens fit one picture and hide everything from the camera next to it."""

    # What is minimised.
    ssim_weight: float = 0.2
    alpha_weight: float = 0.1
    """Weight of the mean difference between rendered and given alpha; scenes without alpha ignore it."""
    opacity_weight: float = 0.01
    """Weight of the mean opacity, so that needless Gaussians fade and are pruned."""
    opacity_at_time: bool = True
    """Whether that mean counts each Gaussian as far as it is there at the time drawn (FreeTimeGS's 4D regularisation),
    not always in full."""
    scale_weight: float = 0.0
    """Weight of the mean scale."""
    anisotropy_limit: float = 8.0
    anisotropy_weight: float = 0.05
    """Pulls the longest axis below `anisotropy_limit` times the middle one, against needles."""
    velocity_weight: float = 0.0
    """Weight of the mean speed (free-time), in units per clip."""
    series_weight: float = 0.0
    """Weight of the mean size of the moving coefficients (dual-domain)."""
    plane_variation_weight: float = 0.0
    """Weight of the total variation of the space planes (hexplane)."""
    time_roughness_weight: float = 0.0
    """Weight of the second differences of the time planes (hexplane)."""
    time_activity_weight: float = 0.0
    """Weight of the distance of the time planes from rest (hexplane)."""
    rigidity_weight: float = 0.0
    """Weight of how far neighbours are from moving as one rigid body (see `coherence`).

    Neither this nor the next two made a short fit better on pictures held out (docs/motion.md), so presets leave them.
    """
    isometry_weight: float = 0.0
    """Weight of the change of the distance between neighbours (see `coherence`)."""
    rigidity_neighbours: int = 20
    """Gaussians per patch of neighbours (Dynamic 3D Gaussians and Gaussian-Flow: 20)."""
    rigidity_span: float = 0.1
    """Clips, at most, between the two times at which a patch is compared."""
    smoothness_weight: float = 0.0
    """Weight of the mean acceleration, in units per squared clip (see `coherence`)."""
    smoothness_step: float = 0.02
    """Clips between the instants whose second difference is the acceleration."""
    exposure: bool = False
    """Fits a gain and an offset per training camera; unseen cameras get none."""

    # How the steps are taken.
    coarse: float = 0.0
    """Progress until which the Gaussians are fitted without their motion (4DGaussians: 3000 of 17000 steps)."""
    lr_means: tuple[float, float] = (4e-4, 4e-6)
    lr_scales: tuple[float, float] = (5e-3, 1e-3)
    lr_quats: tuple[float, float] = (1e-3, 2e-4)
    lr_opacities: tuple[float, float] = (5e-2, 1e-2)
    lr_sh0: tuple[float, float] = (5e-3, 5e-4)
    lr_shN: tuple[float, float] = (2.5e-4, 2.5e-5)
    lr_background: tuple[float, float] = (5e-3, 5e-4)
    lr_motion_factor: float = 1.0
    """Factor on the motion model's own learning rates."""
    lr_factor: float = 1.0
    """Factor on the learning rates of all Gaussians' parameters; a fit that diverged goes on with half of it."""
    sh_start: float = 0.2
    """Progress at which the first degree of view dependence is switched on; the others follow at equal steps."""
    resolutions: tuple[tuple[float, float], ...] = ((0.0, 2.0), (0.3, 1.0))
    """(progress, downscale) pairs: from that progress on, pictures are this much smaller."""

    # How the number of Gaussians changes.
    strategy: str = "densify"
    """densify (clone, split, prune) or relocate (dead Gaussians move to where detail is needed, noise explores).

    Relocation was found no better in short fits (docs/motion.md)."""
    max_gaussians: int = 40_000
    densify_start: float = 0.05
    densify_stop: float = 0.6
    densify_every: int = 50
    densify_fraction: float = 0.08
    """Largest growth per densification, as a fraction of the Gaussians there are."""
    densify_grad: float = 1.5e-4
    """Mean gradient of the projected position, in half picture sizes, above which a Gaussian is refined."""
    split_scale: float = 0.02
    """Gaussians longer than this split, shorter ones are cloned."""
    prune_opacity: float = 0.01
    prune_scale: float = 1.0
    static_after: float | None = None
    """Gaussians whose temporal opacity has a standard deviation of more clips than this stop for good and are always
    there (free-time and spacetime); looked at whenever Gaussians are refined. None: never.

    Oh et al., "Hybrid 3D-4D Gaussian Splatting for Fast Dynamic Scene Representation", 2025."""
    noise: float = 0.0
    """Strength of the exploring noise of `relocate`, in mean learning rates."""

    # What is kept.
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 50

    def __post_init__(self) -> None:
        if self.motion not in MOTIONS:
            raise UserError(f"expected a motion model out of {', '.join(MOTIONS)}, got {self.motion!r}")
        motion = make_motion(self.motion, self.motion_config)
        if self.static_after is not None and not (self.static_after > 0 and motion.can_freeze):
            raise UserError(
                "static_after must be a positive number of clips and the motion free-time or spacetime, got"
                f" {self.static_after} with {self.motion}; leave static_after out"
            )
        if self.init_velocities and not motion.can_start_moving:
            raise UserError(
                f"init_velocities is for the motion free-time or spacetime, got {self.motion}; leave it out"
            )
        if not 0.0 <= self.coarse < 1.0:
            raise UserError(f"coarse is a part of the fit, 0 up to but not including 1, got {self.coarse}")
        if self.background not in BACKGROUNDS:
            raise UserError(f"expected a background out of {', '.join(BACKGROUNDS)}, got {self.background!r}")
        if self.strategy not in ("densify", "relocate"):
            raise UserError(f"expected the strategy densify or relocate, got {self.strategy!r}")
        if self.max_steps is None and self.max_minutes is None:
            raise UserError("a fit must end: set max_steps, max_minutes or both")
        for name in (
            "max_steps",
            "max_minutes",
            "lr_factor",
            "batch",
            "densify_every",
            "checkpoint_every",
            "log_every",
            "keep_checkpoints",
        ):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} must be positive, got {value}")
        if self.rigidity_neighbours < 2 or self.rigidity_span <= 0 or self.smoothness_step <= 0:
            raise UserError(
                "rigidity_neighbours must be at least 2, rigidity_span and smoothness_step positive, got"
                f" {self.rigidity_neighbours}, {self.rigidity_span} and {self.smoothness_step}"
            )
        if not 0 <= self.sh_degree <= 4:
            raise UserError(f"sh_degree must be 0 to 4, got {self.sh_degree}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON values, with the schema version."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FitConfig:
        """Returns the settings from JSON values; raises `UserError` for another schema version or unknown settings."""
        values = dict(values)
        version = values.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise UserError(f"expected settings of schema version {SCHEMA_VERSION}, got {version}; fit the scene anew")
        return cls(**_checked(cls, values))

    def replace(self, **overrides: Any) -> FitConfig:
        """Returns the settings with some changed; raises `UserError` for an unknown name."""
        return dataclasses.replace(self, **_checked(type(self), overrides))


def save_run_config(path: Path, config: FitConfig, scene: dict[str, Any]) -> None:
    """Writes RUN/config.json: the settings and how the scene was loaded."""
    write_json(path, {"fit": config.to_dict(), "scene": scene})


def load_run_config(path: Path) -> tuple[FitConfig, dict[str, Any]]:
    """Returns the settings and the scene's loading options from RUN/config.json."""
    values = read_json(path)
    if not isinstance(values, dict) or not {"fit", "scene"} <= set(values):
        raise UserError(f"{path} is not the config.json of a fit; expected the keys fit and scene")
    return FitConfig.from_dict(values["fit"]), values["scene"]


def load_scene_options(path: Path) -> dict[str, Any]:
    """Returns the scene's loading options from RUN/config.json, whatever made the run: a fit or a generator."""
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("scene"), dict) or "path" not in values["scene"]:
        raise UserError(f"{path} is not the config.json of a run; expected the key scene with a path")
    return dict(values["scene"])


def _checked(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(f"unknown fit setting {', '.join(unknown)}; the settings are: {', '.join(sorted(known))}")
    return {name: _tuples(value) for name, value in values.items()}


def _tuples(value: Any) -> Any:
    """Returns JSON lists as tuples, so that a saved and loaded config equals its source."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
