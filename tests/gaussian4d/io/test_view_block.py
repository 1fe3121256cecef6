"""The view block: what a model says about how to be looked at, checked like everything a stranger's file says."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.framing import framing_of
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.motion import Static
from gaussian4d.paths import rig_from_cameras
from gaussian4d.scene import Scene
from gaussian4d.view_block import MAX_CAMERAS, ViewBlock, well_spread


def ring(count: int, height: float = 1.0, radius: float = 4.0) -> list[Camera]:
    """Returns cameras around the origin; +y is up."""
    angles = 2.0 * np.pi * np.arange(count) / count
    return [
        Camera.look_at(
            np.array([radius * np.cos(a), height, radius * np.sin(a)]),
            np.zeros(3),
            np.array([0.0, 1.0, 0.0]),
            width=64,
            height=48,
            focal=70.0,
            id=f"cam{k:02d}",
        )
        for k, a in enumerate(angles)
    ]


def scene_of(cameras: list[Camera], channels: int = 3) -> Scene:
    images = np.full((len(cameras), 48, 64, channels), 90, np.uint8)
    return Scene.from_frames(
        images, cameras, np.linspace(0, 1, len(cameras)).tolist(), split="train", fps=10.0, duration=1.7
    )


def tiny_model(**more: Any) -> DynamicGaussians:
    params = {
        "means": torch.zeros(3, 3),
        "quats": torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1),
        "scales": torch.zeros(3, 3),
        "opacities": torch.zeros(3),
        "sh0": torch.zeros(3, 1, 3),
        "shN": torch.zeros(3, 0, 3),
    }
    return DynamicGaussians(params, Static(), **more)


def good() -> dict[str, Any]:
    return ViewBlock.of_scene(scene_of(ring(5)), near=0.2, background=(0.1, 0.2, 0.3)).to_dict()


def test_a_scene_tells_how_it_wants_to_be_looked_at() -> None:
    cameras = ring(5)
    block = ViewBlock.of_scene(scene_of(cameras), near=0.2)
    assert block.up == pytest.approx([0, 1, 0]) and block.center == pytest.approx([0, 0, 0], abs=1e-9)
    assert [camera.id for camera in block.cameras] == [camera.id for camera in cameras]
    assert (block.near, block.seconds, block.fps, block.background) == (0.2, 1.7, 10.0, (0.0, 0.0, 0.0))
    rig = rig_from_cameras(cameras)
    assert block.first is not None and block.first.position == pytest.approx(rig.position(rig.start))
    assert block.first.forward @ (rig.center - block.first.position) > 0
    assert ViewBlock.of_scene(scene_of(cameras, 4)).background == (1.0, 1.0, 1.0)


def test_it_comes_back_to_the_bit_from_a_file(tmp_path: Path) -> None:
    block = ViewBlock.of_scene(scene_of(ring(5)), near=0.123456789, background=(0.1, 0.2, 0.3))
    block.written_to(tiny_model()).save(tmp_path / "a.g4d")
    back = ViewBlock.of(load_model(tmp_path / "a.g4d"))
    assert back is not None and back.to_dict() == block.to_dict()
    for mine, theirs in zip(block.cameras, back.cameras, strict=True):
        np.testing.assert_array_equal(mine.viewmat, theirs.viewmat)
    assert ViewBlock.of(tiny_model()) is None


def test_of_many_cameras_those_are_kept_that_stand_furthest_apart() -> None:
    # Sixty in one corner must not push out the few that see the other sides.
    crowd = ring(7200)[:60]
    others = ring(12)[1:]
    kept = well_spread([*crowd, *others])
    assert len(kept) == MAX_CAMERAS
    assert {camera.id for camera in others} <= {camera.id for camera in kept}
    order = [*crowd, *others]
    places = [next(i for i, camera in enumerate(order) if camera is one) for one in kept]
    assert places == sorted(places) and places[0] == 0


def test_a_name_that_is_no_text_and_a_picture_beyond_reason_do_not_spoil_the_file() -> None:
    cameras = ring(3)
    odd = Camera("a\n\udce4" + "x" * 300, cameras[0].viewmat, cameras[0].K, 64, 48)
    big = Camera("big", cameras[1].viewmat, cameras[1].K, 40_000, 20)
    images = [np.zeros((c.height, c.width, 3), np.uint8) for c in (odd, big, cameras[2])]
    scene = Scene.from_frames(images, [odd, big, cameras[2]], [0.0, 0.5, 1.0], split="train")
    block = ViewBlock.from_dict(json.loads(json.dumps(ViewBlock.of_scene(scene).to_dict())))
    assert block is not None and [camera.id[:4] for camera in block.cameras] == ["a??x", "cam0"]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ((), [], "the block"),
        (("version",), True, "version"),
        (("version",), 0, "version"),
        (("up",), [0, 0, 0], "up"),
        (("up",), [0, 1], "up"),
        (("up",), "z", "up"),
        (("center",), [0, 0, float("nan")], "center"),
        (("center",), [0, 0, 10**400], "center"),
        (("near",), 0, "near"),
        pytest.param(("near",), 10**5000, "near", id="near-many-digits"),
        (("seconds",), -1.0, "seconds"),
        (("seconds",), float("inf"), "seconds"),
        (("fps",), True, "fps"),
        (("background",), [0, 0, 2], "background"),
        (("first",), 7, "first"),
        (("cameras",), {}, "cameras"),
        (("cameras",), [None] * 25, "cameras"),
        (("cameras", 1), "cam", r"cameras\[1\]"),
        (("cameras", 1, "id"), 7, "id"),
        (("cameras", 1, "id"), "x" * 201, "id"),
        (("cameras", 1, "id"), "a\x1b[2Jb", "id"),
        (("cameras", 1, "model"), "panorama", "model"),
        (("cameras", 1, "model"), [], "model"),
        (("cameras", 1, "width"), 0, "width"),
        (("cameras", 1, "width"), 64.0, "width"),
        (("cameras", 1, "height"), 10**9, "height"),
        (("cameras", 1), {**good()["cameras"][1], "width": 30_000, "height": 30_000}, "pixels"),
        (("cameras", 1, "viewmat"), [[1, 0, 0, 0]] * 3, "viewmat"),
        (("cameras", 1, "viewmat"), np.zeros((4, 4)).tolist(), "viewmat"),
        (("cameras", 1, "viewmat"), [[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "rotation"),
        (("cameras", 1, "viewmat", 0, 3), 1e300, "viewmat"),
        (("cameras", 1, "K"), [[-1, 0, 0], [0, 1, 0], [0, 0, 1]], "K"),
        (("cameras", 1, "K", 0, 0), 1e-30, "K"),
        (("cameras", 1, "K", 0, 0), 1e11, "K"),
    ],
)
def test_what_cannot_be_true_is_refused_by_name(path: tuple[Any, ...], value: Any, named: str) -> None:
    values: Any = good()
    if path:
        place = values
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    else:
        values = value
    with pytest.raises(UserError, match=named):
        ViewBlock.of(tiny_model(meta={"view": values}))


def test_a_later_version_is_not_used_and_that_is_said() -> None:
    with pytest.warns(UserWarning, match="version 2"):
        assert ViewBlock.of(tiny_model(meta={"view": {"version": 2, "cameras": "something new"}})) is None


def _places(values: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()
    return [path, *(found for key in keys for found in _places(values[key], (*path, key)))]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside, max_size=4),
    max_leaves=8,
)


@given(st.data())
def test_whatever_stands_in_it_is_a_block_or_one_error(data: st.DataObject) -> None:
    values = copy.deepcopy(GOOD)
    path = data.draw(st.sampled_from(PLACES))
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = data.draw(_JSON)
    try:
        block = ViewBlock.of(tiny_model(meta={"view": values}))
    except UserError:
        return
    except UserWarning:
        return
    if block is not None:
        json.dumps(block.to_dict(), allow_nan=False)


GOOD = good()
PLACES = [path for path in _places(GOOD) if path]


def _splatv_with(path: Path, **changed: Any) -> Path:
    """Writes a small `.splatv` whose chunk says something else besides its Gaussians."""
    tiny_model().save(path)
    data = path.read_bytes()
    size = int.from_bytes(data[4:8], "little")
    chunks = json.loads(data[8 : 8 + size])
    chunks[0] |= changed
    text = json.dumps(chunks).encode()
    path.write_bytes(data[:4] + len(text).to_bytes(4, "little") + text + data[8 + size :])
    return path


SPLATV_CAMERA = {
    "id": 0,
    "img_name": "a",
    "width": 640,
    "height": 480,
    "position": [0, 0, -3],
    "rotation": np.eye(3).tolist(),
    "fx": 500.0,
    "fy": 500.0,
}


def test_cameras_of_a_splatv_are_recorded_ones_only(tmp_path: Path) -> None:
    # Nothing was recorded: the camera that the format needs is no recorded one when it is read again.
    tiny_model().save(tmp_path / "a.splatv")
    block = ViewBlock.of(load_model(tmp_path / "a.splatv"))
    assert block is not None and block.cameras == () and block.first is not None
    # Nor is the one along z that converters write.
    assert ViewBlock.of(load_model(_splatv_with(tmp_path / "b.splatv", cameras=[SPLATV_CAMERA]))) is None
    two = [SPLATV_CAMERA, {**SPLATV_CAMERA, "img_name": "b", "position": [1, 0, -3]}]
    block = ViewBlock.of(load_model(_splatv_with(tmp_path / "c.splatv", cameras=two)))
    assert block is not None and [camera.id for camera in block.cameras] == ["a", "b"]
    assert block.cameras[1].position == pytest.approx([1, 0, -3])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changed",
    [
        {"cameras": value}
        for value in (
            7,
            "x",
            {},
            [7],
            [{}],
            [{**SPLATV_CAMERA, "fx": 0}],
            [{**SPLATV_CAMERA, "width": 10**9}, SPLATV_CAMERA],
            [{**SPLATV_CAMERA, "width": 10**400}],
            [{**SPLATV_CAMERA, "rotation": [[1]]}],
            [{**SPLATV_CAMERA, "position": [1e300, 0, 0]}],
            [{**SPLATV_CAMERA, "img_name": ["a"]}] * 1000,
        )
    ]
    + [
        {"view": value}
        for value in (7, [], {}, {"version": 1, "up": 3}, {"version": 9}, {"version": 1, "cameras": [{}]})
    ],
)
def test_what_others_write_into_a_splatv_costs_nobody_the_gaussians(tmp_path: Path, changed: dict[str, Any]) -> None:
    model = load_model(_splatv_with(tmp_path / "a.splatv", **changed))
    assert len(model) == 3
    block = ViewBlock.of(model)
    assert block is None or len(block.cameras) <= MAX_CAMERAS
    assert framing_of(model).first.width > 0
