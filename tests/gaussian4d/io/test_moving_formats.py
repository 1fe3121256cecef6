"""Formats with motion: .splatv, .4dgs, USD and folders of frames show what the model shows, at every instant."""

from __future__ import annotations

import dataclasses
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from splat_samples import errors, sample

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.framing import framing_of
from gaussian4d.io.bake import Shape, Tolerances, approximated, bake
from gaussian4d.io.bells import CUTS, as_bells
from gaussian4d.io.checkpoints import read_checkpoint
from gaussian4d.io.cubic import as_cubic
from gaussian4d.io.difference import GOAL, difference_db, shown_db
from gaussian4d.io.registry import format_named, read_model, write_model
from gaussian4d.io.segments import shown_as
from gaussian4d.io.sequence import find_frames, ply_sequence, read_sequence
from gaussian4d.io.splats import SH_C0
from gaussian4d.io.splatv import ROW
from gaussian4d.model import DynamicGaussians, load_model, splat_arrays
from gaussian4d.motion import DualDomain, FreeTime, PerFrame, Spacetime, Static
from gaussian4d.motion.base import MotionModel
from gaussian4d.motion.dual_domain import DualDomainConfig
from gaussian4d.motion.per_frame import PerFrameConfig

TIMES = np.linspace(0.0, 1.0, 9)


def moving(motion: MotionModel, count: int = 40, degree: int = 0) -> DynamicGaussians:
    """Returns Gaussians near the origin with the motion's own columns filled by small numbers."""
    table = {name: torch.from_numpy(value) for name, value in sample(count, degree).items()}
    table["scales"] += 1.0
    generator = torch.Generator().manual_seed(3)
    for name, shape in motion.columns().items():
        table[name] = 0.4 * torch.randn(count, *shape, generator=generator)
    if "times" in table:
        table["times"] = torch.rand(count, generator=generator)
        table["durations"] = torch.rand(count, generator=generator) * 1.5 - 1.0
    if "instants" in table:
        table["instants"] = torch.arange(count).remainder(3).float()
    return DynamicGaussians(table, motion, times=TIMES, fps=8.0)


def views() -> list[Camera]:
    up = np.array([0.0, 0.0, 1.0])
    places = (np.array([0.0, -7.0, 1.0]), np.array([6.0, 3.0, -2.0]))
    return [
        Camera.look_at(place, np.zeros(3), up, width=96, height=96, focal=80, id=str(index))
        for index, place in enumerate(places)
    ]


def decibels(
    model: DynamicGaussians, other: DynamicGaussians, times: tuple[float, ...] = (0.0, 0.3, 0.5, 1.0)
) -> float:
    return difference_db(model, other, views(), [(time, time) for time in times])


@pytest.mark.parametrize("motion", [Static(), FreeTime(), Spacetime()], ids=lambda motion: motion.name)
def test_splatv_shows_what_maps_exactly(tmp_path: Path, motion: MotionModel) -> None:
    model = moving(motion)
    assert model.motion.is_cubic
    if motion.name == "free-time":
        # A frozen Gaussian moves no more, whatever its velocity says.
        model.params["durations"][::5] = math.inf
        model.params["velocities"][::5] = 0.0
    # The format itself rounds colours to bytes and the rest to float16; without that nothing is lost.
    assert decibels(model, as_cubic(model)) > 100
    write_model(tmp_path / "a.splatv", model)
    back = read_model(tmp_path / "a.splatv")
    assert back.motion.name == "spacetime" and len(back) == 40
    assert decibels(model, back) > 45


def test_endless_windows_do_not_stop_what_moves(tmp_path: Path) -> None:
    still: dict[str, Any] = {"quats_poly": 0, "quats_fourier": 0, "sh0_poly": 0, "sh0_fourier": 0}
    model = moving(DualDomain(DualDomainConfig(means_poly=3, means_fourier=0, **still)), 10)
    write_model(tmp_path / "a.splatv", model)
    back = read_model(tmp_path / "a.splatv")
    moved = (back.at(1.0).means - back.at(0.0).means).norm(dim=1)
    assert moved.numpy() == pytest.approx((model.at(1.0).means - model.at(0.0).means).norm(dim=1).numpy(), rel=0.1)


def test_splatv_layout_byte_by_byte(tmp_path: Path) -> None:
    model = moving(Spacetime(), 2)
    model.params["quats"] = torch.tensor([[2.0, 0, 0, 0], [0, 0, 0, 1.0]])
    write_model(tmp_path / "a.splatv", model)
    data = (tmp_path / "a.splatv").read_bytes()
    magic, length = struct.unpack_from("<II", data)
    assert magic == 0x674B and b'"texwidth": 4096, "texheight": 1' in data[8 : 8 + length]
    assert ROW.itemsize == 64 and len(data) == 8 + length + 64 * 1024
    row = data[8 + length : 8 + length + 64]
    assert struct.unpack_from("<3f", row) == tuple(model.params["means"][0].tolist())
    assert struct.unpack_from("<4e", row, 12) == (1, 0, 0, 0)
    assert struct.unpack_from("<3e", row, 20) == pytest.approx(model.params["scales"][0].exp().tolist(), rel=1e-3)
    assert struct.unpack_from("<9e", row, 32) == pytest.approx(
        model.params["trajectories"][0].reshape(-1).tolist(), rel=1e-3
    )
    # The viewer adds the spin to a quaternion of length one.
    assert struct.unpack_from("<4e", row, 52) == pytest.approx((model.params["spins"][0] / 2).tolist(), rel=1e-3)
    window = (float(model.params["times"][0]), float(model.params["durations"][0].exp()))
    assert struct.unpack_from("<2e", row, 60) == pytest.approx(window, rel=1e-3)
    assert data[8 + length + 128 :] == bytes(64 * 1022)


def test_other_motion_is_fitted_by_cubics() -> None:
    # Without Fourier terms the paths are polynomials, of which a cubic follows all but the last term.
    model = moving(
        DualDomain(DualDomainConfig(means_fourier=0, quats_poly=0, quats_fourier=0, sh0_poly=0, sh0_fourier=0)), 30
    )
    assert not model.motion.is_cubic
    still = DynamicGaussians(
        {**model.params, "means_series": 0 * model.params["means_series"]}, model.motion, times=TIMES
    )
    assert decibels(model, as_cubic(model)) > decibels(model, still) + 10


def test_a_cubic_path_is_found_again() -> None:
    model = moving(Spacetime(), 25)
    model.params["spins"] *= 0.1
    fitted = as_cubic(DynamicGaussians(model.params, _Hidden(model.motion), times=TIMES))
    assert fitted.params["means"] is not model.params["means"]
    assert decibels(model, fitted) > 35


@pytest.mark.parametrize("waves", [0, 2])
def test_what_one_cubic_does_not_follow_becomes_several(tmp_path: Path, waves: int) -> None:
    config = DualDomainConfig(
        means_poly=1, means_fourier=waves, quats_poly=0, quats_fourier=0, sh0_poly=0, sh0_fourier=0
    )
    model = moving(DualDomain(config), 30)
    several = as_bells(model)
    # Faint bells are left out.
    assert len(several) == 30 if waves == 0 else 5 * 30 < len(several) <= CUTS[-1] * 30
    if waves:
        assert shown_db(model, several) > GOAL > shown_db(model, as_cubic(model)) + 10
    write_model(tmp_path / "a.splatv", model)
    found = decibels(model, read_model(tmp_path / "a.splatv"))
    assert found > 45 if waves == 0 else found > decibels(model, as_cubic(model)) + 4


def test_as_many_bells_as_it_takes() -> None:
    config = DualDomainConfig(means_poly=1, means_fourier=6, quats_poly=0, quats_fourier=2, sh0_poly=0, sh0_fourier=0)
    model = moving(DualDomain(config), 30)
    # The coarsest bells give 30 dB.
    assert shown_db(model, as_bells(model)) >= GOAL


def test_straight_pieces_without_turns_look_like_any_motion() -> None:
    model = moving(DualDomain(DualDomainConfig(means_fourier=1, quats_fourier=1)), 30)
    model = dataclasses.replace(model, params={**model.params, "shN": model.params["shN"][:, :3]})
    shape = Shape(degree=1, turns=False)
    segments = approximated(model, shape)
    assert shown_db(model, shown_as(model, segments), 1) >= GOAL
    assert not segments.motion[:, 1:].any() and not segments.spins.any()
    coarse = bake(model, framing_of(model).around, tolerances=Tolerances().times(30.0), shape=shape)
    assert len(coarse) < len(segments) and shown_db(model, shown_as(model, coarse), 1) < GOAL - 5
    # Which Gaussian a piece stands for.
    time = 0.37
    rows = [np.arange(g.first, g.first + g.count) for g in segments.groups if g.start < time <= g.end]
    there = model.at(time).means[segments.sources[np.concatenate(rows)]]
    assert float((segments.at(time).means - there).norm(dim=1).max()) < 0.1


class _Hidden(MotionModel):
    """A motion model that is known by its states only."""

    name = "hidden"

    def __init__(self, inner: MotionModel) -> None:
        super().__init__(inner.config)
        self.inner = inner

    def at(self, params, time, sh_degree=None):
        return self.inner.at(params, time, sh_degree)


def test_instants_take_turns_in_a_splatv(tmp_path: Path) -> None:
    model = moving(PerFrame(PerFrameConfig(times=(0.0, 0.5, 1.0))), 30)
    write_model(tmp_path / "a.splatv", model)
    back = read_model(tmp_path / "a.splatv")
    for index, time in enumerate((0.0, 0.5, 1.0)):
        there = back.at(time).opacities
        own = model.params["instants"] == index
        assert (there[~own] < 0.1).all()
        assert there[own].numpy() == pytest.approx(torch.sigmoid(model.params["opacities"][own]).numpy(), abs=3e-3)


@pytest.mark.parametrize("degree", [0, 2])
def test_4dgs_keeps_free_time(tmp_path: Path, degree: int) -> None:
    pytest.importorskip("fourdgs")
    model = moving(FreeTime(), degree=degree)
    write_model(tmp_path / "a.4dgs", model)
    back = read_model(tmp_path / "a.4dgs")
    assert back.motion.name == "free-time" and back.sh_degree == degree
    assert decibels(model, back) > 38


def test_4dgs_cuts_curves_into_straight_pieces(tmp_path: Path) -> None:
    pytest.importorskip("fourdgs")
    model = moving(Spacetime())
    model.params["spins"] *= 0.2
    write_model(tmp_path / "a.4dgs", model)
    back = read_model(tmp_path / "a.4dgs")
    assert back.motion.name == "per-frame"
    straight = {**model.params, "trajectories": model.params["trajectories"] * torch.tensor([1.0, 0, 0])[:, None]}
    assert decibels(model, back) > max(30, decibels(model, DynamicGaussians(straight, model.motion)))


def test_4dgs_follows_other_motion_piece_by_piece(tmp_path: Path) -> None:
    pytest.importorskip("fourdgs")
    model = moving(DualDomain(DualDomainConfig(means_fourier=1, quats_poly=0, quats_fourier=0)), 30)
    write_model(tmp_path / "a.4dgs", model)
    # One cubic for the whole clip cannot follow a wave.
    assert decibels(model, read_model(tmp_path / "a.4dgs")) > decibels(model, as_cubic(model)) + 4


@pytest.mark.parametrize("ending", [".usda", ".usdz"])
@pytest.mark.parametrize("axis", [None, "z", "x"])
def test_usd_has_a_sample_per_instant(tmp_path: Path, ending: str, axis: str | None) -> None:
    model = moving(FreeTime(), 15, degree=1)
    write_model(tmp_path / f"a{ending}", model, vertical_axis=axis)
    back = read_model(tmp_path / f"a{ending}")
    assert back.motion.name == "per-frame" and back.fps == pytest.approx(8.0)
    assert back.times == pytest.approx(TIMES)
    assert decibels(model, back, (0.0, 0.25, 1.0)) > 80


def test_usd_text(tmp_path: Path) -> None:
    model = moving(FreeTime(), 3)
    write_model(tmp_path / "a.usda", model, vertical_axis="z", times=[0.0, 1.0])
    text = (tmp_path / "a.usda").read_text()
    assert text.startswith("#usda 1.0\n") and 'upAxis = "Z"' in text and "endTimeCode = 1\n" in text
    assert 'def ParticleField3DGaussianSplat "Gaussians"' in text
    # What moves has samples, what does not is written once.
    assert "point3f[] positions.timeSamples = {" in text and "float[] opacities.timeSamples = {" in text
    assert "quatf[] orientations = [(" in text and "float3[] scales = [(" in text
    data = _usdz(tmp_path, model)
    assert data[:4] == b"PK\x03\x04" and data.index(b"#usda") % 64 == 0


def test_a_usdz_in_capitals_is_a_zip(tmp_path: Path) -> None:
    model = moving(FreeTime(), 3)
    write_model(tmp_path / "a.USDZ", model)
    assert (tmp_path / "a.USDZ").read_bytes() == _usdz(tmp_path, model)
    assert read_model(tmp_path / "a.USDZ").motion.name == "per-frame"


def _usdz(folder: Path, model: DynamicGaussians) -> bytes:
    write_model(folder / "b.usdz", model)
    return (folder / "b.usdz").read_bytes()


def test_usd_from_elsewhere(tmp_path: Path) -> None:
    text = '''#usda 1.0
(
    doc = """A "strange" ) file"""
    upAxis = "Y"
    customLayerData = { string note = "}" }
)
# a comment ( with a bracket
def Xform "World" ( kind = "group" )
{
    custom string note = "a } b"
    def ParticleField3DGaussianSplat "Splats" (
        prepend apiSchemas = ["MaterialBindingAPI"]
    )
    {
        rel material:binding = </World/Mat>
        half[] opacitiesh = [0.5]
        quatf[] orientations = [(1, 0, 0, 0)]
        point3f[] positions.timeSamples = { 0: [(1, 2, 3)], 4: [(2, 2, 3)], }
        float3[] scales = [(1, 1, 1)] ( interpolation = "vertex" )
        uniform int radiance:sphericalHarmonicsDegree = 0
        float3[] radiance:sphericalHarmonicsCoefficients = [(0.5, 0, 0)]
        uniform token[] xformOpOrder = []
    }
}
'''
    (tmp_path / "a.usda").write_text(text)
    model = read_model(tmp_path / "a.usda")
    # y is up there, down here.
    assert model.at(0.0).means.tolist() == [[1, -2, -3]] and model.at(1.0).means.tolist() == [[2, -2, -3]]
    (tmp_path / "a.usda").write_text(text.replace("xformOpOrder = []", 'xformOpOrder = ["xformOp:translate"]'))
    with pytest.raises(UserError, match="placed by a transform"):
        read_model(tmp_path / "a.usda")
    (tmp_path / "a.usda").write_bytes(b"PXR-USDC" + bytes(80))
    with pytest.raises(UserError, match="usdcat"):
        read_model(tmp_path / "a.usda")


@pytest.mark.parametrize("name", ["ply", "compressed-ply", "splat", "spz", "sog"])
def test_folders_of_frames_both_ways(tmp_path: Path, name: str) -> None:
    model = moving(FreeTime(), 20)
    files = list(ply_sequence(tmp_path / "clip", model, [0.0, 0.5, 1.0], format=format_named(name)))
    ending = format_named(name).endings[0]
    assert [file.name for file in files] == [f"frame_{index:04d}{ending}" for index in range(3)]
    back = load_model(tmp_path / "clip")
    assert isinstance(back.motion, PerFrame) and back.motion.config.times == (0.0, 0.5, 1.0)
    for time in (0.0, 0.5, 1.0):
        state = model.at(time)
        wanted = splat_arrays(state.select(state.opacities >= 1 / 255))
        assert errors(wanted, splat_arrays(back.at(time)))["means"] < 5e-3


def test_frames_are_found_as_supersplat_does(tmp_path: Path) -> None:
    for name in ("a_10.ply", "a_9.ply", "notes.txt", "b1.ply"):
        (tmp_path / name).touch()
    assert [path.name for path in find_frames(tmp_path)] == ["a_9.ply", "a_10.ply"]
    (tmp_path / "b2.ply").touch()
    assert find_frames(tmp_path) == []
    with pytest.raises(UserError, match=r"2 sequences.*a_9\.ply to a_10\.ply \(2\), b1\.ply to b2\.ply"):
        read_sequence(tmp_path)


@pytest.mark.parametrize("program", ["gsplat", "splatfacto", "old splatfacto", "freetime"])
def test_checkpoints_of_other_trainers(tmp_path: Path, program: str) -> None:
    table = {name: torch.from_numpy(value) for name, value in sample(6, 2).items()}
    if program == "gsplat":
        content = {"step": 7, "splats": torch.nn.ParameterDict(table).state_dict()}
    elif program == "freetime":
        own = {"velocities": torch.ones(6, 3), "times": torch.rand(6, 1), "durations": torch.zeros(6, 1)}
        content = {"splats": {**table, **own}}
    else:
        prefix = "_model.gauss_params." if program == "splatfacto" else "_model."
        names = {"sh0": "features_dc", "shN": "features_rest"}
        pipeline = {prefix + names.get(name, name): value for name, value in table.items()}
        pipeline[prefix + "opacities"] = table["opacities"][:, None]
        pipeline[prefix + "features_dc"] = table["sh0"][:, 0]
        pipeline["_model.camera_optimizer.means"] = torch.zeros(2)
        content = {"step": 7, "pipeline": pipeline, "optimizers": {"lr": 0.1}}
    torch.save(content, tmp_path / "a.ckpt")
    model = read_checkpoint(tmp_path / "a.ckpt")
    assert model.motion.name == ("free-time" if program == "freetime" else "static")
    for name, value in table.items():
        assert torch.equal(model.params[name], value), name


def test_splatfacto_without_harmonics_fits_logits_of_colours(tmp_path: Path) -> None:
    table = {name: torch.from_numpy(value) for name, value in sample(6, 0).items()}
    logits = torch.linspace(-3.0, 3.0, 18).reshape(6, 3)
    names = {"sh0": "features_dc", "shN": "features_rest"}
    content = {f"_model.gauss_params.{names.get(name, name)}": value for name, value in table.items()}
    torch.save({"pipeline": {**content, "_model.gauss_params.features_dc": logits}}, tmp_path / "a.ckpt")
    colours = 0.5 + SH_C0 * read_checkpoint(tmp_path / "a.ckpt").params["sh0"][:, 0]
    torch.testing.assert_close(colours, torch.sigmoid(logits), atol=1e-5, rtol=0.0)


def test_part_of_a_motion_in_a_checkpoint_is_said(tmp_path: Path) -> None:
    table = {name: torch.from_numpy(value) for name, value in sample(6, 0).items()}
    torch.save({"splats": {**table, "velocities": torch.ones(6, 3), "times": torch.rand(6)}}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="times, velocities are not read"):
        assert read_checkpoint(tmp_path / "a.pt").motion.still


def test_the_difference_is_taken_over_covered_pixels() -> None:
    model = moving(Static(), 3)
    brighter = DynamicGaussians({**model.params, "sh0": model.params["sh0"] + 0.1}, Static())
    assert math.isinf(decibels(model, model))
    near = views()[0]
    # The same picture with a wide empty margin: over all pixels it would be 6 dB better.
    wide = Camera.look_at(near.position, np.zeros(3), np.array([0.0, 0, 1]), width=192, height=192, focal=80, id="wide")
    plain = difference_db(model, brighter, [near], [(0.0, 0.0)])
    assert difference_db(model, brighter, [wide], [(0.0, 0.0)]) == pytest.approx(plain, abs=0.3)
    assert 30 < plain < 60
