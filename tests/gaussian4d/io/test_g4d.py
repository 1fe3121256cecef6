"""The .g4d container: lossless, aligned, and safe against hostile files."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gaussian4d.errors import UserError
from gaussian4d.io.g4d import ALIGNMENT, load_g4d, read_manifest, save_g4d

MANIFEST = {"motion": {"name": "static"}, "fps": 30.0, "title": "caf\u00e9"}


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "means": rng.normal(size=(101, 3)).astype(np.float32),
        "half": np.array([np.inf, -0.0, np.nan, 65504], np.float16),
        "empty": np.zeros((0, 3, 3), np.float32),
        "scalar": np.array(7, np.int64),
        "bytes": np.arange(256, dtype=np.uint8).reshape(4, 64),
        "strided": np.arange(20, dtype=np.float64).reshape(4, 5).T,
    }


def test_round_trip_is_bit_exact(tmp_path: Path) -> None:
    save_g4d(tmp_path / "a.g4d", arrays(), MANIFEST)
    loaded, manifest = load_g4d(tmp_path / "a.g4d")
    assert manifest == MANIFEST
    assert list(loaded) == list(arrays())
    for name, expected in arrays().items():
        assert loaded[name].dtype == expected.dtype and loaded[name].shape == expected.shape
        assert loaded[name].tobytes() == expected.tobytes(), name


def test_big_endian_input_keeps_its_values(tmp_path: Path) -> None:
    save_g4d(tmp_path / "a.g4d", {"x": np.array([1.5, -2.0], ">f4")}, {})
    assert load_g4d(tmp_path / "a.g4d")[0]["x"].tolist() == [1.5, -2.0]


def test_data_is_aligned_raw_and_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.g4d"
    save_g4d(path, arrays(), MANIFEST)
    loaded, _ = load_g4d(path)
    content = path.read_bytes()
    for name, array in loaded.items():
        if array.size:
            assert isinstance(array, np.memmap)
            assert array.offset % ALIGNMENT == 0
            assert content[array.offset : array.offset + array.nbytes] == array.tobytes(), name


def test_changing_a_loaded_array_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.g4d"
    save_g4d(path, arrays(), MANIFEST)
    before = path.read_bytes()
    load_g4d(path)[0]["means"][:] = 5
    assert path.read_bytes() == before


def test_same_input_gives_same_bytes_and_zip_tools_read_it(tmp_path: Path) -> None:
    for name in ("a.g4d", "b.g4d"):
        save_g4d(tmp_path / name, arrays(), MANIFEST)
    assert (tmp_path / "a.g4d").read_bytes() == (tmp_path / "b.g4d").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.g4d") as archive:
        assert archive.testzip() is None
        assert archive.read("arrays/means") == arrays()["means"].tobytes()


def test_read_manifest_gives_the_table(tmp_path: Path) -> None:
    save_g4d(tmp_path / "a.g4d", arrays(), MANIFEST)
    table, manifest = read_manifest(tmp_path / "a.g4d")
    assert table["means"] == {"dtype": "float32", "shape": (101, 3)}
    assert manifest["title"] == MANIFEST["title"]


@pytest.mark.parametrize(
    ("values", "manifest", "match"),
    [
        ({"../x": np.zeros(1)}, {}, "names"),
        ({"a/b": np.zeros(1)}, {}, "names"),
        ({"x": np.array(["s"])}, {}, "element type"),
        ({"x": np.zeros(1, bool)}, {}, "element type"),
        ({"x": np.array([object()])}, {}, "element type"),
        ({}, {"x": float("nan")}, "manifest"),
        ({}, {"x": object()}, "manifest"),
    ],
)
def test_what_the_format_does_not_hold_is_refused_and_leaves_no_file(
    tmp_path: Path, values: dict, manifest: dict, match: str
) -> None:
    with pytest.raises(UserError, match=match):
        save_g4d(tmp_path / "a.g4d", values, manifest)
    assert list(tmp_path.iterdir()) == []


def write(path: Path, header: object, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Writes a zip with any header and entries; what a hostile file may look like."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("manifest.json", header if isinstance(header, str) else json.dumps(header))
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def header(**changes: object) -> dict:
    spec = {"file": "arrays/x", "dtype": "float32", "shape": [2, 3]} | changes
    return {"format": "g4d", "schema_version": 1, "arrays": {"x": spec}, "model": {}}


GOOD = {"arrays/x": bytes(24)}


def test_the_hand_made_file_is_accepted(tmp_path: Path) -> None:
    assert load_g4d(write(tmp_path / "a.g4d", header(), GOOD))[0]["x"].shape == (2, 3)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"shape": [2, 4]}, "needs 32 bytes"),
        ({"shape": [2, 2]}, "needs 16 bytes"),
        ({"shape": [1 << 40, 1 << 40]}, "needs"),
        ({"shape": [-2, -3]}, "impossible shape"),
        ({"shape": [2.0, 3]}, "impossible shape"),
        ({"shape": [True, 6]}, "impossible shape"),
        ({"shape": [1] * 9}, "impossible shape"),
        ({"shape": "6"}, "impossible shape"),
        ({"dtype": "object"}, "element type"),
        ({"dtype": "O"}, "element type"),
        ({"dtype": ["float32"]}, "element type"),
        ({"file": "../../etc/passwd"}, "must lie in"),
        ({"file": "arrays/y"}, "must lie in"),
    ],
)
def test_claims_are_compared_with_the_file(tmp_path: Path, changes: dict, match: str) -> None:
    path = write(tmp_path / "a.g4d", header(**changes), GOOD)
    with pytest.raises(UserError, match=match) as caught:
        load_g4d(path)
    assert str(path) in str(caught.value)


def test_names_that_lead_outside_are_refused(tmp_path: Path) -> None:
    evil = header()
    evil["arrays"] = {"../x": evil["arrays"]["x"] | {"file": "arrays/../x"}}
    with pytest.raises(UserError, match="not allowed"):
        load_g4d(write(tmp_path / "a.g4d", evil, {"arrays/../x": bytes(24)}))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"format": "g4d", "schema_version": 1, "arrays": {}, "model": {"a": NaN}}', "not valid JSON"),
        ("[]", "format g4d"),
        ('{"format": "g4d", "schema_version": "1", "arrays": {}, "model": {}}', "whole number"),
        ('{"format": "g4d", "schema_version": 2, "arrays": {}, "model": {}}', "update gaussian4d"),
        ('{"format": "g4d", "schema_version": 1, "arrays": []}', "lacks the tables"),
    ],
)
def test_bad_manifests_are_refused(tmp_path: Path, content: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        load_g4d(write(tmp_path / "a.g4d", content, {}))


def test_compressed_arrays_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compressed"):
        load_g4d(write(tmp_path / "a.g4d", header(), GOOD, zipfile.ZIP_DEFLATED))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_entry_named_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.g4d", header(), GOOD)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("arrays/x", bytes(24))
    with pytest.raises(UserError, match="twice"):
        load_g4d(path)


def test_a_missing_entry_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="entry 'arrays/x' is missing"):
        load_g4d(write(tmp_path / "a.g4d", header(), {}))


def test_a_flipped_bit_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.g4d"
    save_g4d(path, arrays(), MANIFEST)
    offset = load_g4d(path)[0]["means"].offset
    content = bytearray(path.read_bytes())
    content[offset + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="checksum of array 'means'"):
        load_g4d(path)
    assert load_g4d(path, verify=False)[0]["means"].shape == (101, 3)


def test_every_truncation_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.g4d"
    save_g4d(path, arrays(), MANIFEST)
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"a\.g4d"):
            load_g4d(path)


def test_random_damage_never_escapes_as_another_error(tmp_path: Path) -> None:
    path = tmp_path / "a.g4d"
    save_g4d(path, arrays(), MANIFEST)
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            load_g4d(path)
        except UserError:
            refused += 1
    assert refused > 150


def test_a_local_header_that_points_past_the_end_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.g4d", header(), GOOD)
    content = bytearray(path.read_bytes())
    start = content.find(b"PK\x03\x04", 10)
    content[start + 28 : start + 30] = struct.pack("<H", 60_000)
    path.write_bytes(content)
    with pytest.raises(UserError, match="past the end"):
        load_g4d(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="found none"):
        load_g4d(tmp_path / "no.g4d")
    with pytest.raises(UserError, match="folder"):
        load_g4d(tmp_path)
