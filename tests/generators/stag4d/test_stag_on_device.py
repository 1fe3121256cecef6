"""STAG4D fits on the pretend accelerator: the parameters of the CPU, to the bit, and few waits of the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pretend_device import count_syncs
from pretend_kernels import PAIRS
from stag_oracle import FRAMES, INPUT, TIMES, toy_input, truth

from gaussian4d.errors import UserError
from generators.cameras import orbit_cameras
from generators.stag4d import Anchors, Interrupted, fit_asset, quick
from generators.stag4d.trainer import StagTrainer

TINY: dict[str, Any] = {
    "max_steps": 30, "max_minutes": None, "init_points": 300, "sizes": ((0.0, 32), (0.3, 48)), "densify_every": 6,
    "sds_every": 5, "sds_views": 2, "log_every": 10, "checkpoint_every": 1000,
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "free-time": {"motion": "free-time", "sds": False},
    "hexplane": {
        "motion": "hexplane",
        "sds": False,
        "motion_config": {"space_resolution": 8, "features": 4, "width": 8, "levels": (1,)},
    },
    "distillation": {"motion": "free-time", "sds": True},
}


class Teacher:
    """Makes a clean picture of a rendering where it lies: the rendering, darker by what it was told."""

    def __init__(self, info: Any) -> None:
        self.info = info
        self.asked: list[torch.device] = []

    def sample_views(self, *args: Any, **settings: Any) -> Any:
        raise AssertionError("the anchors are given")

    def predict_clean(
        self, images: torch.Tensor, cameras: Any, references: torch.Tensor, reference_cameras: Any, *,
        noise_level: float, generator: torch.Generator, **settings: Any,
    ) -> torch.Tensor:  # fmt: skip
        assert images.device == references.device
        self.asked.append(images.device)
        noise = torch.rand(images.shape, generator=generator).to(images.device)
        return (1.0 - 0.1 * noise_level) * images + 0.01 * noise + 0.01 * references.mean()


def parts() -> tuple[torch.Tensor, Anchors, Teacher]:
    frames, prior = toy_input()
    cameras = orbit_cameras(4, elevation=10.0, size=32)
    views = torch.stack([truth(prior.world, cameras, [time] * 4) for time in TIMES])
    return frames, Anchors(views, cameras, list(TIMES)), Teacher(prior.info)


def fitted(out: Path, device: str, **settings: Any) -> dict[str, torch.Tensor]:
    frames, anchors, teacher = parts()
    config = quick(**{**TINY, "device": device, **settings})
    model = fit_asset(frames, TIMES, INPUT, teacher, out, config, anchors=anchors)
    assert {place.type for place in teacher.asked} == ({device} if config.sds else set())
    assert {value.device.type for value in model.params.values()} == {"cpu"}
    return model.params


@pytest.mark.parametrize("kind", KINDS)
def test_an_asset_ends_with_the_parameters_of_the_cpu(pretend: torch.device, tmp_path: Path, kind: str) -> None:
    here, there = (fitted(tmp_path / device, device, **KINDS[kind]) for device in ("cpu", "pretend"))
    assert here.keys() == there.keys() and len(here["means"]) > 100
    for name, value in here.items():
        assert torch.equal(value, there[name]), name


def test_a_stopped_asset_goes_on(pretend: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted(tmp_path / "whole", "cpu", **KINDS["hexplane"])
    after = StagTrainer.after_step
    devices = []

    def stopping(self: StagTrainer, progress: float) -> None:
        after(self, progress)
        devices.append(self.table.params["means"].device)
        self.stop_requested = self.step == 17

    frames, anchors, teacher = parts()
    config = quick(**{**TINY, "device": "pretend", **KINDS["hexplane"]})
    with monkeypatch.context() as patched:
        patched.setattr(StagTrainer, "after_step", stopping)
        with pytest.raises(Interrupted):
            fit_asset(frames, TIMES, INPUT, teacher, tmp_path / "run", config, anchors=anchors)
    model = fit_asset(frames, TIMES, INPUT, teacher, tmp_path / "run", config, anchors=anchors, resume=True)
    assert set(devices) == {pretend}
    assert all(torch.equal(value, model.params[name]) for name, value in whole.items())


@pytest.mark.parametrize("kind", ["free-time", "hexplane"])
def test_a_step_waits_for_the_number_of_instances_of_each_drawing(
    pretend: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    counted: list[list[str]] = []
    take = StagTrainer.take_step

    def counting(self: StagTrainer, progress: float) -> Any:
        with count_syncs() as syncs:
            result = take(self, progress)
        counted.append(syncs.names)
        return result

    monkeypatch.setattr(StagTrainer, "take_step", counting)
    fitted(tmp_path, "pretend", **KINDS[kind], densify_start=0.9, densify_stop=0.95)
    # One drawing of the input's camera, one of the anchors'.
    assert counted[20:] == [[PAIRS] * 2] * (TINY["max_steps"] - 20)


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    frames, anchors, _ = parts()
    assert len(frames) == FRAMES
    config = quick(**{**TINY, "device": "nowhere", "sds": False})
    with pytest.raises(UserError, match="expected a device"):
        fit_asset(frames, TIMES, INPUT, None, tmp_path / "run", config, anchors=anchors)
    assert not (tmp_path / "run").exists()
