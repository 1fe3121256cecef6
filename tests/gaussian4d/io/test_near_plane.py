"""Files for other programs look like the scene at recorded cameras, though these programs know no near plane."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gaussian4d.cameras import Camera
from gaussian4d.cli import main
from gaussian4d.io.difference import difference_db
from gaussian4d.io.near_plane import Emptied, NearSpace, emptied
from gaussian4d.io.registry import read_model
from gaussian4d.io.sequence import read_sequence
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import MotionModel, make_motion
from gaussian4d.view_block import ViewBlock

NEAR = 0.5
TIMES = np.linspace(0.0, 1.0, 5)


def camera(index: int) -> Camera:
    angle = 0.5 * np.pi * index
    place = 3.0 * np.array([np.cos(angle), np.sin(angle), 0.0])
    return Camera.look_at(place, np.zeros(3), np.array([0.0, 0, 1]), width=64, height=48, focal=60.0, id=str(index))


CAMERAS = [camera(index) for index in range(4)]


def scene_with(places: list[np.ndarray], sizes: float = 0.15, motion: str = "free-time") -> DynamicGaussians:
    """Returns a ball of Gaussians in the middle, and opaque white ones of deviation `sizes` at `places`."""
    generator = torch.Generator().manual_seed(0)
    count, more = 200, len(places)
    model = make_motion(motion)
    means = torch.cat([0.4 * torch.randn(count, 3, generator=generator), torch.tensor(np.array(places)).float()])
    params = {
        "means": means,
        "quats": torch.tensor([[1.0, 0.0, 0.0, 0.0]]).repeat(count + more, 1),
        "scales": torch.cat([torch.full((count, 3), -2.5), torch.full((more, 3), float(np.log(sizes)))]),
        "opacities": torch.full((count + more,), 4.0),
        "sh0": torch.cat([torch.randn(count, 1, 3, generator=generator), torch.full((more, 1, 3), 1.7)]),
        "shN": torch.zeros(count + more, 0, 3),
        **model.init(count + more),
    }
    found = DynamicGaussians(params, model, times=TIMES, fps=4.0, meta={"near": NEAR})
    return ViewBlock(up=np.array([0.0, 0, 1]), cameras=tuple(CAMERAS), near=NEAR).written_to(found)


def before(index: int, distance: float, beside: float = 0.0) -> np.ndarray:
    """Returns a place so far before a camera along its axis, and so far to its left."""
    seen = CAMERAS[index]
    return seen.position + distance * seen.forward - beside * seen.viewmat[0, :3]


def near_by(model: DynamicGaussians, near: float = 0.01) -> DynamicGaussians:
    """Returns the model as a program draws it that knows no near plane."""
    return dataclasses.replace(model, meta={**model.meta, "near": near})


def alike(model: DynamicGaussians, other: DynamicGaussians, times: Any = (0.0, 0.5, 1.0)) -> list[float]:
    """Returns the dB at each camera."""
    return [difference_db(model, other, [seen], [(t, t) for t in times]) for seen in CAMERAS]


@pytest.mark.parametrize("motion", ["static", "free-time", "dual-domain", "hexplane"])
def test_what_stands_before_a_lens_is_put_behind_it(motion: str) -> None:
    model = scene_with([before(1, 0.1), before(2, 0.3, 0.1)], motion=motion)
    if motion == "hexplane":
        generator = torch.Generator().manual_seed(0)
        model.params.update(model.motion.init_shared(model.params["means"], generator))
    assert min(alike(model, near_by(model))) < 12.0
    found, done = emptied(model, NearSpace.of_cameras(CAMERAS, NEAR), TIMES.tolist())
    assert (done.moved, done.removed) == (2, 0) and len(found) == len(model)
    # Cameras across still see it, a little further back.
    assert min(alike(model, near_by(found))) > 26.0
    dropped = dataclasses.replace(
        model, params={n: v[:-2] if not n.startswith("shared") else v for n, v in model.params.items()}
    )
    assert min(alike(model, near_by(dropped))) < min(alike(model, near_by(found))) - 3.0


def test_what_reaches_into_the_view_counts_and_what_nobody_sees_does_not() -> None:
    beside, faint, far = before(0, 0.1, 0.25), before(1, 0.1), before(2, 0.7)
    model = scene_with([beside, faint, far])
    model.params["opacities"][-2] = -8.0
    space = NearSpace.of_cameras(CAMERAS, NEAR)
    assert space.holds(model.at(0.5), 0.5).nonzero()[:, 0].tolist() == [200]
    small = scene_with([beside], sizes=0.01)
    assert not space.holds(small.at(0.5), 0.5).any()
    # One that is hidden by another shows when that is gone.
    behind = scene_with([before(3, 0.1), before(3, 0.2)])
    assert int(space.holds(behind.at(0.5), 0.5).sum()) == 2


def passing() -> DynamicGaussians:
    """Returns a model in which a Gaussian flies right through the view of camera 0, from far left to far right."""
    model = scene_with([before(0, 0.2)])
    model.params["velocities"][-1] = torch.tensor(-6.0 * CAMERAS[0].viewmat[0, :3])
    model.params["times"][:] = 0.5
    model.params["durations"][:] = 3.0
    return model


@pytest.mark.parametrize("ending", ["splatv", "4dgs"])
def test_what_passes_by_fades_while_it_does(tmp_path: Path, ending: str) -> None:
    if ending == "4dgs":
        pytest.importorskip("fourdgs")
    model = passing()
    times = np.linspace(0.0, 1.0, 9).tolist()
    found, done = emptied(model, NearSpace.of_cameras(CAMERAS, NEAR), times)
    assert (done.moved, done.removed) == (0, 1) and isinstance(found.motion, Emptied)
    assert float(found.at(0.5).opacities[-1]) == 0.0 and float(found.at(0.0).opacities[-1]) > 0.9
    assert min(alike(model, near_by(model), times)) < 15.0 < 25.0 < min(alike(model, near_by(found), times))
    found.save(tmp_path / f"a.{ending}")
    back = read_model(tmp_path / f"a.{ending}")
    assert min(alike(model, near_by(back), times)) > 22.0


def test_separate_instants_lose_it_at_their_own() -> None:
    moving = passing()
    rows = [moving.at(float(time)) for time in TIMES]
    motion = make_motion("per-frame", {"times": TIMES.tolist()})
    params = {
        "means": torch.cat([row.means for row in rows]),
        **{name: moving.params[name].repeat(5, *[1] * (moving.params[name].ndim - 1)) for name in ("quats", "scales")},
        "opacities": moving.params["opacities"].repeat(5),
        "sh0": moving.params["sh0"].repeat(5, 1, 1),
        "shN": moving.params["shN"].repeat(5, 1, 1),
        "instants": torch.arange(5.0).repeat_interleave(201),
    }
    model = DynamicGaussians(params, motion, times=TIMES, meta=moving.meta)
    found, done = emptied(model, NearSpace.of_cameras(CAMERAS, NEAR), TIMES.tolist())
    assert done.total == 1 and min(alike(model, near_by(found))) > 25.0


def test_a_moving_camera_looks_at_its_own_time_only() -> None:
    frames = [SimpleNamespace(time=t, camera=camera(index)) for index, t in enumerate((0.0, 0.25, 0.5, 0.75))]
    scene: Any = SimpleNamespace(times=[frame.time for frame in frames], frames=lambda split: frames)
    space = NearSpace.of_scene(scene, NEAR)
    assert not space.cameras and [seen.id for seen in space.cameras_at(0.3)] == ["1", "2"]
    model = scene_with([before(2, 0.1)])
    found, done = emptied(model, space, [0.0, 0.25, 0.5, 0.75, 1.0])
    assert (done.moved, done.removed) == (0, 1) and isinstance(found.motion, Emptied)
    assert float(found.at(0.0).opacities[-1]) > 0.9 and float(found.at(0.5).opacities[-1]) == 0.0


class _Standing(MotionModel):
    name = "standing"

    def at(self, params: Any, time: float, sh_degree: int | None = None) -> Any:
        return make_motion("static").at(params, time, sh_degree)


@pytest.mark.parametrize("motion", [make_motion("static"), _Standing()])
def test_a_clear_view_changes_nothing(motion: MotionModel) -> None:
    model = scene_with([])
    model = dataclasses.replace(model, motion=motion)
    found, done = emptied(model, NearSpace.of_cameras(CAMERAS, NEAR), [0.0])
    assert found is model and done.total == 0


@pytest.mark.parametrize(
    "name",
    ["a.ply", "a.compressed.ply", "a.splat", "a.spz", "a.sog", "a.glb", "a.usda", "a.splatv", "a.4dgs", "frames"],
)
def test_every_foreign_format_looks_like_the_scene(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "a.4dgs":
        pytest.importorskip("fourdgs")
    model = scene_with([before(1, 0.1), before(3, 0.2, 0.3)])
    model.save(tmp_path / "in.g4d")
    axes = ["--axes", "recorded"] if name.endswith((".ply", ".splat", ".spz", ".sog")) else []
    export = ["export", str(tmp_path / "in.g4d"), "--to", str(tmp_path / name), *axes]
    assert main(export) == 0
    told = capsys.readouterr().out
    assert "2 Gaussians are closer than 0.5 to a recorded camera" in told and "2 are moved behind the camera" in told
    back = near_by(read_sequence(tmp_path / name) if name == "frames" else read_model(tmp_path / name))
    assert min(alike(model, back, (0.5,))) > 26.0
    if name == "a.splatv":
        assert "recorded cameras 0, 1, 2, 3" in told
        assert main([*export, "--keep-near"]) == 0
        told = capsys.readouterr().out
        assert "the model does not draw them" in told and "the format alone gives" in told
        assert min(alike(model, near_by(read_model(tmp_path / name)), (0.5,))) < 12.0


def test_our_own_file_keeps_all_and_convert_says_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = scene_with([before(1, 0.1)])
    model.save(tmp_path / "in.g4d")
    assert main(["export", str(tmp_path / "in.g4d"), "--to", str(tmp_path / "out.g4d")]) == 0
    assert "are closer than" not in capsys.readouterr().out
    assert torch.equal(read_model(tmp_path / "out.g4d").params["means"], model.params["means"])
    assert main(["convert", str(tmp_path / "in.g4d"), str(tmp_path / "out.splatv")]) == 0
    assert "1 Gaussians are closer than 0.5" in capsys.readouterr().out
    assert np.allclose(read_model(tmp_path / "out.splatv").params["means"], model.params["means"])
