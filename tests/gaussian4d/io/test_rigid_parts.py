"""glTF that moves: rigid parts are found, written as animated nodes and read back; other motion stands still."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from test_hostile_files import mutated, try_read
from test_moving_formats import decibels

from gaussian4d.errors import UserError
from gaussian4d.gaussians import Gaussians
from gaussian4d.io.glb import Builder, Document
from gaussian4d.io.gltf import read_gltf
from gaussian4d.io.registry import read_model, write_model
from gaussian4d.io.rigid import LOOSE, STILL, find_rigid_parts
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import RigidParts, make_motion
from gaussian4d.motion.base import MotionModel
from gaussian4d.motion.rigid_parts import RigidPartsConfig

TIMES = np.linspace(0.0, 1.0, 9)
MIDDLES = np.array([[0.0, 0.0, 0.0], [-1.6, 0.0, 0.4], [1.6, 0.0, 0.0], [0.0, 1.5, -0.5]])


def body(index: int, time: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rotation about its middle and the shift of body `index` at `time`; body 0 stands still."""
    turn = {1: [0.0, 0.0, 0.0], 2: [0.0, 0.0, 2.5 * time], 3: [1.5 * time, 0.4 * time, 0.0]}.get(index, [0.0] * 3)
    shift = {1: [0.8 * time, 0.3 * np.sin(6 * time), 0.0], 3: [0.0, 0.5 * time**2, 0.0]}.get(index, [0.0] * 3)
    return Rotation.from_rotvec(turn).as_matrix(), np.array(shift)


class Bodies(MotionModel):
    """Places by scipy, independent of what reads and writes files. Column `bodies`; body 4 swells, 5 scatters."""

    name = "bodies"

    def at(self, params, time, sh_degree=None):
        means, quats = params["means"].double().numpy().copy(), params["quats"].double().numpy().copy()
        for index in range(1, 4):
            rows = params["bodies"].numpy() == index
            turn, shift = body(index, time)
            means[rows] = (means[rows] - MIDDLES[index]) @ turn.T + MIDDLES[index] + shift
            own = Rotation.from_quat(quats[rows][:, [1, 2, 3, 0]])
            quats[rows] = (Rotation.from_matrix(turn) * own).as_quat()[:, [3, 0, 1, 2]]
        means[params["bodies"].numpy() == 4] *= 1.0 + 0.5 * time
        rows = params["bodies"].numpy() == 5
        means[rows] += time * np.sin(50.0 * means[rows])
        return Gaussians(
            means=torch.from_numpy(means).float(),
            quats=torch.from_numpy(quats).float(),
            scales=params["scales"].exp(),
            opacities=torch.sigmoid(params["opacities"]),
            colors=torch.cat([params["sh0"], params["shN"]], dim=1),
        )


def bodies(counts: dict[int, int], seed: int = 0) -> DynamicGaussians:
    """Returns `counts[b]` Gaussians of each body b, in mixed order."""
    rng = np.random.default_rng(seed)
    index = rng.permutation(np.repeat(list(counts), list(counts.values())))
    count = len(index)
    spread = np.where(index == 0, 1.5, 0.4)[:, None]
    middles = np.concatenate([MIDDLES, np.zeros((2, 3))])
    table = {
        "means": middles[index] + spread * rng.uniform(-1.0, 1.0, (count, 3)),
        "quats": rng.normal(size=(count, 4)),
        "scales": rng.normal(size=(count, 3)) * 0.4 - 2.8,
        "opacities": rng.normal(size=count) + 1.5,
        "sh0": rng.normal(size=(count, 1, 3)),
        "shN": np.zeros((count, 0, 3)),
        "bodies": index,
    }
    params = {name: torch.from_numpy(value.astype(np.float32)) for name, value in table.items()}
    return DynamicGaussians(params, Bodies(None), times=TIMES, fps=4.0)


def test_three_bodies_and_a_still_rest_are_told_apart() -> None:
    model = bodies({0: 300, 1: 200, 2: 150, 3: 100})
    split = find_rigid_parts(model, TIMES, 0.5)
    own = model.params["bodies"].numpy()
    assert len(split.rotations) == 3 and split.share > 0.99
    assert (split.part[own == 0] == STILL).all()
    names = [split.part[own == index] for index in (1, 2, 3)]
    # Close to the axis of a body that turns, a ball stands still.
    assert all((part == np.bincount(part[part >= 0]).argmax()).mean() > 0.98 for part in names)
    assert len({int(np.bincount(part[part >= 0]).argmax()) for part in names}) == 3
    shifting = int(np.bincount(names[0]).argmax())
    assert np.array_equal(split.rotations[shifting], np.broadcast_to(np.eye(3), (9, 3, 3)))
    again = find_rigid_parts(model, TIMES, 0.5)
    assert np.array_equal(split.part, again.part) and np.array_equal(split.offsets, again.offsets)


@pytest.mark.parametrize("axis", [None, "z"])
def test_rigid_parts_come_back_as_they_move(tmp_path: Path, axis: str | None) -> None:
    model = bodies({0: 100, 1: 80, 2: 60, 3: 60})
    said: list[str] = []
    assert write_model(tmp_path / "a.glb", model, time=0.5, vertical_axis=axis, say=said.append) == 300
    assert "3 rigid parts move" in said[0] and "0 move in other ways" in said[0]
    document = Document(tmp_path / "a.glb").json
    assert [node["name"] for node in document["nodes"]] == ["still", "part 0", "part 1", "part 2"]
    moved = sorted((c["target"]["node"], c["target"]["path"]) for c in document["animations"][0]["channels"])
    # One body only shifts, one only turns, one does both.
    assert len(moved) == 4 and {path for _, path in moved} == {"translation", "rotation"}
    back = read_model(tmp_path / "a.glb")
    assert isinstance(back.motion, RigidParts) and len(back) == 300
    assert back.fps == pytest.approx(4.0) and back.times == pytest.approx(TIMES, abs=1e-6)
    assert decibels(model, back, tuple(TIMES)) > 50
    # Between the instants a straight line stands in for the sine and the square.
    assert decibels(model, back, (0.06, 0.31, 0.94)) > 33
    # Without the animation a viewer shows the instant asked for.
    still = DynamicGaussians(
        {name: torch.from_numpy(value) for name, value in read_gltf(tmp_path / "a.glb").items()}, make_motion("static")
    )
    assert decibels(DynamicGaussians(splats_at(model, 0.5), make_motion("static")), still) > 50
    write_model(tmp_path / "b.g4d", back)
    assert decibels(back, read_model(tmp_path / "b.g4d"), (0.0, 0.7)) == float("inf")
    assert np.allclose(back.velocity(0.5).norm(dim=1).max(), model.velocity(0.5).norm(dim=1).max(), rtol=0.1)


def splats_at(model: DynamicGaussians, time: float) -> dict[str, torch.Tensor]:
    from gaussian4d.model import splat_arrays

    return {name: torch.from_numpy(value) for name, value in splat_arrays(model.at(time)).items()}


def test_what_swells_or_scatters_is_not_split(tmp_path: Path) -> None:
    model = bodies({0: 100, 4: 300, 5: 300})
    said: list[str] = []
    write_model(tmp_path / "a.glb", model, time=0.5, say=said.append)
    assert "0% of what moves there moves in rigid parts: this is the instant at 0.5" in said[0]
    back = read_model(tmp_path / "a.glb")
    assert back.motion.name == "static"
    assert decibels(DynamicGaussians(splats_at(model, 0.5), make_motion("static")), back) > 60


def test_what_moves_otherwise_stands_still_beside_the_parts(tmp_path: Path) -> None:
    model = bodies({0: 100, 2: 300, 5: 100})
    split = find_rigid_parts(model, TIMES, 0.5)
    own = model.params["bodies"].numpy()
    assert (split.part[own == 5] == LOOSE).mean() > 0.95 and (split.part[own == 2] == 0).mean() > 0.98
    write_model(tmp_path / "a.glb", model, time=0.5)
    back = read_model(tmp_path / "a.glb")
    assert back.motion.name == "rigid-parts" and int((back.params["parts"] < 0).sum()) >= 190
    assert decibels(model, back, (0.5,)) > 50 > decibels(model, back, (0.0, 1.0))


def test_harmonics_turn_with_a_part(tmp_path: Path) -> None:
    angle = torch.linspace(0.0, 1.2, 5)
    turns = torch.zeros(1, 5, 4)
    turns[0, :, 0], turns[0, :, 2] = torch.cos(angle / 2), torch.sin(angle / 2)
    params = {**bodies({0: 60}).params, "shN": 0.3 * torch.randn(60, 8, 3, generator=torch.Generator().manual_seed(0))}
    del params["bodies"]
    motion = RigidParts(RigidPartsConfig(times=(0.0, 0.25, 0.5, 0.75, 1.0), parts=1))
    shared = {"shared.pivots": torch.ones(1, 3), "shared.offsets": torch.zeros(1, 5, 3), "shared.turns": turns}
    model = DynamicGaussians({**params, **shared, "parts": torch.zeros(60)}, motion, times=np.linspace(0, 1, 5))
    # Seen along a direction that turns with it, the colour of a part stays the same.
    from diff_rasterizer import spherical_harmonics

    first, last = model.at(0.0), model.at(1.0)
    turn = torch.from_numpy(Rotation.from_rotvec([0.0, 1.2, 0.0]).as_matrix()).float()
    view = torch.nn.functional.normalize(torch.randn(60, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    seen = [spherical_harmonics(2, v, s.colors) for v, s in ((view, first), (view @ turn.T, last))]
    assert torch.allclose(seen[0], seen[1], atol=1e-4)
    assert not torch.allclose(first.colors, last.colors, atol=0.05)
    write_model(tmp_path / "a.glb", model, time=0.3)
    assert decibels(model, read_model(tmp_path / "a.glb"), (0.0, 0.25, 0.6, 1.0)) > 50


def animated(folder: Path, channels: list[tuple[int, str, str, list[float], list]], parent: bool = False) -> Path:
    """Returns a `.gltf` of one Gaussian at (1, 0, 0) in a node, with (node, path, interpolation, keys, values)."""
    still = bodies({0: 1})
    still.params["means"] = torch.tensor([[-1.0, 0.0, 0.0]])
    write_model(folder / "one.glb", DynamicGaussians(splats_at(still, 0.0), make_motion("static")))
    document = Document(folder / "one.glb")
    builder = Builder()
    samplers = [
        {
            "input": builder.add(np.array(keys), target=None),
            "output": builder.add(np.array(values), target=None),
            "interpolation": kind,
        }
        for _, _, kind, keys, values in channels
    ]
    (folder / "extra.glb").write_bytes(builder.glb({"asset": {"version": "2.0"}}))
    extra = Document(folder / "extra.glb")
    content = document.json
    views, accessors = len(content["bufferViews"]), len(content["accessors"])
    content["buffers"] = [
        {"uri": "data:;base64," + base64.b64encode(part.binary).decode(), "byteLength": len(part.binary)}
        for part in (document, extra)
    ]
    content["bufferViews"] += [view | {"buffer": 1} for view in extra.json["bufferViews"]]
    content["accessors"] += [a | {"bufferView": a["bufferView"] + views} for a in extra.json["accessors"]]
    for sampler in samplers:
        sampler["input"] += accessors
        sampler["output"] += accessors
    if parent:
        content["nodes"] = [{"children": [1]}, {"mesh": 0, "translation": [0.0, 2.0, 0.0]}]
    targets = [{"node": node, "path": path} for node, path, *_ in channels]
    content["animations"] = [
        {"channels": [{"sampler": k, "target": t} for k, t in enumerate(targets)], "samplers": samplers}
    ]
    (folder / "a.gltf").write_text(json.dumps(content))
    return folder / "a.gltf"


def place(model: DynamicGaussians, time: float) -> list[float]:
    """Returns where the Gaussian is in the axes of the file: x and y are turned on the way."""
    x, y, z = model.at(time).means[0].tolist()
    return [-x, -y, z]


def test_animations_from_elsewhere(tmp_path: Path) -> None:
    up = [0.0, 0.0, np.sin(np.pi / 4), np.cos(np.pi / 4)]
    turn = (0, "rotation", "LINEAR", [0.0, 2.0], [[0.0, 0.0, 0.0, 1.0], up])
    model = read_model(animated(tmp_path, [turn], parent=True))
    # A node at (0, 2, 0) below one that turns by 90 degrees about z: the Gaussian at (1, 2, 0) goes to (-2, 1, 0).
    assert place(model, 0.0) == pytest.approx([1, 2, 0], abs=1e-5)
    assert place(model, 1.0) == pytest.approx([-2, 1, 0], abs=1e-5)
    step = (0, "translation", "STEP", [0.0, 1.0, 2.0], [[0.0, 0, 0], [0, 5, 0], [0, 7, 0]])
    model = read_model(animated(tmp_path, [step]))
    assert place(model, 0.49)[1] == pytest.approx(0, abs=1e-5)
    assert place(model, 0.51)[1] == pytest.approx(5) and place(model, 1.0)[1] == pytest.approx(7)
    # Slopes, value, slopes: from rest at 0 to rest at 8, half way in the middle; a quarter in, 8 (3/16 - 2/64).
    zero = [0.0, 0.0, 0.0]
    cubic = (0, "translation", "CUBICSPLINE", [0.0, 2.0], [zero, zero, zero, zero, [8.0, 0.0, 0.0], zero])
    model = read_model(animated(tmp_path, [cubic]))
    assert place(model, 0.5)[0] == pytest.approx(5, abs=1e-4) and place(model, 1.0)[0] == pytest.approx(9, abs=1e-4)
    assert place(model, 0.25)[0] == pytest.approx(1 + 8 * (3 / 16 - 2 / 64), abs=1e-4)


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ((0, "scale", "LINEAR", [0.0, 1.0], [[1.0, 1, 1], [2, 2, 2]]), "larger or smaller"),
        ((0, "translation", "LINEAR", [1.0, 0.0], [[1.0, 1, 1], [2, 2, 2]]), "do not ascend"),
        ((0, "translation", "LINEAR", [0.0, 1.0], [[1.0, 1, 1], [np.inf, 2, 2]]), "do not ascend"),
        ((0, "translation", "LINEAR", [0.0, 1.0], [[1.0, 1, 1]]), "1 values for 2 keys"),
        ((0, "translation", "CUBICSPLINE", [0.0, 1.0], [[1.0, 1, 1], [2, 2, 2]]), "2 values for 2 keys"),
        ((0, "translation", "NEAREST", [0.0, 1.0], [[1.0, 1, 1], [2, 2, 2]]), "interpolates by 'NEAREST'"),
        ((7, "translation", "LINEAR", [0.0, 1.0], [[1.0, 1, 1], [2, 2, 2]]), "nodes has no entry 7"),
        ((0, "colour", "LINEAR", [0.0, 1.0], [[1.0, 1, 1], [2, 2, 2]]), "which it cannot"),
    ],
)
def test_animations_that_make_no_sense_are_refused(tmp_path: Path, channel: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_model(animated(tmp_path, [channel]))


def test_mutated_animations_end_in_one_message(tmp_path: Path) -> None:
    write_model(tmp_path / "a.glb", bodies({0: 4, 1: 20, 2: 20}), time=0.0)
    data = (tmp_path / "a.glb").read_bytes()
    assert b'"animations"' in data
    rng = np.random.default_rng(5)
    refused = 0
    for _ in range(60):
        (tmp_path / "a.glb").write_bytes(mutated(data, rng))
        refused += not try_read(tmp_path / "a.glb")
    assert refused > 10


@pytest.mark.parametrize(
    "config", [{"times": [1.0, 0.0]}, {"times": []}, {"parts": -1}, {"times": "x"}, {"parts": 1 << 30}]
)
def test_settings_that_make_no_sense_are_refused(config: dict) -> None:
    with pytest.raises(UserError, match="rigid-parts"):
        make_motion("rigid-parts", config)


def test_rows_of_no_part_stand_still() -> None:
    params = {**bodies({0: 3}).params, "parts": torch.tensor([0.0, -1.0, 7.0])}
    motion = make_motion("rigid-parts", {"times": [0.0, 1.0], "parts": 1})
    params |= motion.init_shared(params["means"], torch.Generator())
    params["shared.offsets"][0, 1] = torch.tensor([0.0, 2.0, 0.0])
    moved = motion.at(params, 0.5).means - params["means"]
    assert torch.allclose(moved, torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), atol=1e-6)
    # Before the first instant and after the last one it stands where it stood then.
    assert torch.allclose(motion.at(params, 3.0).means[0], params["means"][0] + torch.tensor([0.0, 2.0, 0.0]))
