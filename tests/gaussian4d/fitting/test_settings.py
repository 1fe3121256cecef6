"""Settings by path: typed values, errors that name the path, command-line and file forms, and runs of schema 1."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gaussian4d.errors import UserError
from gaussian4d.fitting.config import FitConfig, setting_paths
from gaussian4d.fitting.settings import parsed, settings_of_file
from gaussian4d.fitting.weights import is_on, weight_at

# Every setting of schema 1: its name then, its default then, another value, its path now.
SCHEMA_1: list[tuple[str, Any, Any, str]] = [
    ("preset", "balanced", "quick", "preset"),
    ("motion", "free-time", "spacetime", "motion"),
    ("motion_config", {}, {"means_poly": 2}, "motion_config"),
    ("sh_degree", 1, 3, "sh_degree"),
    ("max_steps", None, 123, "max_steps"),
    ("max_minutes", None, 2.5, "max_minutes"),
    ("batch", 1, 4, "batch"),
    ("seed", 0, 7, "seed"),
    ("backend", "auto", "cpu", "backend"),
    ("background", "model", "black", "background"),
    ("init_points", 20_000, 321, "init.points"),
    ("init_sampled", 0.0, 0.25, "init.sampled"),
    ("init_instants", 24, 5, "init.instants"),
    ("init_opacity", 0.3, 0.4, "init.opacity"),
    ("init_scale", 0.6, 0.7, "init.scale"),
    ("init_duration", 1.5, 2.5, "init.duration"),
    ("init_velocities", False, True, "init.velocities"),
    ("normalisation", None, {"centre": [0.0, 1.0, 2.0], "scale": 0.5}, "normalisation"),
    ("near", 0.2, 0.1, "near"),
    ("ssim_weight", 0.2, 0.3, "loss.ssim"),
    ("alpha_weight", 0.1, 0.0, "loss.alpha"),
    ("opacity_weight", 0.01, 0.02, "loss.opacity"),
    ("opacity_at_time", True, False, "loss.opacity_at_time"),
    ("scale_weight", 0.0, 0.03, "loss.scale"),
    ("anisotropy_limit", 8.0, 9.0, "loss.anisotropy_limit"),
    ("anisotropy_weight", 0.05, 0.06, "loss.anisotropy"),
    ("velocity_weight", 0.0, 0.07, "loss.velocity"),
    ("series_weight", 0.0, 0.08, "loss.series"),
    ("plane_variation_weight", 0.0, 0.09, "loss.plane-variation"),
    ("time_roughness_weight", 0.0, 0.11, "loss.time-roughness"),
    ("time_activity_weight", 0.0, 0.12, "loss.time-activity"),
    ("rigidity_weight", 0.0, 0.13, "loss.rigidity"),
    ("isometry_weight", 0.0, 0.14, "loss.isometry"),
    ("rigidity_neighbours", 20, 10, "loss.rigidity_neighbours"),
    ("rigidity_span", 0.1, 0.2, "loss.rigidity_span"),
    ("smoothness_weight", 0.0, 0.15, "loss.smoothness"),
    ("smoothness_step", 0.02, 0.04, "loss.smoothness_step"),
    ("exposure", False, True, "exposure"),
    ("coarse", 0.0, 0.16, "optim.coarse"),
    ("lr_means", [4e-4, 4e-6], [1e-3, 1e-5], "optim.means"),
    ("lr_scales", [5e-3, 1e-3], [2e-3, 2e-5], "optim.scales"),
    ("lr_quats", [1e-3, 2e-4], [3e-3, 3e-5], "optim.quats"),
    ("lr_opacities", [5e-2, 1e-2], [4e-3, 4e-5], "optim.opacities"),
    ("lr_sh0", [5e-3, 5e-4], [6e-3, 6e-5], "optim.sh0"),
    ("lr_shN", [2.5e-4, 2.5e-5], [7e-3, 7e-5], "optim.shN"),
    ("lr_background", [5e-3, 5e-4], [8e-3, 8e-5], "optim.background"),
    ("lr_motion_factor", 1.0, 1.7, "optim.motion_factor"),
    ("lr_factor", 1.0, 0.5, "optim.factor"),
    ("sh_start", 0.2, 0.18, "optim.sh_start"),
    ("resolutions", [[0.0, 2.0], [0.3, 1.0]], [[0.0, 4.0]], "optim.resolutions"),
    ("strategy", "densify", "relocate", "densify.strategy"),
    ("max_gaussians", 40_000, 4321, "densify.max_gaussians"),
    ("densify_start", 0.05, 0.06, "densify.start"),
    ("densify_stop", 0.6, 0.61, "densify.stop"),
    ("densify_every", 50, 51, "densify.every"),
    ("densify_fraction", 0.08, 0.081, "densify.fraction"),
    ("densify_grad", 1.5e-4, 1.6e-4, "densify.grad"),
    ("split_scale", 0.02, 0.021, "densify.split_scale"),
    ("prune_opacity", 0.01, 0.011, "densify.prune_opacity"),
    ("prune_scale", 1.0, 1.1, "densify.prune_scale"),
    ("static_after", None, 2.0, "densify.static_after"),
    ("noise", 0.0, 0.19, "densify.noise"),
    ("checkpoint_every", 500, 501, "keep.checkpoint_every"),
    ("keep_checkpoints", 2, 3, "keep.checkpoints"),
    ("log_every", 50, 52, "keep.log_every"),
]
# What some models had and others ignored.
ONE_MODEL = {
    "motion_config": "dual-domain",
    "velocity_weight": "free-time",
    "series_weight": "dual-domain",
    "plane_variation_weight": "hexplane",
    "time_roughness_weight": "hexplane",
    "time_activity_weight": "hexplane",
}


def schema_1(**changed: Any) -> dict[str, Any]:
    """Returns what config.json of a run of that time holds under `fit`."""
    defaults = {name: default for name, default, _, _ in SCHEMA_1}
    return json.loads(json.dumps({"schema_version": 1, **defaults, "max_steps": 100, **changed}))


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def base() -> FitConfig:
    return FitConfig(max_steps=100)


def test_a_run_of_schema_1_with_its_defaults_has_the_defaults_of_now() -> None:
    assert FitConfig.from_dict(schema_1()) == base()


@pytest.mark.parametrize(("name", "default", "value", "path"), SCHEMA_1, ids=[row[0] for row in SCHEMA_1])
def test_every_setting_of_schema_1_is_read_to_the_same_value(name: str, default: Any, value: Any, path: str) -> None:
    motion = {"motion": ONE_MODEL[name]} if name in ONE_MODEL else {}
    assert value != default
    before = FitConfig.from_dict(schema_1(**motion))
    after = FitConfig.from_dict(schema_1(**{**motion, name: value}))
    assert plain(before.get(path)) == (100 if name == "max_steps" else plain(default))
    assert plain(after.get(path)) == plain(value)
    # That setting has changed, and no other.
    assert after == before.replace({path: value})
    # As a keyword the old name means the same.
    assert base().replace(**motion, **{name: value}) == base().replace({**motion, path: value})


def test_zeros_of_schema_1_are_values_like_others() -> None:
    zeros = {
        name: 0.0 for name in ("ssim_weight", "alpha_weight", "opacity_weight", "anisotropy_weight", "scale_weight")
    }
    config = FitConfig.from_dict(schema_1(**zeros))
    assert config.loss.ssim == 0.0 and config.active_terms() == ["photometric"]


def test_a_weight_of_schema_1_for_another_model_is_read_as_nothing() -> None:
    ignored = {name: 0.5 for name, motion in ONE_MODEL.items() if name.endswith("weight") and motion != "free-time"}
    assert FitConfig.from_dict(schema_1(**ignored)) == base()


def test_other_schemas_are_refused() -> None:
    with pytest.raises(UserError, match="unknown fit setting learning_rate"):
        FitConfig.from_dict(schema_1(learning_rate=1.0))
    for version in (None, 3):
        with pytest.raises(UserError, match=f"schema version 1 or 2, got {version}"):
            FitConfig.from_dict({"schema_version": version, "max_steps": 1})
    # The flat names are those of schema 1.
    with pytest.raises(UserError, match="unknown fit setting densify_grad"):
        FitConfig.from_dict({"schema_version": 2, "max_steps": 1, "densify_grad": 1.0})


def test_settings_survive_json() -> None:
    changed = {
        "motion": "dual-domain",
        "motion_config": {"means_poly": 2},
        "densify.grad": 2e-4,
        "optim.resolutions": ((0.0, 4.0), (0.5, 1.0)),
        "loss.rigidity": ((0.0, 0.0), (0.5, 0.1)),
        "loss.settings": {"opacity": {"power": 2}},
        "extra.frames": "/data/more",
        "stages": [],
    }
    config = base().replace(changed)
    again = FitConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config and again != base() and again.to_dict()["schema_version"] == 2
    for path, value in changed.items():
        assert again.get(path) == value, path


def test_changes_leave_the_original_alone() -> None:
    config = base()
    other = config.replace({"loss.rigidity": 0.1, "densify.grad": 1.0, "loss.settings.scale.power": 2})
    assert config == base() and config.get("loss.rigidity") == 0.0 and config.loss.settings == {}
    assert other.loss.settings == {"scale": {"power": 2}} and other.densify.grad == 1.0
    assert other.get("loss.rigidity") == 0.1 and other.loss.weights["photometric"] == 1.0


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("densify.grad", "high", r"densify\.grad: expected a number, got 'high'"),
        ("densify.grad", True, r"densify\.grad: expected a number, got True"),
        ("densify.grad", float("nan"), r"densify\.grad: expected a number, got NaN"),
        ("keep.log_every", 1.5, r"keep\.log_every: expected a whole number, got 1\.5"),
        ("keep.log_every", None, r"keep\.log_every: expected a whole number, got None"),
        ("keep.log_every", 0, r"keep\.log_every must be positive, got 0"),
        ("max_steps", "many", r"max_steps: expected a whole number, got 'many'"),
        ("exposure", 1, r"exposure: expected true or false, got 1"),
        ("motion", 3, r"motion: expected a word, got 3"),
        ("optim.means", [1e-3], r"optim\.means: expected 2 values, got \[0\.001\]"),
        ("optim.means", 1e-3, r"optim\.means: expected a list, got 0\.001"),
        ("optim.resolutions", [[0, 2], [0.5, "x"]], r"optim\.resolutions: expected a number, got 'x'"),
        ("densify", 3, r"densify: expected a table of settings, got 3"),
        ("densify", {"gard": 1.0}, r"unknown fit setting densify\.gard; the settings are: .*densify\.grad"),
        ("densify.gard", 1.0, r"unknown fit setting densify\.gard; the settings are: .*densify\.grad"),
        ("densify.grad.more", 1.0, r"unknown fit setting densify\.grad\.more; the settings are: .*densify\.grad"),
        ("normalisation.scale", 1.0, r"unknown fit setting normalisation\.scale"),
        ("motion.speed", 1.0, r"unknown fit setting motion\.speed"),
        ("plugins", [], r"unknown fit setting plugins"),
        ("lr_mean", 1.0, r"unknown fit setting lr_mean; the settings are: .*optim\.means.*loss\.TERM"),
        ("stages", "repair", r"stages: expected a list, got 'repair'"),
        ("loss.settings", {"opacity": 1}, r"loss\.settings\.opacity: expected a table, got 1"),
        ("loss.ssim", 1.5, r"loss\.ssim must lie in 0\.\.1, got 1\.5"),
        ("extra.share", -0.5, r"extra\.share must lie in 0\.\.1, got -0\.5"),
        ("densify.strategy", "grow", r"expected a strategy out of densify, relocate, none.*got 'grow'"),
        ("loss.rigidty", 0.1, r"loss\.rigidty: expected a term out of photometric.*rigidity.*velocity.*got 'rigidty'"),
        ("loss.rigidity", "strong", r"loss\.rigidity: expected a weight, or .*pairs.*got 'strong'"),
        ("loss.rigidity", True, r"loss\.rigidity: expected a weight, or .*pairs.*got True"),
        ("loss.rigidity", float("inf"), r"loss\.rigidity: expected a finite weight, got inf"),
        ("loss.rigidity", [], r"loss\.rigidity: expected a weight, or .*pairs.*got"),
        ("loss.rigidity", [[0.5, 0.0], [0.2, 1.0]], r"loss\.rigidity: .*ascending"),
        ("loss.rigidity", [[0.0, 0.0], [1.5, 1.0]], r"loss\.rigidity: .*ascending progress in 0\.\.1"),
        ("loss.rigidity", [[0.0, 0.0], [0.5, float("nan")]], r"loss\.rigidity: expected a weight"),
        ("loss.rigidity", [[0.0, 0.0, 1.0]], r"loss\.rigidity: expected a weight"),
    ],
)
def test_what_cannot_be_is_refused_by_path(path: str, value: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        base().replace({path: value})


def test_numbers_become_the_kind_that_is_meant() -> None:
    config = base().replace({"densify.grad": 1, "keep.log_every": 3.0, "optim.means": [1, 0], "loss.rigidity": 1})
    assert config.densify.grad == 1.0 and isinstance(config.densify.grad, float)
    assert config.keep.log_every == 3 and isinstance(config.keep.log_every, int)
    assert config.optim.means == (1.0, 0.0) and isinstance(config.loss.weights["rigidity"], float)
    assert base().replace({"max_minutes": 2, "max_steps": None}).max_minutes == 2.0


def test_paths_name_every_setting() -> None:
    paths = setting_paths()
    assert {"max_steps", "densify.grad", "loss.ssim", "extra.frames", "keep.log_every"} <= set(paths)
    assert "plugins" not in paths and "loss.weights" not in paths
    for path in paths:
        assert base().replace({path: base().get(path)}) == base(), path


def test_a_weight_follows_its_schedule() -> None:
    config = base().replace({"loss.rigidity": [[0.2, 0], [0.6, 0.4], [0.8, 0.1]], "loss.isometry": [[0.5, 0.0]]})
    weight = config.loss.weights["rigidity"]
    assert weight == ((0.2, 0.0), (0.6, 0.4), (0.8, 0.1))
    for progress, value in ((0.0, 0.0), (0.2, 0.0), (0.4, 0.2), (0.6, 0.4), (0.7, 0.25), (0.8, 0.1), (1.0, 0.1)):
        assert weight_at(weight, progress) == pytest.approx(value)
    assert weight_at(0.3, 0.0) == weight_at(0.3, 1.0) == 0.3
    assert is_on(weight) and is_on(-1.0) and not is_on(0.0) and not is_on(config.loss.weights["isometry"])
    active = config.active_terms()
    assert "rigidity" in active and "isometry" not in active


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("densify.grad=2e-4", "densify.grad", 2e-4),
        (" max_steps = 500", "max_steps", 500),
        ("motion=static", "motion", "static"),
        ('motion="static"', "motion", "static"),
        ("exposure=true", "exposure", True),
        ("max_minutes=none", "max_minutes", None),
        ("max_minutes=null", "max_minutes", None),
        ("loss.rigidity=[[0, 0], [0.5, 0.1]]", "loss.rigidity", [[0, 0], [0.5, 0.1]]),
        ('motion_config={"warm_start": true}', "motion_config", {"warm_start": True}),
        ("extra.frames=a=b", "extra.frames", "a=b"),
        ("extra.frames=", "extra.frames", ""),
    ],
)
def test_a_setting_on_the_command_line(text: str, path: str, value: Any) -> None:
    assert parsed(text) == (path, value)


@pytest.mark.parametrize("text", ["densify.grad", "=3", " =3", ""])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="expected a setting as PATH=VALUE"):
        parsed(text)


def test_settings_of_a_file_are_tables_or_paths_or_a_run(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"

    def read(values: Any) -> dict[str, Any]:
        file.write_text(json.dumps(values))
        return settings_of_file(file)

    wanted = {"densify.grad": 2e-4, "densify.every": 7, "motion": "hexplane", "motion_config": {"features": 4}}
    weights = {"loss.rigidity": 0.1, "loss.scale": [[0, 1], [1, 0]], "loss.ssim": 0.5}
    nested = {
        "densify": {"grad": 2e-4, "every": 7},
        "motion": "hexplane",
        "motion_config": {"features": 4},
        "loss": {"weights": {"rigidity": 0.1, "scale": [[0, 1], [1, 0]]}, "ssim": 0.5},
    }
    assert read({**wanted, **weights}) == read(nested) == {**wanted, **weights}
    assert read({"loss.weights": {"rigidity": 0.1}}) == {"loss.rigidity": 0.1}
    config = base().replace({**wanted, **weights, "loss.settings.opacity.power": 2})
    given = read({"fit": config.to_dict(), "scene": {"path": "x"}})
    assert base().replace(given) == config and "schema_version" not in given
    old = read({"fit": schema_1(densify_grad=2e-4, opacity_weight=0.5), "scene": {"path": "x"}})
    assert base().replace(old) == base().replace({"densify.grad": 2e-4, "loss.opacity": 0.5}).replace(
        {path: 0.0 for name, default, _, path in SCHEMA_1 if name.endswith("_weight") and default == 0.0}
    )
    with pytest.raises(UserError, match=r"settings\.json: expected a table of settings"):
        read([1])
    file.write_text("{")
    with pytest.raises(UserError, match=r"settings\.json"):
        settings_of_file(file)
