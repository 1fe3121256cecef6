"""Formats of still Gaussians: what our writers write our readers read, within the precision each format has."""

from __future__ import annotations

import gzip
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import zstandard
from splat_samples import errors, sample

from diff_rasterizer import spherical_harmonics
from gaussian4d.errors import UserError
from gaussian4d.io.compressed_ply import read_compressed_ply, write_compressed_ply
from gaussian4d.io.glb import Document
from gaussian4d.io.gltf import read_gltf, write_glb
from gaussian4d.io.ksplat import read_ksplat
from gaussian4d.io.orient import PLY_TO_GLTF, half_turned, rotated
from gaussian4d.io.ply import read_any_ply, write_ply
from gaussian4d.io.registry import Format, format_named, format_of, read_model, write_model
from gaussian4d.io.sog import read_sog, write_sog
from gaussian4d.io.splat import read_splat, write_splat
from gaussian4d.io.splats import Splats, color_from_sh0
from gaussian4d.io.spz import read_spz, write_spz
from gaussian4d.plugins import FORMATS

STILL = [format for format in FORMATS.working().values() if format.writer and not format.moves]

# Largest error that is allowed: half a step of each format's quantisation, with a little room for rounding.
STEPS = {
    "ply": {"means": 0.0, "shape": 1e-6, "opacities": 1e-6, "sh0": 0.0, "shN": 0.0, "rest": 15},
    "compressed-ply": {"means": 4e-3, "shape": 0.02, "opacities": 2e-3, "sh0": 8e-3, "shN": 0.0157, "rest": 15},
    "splat": {"means": 0.0, "shape": 0.04, "opacities": 2e-3, "sh0": 7e-3, "shN": 0.0, "rest": 0},
    "spz": {"means": 2e-5, "shape": 0.07, "opacities": 2e-3, "sh0": 0.0131, "shN": 0.067, "rest": 15},
    "sog": {"means": 2e-4, "shape": 0.06, "opacities": 2e-3, "sh0": 0.05, "shN": 0.02, "rest": 15},
    "glb": {"means": 0.0, "shape": 2e-6, "opacities": 1e-6, "sh0": 0.0, "shN": 0.0, "rest": 15},
}


@pytest.mark.parametrize("format", STILL, ids=lambda format: format.name)
def test_round_trip_within_the_steps_of_the_format(tmp_path: Path, format: Format) -> None:
    expected = sample()
    path = tmp_path / f"a{format.endings[0]}"
    format.write(path, expected)
    found = errors(expected, format.read(path))
    for name, allowed in STEPS[format.name].items():
        if name == "rest":
            assert found[name] == allowed
        else:
            assert found[name] <= allowed, name
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("format", STILL, ids=lambda format: format.name)
@pytest.mark.parametrize("degree", [0, 1, 2, 4])
def test_every_degree_and_a_single_gaussian(tmp_path: Path, format: Format, degree: int) -> None:
    path = tmp_path / f"a{format.endings[0]}"
    for count in (1, 257):
        format.write(path, sample(count, degree))
        found = format.read(path)
        assert len(found["means"]) == count
        held = {"ply": degree, "splat": 0, "spz": degree}.get(format.name, min(degree, 3))
        assert found["shN"].shape[1] == (held + 1) ** 2 - 1


@pytest.mark.parametrize("format", STILL, ids=lambda format: format.name)
def test_the_same_gaussians_give_the_same_bytes(tmp_path: Path, format: Format) -> None:
    contents = []
    for name in ("a", "b"):
        path = tmp_path / f"{name}{format.endings[0]}"
        format.write(path, sample(40))
        contents.append(path.read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("version", [2, 3, 4])
def test_spz_versions(tmp_path: Path, version: int) -> None:
    expected = sample(50, 3)
    write_spz(tmp_path / "a.spz", expected, version=version, antialiased=True)
    data = (tmp_path / "a.spz").read_bytes()
    head = data if version == 4 else gzip.decompress(data)
    magic, number, count, degree, bits, flags = struct.unpack_from("<4sIIBBB", head)
    assert (magic, number, count, degree, flags) == (b"NGSP", version, 50, 3, 1)
    found = errors(expected, read_spz(tmp_path / "a.spz"))
    assert found["means"] <= 0.5001 / (1 << bits)
    assert found["shape"] <= (0.15 if version == 2 else 0.07)


def test_spz_layout_of_version_3_byte_by_byte(tmp_path: Path) -> None:
    # One Gaussian at (1, -2, 0.5) in the file's right-up-back axes, turned by 90 degrees around its x axis.
    place = b"".join((int(value * 4096) & 0xFFFFFF).to_bytes(3, "little") for value in (1, -2, 0.5))
    # x and w are equal, so x (index 0) counts as the largest; y and z are 0, w is 0.7071 = 511 steps.
    rotation = struct.pack("<I", (0 << 30) | (0 << 20) | (0 << 10) | 511)
    content = struct.pack("<4sIIBBBB", b"NGSP", 3, 1, 1, 12, 0, 0) + place + bytes([128, 255, 128, 0, 160, 112, 144])
    content += rotation + bytes([192, 128, 64] + [128] * 6)
    (tmp_path / "a.spz").write_bytes(gzip.compress(content))
    found = read_spz(tmp_path / "a.spz")
    # Our axes are those of a .ply: y down, z forward.
    assert found["means"][0] == pytest.approx([1.0, 2.0, -0.5])
    assert found["scales"][0] == pytest.approx([0.0, -3.0, -1.0])
    assert found["sh0"][0, 0] == pytest.approx([0.5 / 0.15, 0.5 / 255 / 0.15, -0.5 / 0.15], abs=1e-6)
    assert found["quats"][0] == pytest.approx([0.7071, 0.7071, 0, 0], abs=1e-4)
    # The first coefficient of degree 1 goes with y, which is turned around.
    assert found["shN"][0, 0] == pytest.approx([-0.5, 0.0, 0.5])


def test_spz_version_4_is_a_table_of_zstd_streams(tmp_path: Path) -> None:
    write_spz(tmp_path / "a.spz", sample(30, 1), version=4)
    data = (tmp_path / "a.spz").read_bytes()
    assert data[15] == 6 and struct.unpack_from("<I", data, 16) == (32,) and data[20:32] == bytes(12)
    offset = 32 + 6 * 16
    for index, size in enumerate((30 * 9, 30, 90, 90, 120, 270)):
        packed, unpacked = struct.unpack_from("<QQ", data, 32 + 16 * index)
        assert unpacked == size == len(zstandard.decompress(data[offset : offset + packed]))
        offset += packed
    assert offset == len(data)


def test_spz_keeps_far_scenes_whole_and_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    table = sample(5, 0)
    table["means"] *= 1000.0
    write_spz(tmp_path / "a.spz", table)
    assert errors(table, read_spz(tmp_path / "a.spz"))["means"] < 1e-3
    table["means"] *= 1e6
    with pytest.raises(UserError, match="scale the scene down"):
        write_spz(tmp_path / "b.spz", table)
    with pytest.raises(UserError, match="use version 4"):
        write_spz(tmp_path / "b.spz", sample(5, 4), version=3)
    assert not (tmp_path / "b.spz").exists()


def test_splat_layout_byte_by_byte(tmp_path: Path) -> None:
    table = sample(1, 0)
    table["quats"][0] = [-1, 0, 0, 0]
    table["sh0"][0, 0] = [0.0, 10.0, -10.0]
    table["opacities"][0] = 0.0
    write_splat(tmp_path / "a.splat", table)
    values = struct.unpack("<6f8B", (tmp_path / "a.splat").read_bytes())
    assert values[:3] == tuple(table["means"][0])
    assert values[3:6] == pytest.approx(np.exp(table["scales"][0]))
    assert values[6:] == (128, 255, 0, 128, 0, 128, 128, 128)
    assert np.abs(read_splat(tmp_path / "a.splat")["quats"][0]) == pytest.approx([1, 0, 0, 0])


def test_compressed_ply_layout(tmp_path: Path) -> None:
    write_compressed_ply(tmp_path / "a.compressed.ply", sample(257, 1), comments=["Vertical Axis: z"])
    head, data = (tmp_path / "a.compressed.ply").read_bytes().split(b"end_header\n", 1)
    lines = head.decode().splitlines()
    assert lines[2] == "comment Vertical Axis: z"
    assert [line for line in lines if line.startswith("element")] == [
        "element chunk 2",
        "element vertex 257",
        "element sh 257",
    ]
    assert len(data) == 2 * 18 * 4 + 257 * 16 + 257 * 9
    # The last block holds one Gaussian: its bounds are its values, so its packed position and scale are zero.
    assert struct.unpack_from("<4I", data, 2 * 72 + 256 * 16)[0] == 0


def test_a_compressed_ply_is_known_by_its_content(tmp_path: Path) -> None:
    write_compressed_ply(tmp_path / "a.ply", sample(20, 1))
    assert errors(sample(20, 1), read_any_ply(tmp_path / "a.ply"))["means"] < 2e-3
    write_ply(tmp_path / "b.compressed.ply", sample(20, 1))
    with pytest.raises(UserError, match=r"name it \.ply"):
        read_compressed_ply(tmp_path / "b.compressed.ply")


def test_sog_is_a_zip_of_lossless_webp(tmp_path: Path) -> None:
    from PIL import Image

    write_sog(tmp_path / "a.sog", sample(300, 2))
    with zipfile.ZipFile(tmp_path / "a.sog") as archive:
        meta = json.loads(archive.read("meta.json"))
        assert meta["version"] == 2 and meta["count"] == 300 and meta["shN"]["bands"] == 2
        assert len(meta["scales"]["codebook"]) == len(meta["sh0"]["codebook"]) == len(meta["shN"]["codebook"]) == 256
        names = {name for part in ("means", "scales", "quats", "sh0", "shN") for name in meta[part]["files"]}
        assert names | {"meta.json"} == set(archive.namelist())
        with archive.open("shN_centroids.webp") as file, Image.open(file) as picture:
            assert picture.format == "WEBP" and picture.width == 64 * 8
        with archive.open("quats.webp") as file, Image.open(file) as picture:
            tags = np.asarray(picture.convert("RGBA"))[..., 3].reshape(-1)[:300]
            assert tags.min() >= 252


def test_sog_with_more_colours_than_its_palette(tmp_path: Path) -> None:
    table = sample(600, 1)
    write_sog(tmp_path / "a.sog", table, palette=64)
    found = read_sog(tmp_path / "a.sog")
    assert len(np.unique(found["shN"].reshape(600, -1), axis=0)) <= 64
    mean = table["shN"].mean(axis=0)
    spread = np.square(table["shN"] - mean).mean()
    error = errors(table, found)
    assert error["shN"] < 0.5 and error["means"] < 2e-4
    order = np.argsort(table["means"][:, 0]), np.argsort(found["means"][:, 0])
    left = np.square(table["shN"][order[0]] - found["shN"][order[1]]).mean()
    # A palette of 64 explains a good part of nine independent numbers; one of a single entry would explain nothing.
    assert left < 0.7 * spread


def test_glb_holds_the_extension_and_a_fallback(tmp_path: Path) -> None:
    table = sample(9, 3)
    write_glb(tmp_path / "a.glb", table)
    data = (tmp_path / "a.glb").read_bytes()
    assert struct.unpack_from("<4sII", data) == (b"glTF", 2, len(data))
    document = Document(tmp_path / "a.glb")
    primitive = document.json["meshes"][0]["primitives"][0]
    assert document.json["extensionsUsed"] == ["KHR_gaussian_splatting"]
    settings = primitive["extensions"]["KHR_gaussian_splatting"]
    assert settings["kernel"] == "ellipse" and settings["colorSpace"] == "srgb_rec709_display"
    attributes = primitive["attributes"]
    place = document.accessor(attributes["POSITION"], 3)
    assert np.array_equal(place, table["means"] * [-1, -1, 1])
    accessor = document.json["accessors"][attributes["POSITION"]]
    assert accessor["min"] == place.min(axis=0).tolist() and accessor["max"] == place.max(axis=0).tolist()
    color = document.accessor(attributes["COLOR_0"], 4)[:, :3]
    assert color == pytest.approx(np.clip(color_from_sh0(table["sh0"][:, 0]), 0, 1), abs=2e-3)
    scale = document.accessor(attributes["KHR_gaussian_splatting:SCALE"], 3)
    assert scale == pytest.approx(np.exp(table["scales"]), rel=1e-6)
    assert "KHR_gaussian_splatting:SH_DEGREE_3_COEF_6" in attributes


@pytest.mark.parametrize("axis", ["x", "y", "z"])
def test_glb_stands_upright_and_comes_back_as_it_was(tmp_path: Path, axis: str) -> None:
    table = sample(40, 3)
    table["means"][:, "xyz".index(axis)] += 10.0
    write_glb(tmp_path / "a.glb", table, vertical_axis=axis)
    document = Document(tmp_path / "a.glb")
    place = document.accessor(document.json["meshes"][0]["primitives"][0]["attributes"]["POSITION"], 3)
    assert place[:, 1].mean() > 9 and abs(place[:, 0].mean()) < 1 and abs(place[:, 2].mean()) < 1
    found = errors(table, read_gltf(tmp_path / "a.glb"))
    assert max(found["means"], found["shape"], found["shN"]) < 1e-5


def test_gltf_nodes_move_scale_and_turn_their_gaussians(tmp_path: Path) -> None:
    table = sample(6, 2)
    write_glb(tmp_path / "a.glb", table)
    document = Document(tmp_path / "a.glb").json
    half = np.sqrt(0.5)
    document["nodes"] = [
        {"children": [1], "translation": [1, 2, 3]},
        {"mesh": 0, "rotation": [half, 0, 0, half], "scale": [2, 2, 2]},
    ]
    binary = Document(tmp_path / "a.glb").binary
    (tmp_path / "b.bin").write_bytes(binary)
    document["buffers"][0]["uri"] = "b.bin"
    (tmp_path / "b.gltf").write_text(json.dumps(document))
    turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    inside = half_turned(table, PLY_TO_GLTF)
    moved = rotated(inside, turn)
    moved["means"] = moved["means"] * 2 + np.array([1, 2, 3], np.float32)
    moved["scales"] = moved["scales"] + np.float32(np.log(2))
    found = errors(half_turned(moved, PLY_TO_GLTF), read_gltf(tmp_path / "b.gltf"))
    assert max(found["means"], found["shape"], found["shN"]) < 1e-5
    document["nodes"][1]["scale"] = [2, 1, 2]
    (tmp_path / "b.gltf").write_text(json.dumps(document))
    with pytest.raises(UserError, match="stretches"):
        read_gltf(tmp_path / "b.gltf")
    document["buffers"][0]["uri"] = "../secret.bin"
    (tmp_path / "b.gltf").write_text(json.dumps(document))
    with pytest.raises(UserError, match="leads outside"):
        read_gltf(tmp_path / "b.gltf")


@pytest.mark.parametrize("degree", [1, 2, 3, 4])
def test_turned_harmonics_give_the_colours_of_turned_directions(degree: int) -> None:
    from scipy.spatial.transform import Rotation

    table = sample(12, degree)
    turn = Rotation.from_rotvec([0.4, -1.1, 0.7]).as_matrix()
    directions = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))

    def colors(splats: Splats, looking: torch.Tensor) -> np.ndarray:
        coefficients = torch.from_numpy(np.concatenate([splats["sh0"], splats["shN"]], axis=1))
        return spherical_harmonics(degree, looking, coefficients).numpy()

    turned = directions @ torch.from_numpy(turn.T.astype(np.float32))
    assert colors(rotated(table, turn), turned) == pytest.approx(colors(table, directions), abs=1e-5)
    for signs in ((1.0, -1.0, -1.0), (-1.0, -1.0, 1.0), (-1.0, 1.0, -1.0)):
        flipped = half_turned(table, signs)
        assert colors(flipped, directions * torch.tensor(signs)) == pytest.approx(colors(table, directions), abs=1e-6)
        again = rotated(table, np.diag(signs))
        assert max(errors(flipped, again)[name] for name in ("means", "shape", "shN")) < 1e-5


def ksplat(path: Path, level: int, table: Splats, centers: np.ndarray, sizes: list[int]) -> None:
    """Writes one section of a .ksplat as GaussianSplats3D lays it out, every bucket partly filled."""
    count = len(table["means"])
    header = bytearray(4096)
    struct.pack_into("<2B2x4IH", header, 0, 0, 1, 1, 1, count, count, level)
    struct.pack_into("<2f", header, 36, -1.5, 1.5)
    section = bytearray(1024)
    struct.pack_into("<4If", section, 0, count, count, 8, len(centers), 4.0)
    struct.pack_into("<H2xI", section, 20, 12, 32767)
    struct.pack_into("<2IH", section, 32, 0, len(sizes), 1)
    kinds = [("<f4", "<f4", "<f4"), ("<u2", "<f2", "<f2"), ("<u2", "<f2", "u1")][level]
    row = np.dtype([("p", kinds[0], 3), ("s", kinds[1], 3), ("r", kinds[1], 4), ("c", "u1", 4), ("h", kinds[2], 9)])
    rows = np.zeros(count, row)
    bucket = np.repeat(np.arange(len(sizes)), sizes)
    relative = (table["means"] - centers[bucket]) / (2.0 / 32767) + 32767
    rows["p"] = table["means"] if level == 0 else np.round(relative)
    rows["s"], rows["r"] = np.exp(table["scales"]), table["quats"]
    rows["c"] = 200
    # Red, then green, then blue of the band.
    band = table["shN"].transpose(0, 2, 1).reshape(count, 9)
    rows["h"] = np.round((band + 1.5) / 3.0 * 255.0) if level == 2 else band
    parts = [np.array(sizes, "<u4").tobytes(), centers.astype("<f4").tobytes(), rows.tobytes()]
    path.write_bytes(bytes(header) + bytes(section) + b"".join(parts))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_ksplat_levels(tmp_path: Path, level: int) -> None:
    table = sample(10, 1)
    table["means"] = np.clip(table["means"], -1.5, 1.5)
    ksplat(tmp_path / "a.ksplat", level, table, np.array([[0.0, 0.1, 0.2], [-0.1, 0.0, 0.3]]), [4, 6])
    found = read_ksplat(tmp_path / "a.ksplat")
    assert found["means"] == pytest.approx(table["means"], abs=1e-4)
    assert found["scales"] == pytest.approx(table["scales"], abs=2e-3)
    assert found["quats"] == pytest.approx(table["quats"], abs=2e-3)
    assert found["shN"] == pytest.approx(table["shN"], abs=7e-3 if level == 2 else 1e-3)
    assert color_from_sh0(found["sh0"]) == pytest.approx(200 / 255)


def test_the_registry_knows_endings_and_names(tmp_path: Path) -> None:
    assert format_of("A.Compressed.PLY").name == "compressed-ply" and format_of("a.ply").name == "ply"
    with pytest.raises(UserError, match=r"'.obj' is unknown.*\.spz"):
        format_of("a.obj")
    with pytest.raises(UserError, match="expected one of g4d"):
        format_named("obj")
    model = read_model(_ply(tmp_path))
    with pytest.raises(UserError, match="can only be read"):
        write_model(tmp_path / "b.ksplat", model)
    with pytest.raises(UserError, match="rename it"):
        write_model(tmp_path / "b.ply", model, format=format_named("sog"))


def test_a_model_carries_comments_and_extra_columns_from_ply_to_ply(tmp_path: Path) -> None:
    model = read_model(_ply(tmp_path))
    write_model(tmp_path / "b.g4d", model)
    write_model(tmp_path / "c.ply", read_model(tmp_path / "b.g4d"))
    assert (tmp_path / "c.ply").read_bytes() == (tmp_path / "a.ply").read_bytes()


def _ply(folder: Path) -> Path:
    table = sample(7, 1) | {"extra.label": np.arange(7, dtype=np.float32)}
    write_ply(folder / "a.ply", table, vertical_axis="z", comments=["made by hand"])
    return folder / "a.ply"
