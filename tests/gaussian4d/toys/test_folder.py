"""The written data set: D-NeRF's conventions, whole or absent, the same bytes for the same seed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaussian4d.errors import UserError
from gaussian4d.toys import Part, ToyWorld, ring_cameras, shapes, write_scene
from gaussian4d.toys.motions import Slide
from gaussian4d.toys.textures import Texture

SMALL = {"train_cameras": 4, "test_cameras": 2, "instants": 3, "width": 40, "height": 30}


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_folder_holds_every_view_once(tmp_path: Path) -> None:
    calls = []
    scene = write_scene(tmp_path / "toy", seed=1, progress=lambda done, total: calls.append((done, total)), **SMALL)
    assert scene == tmp_path / "toy"
    assert calls == [(k + 1, 18) for k in range(18)]
    ids = {}
    for split, count in (("train", 4), ("test", 2)):
        meta = json.loads((scene / f"transforms_{split}.json").read_text())
        assert (meta["w"], meta["h"], meta["cx"], meta["cy"]) == (40, 30, 20.0, 15.0)
        assert meta["camera_angle_x"] == pytest.approx(2 * np.arctan(20 / meta["fl_x"]))
        assert len(meta["frames"]) == 3 * count
        assert {frame["time"] for frame in meta["frames"]} == {0.0, 0.5, 1.0}
        assert [frame["time_index"] for frame in meta["frames"]] == [0, 1, 2] * count
        for frame in meta["frames"]:
            picture = Image.open(scene / (frame["file_path"] + ".png"))
            assert picture.mode == "RGBA" and picture.size == (40, 30)
        ids[split] = {frame["camera_id"] for frame in meta["frames"]}
    assert len(ids["train"]) == 4 and len(ids["test"]) == 2 and not ids["train"] & ids["test"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy"]


def test_same_seed_same_bytes_whatever_the_threads(tmp_path: Path) -> None:
    one = write_scene(tmp_path / "a", seed=2, threads=1, **SMALL)
    two = write_scene(tmp_path / "b", seed=2, threads=3, **SMALL)
    other = write_scene(tmp_path / "c", seed=3, **SMALL)
    assert digest(one) == digest(two)
    assert digest(one) != digest(other)


def test_a_known_world_point_is_found_where_the_json_projects_it(tmp_path: Path) -> None:
    ball = Part("ball", shapes.sphere(0.12), Texture("solid", ("green", "green")), (0.5, 0.1, 0.4),
                motions=[Slide((0.0, -0.6, 0.0), 0.25)])  # fmt: skip
    scene = write_scene(tmp_path / "toy", world=ToyWorld((ball,)), **SMALL)
    for split in ("train", "test"):
        meta = json.loads((scene / f"transforms_{split}.json").read_text())
        for frame in meta["frames"]:
            centre = np.array([0.5, 0.1 - 0.6 * np.sin(np.pi / 2 * frame["time"]), 0.4, 1.0])
            # OpenGL camera: x right, y up, looking along -z; picture rows run down.
            x, y, z, _ = np.linalg.inv(np.array(frame["transform_matrix"])) @ centre
            assert z < 0
            column = meta["fl_x"] * x / -z + meta["cx"]
            row = meta["fl_y"] * -y / -z + meta["cy"]
            rgba = np.asarray(Image.open(scene / (frame["file_path"] + ".png"))).astype(float)
            weight = rgba[..., 3] / rgba[..., 3].sum()
            rows, columns = np.mgrid[:30, :40] + 0.5
            assert (weight * columns).sum() == pytest.approx(column, abs=0.15)
            assert (weight * rows).sum() == pytest.approx(row, abs=0.15)
            solid = rgba[rgba[..., 3] == 255]
            assert (solid[:, 1] > solid[:, 0]).all()


def test_half_covered_pixels_hold_straight_colour(tmp_path: Path) -> None:
    ball = Part("ball", shapes.sphere(0.5), Texture("solid", ("white", "white")))
    scene = write_scene(tmp_path / "toy", world=ToyWorld((ball,)), **SMALL)
    rgba = np.asarray(Image.open(scene / "train" / "c00_t00.png"))
    edge = rgba[(rgba[..., 3] > 0) & (rgba[..., 3] < 200)]
    assert len(edge) > 5
    assert edge[:, :3].min() > 90


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_scene(tmp_path / "toy", progress=stop, **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_the_target_is_absent_until_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "toy"
    write_scene(target, progress=lambda done, total: None if not target.exists() else pytest.fail("early"), **SMALL)
    assert target.exists()


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UserError, match="would be lost"):
        write_scene(tmp_path / "mine", **SMALL)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"
    (tmp_path / "empty").mkdir()
    assert (write_scene(tmp_path / "empty", **SMALL) / "transforms_train.json").exists()


def test_test_cameras_stand_between_training_ones() -> None:
    trains, tests = ring_cameras(10, 2)

    def angle(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b))))

    for test in tests:
        nearest = sorted(angle(test.position, train.position) for train in trains)
        assert 10 < nearest[0] < 30 and nearest[1] < 30
    assert angle(tests[0].position * [1, 1, 0], tests[1].position * [1, 1, 0]) > 120
    for one in (*trains, *tests):
        assert one.position[2] > 0
        np.testing.assert_allclose(one.forward, -one.position / 4.0, atol=1e-12)


@pytest.mark.parametrize("change", [{"train_cameras": 0}, {"test_cameras": 5}, {"instants": 0}, {"width": 0}])
def test_impossible_counts_are_refused_before_any_work(tmp_path: Path, change: dict) -> None:
    with pytest.raises(UserError, match="expected"):
        write_scene(tmp_path / "toy", **{**SMALL, **change})
    assert list(tmp_path.iterdir()) == []
