"""Models on disk: what is saved comes back, and damaged or foreign files are explained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gaussian4d.errors import UserError
from gaussian4d.fitting.normalise import Normalisation
from gaussian4d.io.g4d import load_g4d, save_g4d
from gaussian4d.model import DynamicGaussians, load_model, splat_arrays
from gaussian4d.motion import MOTIONS, make_motion


def random_model(name: str, sh_degree: int = 1, n: int = 9) -> DynamicGaussians:
    motion = make_motion(name, {"times": [0.0, 0.5, 1.0]} if name == "per-frame" else None)
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "means": (3,),
        "quats": (4,),
        "scales": (3,),
        "opacities": (),
        "sh0": (1, 3),
        "shN": ((sh_degree + 1) ** 2 - 1, 3),
        **motion.columns(),
    }
    params = {key: torch.randn(n, *shape, generator=generator) for key, shape in shapes.items()}
    if name == "per-frame":
        params["instants"] = torch.arange(n) % 3.0
    shared = motion.init_shared(params["means"], generator)
    # Only the box stays what it is: it says where the Gaussians lie.
    shared |= {key: 0.5 * torch.randn(v.shape, generator=generator) for key, v in shared.items() if "bounds" not in key}
    params |= shared
    return DynamicGaussians(
        params,
        motion,
        background=torch.tensor([0.1, 0.2, 0.3]),
        fps=30.0,
        times=np.linspace(0, 1, 5),
        meta={"near": 0.02},
    )


@pytest.mark.parametrize("name", [*MOTIONS.choices(), "windows"])
@pytest.mark.parametrize("sh_degree", [0, 2])
def test_round_trip(tmp_path: Path, name: str, sh_degree: int) -> None:
    model = random_model(name, sh_degree)
    again = load_model(model.save(tmp_path / "x.g4d"))
    assert again.params.keys() == model.params.keys()
    assert all(torch.equal(again.params[key], value) for key, value in model.params.items())
    assert again.motion.name == name and again.motion.config == model.motion.config
    assert again.background is not None and model.background is not None
    torch.testing.assert_close(again.background, model.background)
    assert again.fps == 30.0 and again.meta == model.meta and again.sh_degree == sh_degree
    np.testing.assert_array_equal(again.times, model.times)
    assert again.near == pytest.approx(0.02) and again.frame_interval == pytest.approx(0.25)
    for time in (0.3, 0.9):
        before, after = model.at(time), again.at(time)
        assert all(
            torch.equal(getattr(before, f), getattr(after, f)) for f in ("means", "quats", "scales", "opacities")
        )
    assert len(again) == 9
    if name != "static":
        assert not torch.equal(model.at(0.3).means, model.at(0.9).means)


@pytest.mark.parametrize("name", [*MOTIONS.choices(), "windows"])
def test_the_fits_frame_is_undone_at_every_time(name: str) -> None:
    """The Gaussians of the undone table are those of the fit's table, moved and scaled."""
    model = random_model(name)
    normalisation = Normalisation(np.array([3.0, -2.0, 1.0]), 0.25)
    world = DynamicGaussians(normalisation.undo(model.params, model.motion), model.motion)
    centre = torch.tensor([3.0, -2.0, 1.0])
    for time in (0.0, 0.6):
        inside, outside = model.at(time), world.at(time)
        torch.testing.assert_close(outside.means, inside.means / 0.25 + centre, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(outside.scales, inside.scales / 0.25, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(outside.quats, inside.quats, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(outside.opacities, inside.opacities, rtol=1e-4, atol=1e-4)


def test_a_damaged_shared_tensor_is_named(tmp_path: Path) -> None:
    path = random_model("hexplane").save(tmp_path / "x.g4d")
    arrays, manifest = load_g4d(path)
    arrays = {name: np.array(value) for name, value in arrays.items()}
    save_g4d(tmp_path / "short.g4d", {**arrays, "shared.time.0": arrays["shared.time.0"][:2]}, manifest)
    with pytest.raises(UserError, match=r"shared\.time\.0"):
        load_model(tmp_path / "short.g4d")
    del arrays["shared.bounds"]
    save_g4d(tmp_path / "lacking.g4d", arrays, manifest)
    with pytest.raises(UserError, match=r"shared\.bounds"):
        load_model(tmp_path / "lacking.g4d")


def test_ply_holds_the_gaussians_at_time_zero(tmp_path: Path) -> None:
    model = random_model("free-time")
    again = load_model(model.save(tmp_path / "x.ply"))
    before, after = model.at(0.0), again.at(0.7)
    assert again.motion.name == "static"
    torch.testing.assert_close(after.means, before.means)
    torch.testing.assert_close(after.scales, before.scales, rtol=1e-5, atol=0)
    torch.testing.assert_close(after.opacities, before.opacities, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(after.colors, before.colors)


def test_splat_arrays_stay_finite_for_invisible_and_opaque() -> None:
    state = random_model("static").at(0.0)
    state.opacities[0], state.opacities[1], state.scales[2] = 0.0, 1.0, 0.0
    assert all(np.isfinite(value).all() for value in splat_arrays(state).values())


def test_damage_is_explained(tmp_path: Path) -> None:
    path = random_model("free-time").save(tmp_path / "x.g4d")
    arrays, manifest = load_g4d(path)
    arrays = {name: np.array(value) for name, value in arrays.items()}
    save_g4d(tmp_path / "short.g4d", {**arrays, "times": arrays["times"][:4]}, manifest)
    with pytest.raises(UserError, match="times"):
        load_model(tmp_path / "short.g4d")
    del arrays["velocities"]
    save_g4d(tmp_path / "lacking.g4d", arrays, manifest)
    with pytest.raises(UserError, match="velocities"):
        load_model(tmp_path / "lacking.g4d")


def test_wrong_paths_are_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.g4d"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="nowhere"):
        load_model(tmp_path / "nowhere.g4d")
    (tmp_path / "x.obj").touch()
    with pytest.raises(UserError, match=r"x\.obj"):
        load_model(tmp_path / "x.obj")
    with pytest.raises(UserError, match=r"expected one of \.g4d, "):
        random_model("static").save(tmp_path / "x.txt")
