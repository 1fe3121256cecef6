"""The 3DGS .ply: layout byte by byte, tolerance for other programs' files, clear refusals."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from gaussian4d.errors import UserError
from gaussian4d.io.ply import read_ply, read_ply_header, write_ply


def gaussians(count: int = 5, degree: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3)}
    table = {name: rng.normal(size=(count, *shape)).astype(np.float32) for name, shape in shapes.items()}
    table["shN"] = rng.normal(size=(count, (degree + 1) ** 2 - 1, 3)).astype(np.float32)
    return table


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_round_trip_is_bit_exact(tmp_path: Path, degree: int, count: int) -> None:
    expected = gaussians(count, degree)
    write_ply(tmp_path / "a.ply", expected)
    loaded = read_ply(tmp_path / "a.ply")
    assert loaded.keys() == expected.keys()
    for name in expected:
        assert loaded[name].shape == expected[name].shape
        assert np.array_equal(loaded[name], expected[name]), name


def test_layout_is_the_one_other_programs_read(tmp_path: Path) -> None:
    table = gaussians(1, 1)
    write_ply(tmp_path / "a.ply", table, vertical_axis="z", render_mode="mip")
    head, data = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    names = [line.split()[2] for line in head.decode().splitlines() if line.startswith("property float")]
    expected = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(9))]
    expected += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert names == expected
    assert b"format binary_little_endian 1.0\n" in head
    assert b"comment Vertical Axis: z\n" in head and b"comment SplatRenderMode: mip\n" in head
    row = dict(zip(names, struct.unpack(f"<{len(names)}f", data)))
    # Channel-major: all coefficients of red, then of green, then of blue.
    assert row["f_rest_1"] == table["shN"][0, 1, 0]
    assert row["f_rest_3"] == table["shN"][0, 0, 1]
    assert row["f_rest_8"] == table["shN"][0, 2, 2]
    assert row["rot_0"] == table["quats"][0, 0] and row["f_dc_2"] == table["sh0"][0, 0, 2]
    assert row["nx"] == row["ny"] == row["nz"] == 0
    header = read_ply_header(tmp_path / "a.ply")
    assert header.comment("vertical axis") == "z" and header.comment("nothing") is None
    # Other programs write what people are called as it is.
    foreign = (tmp_path / "a.ply").read_bytes().replace(b"mip\n", "mip\ncomment by J\u00fcrgen\n".encode(), 1)
    (tmp_path / "b.ply").write_bytes(foreign)
    assert read_ply_header(tmp_path / "b.ply").comments[-1] == "by J\u00fcrgen"


def build(path: Path, names: list[str], rows: np.ndarray, *, types: str = "float", extra: str = "", tail: bytes = b""):
    """Writes a .ply as another program might."""
    head = f"ply\nformat binary_little_endian 1.0\n{extra}element vertex {len(rows)}\n"
    head += "".join(f"property {types} {name}\n" for name in names) + "end_header\n"
    kind = {"float": "<f4", "double": "<f8"}[types]
    path.write_bytes(head.encode() + rows.astype(kind).tobytes() + tail)
    return path


def columns(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    named = {name: table["means"][:, i] for i, name in enumerate("xyz")}
    named |= {f"f_dc_{i}": table["sh0"][:, 0, i] for i in range(3)}
    named["opacity"] = table["opacities"]
    named |= {f"scale_{i}": table["scales"][:, i] for i in range(3)}
    return named | {f"rot_{i}": table["quats"][:, i] for i in range(4)}


@pytest.mark.parametrize("types", ["float", "double"])
def test_any_order_extra_columns_and_types(tmp_path: Path, types: str) -> None:
    table = gaussians(4, 0)
    named = {"motion_0": np.full(4, 9.0)} | dict(reversed(columns(table).items())) | {"time": np.zeros(4)}
    path = build(tmp_path / "a.ply", list(named), np.stack(list(named.values()), 1), types=types)
    loaded = read_ply(path)
    for name in table:
        assert np.array_equal(loaded[name], table[name]), name


def test_f_rest_is_ordered_by_number_not_by_name(tmp_path: Path) -> None:
    table = gaussians(2, 2)
    named = columns(table)
    rest = {f"f_rest_{i}": table["shN"].transpose(0, 2, 1).reshape(2, -1)[:, i] for i in range(24)}
    named |= {name: rest[name] for name in sorted(rest)}
    path = build(tmp_path / "a.ply", list(named), np.stack(list(named.values()), 1))
    assert np.array_equal(read_ply(path)["shN"], table["shN"])


def test_an_element_before_the_gaussians_is_stepped_over(tmp_path: Path) -> None:
    table = gaussians(3, 0)
    named = columns(table)
    path = tmp_path / "a.ply"
    build(path, list(named), np.stack(list(named.values()), 1), extra="element camera 2\nproperty uchar id\n")
    content = path.read_bytes()
    cut = content.index(b"end_header\n") + 11
    path.write_bytes(content[:cut] + b"\x01\x02" + content[cut:])
    assert np.array_equal(read_ply(path)["means"], table["means"])


def test_stray_bytes_are_ignored_with_a_warning(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", gaussians(3, 1))
    with (tmp_path / "a.ply").open("ab") as file:
        file.write(bytes(14))
    with pytest.warns(UserWarning, match="14 extra bytes"):
        loaded = read_ply(tmp_path / "a.ply")
    assert np.array_equal(loaded["means"], gaussians(3, 1)["means"])


def test_a_short_file_says_how_many_gaussians_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    write_ply(path, gaussians(5, 0))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"promises 5 Gaussians of 68 bytes.*room for 4"):
        read_ply(path)


@pytest.mark.parametrize("count", ["999999999999999999", "18446744073709551617", "6"])
def test_a_lying_count_is_refused_before_memory_is_taken(tmp_path: Path, count: str) -> None:
    path = tmp_path / "a.ply"
    write_ply(path, gaussians(5, 0))
    path.write_bytes(path.read_bytes().replace(b"element vertex 5", f"element vertex {count}".encode()))
    with pytest.raises(UserError, match="promises"):
        read_ply(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [("opacities", np.nan), ("scales", np.inf), ("scales", 60.0), ("means", np.nan), ("sh0", -np.inf)],
)
def test_rows_that_are_no_gaussians_are_left_out_and_counted(tmp_path: Path, name: str, value: float) -> None:
    table = gaussians(5, 1)
    table[name].reshape(5, -1)[3, 0] = value
    table["quats"][1] = 0.0
    write_ply(tmp_path / "a.ply", table)
    with pytest.warns(UserWarning, match="2 of 5 rows are not valid Gaussians.* first row 1"):
        loaded = read_ply(tmp_path / "a.ply")
    for column in table:
        assert np.array_equal(loaded[column], table[column][[0, 2, 4]]), column


def test_a_file_without_any_gaussian_is_refused(tmp_path: Path) -> None:
    table = gaussians(5, 0)
    table["quats"][:] = 0.0
    write_ply(tmp_path / "a.ply", table)
    with pytest.raises(UserError, match="5 of 5 rows are not valid Gaussians"):
        read_ply(tmp_path / "a.ply")


def test_infinite_logits_and_scales_of_zero_become_finite(tmp_path: Path) -> None:
    table = gaussians(3, 0)
    table["opacities"][:2] = np.inf, -np.inf
    table["scales"][1, 2] = -np.inf
    write_ply(tmp_path / "a.ply", table)
    loaded = read_ply(tmp_path / "a.ply")
    assert loaded["opacities"][0] > 10 and loaded["opacities"][1] < -10
    assert loaded["opacities"][2] == table["opacities"][2]
    assert loaded["scales"][1, 2] < -20 and np.isfinite(loaded["scales"]).all()


def test_extra_columns_and_comments_are_kept(tmp_path: Path) -> None:
    table = gaussians(4, 1) | {"extra.motion_0": np.arange(4, dtype=np.float32), "extra.ny": np.ones(4, np.float32)}
    write_ply(
        tmp_path / "a.ply", table, vertical_axis="y", comments=["Vertical Axis: z", "SplatRenderMode: mip", "by me"]
    )
    loaded = read_ply(tmp_path / "a.ply")
    assert loaded.keys() == table.keys()
    for name in table:
        assert np.array_equal(loaded[name], table[name]), name
    header = read_ply_header(tmp_path / "a.ply")
    assert header.comments == ("Vertical Axis: y", "SplatRenderMode: mip", "by me")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "it is empty"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (bytes(100), "zeros"),
        (b"solid cube", "an STL mesh"),
        (b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nend_header\n1\n", "promises 2"),
        (b"ply\nformat ascii 1.0\nelement vertex 9999999999\nproperty float x\nend_header\n1\n2\n", "promises"),
        (b"ply\nformat pdp_endian 1.0\nelement vertex 0\nend_header\n", "format pdp_endian"),
        (
            b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
            b"end_header\n1 2 3\n",
            "holds points, not Gaussians",
        ),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 1\n", "no end_header"),
        (b"ply\nformat binary_little_endian 1.0\nend_header\n", "no element 'vertex'"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex -1\nend_header\n", "is invalid"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 0\nproperty quad x\nend_header\n", "is invalid"),
        (
            b"ply\nformat binary_little_endian 1.0\nelement vertex 0\nproperty float x\nproperty float x\nend_header\n",
            "twice",
        ),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 0\nproperty list uchar int i\nend_header\n", "list"),
        (b"ply\nformat binary_little_endian 1.0\nelement vertex 0\nproperty float x\nend_header\n", "has no column y"),
    ],
)
def test_what_is_no_3dgs_file_is_refused(tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "a.ply"
    path.write_bytes(content)
    with pytest.raises(UserError, match=match) as caught:
        read_ply(path)
    assert str(path) in str(caught.value)


def test_an_odd_number_of_f_rest_is_refused(tmp_path: Path) -> None:
    named = columns(gaussians(1, 0)) | {"f_rest_0": np.zeros(1)}
    path = build(tmp_path / "a.ply", list(named), np.stack(list(named.values()), 1))
    with pytest.raises(UserError, match="1 f_rest"):
        read_ply(path)


def test_wrong_shapes_are_refused_and_leave_no_file(tmp_path: Path) -> None:
    table = gaussians(5, 0)
    table["opacities"] = table["opacities"][:, None]
    with pytest.raises(UserError, match=r"opacities must have shape \(5,\), got \(5, 1\)"):
        write_ply(tmp_path / "a.ply", table)
    assert list(tmp_path.iterdir()) == []
