"""Settings: saved as JSON and back, refused when impossible, and what the shared parts are told."""

from __future__ import annotations

import json

import pytest

from gaussian4d.errors import UserError
from gaussian4d.run_folder import RunFolder
from generators.stag4d.config import (
    StagConfig,
    balanced,
    fit_settings,
    load_run_config,
    preset,
    quick,
    save_run_config,
    solid,
)


def test_settings_survive_json(tmp_path):
    config = balanced(seed=3, motion_config={"features": 4}, sds=False)
    run = RunFolder(tmp_path)
    save_run_config(run, config, {"path": "x"})
    assert load_run_config(run) == config
    (tmp_path / "config.json").write_text(json.dumps({"fit": {}, "scene": {"path": "x"}}))
    with pytest.raises(UserError, match=r"config\.json is not the settings of a generated asset"):
        load_run_config(run)


@pytest.mark.parametrize(
    "wrong",
    [
        {"motion": "per-frame"}, {"motion": "no-such"}, {"max_steps": 0}, {"canonical": 1.0}, {"no_such": 1},
        {"sizes": ((0.1, 64),)},
        {"max_steps": None, "max_minutes": None}, {"sds_noise_min": (0.6, 0.6)},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError):
        quick(**wrong)


def test_an_unknown_preset_names_the_known_ones():
    with pytest.raises(UserError, match="quick, balanced"):
        preset("best")


def test_adaptive_densification_takes_a_share_of_any_gradient():
    adaptive, absolute = fit_settings(StagConfig(), 8), fit_settings(StagConfig(adaptive_densification=False), 8)
    assert (adaptive.densify.fraction, adaptive.densify.grad) == (0.025, 0.0)
    assert (absolute.densify.fraction, absolute.densify.grad) == (1.0, 2e-4)


def test_what_begins_near_the_truth_is_fitted_with_care():
    for name in ("quick", "balanced"):
        plain, careful = preset(name), solid(preset(name))
        assert careful.max_steps * 5 <= plain.max_steps and careful.anchor_weight < plain.anchor_weight
        assert fit_settings(careful, 1).densify.stop == 0.0 and careful.sizes == plain.sizes
