"""A motion model of another package: everything takes it, and what needs it says so where it is missing."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from swings_models import swinging_model

from gaussian4d.cli import main
from gaussian4d.errors import UserError
from gaussian4d.io.difference import difference_db
from gaussian4d.io.g4d import load_g4d, save_g4d
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.motion import MOTIONS, FreeTime, MotionModel, make_motion
from gaussian4d.paths import cameras_around
from gaussian4d.plugins import FORMATS, forget_installed
from gaussian4d.rendering import render
from gaussian4d.tracks import track_points

pytestmark = pytest.mark.usefixtures("cpu_backend")


def uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the package away, as if the file had been sent to somebody else."""
    site = Path(sys.modules["swings"].__file__ or "").parent
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(site)])
    forget_installed()


def test_a_file_gives_back_the_model(swinging: DynamicGaussians, swings: ModuleType, tmp_path: Path) -> None:
    model = DynamicGaussians(swinging.params, make_motion("oscillator", {"turns": 0.25}))
    model.save(tmp_path / "a.g4d")
    back = load_model(tmp_path / "a.g4d")
    assert isinstance(back.motion, swings.Oscillator) and back.motion.config == swings.OscillatorConfig(0.25)
    assert torch.equal(back.at(0.7).means, model.at(0.7).means)
    _, manifest = load_g4d(tmp_path / "a.g4d")
    assert manifest["motion"]["origin"]["package"] == "swings" and manifest["motion"]["origin"]["version"] == "1.2"


def test_files_of_our_models_say_nothing_of_packages(tmp_path: Path) -> None:
    swinging_model("static").save(tmp_path / "a.g4d")
    assert load_g4d(tmp_path / "a.g4d")[1]["motion"] == {"name": "static", "config": {}}


def test_a_file_without_its_package_says_which(
    swinging: DynamicGaussians, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    swinging.save(tmp_path / "a.g4d")
    uninstall(monkeypatch)
    needs = "this run needs the motion model 'oscillator' from the package swings 1.2, which is not installed here"
    for command in (
        ["render", str(tmp_path / "a.g4d"), "--out", str(tmp_path / "a.mp4")],
        ["export", str(tmp_path / "a.g4d"), "--to", str(tmp_path / "a.ply")],
        ["convert", str(tmp_path / "a.g4d"), str(tmp_path / "a.ply")],
        ["view", str(tmp_path / "a.g4d")],
    ):
        assert main(command) == 2
        assert needs in capsys.readouterr().err
    assert main(["info", str(tmp_path / "a.g4d")]) == 0
    assert "oscillator, from the package swings 1.2" in capsys.readouterr().out


def test_old_and_strange_files_without_the_package_are_refused(
    swinging: DynamicGaussians, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swinging.save(tmp_path / "a.g4d")
    arrays, manifest = load_g4d(tmp_path / "a.g4d")
    uninstall(monkeypatch)
    for origin in ({}, {"origin": "swings"}, {"origin": {"package": 3}}, {"origin": {"package": "gaussian4d"}}):
        motion = {"name": "oscillator", "config": {}, **origin}
        save_g4d(tmp_path / "b.g4d", dict(arrays), {**manifest, "motion": motion})
        with pytest.raises(UserError, match="'oscillator'"):
            load_model(tmp_path / "b.g4d")


def test_windows_of_it_need_it_too(swinging: DynamicGaussians, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"motion": "oscillator", "motion_configs": [{}, {"turns": 2.0}], "spans": [(0.0, 0.6), (0.4, 1.0)]}
    motion = make_motion("windows", config)
    params = {**swinging.params, "windows": torch.arange(40).remainder(2).float()}
    DynamicGaussians(params, motion).save(tmp_path / "a.g4d")
    assert load_model(tmp_path / "a.g4d").motion.config == motion.config
    uninstall(monkeypatch)
    with pytest.raises(UserError, match=r"'oscillator' from the package swings 1\.2"):
        load_model(tmp_path / "a.g4d")


@pytest.mark.parametrize("name", [name for name, format in FORMATS.working().items() if format.writer])
def test_every_format_takes_it(swinging: DynamicGaussians, tmp_path: Path, name: str) -> None:
    if name == "4dgs":
        pytest.importorskip("fourdgs")
    path = tmp_path / f"a{FORMATS.get(name).endings[0]}"
    swinging.save(path)
    back = load_model(path)
    times = [0.0, 0.25, 0.5] if FORMATS.get(name).moves else [0.0]
    cameras = cameras_around(swinging.at(0.0).means.numpy(), width=64, height=64, count=2)
    # Bytes for colours and cubics for sines cost something; a model that stood still would be at 10 dB.
    assert difference_db(swinging, back, cameras, [(time, time) for time in times]) > 25


@pytest.mark.parametrize("name", ["frames", "a.html", "a.mesh.glb", "a.npz"])
def test_what_else_is_exported(
    swinging: DynamicGaussians, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    swinging.save(tmp_path / "a.g4d")
    options = ["--points", "5", "--mesh-detail", "16"]
    assert main(["export", str(tmp_path / "a.g4d"), "--to", str(tmp_path / name), *options]) == 0
    said = capsys.readouterr().out
    if name == "frames":
        assert len(list((tmp_path / name).iterdir())) == 9
    if name == "a.html":
        loss = re.search(r"loss +([\d.]+) dB", said)
        assert loss and float(loss[1]) > 35


def test_it_is_drawn_and_followed(swinging: DynamicGaussians) -> None:
    camera = cameras_around(swinging.at(0.0).means.numpy(), width=24, height=24)[0]
    buffers = render(swinging, camera, 0.2, ("rgb", "depth", "flow", "velocity", "lifetime"))
    assert buffers.flow is not None and float(buffers.flow.abs().max()) > 0.1
    start = swinging.at(0.0).means[:3]
    ahead = track_points(swinging, start, times=[0.25], neighbours=1, reach=0.01)[0]
    assert np.allclose(ahead, swinging.at(0.25).means[:3], atol=1e-3)


def test_a_model_that_nobody_registered_names_its_module(tmp_path: Path) -> None:
    class Shy(FreeTime):
        name = "shy"

    model = swinging_model("static")
    columns = {name: value for name, value in model.params.items()} | Shy().init(40)
    DynamicGaussians(columns, Shy()).save(tmp_path / "a.g4d")
    with pytest.raises(UserError, match=f"'shy' from the package {__name__}"):
        load_model(tmp_path / "a.g4d")


def test_a_class_must_bear_its_name() -> None:
    with pytest.raises(UserError, match="called 'wing' but its attribute `name` is 'free-time'"):
        MOTIONS.register("wing")(FreeTime)


def test_an_abstract_class_and_a_strange_config_are_refused() -> None:
    class Half(MotionModel):
        name = "half"

    class Strange(FreeTime):
        name = "strange"
        config_type = dict

    with pytest.raises(UserError, match="Half lacks the method at"):
        MOTIONS.register("half")(Half)
    with pytest.raises(UserError, match="config_type must be a dataclass"):
        MOTIONS.register("strange")(Strange)


def test_a_model_without_settings_has_none(plugin: Callable[..., Path]) -> None:
    class Bare(MotionModel):
        name = "bare"

        def at(self, params, time, sh_degree=None):  # type: ignore[override]
            return make_motion("static").at(params, time, sh_degree)

    MOTIONS.register("bare")(Bare)
    try:
        assert make_motion("bare").config_dict() == {}
        with pytest.raises(UserError, match="motion bare has no setting speed; its settings are: none"):
            make_motion("bare", {"speed": 1})
    finally:
        MOTIONS.unregister("bare")
