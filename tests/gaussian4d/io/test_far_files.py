"""Files of what stands far from the origin: the offset is written or said, and read back."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from gaussian4d import DynamicGaussians, load_model, load_scene, render
from gaussian4d.cameras import Camera
from gaussian4d.cli.app import main
from gaussian4d.conventions import invert_rigid
from gaussian4d.crop import CropBox, crop_model
from gaussian4d.errors import UserError
from gaussian4d.io.camera_files import write_colmap, write_transforms
from gaussian4d.io.ply import read_ply
from gaussian4d.io.track_file import points_of, write_tracks
from gaussian4d.keyframes import Keyframe, KeyframePath
from gaussian4d.motion import FreeTime, Static
from gaussian4d.offsets import aligned, moved_camera
from gaussian4d.paths import load_path

OFFSET = np.array([500_000.0, 5_000_000.0, 1200.0])


def gaussians(moving: bool = False, offset: np.ndarray | None = OFFSET) -> DynamicGaussians:
    """Returns a few dozen Gaussians about the origin that state an offset."""
    rng = torch.Generator().manual_seed(3)
    count = 40
    params = {
        "means": torch.rand(count, 3, generator=rng) - 0.5,
        "quats": torch.nn.functional.normalize(torch.randn(count, 4, generator=rng), dim=1),
        "scales": torch.full((count, 3), -3.5),
        "opacities": torch.full((count,), 2.0),
        "sh0": torch.randn(count, 1, 3, generator=rng) * 0.4,
        "shN": torch.zeros(count, 0, 3),
    }
    meta = {} if offset is None else {"offset": offset.tolist()}
    if not moving:
        return DynamicGaussians(params, Static(), meta=meta)
    params |= {
        "velocities": torch.tensor([0.3, 0.0, 0.1]).repeat(count, 1),
        "times": torch.full((count,), 0.5),
        "durations": torch.full((count,), 3.0),
    }
    return DynamicGaussians(params, FreeTime(), times=np.linspace(0, 1, 5), fps=4.0, meta=meta)


@pytest.mark.parametrize("moving", [False, True])
@pytest.mark.parametrize("name", ["a.g4d", "a.ply", "a.compressed.ply", "a.glb", "a.usda", "a.usdz"])
def test_formats_with_room_state_the_offset_and_give_it_back(tmp_path: Path, name: str, moving: bool) -> None:
    model = gaussians(moving)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.save(tmp_path / name)
        back = load_model(tmp_path / name)
    assert back.meta["offset"] == OFFSET.tolist()
    order = lambda means: means[np.lexsort(means.round(2).T)]  # noqa: E731 - the compressed layout sorts its rows
    close = 2e-3 if "compressed" in name else 1e-6
    found, expected = (order(m.at(0.0).means.numpy()) for m in (back, model))
    assert np.abs(found - expected).max() < close
    back.save(tmp_path / f"again_{name}")
    assert load_model(tmp_path / f"again_{name}").meta["offset"] == OFFSET.tolist()


@pytest.mark.parametrize("name", ["a.spz", "a.splat", "a.sog", "a.splatv"])
def test_formats_without_room_say_so(tmp_path: Path, name: str) -> None:
    with pytest.warns(
        UserWarning, match="relative to 500000 5000000 1200 of the recorded world, which .* cannot store"
    ):
        gaussians(name == "a.splatv").save(tmp_path / name)
    assert "offset" not in load_model(tmp_path / name).meta
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gaussians(offset=None).save(tmp_path / name)


def test_commands_print_where_a_file_stands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gaussians(True).save(tmp_path / "a.g4d")
    lines = {}
    for target in ("b.spz", "b.ply", "frames", "b.html", "b.mesh.glb", "b.npz"):
        assert main(["export", str(tmp_path / "a.g4d"), "--to", str(tmp_path / target)]) == 0
        lines[target] = capsys.readouterr().out
        assert "500000 5000000 1200" in lines[target], target
    assert (
        "cannot store" in lines["b.spz"] and "the file states" in lines["b.ply"] and "does not store" in lines["b.html"]
    )
    assert np.load(tmp_path / "b.npz")["offset"].tolist() == OFFSET.tolist()
    frames = load_model(tmp_path / "frames")
    assert frames.meta["offset"] == OFFSET.tolist()


def write_foreign(path: Path, means: np.ndarray, kind: str, scale: float = -3.5) -> None:
    """Writes a 3DGS `.ply` whose positions are of `kind`."""
    names = ["x", "y", "z", *(f"f_dc_{i}" for i in range(3)), "opacity", *(f"scale_{i}" for i in range(3))]
    names += [f"rot_{i}" for i in range(4)]
    types = {"<f8": "double", ">f8": "double", "<f4": "float"}
    rows = np.zeros(len(means), [(name, kind if name in "xyz" else f"{kind[0]}f4") for name in names])
    for axis, name in enumerate("xyz"):
        rows[name] = means[:, axis]
    rows["rot_0"], rows["opacity"] = 1.0, 2.0
    for axis in range(3):
        rows[f"scale_{axis}"] = scale
    header = "".join(f"property {types[kind] if name in 'xyz' else 'float'} {name}\n" for name in names)
    order = "little" if kind[0] == "<" else "big"
    text = f"ply\nformat binary_{order}_endian 1.0\nelement vertex {len(means)}\n{header}end_header\n"
    path.write_bytes(text.encode() + rows.tobytes())


@pytest.mark.parametrize("kind", ["<f8", ">f8"])
def test_doubles_far_from_the_origin_lose_nothing(tmp_path: Path, kind: str) -> None:
    means = np.random.default_rng(0).uniform(-2, 2, (50, 3)) + OFFSET
    write_foreign(tmp_path / "far.ply", means, kind)
    assert read_ply(tmp_path / "far.ply")["means"].dtype == np.float64
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_model(tmp_path / "far.ply")
    assert model.params["means"].dtype == torch.float32
    assert np.abs(model.params["means"].double().numpy() + model.meta["offset"] - means).max() < 1e-6
    write_foreign(tmp_path / "near.ply", means - OFFSET, "<f8")
    assert read_ply(tmp_path / "near.ply")["means"].dtype == np.float32
    assert "offset" not in load_model(tmp_path / "near.ply").meta
    for k in range(3):
        (tmp_path / "clip").mkdir(exist_ok=True)
        write_foreign(tmp_path / "clip" / f"f_{k}.ply", means + [2.0 * k, 0, 0], "<f8")
    clip = load_model(tmp_path / "clip")
    for k in range(3):
        there = clip.at(k / 2).means.double().numpy() + clip.meta["offset"]
        assert np.abs(there - means - [2.0 * k, 0, 0]).max() < 1e-6


def test_floats_too_coarse_for_their_gaussians_are_warned_of(tmp_path: Path) -> None:
    means = np.random.default_rng(0).uniform(-2, 2, (50, 3)) + OFFSET
    write_foreign(tmp_path / "far.ply", means.astype(np.float32), "<f4")
    with pytest.warns(UserWarning, match=r"steps of 0\.5, more than the Gaussians' own size"):
        model = load_model(tmp_path / "far.ply")
    held = means.astype(np.float32).astype(np.float64)
    assert np.array_equal(model.params["means"].double().numpy() + model.meta["offset"], held)


@pytest.mark.parametrize("stated", ["1 2", "1 2 nan", "a b c", "1e300 0 0"])
def test_a_wrong_offset_is_refused(tmp_path: Path, stated: str) -> None:
    gaussians(offset=None).save(tmp_path / "a.ply")
    data = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(data.replace(b"comment ", f"comment World Offset: {stated}\ncomment ".encode(), 1))
    with pytest.raises(UserError, match=r"World Offset.*three finite numbers"):
        load_model(tmp_path / "a.ply")


def far_scene(folder: Path) -> Path:
    """Writes a nerfstudio scene of still cameras with 4 pixels each."""
    from PIL import Image

    from gaussian4d.conventions import opengl_from_opencv

    folder.mkdir()
    entries = []
    for k in range(6):
        angle = k * np.pi / 3
        place = np.array([3 * np.cos(angle), 3 * np.sin(angle), 0.7])
        camera = Camera.look_at(place, np.zeros(3), np.array([0, 0, 1.0]), width=8, height=8, focal=9)
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(folder / f"c{k}.png")
        pose = opengl_from_opencv(moved_camera(camera, OFFSET).T_world_camera)
        entries.append({"file_path": f"c{k}.png", "time": 0.0, "fl_x": 9.0, "transform_matrix": pose.tolist()})
    (folder / "transforms.json").write_text(json.dumps({"frames": entries}))
    return folder


def test_cameras_are_exported_where_they_were_recorded(tmp_path: Path) -> None:
    scene = load_scene(far_scene(tmp_path / "scene"))
    points = points_of(gaussians(), 0.0)
    (tmp_path / "a").mkdir()
    write_transforms(tmp_path / "a" / "transforms.json", scene, points=points, pictures=True)
    write_colmap(tmp_path / "b", scene, points=points, pictures=True)
    entry = json.loads((tmp_path / "a" / "transforms.json").read_text())["frames"][0]
    assert np.linalg.norm(np.array(entry["transform_matrix"])[:3, 3] - OFFSET) < 4
    for name in ("a", "b"):
        again = load_scene(tmp_path / name)
        assert np.array_equal(again.offset, scene.offset)
        for one, other in zip(scene.frames("all"), again.frames("all")):
            assert np.abs(one.camera.viewmat - other.camera.viewmat).max() < 1e-8
        assert again.points is not None and np.abs(again.points.xyz - points.xyz).max() < 1e-6


def test_a_model_is_drawn_with_a_scene_of_another_offset() -> None:
    model = gaussians()
    moved = aligned(model, OFFSET + [3.0, 0.0, -1.0])
    assert np.allclose(moved.params["means"], model.params["means"].numpy() - [3.0, 0.0, -1.0], atol=1e-6)
    assert moved.meta["offset"] == [500_003.0, 5_000_000.0, 1199.0]
    assert aligned(gaussians(offset=None), OFFSET).meta == {}


def test_paths_and_boxes_of_the_recorded_world_and_relative_ones(tmp_path: Path) -> None:
    camera = Camera.look_at(np.array([0, -4.0, 1]), np.zeros(3), np.array([0, 0, 1.0]), width=32, height=32, focal=30)
    model = gaussians()
    world, relative = tmp_path / "world.json", tmp_path / "relative.json"
    KeyframePath((Keyframe(moved_camera(camera, OFFSET).T_world_camera, 50.0),), 32, 32).save(world)
    x, y, z = OFFSET.tolist()
    KeyframePath((Keyframe(camera.T_world_camera, 50.0),), 32, 32, offset=(x, y, z)).save(relative)
    pictures = []
    for file in (world, relative):
        (found, _), *_ = load_path(file, 1, offset=OFFSET)
        assert np.allclose(found.position, camera.position, atol=1e-8)
        picture = render(model, found, 0.0, ("rgb",), background=(0.0, 0.0, 0.0)).rgb
        assert picture is not None
        pictures.append(picture.numpy())
    assert np.abs(pictures[0] - pictures[1]).max() < 1e-5 < pictures[0].max()
    bare = tmp_path / "bare.json"
    KeyframePath((Keyframe(camera.T_world_camera, 50.0),), 32, 32).save(bare)
    assert "offset" not in json.loads(bare.read_text())
    with pytest.raises(UserError, match=r'the path is at 0 -4 1, the scene at 500000 5000000 1200.*"offset"'):
        load_path(bare, 1, offset=OFFSET)
    whole = CropBox(tuple(OFFSET.tolist()), (0.5, 9.0, 9.0))  # type: ignore[arg-type]
    part = CropBox((0.0, 0.0, 0.0), (0.5, 9.0, 9.0), offset=(x, y, z))
    part.save(tmp_path / "crop.json")
    kept = [len(crop_model(model, box)) for box in (whole, part, CropBox.load(tmp_path / "crop.json"))]
    assert 0 < kept[0] < 40 and len(set(kept)) == 1
    with pytest.raises(UserError, match="the crop box is at 0 0 0"):
        crop_model(model, CropBox((0.0, 0.0, 0.0), (0.5, 9.0, 9.0)))
    assert crop_model(model, part).meta["offset"] == OFFSET.tolist()


def test_render_draws_a_path_file_on_a_map(tmp_path: Path) -> None:
    from PIL import Image

    gaussians().save(tmp_path / "a.ply")
    camera = Camera.look_at(np.array([0, -4.0, 1]), np.zeros(3), np.array([0, 0, 1.0]), width=32, height=32, focal=30)
    KeyframePath((Keyframe(moved_camera(camera, OFFSET).T_world_camera, 30.0),), 32, 32, frames=1).save(
        tmp_path / "path.json"
    )
    code = main(
        ["render", str(tmp_path / "a.ply"), "--out", str(tmp_path / "out"), "--path", str(tmp_path / "path.json")]
    )
    assert code == 0 and np.asarray(Image.open(tmp_path / "out" / "frame_0000.png")).max() > 50


def test_nodes_that_a_program_placed_on_a_map(tmp_path: Path) -> None:
    gaussians(offset=None).save(tmp_path / "a.usda")
    text = (tmp_path / "a.usda").read_text()
    end = text.rstrip().rfind("}")
    for place, key in (((0.5, 2.0, 0.0), False), (tuple(OFFSET.tolist()), True)):
        moved = (
            f'    double3 xformOp:translate = {place}\n    uniform token[] xformOpOrder = ["xformOp:translate"]\n}}\n'
        )
        (tmp_path / "b.usda").write_text(text[:end] + moved)
        near, far = load_model(tmp_path / "a.usda"), load_model(tmp_path / "b.usda")
        assert ("offset" in far.meta) == key
        shift = far.at(0.0).means.double().numpy() + far.meta.get("offset", np.zeros(3)) - near.at(0.0).means.numpy()
        # The file's y points up, ours down; its z looks out of the picture.
        assert np.allclose(shift, [place[0], -place[1], -place[2]], atol=1e-6)
    turned = '    double3 xformOp:rotateXYZ = (0, 0, 9)\n    uniform token[] xformOpOrder = ["xformOp:rotateXYZ"]\n}\n'
    (tmp_path / "c.usda").write_text(text[:end] + turned)
    with pytest.raises(UserError, match="transform"):
        load_model(tmp_path / "c.usda")


def test_tracks_have_the_offset_beside_them(tmp_path: Path) -> None:
    write_tracks(tmp_path / "a.npz", gaussians(True, None), count=5)
    assert np.load(tmp_path / "a.npz")["offset"].tolist() == [0, 0, 0]
    assert np.allclose(invert_rigid(np.eye(4)), np.eye(4))
