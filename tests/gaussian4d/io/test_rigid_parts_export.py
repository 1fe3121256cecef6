"""A model of rigid parts, three of them at twelve instants, in every format: read back it moves as it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_moving_formats import decibels

from gaussian4d.cli import main
from gaussian4d.io.glb import Document
from gaussian4d.io.registry import read_model, write_model
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.motion import RigidParts
from gaussian4d.motion.rigid_parts import RigidPartsConfig

TIMES = np.linspace(0.0, 1.0, 12)
BETWEEN = tuple(((TIMES[:-1] + TIMES[1:]) / 2)[::3])
SOME = tuple(TIMES[[0, 3, 6, 11]])


def limbs(counts: tuple[int, int, int, int] = (40, 40, 40, 40), degree: int = 0) -> DynamicGaussians:
    """Returns Gaussians of a still rest and of parts that swing about a hinge, tumble, and shift."""
    rng = np.random.default_rng(0)
    parts = np.repeat([-1, 0, 1, 2], counts)
    count = len(parts)
    middles = np.array([[0.0, 0.0, 0.0], [-1.6, 0.0, 0.4], [1.6, 0.0, 0.0], [0.0, 1.5, -0.5]])
    swing = np.sin(2.0 * np.pi * TIMES)[:, None]
    turns = np.stack([swing * [0.0, 0.0, 0.8], swing * [0.6, 0.2, 0.0], 0.0 * swing * [1.0, 1.0, 1.0]])
    quats = Rotation.from_rotvec(turns.reshape(-1, 3)).as_quat()[:, [3, 0, 1, 2]].reshape(3, len(TIMES), 4)
    shifts = [0.0 * swing * [1.0, 1.0, 1.0], swing * [0.0, 0.4, 0.0], TIMES[:, None] * [0.5, 0.0, 0.3]]
    table = {
        "means": middles[parts + 1] + 0.5 * rng.uniform(-1.0, 1.0, (count, 3)),
        "quats": rng.normal(size=(count, 4)),
        "scales": 0.4 * rng.normal(size=(count, 3)) - 2.4,
        "opacities": rng.normal(size=count) + 1.5,
        "sh0": rng.normal(size=(count, 1, 3)),
        "shN": 0.2 * rng.normal(size=(count, (degree + 1) ** 2 - 1, 3)),
        "parts": parts,
        # Of the first one the hinge is at its end, not in its middle.
        "shared.pivots": middles[1:] + [[0.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        "shared.offsets": np.stack(shifts),
        "shared.turns": quats,
    }
    params = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in table.items()}
    motion = RigidParts(RigidPartsConfig(times=tuple(TIMES.tolist()), parts=3))
    return DynamicGaussians(params, motion, times=TIMES, fps=8.0)


def sent(model: DynamicGaussians, target: Path, *options: str) -> DynamicGaussians:
    """Returns what is read from the file that the command line made of `model`."""
    model.save(target.parent / "model.g4d")
    assert main(["export", str(target.parent / "model.g4d"), "--to", str(target), *options]) == 0
    return load_model(target)


@pytest.mark.parametrize("target", ["a.g4d", "a.glb"])
def test_formats_with_parts_lose_nothing(tmp_path: Path, target: str) -> None:
    model = limbs(degree=1)
    model.save(tmp_path / "model.g4d")
    back = load_model(tmp_path / "model.g4d") if target == "a.g4d" else sent(model, tmp_path / target)
    assert isinstance(back.motion, RigidParts) and back.motion.config.parts == 3
    assert back.fps == pytest.approx(8.0) and back.times == pytest.approx(TIMES, abs=1e-6)
    # Between the instants too: a part turns about its own pivot, not about another point of it.
    assert decibels(model, back, SOME) > 90 and decibels(model, back, BETWEEN) > 90


@pytest.mark.parametrize("stated", [True, False], ids=["with instants", "without"])
@pytest.mark.parametrize(
    ("target", "options", "least"),
    [
        ("a.usda", (), 110.0),
        ("a.usdz", (), 110.0),
        ("frames", (), 110.0),
        ("frames", ("--format", "compressed-ply-sequence"), 40.0),
        ("frames", ("--format", "spz-sequence"), 40.0),
        ("frames", ("--format", "sog-sequence"), 45.0),
    ],
)
def test_formats_of_instants_hold_each_of_them(
    tmp_path: Path, target: str, options: tuple[str, ...], least: float, stated: bool
) -> None:
    model = limbs(degree=1)
    model.times = TIMES if stated else None
    back = sent(model, tmp_path / target, *options)
    assert back.times == pytest.approx(TIMES)
    assert decibels(model, back, SOME) > least


def test_splatv_and_4dgs_follow_the_parts(tmp_path: Path) -> None:
    model = limbs()
    bells = sent(model, tmp_path / "a.splatv")
    assert min(decibels(model, bells, SOME), decibels(model, bells, BETWEEN)) > 33
    pytest.importorskip("fourdgs")
    pieces = sent(model, tmp_path / "a.4dgs")
    assert pieces.times is not None
    assert decibels(model, pieces, tuple(pieces.times[2::9])) > 36


def test_parts_are_written_as_they_are_however_small_or_many(tmp_path: Path) -> None:
    model = limbs((40, 3, 1, 0), degree=1)
    said: list[str] = []
    assert write_model(tmp_path / "a.glb", model, time=0.4, say=said.append) == 44
    assert "2 rigid parts move (4 Gaussians), 40 Gaussians stand still" in said[0]
    assert len(Document(tmp_path / "a.glb").json["nodes"]) == 3
    assert decibels(model, read_model(tmp_path / "a.glb"), (*SOME, *BETWEEN)) > 90
    many = limbs((0, 300, 0, 0))
    many.params["parts"] = torch.arange(300.0).remainder(100)
    for name in ("pivots", "offsets", "turns"):
        value = many.params[f"shared.{name}"][:1]
        many.params[f"shared.{name}"] = value.repeat(100, *[1] * (value.ndim - 1))
    many.params["shared.offsets"] += torch.arange(100.0)[:, None, None] * 0.01
    many.motion = RigidParts(RigidPartsConfig(times=tuple(TIMES.tolist()), parts=100))
    write_model(tmp_path / "b.glb", many)
    back = read_model(tmp_path / "b.glb")
    assert back.motion.config.parts == 100 and decibels(many, back, (*SOME, *BETWEEN)) > 90


def test_parts_that_do_not_move_are_said_to(tmp_path: Path) -> None:
    model = limbs((20, 0, 0, 0))
    said: list[str] = []
    write_model(tmp_path / "a.glb", model, say=said.append)
    assert "nothing in this model moves" in said[0]
    assert decibels(model, read_model(tmp_path / "a.glb"), SOME) > 90


def test_motion_without_instants_becomes_a_clip_of_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    back = sent(limbs(), tmp_path / "a.splatv")
    assert back.times is None
    assert main(["convert", str(tmp_path / "a.splatv"), str(tmp_path / "frames")]) == 0
    assert "does not state its instants" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "a.splatv"), "--to", str(tmp_path / "tracks.npz"), "--points", "5"]) == 0
    with np.load(tmp_path / "tracks.npz") as tracks:
        assert len(tracks["times"]) == 24 and tracks["xyz"].shape[0] == 24
    assert main(["info", str(tmp_path / "frames")]) == 0
    assert "per-frame (24 instants of their own Gaussians)" in capsys.readouterr().out
    clip = load_model(tmp_path / "frames")
    assert clip.times is not None and len(clip.times) == 24
    assert decibels(back, clip, tuple(clip.times[::8])) > 110
