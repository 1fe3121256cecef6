"""The run folder: where files lie, what they say, and what is said of those that are not what they should be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from gaussian4d import fit
from gaussian4d.errors import UserError
from gaussian4d.fitting.config import FitConfig
from gaussian4d.model import load_model
from gaussian4d.run_folder import RunFolder
from gaussian4d.scene import load_scene


@pytest.mark.usefixtures("cpu_backend")
def test_a_fit_fills_the_folder(ball_scene: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert not run.exists and run.metrics() == [] and run.evaluation() is None
    assert not (tmp_path / "run").exists(), "looking writes nothing"
    scene = load_scene(ball_scene, downscale=2)
    settings = {"motion": "static", "init_points": 100, "init_instants": 2, "checkpoint_every": 5, "log_every": 5}
    result = fit(scene, "quick", run.path, max_steps=10, **settings)
    assert run.exists and result.path == run.path
    for path in (run.config_path, run.log, run.metrics_path, run.model_path, run.report, run.eval / "metrics.json"):
        assert path.is_file() and path.is_relative_to(run.path)
    assert len(list(run.checkpoints.iterdir())) == 2 and not run.windows.exists() and not run.stages.exists()
    assert run.config().max_steps == 10 and run.config().motion == "static"
    assert [line["step"] for line in run.metrics()] == [5, 10]
    assert run.evaluation() == result.metrics
    # The scene as it was loaded, or otherwise.
    assert run.scene_options()["path"] == str(ball_scene) and run.scene_options()["downscale"] == 2
    assert run.scene().frames("train")[0].camera.width == 12
    assert run.scene(downscale=1).frames("train")[0].camera.width == 24
    # The newest of the model and the checkpoints.
    assert all(torch.equal(value, result.model.params[name]) for name, value in run.model().params.items())
    run.model_path.unlink()
    assert run.model(scene).meta["fit"]["steps"] == 10


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    config = FitConfig(max_steps=7).replace({"densify.grad": 2e-4, "loss.rigidity": [[0.0, 0.0], [1.0, 0.1]]})
    scene = {"path": "/data/x", "downscale": 4.0, "frames": "0:9"}
    run.write(config, scene)
    assert run.config() == config and run.scene_options() == scene
    place = {"relative": Path(os.path.relpath("/data/x", tmp_path.resolve())).as_posix()}
    # What is returned is the reader's own.
    run.scene_options()["path"] = "changed"
    assert run.scene_options() == scene
    assert json.loads((tmp_path / "config.json").read_text()) == json.loads(
        json.dumps({"fit": config.to_dict(), "scene": scene, "place": place})
    )
    run.write_values("stag4d", {"seed": 1}, scene)
    assert run.read() == {"stag4d": {"seed": 1}, "scene": scene, "place": place}
    with pytest.raises(UserError, match=r"config\.json is not the settings of a fit; expected the key fit"):
        run.config()


@pytest.mark.parametrize(
    "content", ["[1]", "{}", '{"fit": {}}', '{"fit": {}, "scene": 3}', '{"scene": {"downscale": 2}}']
)
def test_other_files_are_no_run(tmp_path: Path, content: str) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(UserError, match=r"expected .* to be a run folder with a config\.json, found none"):
        run.read()
    run.config_path.write_text(content)
    for read in (run.read, run.config, run.scene_options, run.scene):
        with pytest.raises(UserError, match=r"config\.json is not the settings of a run; expected the key scene"):
            read()


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json"):
        RunFolder(tmp_path).config()


def test_a_line_that_is_half_written_is_left_out(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.metrics_path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert run.metrics() == [{"step": 1}, {"step": 2}]


def test_a_run_without_a_model_says_so(ball_scene: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write(FitConfig(max_steps=1), {"path": str(ball_scene)})
    with pytest.raises(UserError, match="no model and no checkpoint yet"):
        run.model()
    with pytest.raises(UserError):
        load_model(run.path)
