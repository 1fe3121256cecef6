"""The pieces of the pipeline on their own: kept stages, timing of a sampler, texture brought back, folder names."""

from __future__ import annotations

import types
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussian4d.model import DynamicGaussians
from generators import stag4d
from generators.cameras import FRAMED_RADIUS
from generators.models.pieces import Moves
from generators.pipeline import estimate, parts, results
from generators.pipeline.detail import sharpened
from generators.pipeline.estimate import sampling_seconds, spoken
from generators.pipeline.run import folder_names
from generators.pipeline.stages import Stages
from generators.stag4d.rigid import moved_params, rigid_motion


def test_a_stage_follows_what_it_was_made_from(tmp_path: Path) -> None:
    made: list[str] = []

    def compute(folder: Path) -> str:
        made.append(folder.name)
        (folder / "value").write_text("x")
        return "x"

    def go(first: int, second: int) -> None:
        stages = Stages(tmp_path, lambda line: None)
        stages.plan("a", first)
        stages.plan("b", second, ["a"])
        for name in "ab":
            assert stages.run(name, compute, lambda folder: (folder / "value").read_text()) == "x"

    for settings in ((1, 1), (1, 1), (1, 2), (2, 2)):
        go(*settings)
    assert made == ["a", "b", "b", "a", "b"]


def test_an_interrupted_stage_keeps_what_it_has_and_another_is_emptied(tmp_path: Path) -> None:
    stages = Stages(tmp_path, lambda line: None)
    stages.plan("a", 1)

    def half(folder: Path) -> None:
        (folder / "part").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.run("a", half, lambda folder: None)
    assert stages.begun("a") and not stages.kept("a")
    stages.run("a", lambda folder: (folder / "part").stat(), lambda folder: pytest.fail("it is not done"))
    assert stages.kept("a")
    stages.plan("a", 2)
    assert not stages.kept("a")
    stages.run("a", lambda folder: [path.name for path in folder.iterdir()], lambda folder: None)
    assert not (tmp_path / "stages/a/part").exists()


def test_a_sampler_is_timed_by_its_second_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(estimate, "time", types.SimpleNamespace(monotonic=lambda: now))
    steps = []

    def sample(note: object, count: int = 10) -> None:
        nonlocal now
        for step in range(count):
            now += 5.0 if step == 0 else 0.25
            steps.append(step)
            note(step + 1, count)  # type: ignore[operator]

    assert sampling_seconds(sample) == 2.5 and steps == [0, 1]
    assert sampling_seconds(lambda note: sample(note, 1)) == 5.0


def test_lengths_of_time() -> None:
    assert [spoken(value) for value in (0.2, 61, 200, 1200, 9000)] == ["1 s", "61 s", "3.3 min", "20 min", "2.5 h"]


def test_texture_returns_where_nothing_moved() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.ones(4, 64, 64)
    picture[:3] = torch.rand(3, 64, 64, generator=generator)
    small = torch.nn.functional.interpolate(picture[None], (16, 16), mode="area")
    video = small.repeat(3, 1, 1, 1)
    video[2, :3, :, 8:] = 1.0 - video[2, :3, :, 8:]
    frames = sharpened(video, picture)
    assert frames.shape == (3, 4, 64, 64)
    torch.testing.assert_close(frames[0], picture)
    torch.testing.assert_close(frames[1], picture, atol=1e-5, rtol=0)
    still, moved = slice(0, 28), slice(40, 64)
    torch.testing.assert_close(frames[2, :, :, still], picture[:, :, still], atol=1e-5, rtol=0)
    assert (frames[2, :3, :, moved] - picture[:3, :, moved]).abs().mean() > 0.1
    assert sharpened(video, torch.ones(4, 256, 256)).shape[-1] == 64


def test_folder_names_are_plain_and_different() -> None:
    assert folder_names(["a cat!", "a cat?", "../x", "***"]) == ["a_cat", "a_cat_2", "x", "input"]


def test_the_orbit_has_room_for_what_moves_away() -> None:
    params = {
        "means": torch.tensor([[0.5, 0.0, 0.0], [9.0, 0.0, 0.0]]), "quats": torch.tensor([[1.0, 0, 0, 0]] * 2),
        "scales": torch.full((2, 3), 0.01).log(), "opacities": torch.tensor([4.0, -4.0]),
        "sh0": torch.zeros(2, 1, 3), "shN": torch.zeros(2, 0, 3),
    }  # fmt: skip
    moves = Moves(torch.zeros(1, 1, dtype=torch.long), torch.eye(4)[:3].repeat(2, 1, 1, 1), torch.zeros(1, 1, 3))
    times = np.array([0.0, 1.0])

    def asset() -> DynamicGaussians:
        return DynamicGaussians(moved_params(params, moves), rigid_motion(moves, times.tolist()), times=times)

    # What nobody sees takes no room.
    assert results.room(asset()) == FRAMED_RADIUS
    moves.transforms[1, 0, 0, 3] = 2.0
    assert results.room(asset()) == pytest.approx(2.51, abs=0.01)


def test_a_limit_of_time_lengthens_a_fit_but_not_that_of_a_solid_thing() -> None:
    limit = {"seed": 0, "backend": "auto", "sds": False, "max_minutes": 20.0, "minutes_only": True}
    assert parts.fit_config("quick", motion="free-time", **limit).max_steps is None  # type: ignore[arg-type]
    solid = parts.fit_config("quick", motion="static", solid=True, **limit)  # type: ignore[arg-type]
    assert solid.max_steps == stag4d.solid(stag4d.quick()).max_steps and solid.max_minutes == 20.0
