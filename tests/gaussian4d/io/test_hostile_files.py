"""Files cut short, with lying counts, with NaN, or with any bytes changed: one clear refusal, no large allocation."""

from __future__ import annotations

import gzip
import json
import re
import resource
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_samples import sample
from test_splat_formats import ksplat

from gaussian4d.errors import UserError
from gaussian4d.io.registry import format_of, read_model, write_model
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import FreeTime, Static
from gaussian4d.plugins import FORMATS

READ = [format.name for format in FORMATS.working().values() if format.name != "g4d"]
"""Formats that come from strangers; what is wrong with a .g4d has its own tests."""


def write_sample(folder: Path, name: str, count: int = 12) -> Path:
    """Returns a small valid file of the format `name`."""
    table = sample(count, 1)
    if name == "ksplat":
        table["means"] = np.clip(table["means"], -1.5, 1.5)
        ksplat(folder / "a.ksplat", 1, table, np.zeros((2, 3)), [5, count - 5])
        return folder / "a.ksplat"
    params = {key: torch.from_numpy(value) for key, value in table.items()}
    if name == "checkpoint":
        torch.save({"step": 1, "splats": params}, folder / "a.pt")
        return folder / "a.pt"
    motion = Static()
    if name in ("splatv", "4dgs", "usd"):
        motion = FreeTime()
        params |= {
            "velocities": torch.rand(count, 3),
            "times": torch.rand(count),
            "durations": torch.full((count,), -1.0),
        }
    model = DynamicGaussians(params, motion, times=np.array([0.0, 1.0]))
    if name == "gltf":
        from gaussian4d.io.glb import Document

        write_model(folder / "a.glb", model)
        document = Document(folder / "a.glb")
        import base64

        document.json["buffers"][0]["uri"] = "data:;base64," + base64.b64encode(document.binary).decode()
        (folder / "a.gltf").write_text(json.dumps(document.json))
        return folder / "a.gltf"
    ending = next(format.endings[0] for format in FORMATS.working().values() if format.name == name)
    write_model(folder / f"a{ending}", model)
    return folder / f"a{ending}"


def try_read(path: Path) -> bool:
    """Returns whether a file was read; a `UserError` is a refusal, anything else is a bug."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model = read_model(path)
        except UserError as error:
            assert len(str(error)) < 2000 and path.name in str(error)
            return False
    assert all(not torch.isnan(value).any() for value in model.params.values())
    return True


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns `data` with a few bytes changed, cut off, doubled or set to the largest value."""
    changed = bytearray(data)
    kind = rng.integers(5)
    if kind == 0:
        return bytes(changed[: rng.integers(len(changed))])
    # Headers are where lies are told, so half of the changes are there.
    reach = len(changed) if rng.random() < 0.5 else min(len(changed), 400)
    for _ in range(int(rng.integers(1, 6))):
        at = int(rng.integers(reach))
        if kind == 1:
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            changed[at] = int(rng.integers(256))
        elif kind == 3:
            changed[at : at + 4] = b"\xff\xff\xff\x7f"
        else:
            changed[at:at] = changed[at : at + int(rng.integers(1, 64))]
    return bytes(changed)


def fuzz(folder: Path, name: str, number: int) -> int:
    """Returns how many of `number` mutated files were refused."""
    path = write_sample(folder, name)
    data = path.read_bytes()
    rng = np.random.default_rng(sum(name.encode()))
    refused = 0
    for _ in range(number):
        path.write_bytes(mutated(data, rng))
        refused += not try_read(path)
    return refused


@pytest.mark.parametrize("name", READ)
def test_some_mutated_files(tmp_path: Path, name: str) -> None:
    assert try_read(write_sample(tmp_path, name))
    assert fuzz(tmp_path, name, 25) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", READ)
def test_a_thousand_mutated_files(tmp_path: Path, name: str) -> None:
    assert fuzz(tmp_path, name, 1000) > 100


@pytest.mark.parametrize("name", READ)
def test_cut_short(tmp_path: Path, name: str) -> None:
    path = write_sample(tmp_path, name)
    data = path.read_bytes()
    for length in (0, 1, 7, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        if name == "usd" and length == len(data) - 1:
            # Only the last newline is gone.
            continue
        if name == "splat" and length % 32 == 0:
            # A format without a header: a whole number of rows is a whole file.
            continue
        assert not try_read(path), length


@pytest.mark.parametrize("name", READ)
def test_missing_and_folder(tmp_path: Path, name: str) -> None:
    ending = next(format.endings[0] for format in FORMATS.working().values() if format.name == name)
    with pytest.raises(UserError, match="found none"):
        format_of(f"x{ending}").read(tmp_path / f"x{ending}")
    (tmp_path / f"d{ending}").mkdir()
    with pytest.raises(UserError):
        format_of(f"x{ending}").read(tmp_path / f"d{ending}")


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new)


def sog_claims(data: bytes, folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "a.sog") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    entries["meta.json"] = replaced(entries["meta.json"], b'"count": 12,', b'"count": 2000000000,')
    with zipfile.ZipFile(folder / "b.sog", "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return (folder / "b.sog").read_bytes()


def spz_claims(data: bytes, folder: Path) -> bytes:
    """A version-4 file whose count and table agree with each other and not with the streams."""
    changed = bytearray(data)
    count = 2_000_000_000
    struct.pack_into("<I", changed, 8, count)
    for index, size in enumerate((9, 1, 3, 3, 4, 9)):
        struct.pack_into("<Q", changed, 32 + 16 * index + 8, size * count)
    return bytes(changed)


CLAIMS: dict[str, Callable[[bytes, Path], bytes]] = {
    "ply": lambda data, _: replaced(data, b"vertex 12\n", b"vertex 2000000000\n"),
    "compressed-ply": lambda data, _: replaced(
        replaced(data, b"vertex 12\n", b"vertex 2000000000\n"), b"chunk 1\n", b"chunk 7812500\n"
    ),
    "spz": spz_claims,
    "sog": sog_claims,
    "ksplat": lambda data, _: data[:4096] + struct.pack("<2I", 2_000_000_000, 2_000_000_000) + data[4104:],
    "splatv": lambda data, _: replaced(data, b'"size": 65536', b'"size": 99999999999'),
    "glb": lambda data, _: replaced(data, b'"count":12', b'"count":2000000000'),
    "gltf": lambda data, _: replaced(data, b'"count": 12', b'"count": 2000000000'),
}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_lying_count_is_refused_before_memory_is_taken(tmp_path: Path, name: str) -> None:
    path = write_sample(tmp_path, name)
    path.write_bytes(CLAIMS[name](path.read_bytes(), tmp_path))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not try_read(path)
    # Two thousand million Gaussians would be tens of gigabytes.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000


def test_a_gzip_spz_that_claims_or_unpacks_to_too_much(tmp_path: Path) -> None:
    head = struct.pack("<4sIIBBBB", b"NGSP", 3, 2_000_000_000, 3, 12, 0, 0)
    (tmp_path / "a.spz").write_bytes(gzip.compress(head))
    with pytest.raises(UserError, match="more than"):
        read_model(tmp_path / "a.spz")
    # What follows the Gaussians is not unpacked at all.
    with gzip.open(tmp_path / "b.spz", "wb", compresslevel=1) as file:
        file.write(struct.pack("<4sIIBBBB", b"NGSP", 3, 0, 0, 12, 0, 0))
        for _ in range(200):
            file.write(bytes(1_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert len(read_model(tmp_path / "b.spz")) == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64_000


def test_a_webp_that_claims_a_huge_picture(tmp_path: Path) -> None:
    path = write_sample(tmp_path, "sog")
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    data = bytearray(entries["quats.webp"])
    at = data.index(b"VP8L") + 9
    bits = struct.unpack_from("<I", data, at)[0]
    struct.pack_into("<I", data, at, (bits & ~0xFFFFFFF) | 16383 - 1 | (16383 - 1) << 14)
    entries["quats.webp"] = bytes(data)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match=r"quats\.webp"):
        read_model(path)


@pytest.mark.parametrize("text", ["[]", "3", "null", "[" * 100_000])
def test_json_of_another_shape_or_without_end(tmp_path: Path, text: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.sog", "w") as archive:
        archive.writestr("meta.json", text)
    (tmp_path / "a.splatv").write_bytes(struct.pack("<II", 0x674B, len(text)) + text.encode() + bytes(64))
    (tmp_path / "a.gltf").write_text(text)
    for name in ("a.sog", "a.splatv", "a.gltf"):
        assert not try_read(tmp_path / name)


def test_nodes_that_repeat_a_mesh_without_end(tmp_path: Path) -> None:
    from gaussian4d.io.glb import Document

    path = write_sample(tmp_path, "gltf", count=600)
    document = Document(path).json
    document["nodes"] = [{"mesh": 0}] * 300
    document["scenes"][0]["nodes"] = list(range(300))
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="repeat"):
        read_model(path)
    document["nodes"] = [{"children": [1]}, {"children": [0], "mesh": 0}]
    document["scenes"][0]["nodes"] = [0]
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match="two parents"):
        read_model(path)


def test_a_checkpoint_runs_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"splats": {"means": Trap()}}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="not run"):
        read_model(tmp_path / "a.pt")
    assert not (tmp_path / "sprung").exists()
    torch.save({"splats": {"means": torch.zeros(2, 3)}}, tmp_path / "b.pt")
    with pytest.raises(UserError, match="has no quats"):
        read_model(tmp_path / "b.pt")


@pytest.mark.parametrize("core", ["_core", "core"])
def test_a_checkpoint_may_hold_numbers_of_numpy(tmp_path: Path, core: str) -> None:
    """nerfstudio's do: its schedulers compute learning rates with numpy 1."""
    path = write_sample(tmp_path, "checkpoint")
    content = torch.load(path)
    torch.save({**content, "schedulers": {"lr": np.float64(1e-3), "step": np.int64(3)}}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data.replace(b"numpy._core.multiarray", f"numpy.{core}.multiarray".encode()))
    assert len(read_model(path)) == 12


@pytest.mark.parametrize("name", ["splat", "ksplat", "splatv", "glb", "usd", "checkpoint"])
def test_a_row_of_nan_is_left_out(tmp_path: Path, name: str) -> None:
    path = write_sample(tmp_path, name)
    data = path.read_bytes()
    if name == "usd":
        text = data.decode()
        start = text.index("point3f[] positions")
        path.write_text(text[:start] + re.sub(r"\([^,]+,", "(nan,", text[start:], count=1))
    elif name == "checkpoint":
        content = torch.load(path)
        content["splats"]["scales"][3, 1] = torch.nan
        torch.save(content, path)
    else:
        row = {"splat": 32 * 3, "ksplat": 5120 + 8 + 24 + 6 + 42 * 3, "splatv": len(data) - 65536 + 64 * 3}
        at = row.get(name, data.index(b"BIN\0") + 4 if name == "glb" else 0)
        value = struct.pack("<e", np.nan) if name == "ksplat" else struct.pack("<f", np.nan)
        path.write_bytes(data[:at] + value + data[at + len(value) :])
    with pytest.warns(UserWarning, match="rows are not valid Gaussians"):
        read_model(path)


def test_inflating_stops_at_the_limit() -> None:
    from gaussian4d.io.packed import inflate

    assert inflate(gzip.compress(b"abcdef"), 4) == b"abcd"
    with pytest.raises((EOFError, zlib.error)):
        inflate(gzip.compress(b"abcdef")[:-9], 100)
