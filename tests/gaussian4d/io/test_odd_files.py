"""Files that are not what their names say, strays and rows at the ends of what numbers hold, SOG's first version."""

from __future__ import annotations

import io
import json
import math
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from splat_samples import sample
from test_foreign_files import columns, frames, save, spacetime_columns

from gaussian4d.cli import main
from gaussian4d.errors import UserError
from gaussian4d.io.glb import Document
from gaussian4d.io.packed import from_smallest_three, morton_order, smallest_three
from gaussian4d.io.ply import read_ply, write_ply
from gaussian4d.io.registry import read_model, write_model
from gaussian4d.io.sequence import write_ply_sequence
from gaussian4d.io.splats import SH_C0, Splats, sigmoid
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.motion import Spacetime, Static

WRITTEN = [".ply", ".compressed.ply", ".splat", ".spz", ".sog", ".glb", ".usda", ".splatv", ".4dgs", ".g4d"]
KINDS = {
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 123\n",
    "web page": b"\xef\xbb\xbf\r\n<!DOCTYPE html><html></html>",
    "XML": b"<?xml version='1.0'?><Error/>",
    "is empty": b"",
    "contains only zeros": bytes(320),
    "bzip2": b"BZh91AY&SY" + bytes(54),
}
ENDINGS = [".ply", ".splat", ".spz", ".sog", ".ksplat", ".splatv", ".glb", ".gltf", ".usda", ".usdz", ".g4d", ".pt"]


def model_of(table: Splats) -> DynamicGaussians:
    return DynamicGaussians({name: torch.from_numpy(value) for name, value in table.items()}, Static())


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_a_file_really_is(tmp_path: Path, ending: str) -> None:
    for what, content in KINDS.items():
        if (ending, content) == (".splat", b""):
            # No header and no rows: an instant at which nothing is there.
            continue
        path = tmp_path / f"a{ending}"
        path.write_bytes(content)
        with pytest.raises(UserError, match=what):
            load_model(path)


def test_a_file_without_gaussians_is_said_and_becomes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ply(tmp_path / "a.ply", sample(0, 0))
    assert main(["export", str(tmp_path / "a.ply"), "--to", str(tmp_path / "a.html")]) == 0
    assert "holds no Gaussians" in capsys.readouterr().err
    assert (tmp_path / "a.html").stat().st_size > 10_000


def test_a_ply_under_another_name_and_a_zip_of_frames(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", sample(5, 0))
    content = (tmp_path / "a.ply").read_bytes()
    for ending in (".splat", ".spz", ".sog", ".glb"):
        (tmp_path / f"b{ending}").write_bytes(content)
        with pytest.raises(UserError, match=r"it is a \.ply; rename it"):
            load_model(tmp_path / f"b{ending}")
    with zipfile.ZipFile(tmp_path / "clip.zip", "w") as archive:
        for k in range(2):
            archive.writestr(f"clip/frame_{k}.ply", content)
    with pytest.raises(UserError, match=r"a zip of 2 files \(clip/frame_0.ply, .*unpack it"):
        load_model(tmp_path / "clip.zip")


@pytest.mark.parametrize("ending", WRITTEN)
@pytest.mark.parametrize(
    ("column", "value", "stays"),
    [("means", 1e30, False), ("quats", 1e-30, False), ("quats", 1e30, False), ("scales", -1e4, True)]
    + [(name, value, True) for name in ("opacities", "sh0", "shN") for value in (1e30, -1e30)],
)
def test_numbers_at_their_ends(tmp_path: Path, ending: str, column: str, value: float, stays: bool) -> None:
    if ending == ".4dgs":
        pytest.importorskip("fourdgs")
    table = sample(12, 1)
    table[column][3] = value
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_model(tmp_path / f"a{ending}", model_of(table))
        found = read_model(tmp_path / f"a{ending}")
    assert not [warning for warning in caught if warning.category is not UserWarning]
    assert len(found) == (12 if stays else 11)
    assert all(torch.isfinite(value).all() for name, value in found.params.items() if name != "durations")
    if not stays:
        assert any("1 of 12 rows" in str(warning.message) for warning in caught)


def test_a_stray_comes_last_and_costs_the_others_nothing(tmp_path: Path) -> None:
    table = sample(1024, 0)
    table["means"][700] = (3e6, 0, -2e6)
    assert morton_order(table["means"])[-1] == 700
    path = tmp_path / "a.compressed.ply"
    with pytest.warns(UserWarning, match="Gaussians are placed in steps of .* because others stand as far out as 3e"):
        write_model(path, model_of(table))
    found = read_model(path).params["means"].numpy().astype(np.float64)
    nearest = np.abs(found[:, None] - table["means"][None].astype(np.float64)).max(axis=2).min(axis=1)
    # Only the block of the stray, the last 256, has its bounds.
    assert np.sort(nearest)[: 3 * 256].max() < 0.01


def test_a_stray_in_spz_is_said_or_refused_with_its_row(tmp_path: Path) -> None:
    table = sample(100, 0)
    table["means"][40] = (0, 1e6, 0)
    with pytest.warns(UserWarning, match="placed in steps of 0.25 only"):
        write_model(tmp_path / "a.spz", model_of(table))
    table["means"][40] = (0, 1e8, 0)
    with pytest.raises(UserError, match=r"the Gaussian of row 40 stands at 0 1e\+08 0"):
        write_model(tmp_path / "b.spz", model_of(table))
    assert not (tmp_path / "b.spz").exists()


def test_4dgs_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    pytest.importorskip("fourdgs")
    table = sample(20, 0)
    table["means"][7, 0] = 1e17
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match="row 7, stands at 1e"):
            write_model(tmp_path / "a.4dgs", model_of(table))
    assert not list(tmp_path.iterdir())


def moving_table(column: str, value: float) -> dict[str, torch.Tensor]:
    """Returns spacetime Gaussians of which the fourth has a number that no motion has."""
    table = {name: torch.from_numpy(value) for name, value in sample(8, 0).items()}
    motion = {"trajectories": torch.zeros(8, 3, 3), "spins": torch.zeros(8, 4), "times": torch.full((8,), 0.5)}
    table |= motion | {"durations": torch.full((8,), 2.0)}
    table["trajectories"][:, 0, 0] = 0.1
    table[column][3] = value
    return table


@pytest.mark.parametrize("ending", [".splatv", ".4dgs", ".glb", ".usda", ""])
@pytest.mark.parametrize(("column", "value"), [("trajectories", 1e30), ("spins", 1e30), ("times", -1e30)])
def test_motion_beyond_all_numbers_is_left_out_and_said_once(
    tmp_path: Path, ending: str, column: str, value: float
) -> None:
    if ending == ".4dgs":
        pytest.importorskip("fourdgs")
    model = DynamicGaussians(moving_table(column, value), Spacetime(), times=np.linspace(0, 1, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if ending:
            write_model(tmp_path / f"a{ending}", model)
        else:
            write_ply_sequence(tmp_path / "a", model, [0.0, 0.5, 1.0])
        found = load_model(tmp_path / f"a{ending}")
    said = [str(warning.message) for warning in caught]
    # A frame from before or after a Gaussian's life does not have it, whatever it is.
    assert len(said) == (0 if not ending and column == "times" else 1)
    assert all("1 of 8 rows are not valid Gaussians" in line for line in said)
    for time in (0.0, 0.5, 1.0):
        state = found.at(time)
        assert torch.isfinite(state.means).all() and torch.isfinite(state.quats).all()


def test_what_is_wrong_with_all_frames_is_one_line(tmp_path: Path) -> None:
    table = sample(6, 0)
    for k in range(3):
        folder = tmp_path / "clip"
        folder.mkdir(exist_ok=True)
        broken = {name: value.copy() for name, value in table.items()}
        broken["quats"][k] = 0.0
        save(folder / f"f_{k}.ply", {n: v for n, v in columns(broken).items() if n != "scale_2"})
    with pytest.warns(UserWarning) as caught:
        assert len(load_model(folder)) == 15
    said = sorted(str(warning.message) for warning in caught)
    assert len(said) == 2 and all("(2 more like this for the other frames)" in line for line in said)
    assert "flat Gaussians" in said[0] and "1 of 6 rows" in said[1]


def webp(pixels: np.ndarray, width: int) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels.reshape(-1, width, 4).astype(np.uint8), "RGBA")
    picture.save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def first_sog(folder: Path, table: Splats) -> Path:
    """Writes the first version of SOG, as its authors' program does: bounds where the second has codebooks."""
    count = len(table["means"])
    folder.mkdir()
    meta: dict[str, dict] = {}

    def add(name: str, values: np.ndarray, alpha: bool = False) -> None:
        flat = values.reshape(count, -1).astype(np.float64)
        low, high = flat.min(axis=0), flat.max(axis=0)
        share = np.round((flat - low) / (high - low) * 255)
        pixels = share if alpha else np.column_stack([share, np.full(count, 255)])
        (folder / f"{name}.webp").write_bytes(webp(pixels, 4))
        bounds = {"mins": low.tolist(), "maxs": high.tolist()}
        meta[name] = {"shape": [count, flat.shape[1]], "dtype": "float32", **bounds, "files": [f"{name}.webp"]}

    logs = np.sign(table["means"]) * np.log1p(np.abs(table["means"].astype(np.float64)))
    low, high = logs.min(axis=0), logs.max(axis=0)
    fixed = np.round((logs - low) / (high - low) * 65535).astype(np.int64)
    full = np.full((count, 1), 255)
    (folder / "means_l.webp").write_bytes(webp(np.column_stack([fixed & 255, full]), 4))
    (folder / "means_u.webp").write_bytes(webp(np.column_stack([fixed >> 8, full]), 4))
    files = ["means_l.webp", "means_u.webp"]
    meta["means"] = {"shape": [count, 3], "mins": low.tolist(), "maxs": high.tolist(), "files": files}
    largest, others = smallest_three(table["quats"])
    three = np.round((others * math.sqrt(0.5) + 0.5) * 255)
    (folder / "quats.webp").write_bytes(webp(np.column_stack([three, largest + 252]), 4))
    meta["quats"] = {"shape": [count, 4], "encoding": "quaternion_packed", "files": ["quats.webp"]}
    add("scales", table["scales"])
    add("sh0", np.column_stack([table["sh0"][:, 0], table["opacities"]]), alpha=True)
    # One palette entry each, 64 to a row of pixels.
    palette = np.zeros((64, table["shN"].shape[1], 4))
    low_n, high_n = float(table["shN"].min()), float(table["shN"].max())
    palette[:count, :, :3] = np.round((table["shN"] - low_n) / (high_n - low_n) * 255)
    palette[..., 3] = 255
    (folder / "shN_centroids.webp").write_bytes(webp(palette, 64 * table["shN"].shape[1]))
    label = np.column_stack([np.arange(count), np.zeros((count, 2)), np.full(count, 255)])
    (folder / "shN_labels.webp").write_bytes(webp(label, 4))
    bounds = {"mins": low_n, "maxs": high_n, "quantization": 8}
    names = ["shN_centroids.webp", "shN_labels.webp"]
    meta["shN"] = {"shape": [count, 3 * table["shN"].shape[1]], **bounds, "files": names}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_the_first_version_of_sog(tmp_path: Path, degree: int) -> None:
    table = sample(40, degree)
    found = load_model(first_sog(tmp_path / "old", table)).params
    for name, most in {"means": 0.001, "scales": 0.02, "sh0": 0.02, "opacities": 0.05, "shN": 0.005}.items():
        assert np.abs(found[name].numpy() - table[name]).max() < most, name
    same = np.abs((found["quats"].numpy() * table["quats"]).sum(axis=1))
    assert same.min() > 0.999
    assert np.allclose(from_smallest_three(*smallest_three(table["quats"])) ** 2, table["quats"] ** 2, atol=1e-5)


def test_bounds_of_the_wrong_number_and_later_versions(tmp_path: Path) -> None:
    folder = first_sog(tmp_path / "old", sample(40, 1))
    meta = json.loads((folder / "meta.json").read_text())
    meta["scales"]["mins"].pop()
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(UserError, match="2 and 3 bounds"):
        load_model(folder)
    (folder / "meta.json").write_text(json.dumps({**meta, "version": 3}))
    with pytest.raises(UserError, match="of version 3; versions 1 and 2 are read"):
        load_model(folder)


def test_colours_of_the_full_spacetime_model(tmp_path: Path) -> None:
    table = spacetime_columns() | {f"f_t_{k}": np.zeros(8, np.float32) for k in range(3)}
    table |= {f"f_dc_{k}": np.full(8, 0.3 * k - 0.4, np.float32) for k in range(6)}
    with pytest.warns(UserWarning, match="a network outside the file"):
        model = read_model(save(tmp_path / "a.ply", table))
    colour = 0.5 + SH_C0 * model.at(0.5).colors[2, 0].numpy()
    np.testing.assert_allclose(colour, sigmoid(np.array([-0.4, -0.1, 0.2])), atol=1e-5)


@pytest.mark.parametrize("network", ["point_cloud/iteration_9/deformation.pth", "deform/iteration_9/deform.pth", None])
def test_motion_in_a_network_beside_the_file_is_said(tmp_path: Path, network: str | None) -> None:
    (tmp_path / "point_cloud" / "iteration_9").mkdir(parents=True)
    write_ply(tmp_path / "point_cloud" / "iteration_9" / "point_cloud.ply", sample(4, 0))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if network is not None:
            (tmp_path / network).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / network).write_bytes(b"network")
        assert load_model(tmp_path).motion.still
    said = [warning for warning in caught if "its motion is in the network" in str(warning.message)]
    assert len(said) == len(caught) == (0 if network is None else 1)


def test_hidden_files_in_an_output_folder_are_no_iterations(tmp_path: Path) -> None:
    folder = frames(tmp_path / "point_cloud", "x_0.ply").rename(tmp_path / "iteration_7")
    (folder / "x_0.ply").rename(folder / "point_cloud.ply")
    (folder / "._point_cloud.ply").write_bytes(b"\0\5\x16\7")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_model(tmp_path)) == 3


def test_spheres_have_one_scale_and_no_rotation(tmp_path: Path) -> None:
    table = columns(sample(6, 0))
    for name in ("scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"):
        del table[name]
    with pytest.warns(UserWarning, match="spheres with one scale"):
        found = read_ply(save(tmp_path / "a.ply", table))
    np.testing.assert_array_equal(found["quats"], np.tile([1, 0, 0, 0], (6, 1)))
    np.testing.assert_array_equal(found["scales"], np.tile(table["scale_0"][:, None], (1, 3)))


def test_colours_of_sixteen_bits(tmp_path: Path) -> None:
    table = {name: value for name, value in columns(sample(3, 0)).items() if not name.startswith("f_dc")}
    path = save(
        tmp_path / "a.ply", {**table, **{c: np.array([0, 128, 255], np.uint8) for c in ("red", "green", "blue")}}
    )
    head, _, body = path.read_bytes().partition(b"end_header\n")
    size = len(body) // 3
    rows = [body[k * size : (k + 1) * size] for k in range(3)]
    wide = b"".join(row[:-3] + (np.frombuffer(row[-3:], np.uint8).astype("<u2") * 257).tobytes() for row in rows)
    (tmp_path / "b.ply").write_bytes(head.replace(b"uchar", b"ushort") + b"end_header\n" + wide)
    np.testing.assert_allclose(read_ply(tmp_path / "b.ply")["sh0"], read_ply(path)["sh0"], atol=1e-6)


def test_what_holds_no_gaussians_of_ours_is_named(tmp_path: Path) -> None:
    table = columns(sample(3, 0))
    points = {name: table[name] for name in "xyz"}
    path = save(tmp_path / "points.ply", points | {c: np.zeros(3, np.uint8) for c in ("red", "green", "blue")})
    with pytest.raises(UserError, match=r"holds points, not Gaussians.*ply_file_path"):
        load_model(path)
    # A folder with nothing else is a scene that is to be fitted, if anything.
    with pytest.raises(UserError, match="if it is a scene, fit it first"):
        load_model(tmp_path)
    anchors = points | {"f_anchor_feat_0": table["x"], "f_offset_0": table["x"], "opacity": table["opacity"]}
    with pytest.raises(UserError, match="anchors of Scaffold-GS"):
        load_model(save(tmp_path / "anchors.ply", anchors))
    with pytest.warns(UserWarning, match="the column beta seems"):
        read_ply(save(tmp_path / "beta.ply", table | {"beta": table["x"]}))


def test_info_and_convert_say_what_a_file_is_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.ply").write_bytes(KINDS["a Git LFS pointer"])
    assert main(["info", str(tmp_path / "a.ply")]) == 2
    assert main(["convert", str(tmp_path / "a.ply"), str(tmp_path / "b.splat")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 2 and all("git lfs pull" in line for line in lines)


def test_a_usdz_with_a_nurec_volume_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.usdz", "w") as archive:
        archive.writestr("default.usda", '#usda 1.0\ndef Xform "World"\n{\n}\n')
        archive.writestr("a.nurec", b"x")
    with pytest.raises(UserError, match="NuRec"):
        load_model(tmp_path / "a.usdz")


def test_compressed_gaussians_in_gltf_are_named_and_another_projection_is_said(tmp_path: Path) -> None:
    write_model(tmp_path / "a.glb", model_of(sample(4, 0)))
    data = (tmp_path / "a.glb").read_bytes()
    for match in (None, "need x, which is not read"):
        length = int.from_bytes(data[12:16], "little")
        text = json.loads(data[20 : 20 + length])
        inside = text["meshes"][0]["primitives"][0]["extensions"]["KHR_gaussian_splatting"]
        inside.update({"projection": "orthographic"} if match is None else {"extensions": {"x": {}}})
        content = json.dumps(text).encode()
        content += b" " * (-len(content) % 4)
        rest = data[20 + length :]
        head = b"glTF" + (2).to_bytes(4, "little") + (20 + len(content) + len(rest)).to_bytes(4, "little")
        (tmp_path / "b.glb").write_bytes(head + len(content).to_bytes(4, "little") + b"JSON" + content + rest)
        if match is None:
            with pytest.warns(UserWarning, match="drawn in perspective"):
                load_model(tmp_path / "b.glb")
        else:
            with pytest.raises(UserError, match=match):
                load_model(tmp_path / "b.glb")


def test_gltf_that_needs_an_unknown_extension_is_refused_by_its_name(tmp_path: Path) -> None:
    table = sample(6, 1)
    write_model(tmp_path / "a.glb", model_of(table))
    document = Document(tmp_path / "a.glb")
    document.json["buffers"][0]["uri"] = "b.bin"
    (tmp_path / "b.bin").write_bytes(document.binary)

    def load(**stated: object) -> DynamicGaussians:
        (tmp_path / "b.gltf").write_text(json.dumps(document.json | stated))
        return load_model(tmp_path / "b.gltf")

    known = ["KHR_gaussian_splatting", "KHR_mesh_quantization", "KHR_materials_unlit"]
    assert (
        len(load(extensionsUsed=[*known, "OTHER_thing"], extensionsRequired=known, extensions={"OTHER_thing": 1})) == 6
    )
    for name in ("KHR_gaussian_splatting_compression_spz_2", "EXT_meshopt_compression"):
        with pytest.raises(UserError, match=f"needs {name}, which is not read"):
            load(extensionsRequired=[*known, name])
