"""Clips whose times do not go from 0 to 1: films, files and the viewer play what was recorded, nothing beyond."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussian4d import DynamicGaussians, PathRequest, load_model
from gaussian4d.cameras import Camera
from gaussian4d.cli.app import main
from gaussian4d.clip_length import played_span
from gaussian4d.io.glb import Document
from gaussian4d.keyframes import KeyframePath
from gaussian4d.motion import FreeTime, RigidParts
from gaussian4d.motion.rigid_parts import RigidPartsConfig
from gaussian4d.named_paths import named_path
from gaussian4d.paths import load_path
from gaussian4d.plugins import PATHS

FIRST, LAST = 0.2, 0.7
TIMES = np.linspace(FIRST, LAST, 6)


def moving(times: np.ndarray = TIMES, count: int = 30) -> DynamicGaussians:
    """Returns Gaussians that move along x by 1 a clip, recorded at `times` only."""
    rng = torch.Generator().manual_seed(1)
    params = {
        "means": torch.rand(count, 3, generator=rng) - 0.5,
        "quats": torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        "scales": torch.full((count, 3), -2.5),
        "opacities": torch.full((count,), 2.0),
        "sh0": torch.rand(count, 1, 3, generator=rng) - 0.5,
        "shN": torch.zeros(count, 0, 3),
        "velocities": torch.tensor([1.0, 0.0, 0.0]).repeat(count, 1),
        "times": torch.full((count,), 0.5),
        "durations": torch.full((count,), 4.0),
    }
    return DynamicGaussians(params, FreeTime(), times=times, fps=10.0)


def ring() -> list[Camera]:
    """Returns four cameras around the origin."""
    places = [np.array([3 * np.cos(a), 3 * np.sin(a), 0.6]) for a in np.arange(4) * np.pi / 2]
    up = np.array([0.0, 0.0, 1.0])
    return [
        Camera.look_at(place, np.zeros(3), up, width=40, height=30, focal=40, id=str(k))
        for k, place in enumerate(places)
    ]


@pytest.mark.parametrize("name", ["orbit", "spiral", "interpolated", "still"])
@pytest.mark.parametrize("count", [1, 12])
def test_paths_play_from_the_first_instant_to_the_last(name: str, count: int) -> None:
    for times, span in ((TIMES, (FIRST, LAST)), (np.array([0.4]), (0.4, 0.4)), (np.linspace(0, 1, 3), (0.0, 1.0))):
        path = named_path(name, PathRequest(cameras=ring(), count=count, model=moving(times)))
        played = [time for _, time in path]
        assert len(played) == count and played[0] == pytest.approx(span[0])
        assert played == pytest.approx(np.linspace(*span, count).tolist() if count > 1 else [span[0]])


def test_a_path_of_a_package_that_sweeps_the_clip_plays_what_was_recorded() -> None:
    camera = ring()[0]
    PATHS.register("sweep")(lambda request: [(camera, t) for t in (0.0, 0.5, 1.0)])
    PATHS.register("own")(lambda request: [(camera, t) for t in (0.3, 0.4)])
    try:
        request = PathRequest(cameras=ring(), count=3, model=moving())
        assert [t for _, t in named_path("sweep", request)] == pytest.approx([FIRST, 0.45, LAST])
        assert [t for _, t in named_path("own", request)] == [0.3, 0.4]
    finally:
        for name in ("sweep", "own"):
            PATHS.unregister(name)


@pytest.mark.parametrize("loop", [False, True])
def test_keyframes_without_times_are_spread_over_what_was_recorded(tmp_path: Path, loop: bool) -> None:
    file = tmp_path / "path.json"
    keys = [{"position": [3, k, 1], "look_at": [0, 0, 0]} for k in range(3)]
    file.write_text(json.dumps({"keyframes": keys, "loop": loop}))
    times = [time for _, time in load_path(file, 7, span=(FIRST, LAST))]
    assert times[0] == pytest.approx(FIRST) and np.all(np.diff(times) > 0)
    assert max(times) == pytest.approx(LAST - (LAST - FIRST) / 7 if loop else LAST)
    for key, time in zip(keys, (0.3, 0.4, 0.9)):
        key["time"] = time  # type: ignore[assignment]
    file.write_text(json.dumps({"keyframes": keys}))
    assert [time for _, time in load_path(file, 3, span=(FIRST, LAST))] == pytest.approx([0.3, 0.4, 0.9])
    assert KeyframePath.load(file).over((FIRST, LAST)).keyframes[2].time == 0.9


@pytest.mark.parametrize("name", ["a.splatv", "a.glb", "a.usda", "frames"])
def test_files_begin_and_end_with_what_was_recorded(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    moving().save(tmp_path / "a.g4d")
    assert main(["export", str(tmp_path / "a.g4d"), "--to", str(tmp_path / name)]) == 0
    capsys.readouterr()
    back = load_model(tmp_path / name)
    for share in (0.0, 0.4, 1.0):
        there = np.sort(back.at(share).means.numpy(), axis=0)
        expected = np.sort(moving().at(FIRST + share * (LAST - FIRST)).means.numpy(), axis=0)
        assert np.abs(there - expected).max() < 2e-3, (name, share)


def test_an_animation_begins_at_once(tmp_path: Path) -> None:
    moving().save(tmp_path / "a.glb")
    document = Document(tmp_path / "a.glb")
    (animation,) = document.items("animations")
    clock = document.accessor(animation["samplers"][0]["input"], 1)[:, 0]
    assert clock[0] == 0.0 and clock[-1] == pytest.approx(0.5)


def test_4dgs_begins_and_ends_with_what_was_recorded(tmp_path: Path) -> None:
    pytest.importorskip("fourdgs")
    moving().save(tmp_path / "a.4dgs")
    back = load_model(tmp_path / "a.4dgs")
    for share in (0.0, 1.0):
        expected = moving().at(FIRST + share * (LAST - FIRST)).means.numpy()
        there = np.sort(back.at(share).means.numpy(), axis=0)
        assert np.abs(there - np.sort(expected, axis=0)).max() < 5e-3


def test_an_instant_is_the_first_recorded_one_unless_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = moving()
    model.save(tmp_path / "a.g4d")
    model.save(tmp_path / "first.ply")
    assert np.allclose(load_model(tmp_path / "first.ply").params["means"], model.at(FIRST).means, atol=1e-6)
    for target, time, said in (("b.ply", "0.9", True), ("c.ply", "0.5", False)):
        assert main(["export", str(tmp_path / "a.g4d"), "--to", str(tmp_path / target), "--time", time]) == 0
        out = capsys.readouterr().out
        assert ("clip time 0.9 was not recorded (0.2 to 0.7 was)" in out) == said
        there = load_model(tmp_path / target).at(0.0).means.numpy()
        assert np.allclose(np.sort(there, 0), np.sort(model.at(float(time)).means.numpy(), 0), atol=1e-5)
    assert main(["export", str(tmp_path / "a.g4d"), "--to", str(tmp_path / "t.npz"), "--count", "3"]) == 0
    tracks = np.load(tmp_path / "t.npz")
    assert tracks["times"].tolist() == pytest.approx([FIRST, 0.45, LAST]) and tracks["start"] == FIRST


def test_a_film_plays_what_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moving().save(tmp_path / "a.g4d")
    common = ["render", str(tmp_path / "a.g4d"), "--width", "16", "--height", "12", "--fps", "2"]
    assert main([*common, "--out", str(tmp_path / "film"), "--seconds", "2"]) == 0
    assert "was not recorded" not in capsys.readouterr().out
    assert main([*common, "--out", str(tmp_path / "beyond"), "--seconds", "2", "--time", "0:1"]) == 0
    assert "clip time 0 was not recorded (0.2 to 0.7 was)" in capsys.readouterr().out
    assert played_span(moving()) == (FIRST, LAST)


def test_frames_of_a_clip_with_a_gap_keep_their_numbers(tmp_path: Path) -> None:
    from gaussian4d.io.sequence import write_ply_sequence

    written = write_ply_sequence(tmp_path / "frames", moving(), [0.0, 0.125, 0.25, 1.0])
    assert [path.name for path in written] == [f"frame_{k:04d}.ply" for k in (0, 1, 2, 8)]


def test_rigid_parts_of_part_of_a_clip(tmp_path: Path) -> None:
    times = (FIRST, 0.4, LAST)
    params = {name: value for name, value in moving(count=8).params.items()}
    for name in ("velocities", "times", "durations"):
        del params[name]
    params |= {
        "parts": torch.zeros(8),
        "shared.pivots": torch.zeros(1, 3),
        "shared.offsets": torch.tensor([[[0.0, 0, 0], [0.4, 0, 0], [1.0, 0, 0]]]),
        "shared.turns": torch.tensor([1.0, 0, 0, 0]).repeat(1, 3, 1),
    }
    model = DynamicGaussians(params, RigidParts(RigidPartsConfig(times=times, parts=1)), times=np.array(times), fps=4.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / "a.glb")
    back = load_model(tmp_path / "a.glb")
    for share in (0.0, 0.4, 1.0):
        assert np.allclose(
            np.sort(back.at(share).means.numpy(), 0),
            np.sort(model.at(FIRST + share * (LAST - FIRST)).means.numpy(), 0),
            atol=1e-5,
        )
