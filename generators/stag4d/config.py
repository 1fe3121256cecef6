"""Every setting of a STAG4D fit, as one dataclass that is saved with the run; presets are functions that return one."""

from __future__ import annotations

import dataclasses
from typing import Any

from gaussian4d.errors import UserError
from gaussian4d.fitting.config import DensifyConfig, FitConfig, InitConfig, KeepConfig, LossConfig, OptimConfig
from gaussian4d.fitting.weights import Weight
from gaussian4d.plugins import MOTIONS
from gaussian4d.run_folder import RunFolder

SCHEMA_VERSION = 1
RIGID = "rigid-parts"


@dataclasses.dataclass(frozen=True)
class StagConfig:
    """Settings of a fit to an input video, views of a prior, and what the prior says about renderings.

    Lengths are in the frame of `generators.cameras`: the object lies in the unit sphere. `progress` runs from 0 to 1
    over the fit: the larger of the step over `max_steps` and the time over `max_minutes`.
    """

    preset: str = "quick"
    motion: str = "free-time"
    """`free-time`: Gaussians of every instant that come and go; `hexplane`: those of one instant, moved (published);
    `rigid-parts`: those of the clip's start, carried by pieces whose motion is known before the fit; any other model
    that a fit can have, but for `per-frame`: from one instant, or from all where its Gaussians come and go."""
    motion_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Settings of the motion model that differ from `fit_settings`'s choice."""
    max_steps: int | None = 1500
    max_minutes: float | None = None
    """Minutes of fitting. When the time ends the fit and not the steps, two runs differ."""
    seed: int = 0
    device: str = "auto"
    backend: str = "auto"

    # The parts of the method.
    anchors: bool = True
    """Views that the prior makes of every instant are matched."""
    fusion: bool = True
    """Those views share the attention of the first instant (see `generators.priors.base.Fusion`)."""
    sds: bool = True
    """Renderings are pulled towards what the prior makes of them: score distillation."""
    adaptive_densification: bool = True
    """The Gaussians with the largest gradients are refined, whatever their size; else those above a fixed one."""

    # Anchors.
    anchor_views: int = 8
    anchor_elevation: float = 15.0
    """Degrees above the horizon."""

    # Where it starts.
    init_points: int = 3000
    init_radius: float = 0.5
    """Radius of the sphere of random points where no outlines can be carved."""
    canonical: float = 0.15
    """Progress until which the instant in the middle is fitted alone, at rest (published: 700 of 8000 steps)."""
    init_instants: int = 8
    """Instants at which a model whose Gaussians appear and vanish (free-time) looks for points."""

    # What is minimised.
    sizes: tuple[tuple[float, int], ...] = ((0.0, 64), (0.3, 128))
    """(progress, longest side in pixels) of the input's pictures; never larger than the input."""
    reference_weight: float = 1.0
    anchor_weight: float = 0.5
    anchors_per_step: int = 2
    anchor_angles: tuple[float, float] = (20.0, 70.0)
    """Anchors less than the first angle (degrees) from the input camera are left out, beyond the second they count in
    full: what the input shows well a blurred view must not repaint."""
    ssim_weight: float = 0.2
    alpha_weight: float = 0.5
    sds_weight: float = 0.5
    sds_every: int = 10
    """Steps from one score distillation to the next; the prior takes longer than a step without it."""
    sds_views: int = 4
    sds_start: float = 0.2
    """Progress from which on renderings are good enough to be judged."""
    sds_elevations: tuple[float, float] = (-5.0, 40.0)
    sds_noise_max: tuple[float, float] = (0.95, 0.5)
    """Upper end of the noise levels at the start and at the end of the annealing."""
    sds_noise_min: tuple[float, float] = (0.5, 0.02)
    sds_anneal: float = 0.4
    """Progress over which the range is annealed (published: 3000 of 8000 steps)."""
    sds_guidance: float | None = None
    """Classifier-free guidance of the teacher; None takes the prior's own."""
    sds_anchor_chance: float = 0.4
    """How often the teacher is shown one of the instant's anchors beside the input (published: 40 %)."""
    anisotropy_weight: float = 0.01
    anisotropy_limit: float = 7.5
    opacity_weight: float = 0.01
    plane_variation_weight: float = 2e-4
    time_roughness_weight: float = 1e-3
    time_activity_weight: float = 1e-4

    # How the steps are taken.
    lr_means: tuple[float, float] = (2e-3, 2e-5)
    lr_scales: tuple[float, float] = (1e-2, 2e-3)
    lr_quats: tuple[float, float] = (2e-3, 4e-4)
    lr_opacities: tuple[float, float] = (5e-2, 1e-2)
    lr_sh0: tuple[float, float] = (1e-2, 1e-3)
    lr_motion_factor: float = 1.0

    # How the number of Gaussians changes.
    max_gaussians: int = 8000
    densify_start: float = 0.1
    densify_stop: float = 0.75
    densify_every: int = 50
    densify_share: float = 0.025
    """Share that is refined each time with `adaptive_densification` (published: the top 2.5 %)."""
    densify_grad: float = 2e-4
    """Mean gradient above which a Gaussian is refined without it, in half picture sizes (published: 2e-4)."""
    split_scale: float = 0.03

    # What is kept.
    checkpoint_every: int = 500
    keep_checkpoints: int = 2
    log_every: int = 25

    def __post_init__(self) -> None:
        known = [*(name for name in MOTIONS.choices() if name != "per-frame"), RIGID]
        if self.motion not in known:
            raise UserError(f"expected a motion out of {', '.join(known)}, got {self.motion!r}")
        if self.max_steps is None and self.max_minutes is None:
            raise UserError("a fit must end: set max_steps, max_minutes or both")
        for name in (
            "max_steps", "max_minutes", "anchor_views", "init_points", "init_radius", "anchors_per_step", "sds_every",
            "sds_views", "max_gaussians", "densify_every", "checkpoint_every", "keep_checkpoints", "log_every",
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} must be positive, got {value}")
        if not 0.0 <= self.canonical < 1.0:
            raise UserError(f"canonical is a part of the fit, 0 up to but not including 1, got {self.canonical}")
        if not self.sizes or self.sizes[0][0] != 0.0 or min(size for _, size in self.sizes) < 8:
            raise UserError(f"sizes are (progress, pixels) pairs from progress 0, at least 8 pixels; got {self.sizes}")
        for name in ("sds_noise_max", "sds_noise_min"):
            if not all(0.0 < level <= 1.0 for level in getattr(self, name)):
                raise UserError(f"{name} must be shares of the noise above 0 and up to 1, got {getattr(self, name)}")
        if any(low > high for low, high in zip(self.sds_noise_min, self.sds_noise_max)):
            raise UserError(f"sds_noise_min {self.sds_noise_min} must not exceed sds_noise_max {self.sds_noise_max}")

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON values, with the schema version."""
        return {"schema_version": SCHEMA_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StagConfig:
        """Returns the settings from JSON values; raises `UserError` for another schema version or unknown settings."""
        values = dict(values)
        version = values.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise UserError(f"expected settings of schema version {SCHEMA_VERSION}, got {version}; fit anew")
        return cls(**_checked(values))

    def replace(self, **overrides: Any) -> StagConfig:
        """Returns the settings with some changed; raises `UserError` for an unknown name."""
        return dataclasses.replace(self, **_checked(overrides))


def quick(**overrides: Any) -> StagConfig:
    """Returns the preset for a look: at most 90 s on two CPU cores."""
    return StagConfig(preset="quick", max_steps=1500, max_minutes=1.5).replace(**overrides)


def balanced(**overrides: Any) -> StagConfig:
    """Returns the preset for a result to keep: about 6 minutes on two CPU cores."""
    config = StagConfig(
        preset="balanced",
        max_steps=5000,
        max_minutes=6.0,
        init_points=5000,
        init_instants=16,
        max_gaussians=15000,
        sizes=((0.0, 64), (0.15, 128), (0.6, 256)),
    )
    return config.replace(**overrides)


def solid(config: StagConfig) -> StagConfig:
    """Returns a preset's settings for one object at rest that begins as a reconstructor's Gaussians.

    These are near the truth already: a longer fit, larger steps or more Gaussians learn the errors of the views.
    """
    return config.replace(
        max_steps=600 if config.preset == "balanced" else 200,
        anchor_weight=0.25,
        lr_means=(1e-3, 2e-5),
        densify_stop=0.0,
    )


PRESETS = {"quick": quick, "balanced": balanced}


def preset(name: str, **overrides: Any) -> StagConfig:
    """Returns the preset `name` with some settings changed; raises `UserError` for an unknown name."""
    if name not in PRESETS:
        raise UserError(f"expected a preset out of {', '.join(PRESETS)}, got {name!r}")
    return PRESETS[name](**overrides)


def fit_settings(config: StagConfig, frames: int) -> FitConfig:
    """Returns the settings of the loop: start, refinement, rates, and the terms that any fit has.

    The top share of all gradients is what their growth limit chooses when their threshold is zero.
    """
    adaptive = config.adaptive_densification
    motion_config = dict(config.motion_config)
    if config.motion == "hexplane":
        defaults = {"space_resolution": 32, "time_resolution": max(frames // 2, 3), "levels": (1, 2)}
        motion_config = {**defaults, **motion_config}
    weights: dict[str, Weight] = {"opacity": config.opacity_weight}
    if config.motion == "hexplane":
        weights |= {
            "plane-variation": config.plane_variation_weight,
            "time-roughness": config.time_roughness_weight,
            "time-activity": config.time_activity_weight,
        }
    return FitConfig(
        preset=config.preset,
        # What moves by itself is at rest for the fit.
        motion="static" if config.motion == RIGID else config.motion,
        motion_config=motion_config,
        sh_degree=0,
        max_steps=config.max_steps,
        max_minutes=config.max_minutes,
        seed=config.seed,
        device=config.device,
        backend=config.backend,
        background="random",
        init=InitConfig(points=config.init_points),
        loss=LossConfig(weights=weights),
        optim=OptimConfig(
            means=config.lr_means,
            scales=config.lr_scales,
            quats=config.lr_quats,
            opacities=config.lr_opacities,
            sh0=config.lr_sh0,
            shN=(0.0, 0.0),
            motion_factor=config.lr_motion_factor,
        ),
        densify=DensifyConfig(
            max_gaussians=config.max_gaussians,
            start=config.densify_start,
            stop=config.densify_stop,
            every=config.densify_every,
            fraction=config.densify_share if adaptive else 1.0,
            grad=0.0 if adaptive else config.densify_grad,
            split_scale=config.split_scale,
        ),
        keep=KeepConfig(config.checkpoint_every, config.keep_checkpoints, config.log_every),
    )


def save_run_config(run: RunFolder, config: StagConfig, scene: dict[str, Any]) -> None:
    """Writes the settings of a run, and how the scene with the input and the anchors is loaded."""
    run.write_values("stag4d", config.to_dict(), scene)


def load_run_config(run: RunFolder) -> StagConfig:
    """Returns the settings of a run; raises `UserError` when it is not the one of a generated asset."""
    values = run.read().get("stag4d")
    if not isinstance(values, dict):
        raise UserError(f"{run.config_path} is not the settings of a generated asset; expected the key stag4d")
    return StagConfig.from_dict(values)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(StagConfig)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(f"unknown setting {', '.join(unknown)}; the settings are: {', '.join(sorted(known))}")
    return {name: _tuples(value) for name, value in values.items()}


def _tuples(value: Any) -> Any:
    """Returns JSON lists as tuples, so that a saved and loaded config equals its source."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
