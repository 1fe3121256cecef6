"""Files of Gaussians as other programs leave them: dialects of `.ply`, loose SOG, folders, rows beyond all sizes."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_samples import sample

from gaussian4d.cameras import Camera
from gaussian4d.cli import main
from gaussian4d.errors import UserError
from gaussian4d.io.ply import read_ply, write_ply
from gaussian4d.io.registry import read_model, write_model
from gaussian4d.io.sequence import find_frames, write_ply_sequence
from gaussian4d.io.splats import SH_C0, Splats, sigmoid
from gaussian4d.model import DynamicGaussians, load_model
from gaussian4d.motion import Static
from gaussian4d.rendering import render

OWN = {
    "means": ("x", "y", "z"), "sh0": ("f_dc_0", "f_dc_1", "f_dc_2"), "opacities": ("opacity",),
    "scales": ("scale_0", "scale_1", "scale_2"), "quats": ("rot_0", "rot_1", "rot_2", "rot_3"),
}  # fmt: skip


def columns(table: Splats) -> dict[str, np.ndarray]:
    """Returns the table as single columns of a file, by their names in it."""
    count = len(table["means"])
    found = {}
    for name, names in OWN.items():
        found.update(zip(names, table[name].reshape(count, len(names)).T))
    return found


def save(path: Path, table: dict[str, np.ndarray], layout: str = "binary_little_endian", before: str = "") -> Path:
    """Writes columns in a byte order or as text."""
    count = len(next(iter(table.values())))
    kinds = {"f": "float", "u": "uchar"}
    head = f"ply\nformat {layout} 1.0\n{before}element vertex {count}\n"
    head += "".join(f"property {kinds[value.dtype.kind]} {name}\n" for name, value in table.items()) + "end_header\n"
    order = ">" if layout == "binary_big_endian" else "<"
    rows = np.zeros(count, [(name, order + {"f": "f4", "u": "u1"}[value.dtype.kind]) for name, value in table.items()])
    for name, value in table.items():
        rows[name] = value
    if layout == "ascii":
        lines = (" ".join(repr(float(word)) for word in row) for row in rows)
        path.write_text(head + ("7\n" if before else "") + "".join(line + "\n" for line in lines))
    else:
        path.write_bytes(head.encode() + rows.tobytes())
    return path


def assert_equal(found: Splats, table: Splats, *names: str) -> None:
    for name in names or OWN:
        np.testing.assert_array_equal(found[name], table[name], err_msg=name)


@pytest.mark.parametrize("layout", ["ascii", "binary_big_endian", "binary_little_endian"])
def test_every_byte_order_and_text(tmp_path: Path, layout: str) -> None:
    table = sample(30, 0)
    assert_equal(read_ply(save(tmp_path / "a.ply", columns(table), layout)), table)


def test_text_with_another_element_before_the_gaussians(tmp_path: Path) -> None:
    table = sample(5, 0)
    path = save(tmp_path / "a.ply", columns(table), "ascii", "element version 1\nproperty int number\n")
    assert_equal(read_ply(path), table)


def test_flat_gaussians_have_two_scales(tmp_path: Path) -> None:
    table = sample(20, 0)
    flat = {name: value for name, value in columns(table).items() if name != "scale_2"}
    with pytest.warns(UserWarning, match="flat Gaussians"):
        found = read_ply(save(tmp_path / "a.ply", flat))
    assert_equal(found, table, "means", "quats", "opacities", "sh0")
    np.testing.assert_array_equal(found["scales"][:, :2], table["scales"][:, :2])
    assert (np.exp(found["scales"][:, 2]) < 1.1e-4 * np.exp(found["scales"][:, :2].min(axis=1))).all()


def test_plain_colours_are_degree_zero(tmp_path: Path) -> None:
    table, rgb = sample(20, 0), np.random.default_rng(1).integers(0, 256, (3, 20)).astype(np.uint8)
    plain = {name: value for name, value in columns(table).items() if not name.startswith("f_dc")}
    found = read_ply(save(tmp_path / "a.ply", {**plain, **dict(zip(("red", "green", "blue"), rgb))}))
    np.testing.assert_allclose(0.5 + SH_C0 * found["sh0"][:, 0], rgb.T / 255.0, atol=1e-6)
    # As floats in 0..1 they mean the same; beside coefficients they are no colours of ours.
    floats = dict(zip(("red", "green", "blue"), rgb.astype(np.float32) / 255))
    np.testing.assert_allclose(read_ply(save(tmp_path / "a.ply", {**plain, **floats}))["sh0"], found["sh0"], atol=1e-6)
    both = read_ply(save(tmp_path / "a.ply", {**columns(table), **floats}))
    assert_equal(both, table, "sh0")


def test_coefficients_of_part_of_a_degree_are_filled_up(tmp_path: Path) -> None:
    rest = {f"f_rest_{k}": np.full(4, k, np.float32) for k in range(6)}
    with pytest.warns(UserWarning, match="2 coefficients of 3"):
        found = read_ply(save(tmp_path / "a.ply", {**columns(sample(4, 0)), **rest}))
    np.testing.assert_array_equal(found["shN"][0], [[0, 2, 4], [1, 3, 5], [0, 0, 0]])


def test_the_filter_of_mip_splatting_is_applied(tmp_path: Path) -> None:
    table = sample(6, 0)
    f = np.linspace(0.01, 0.5, 6).astype(np.float32)
    found = read_ply(save(tmp_path / "a.ply", {**columns(table), "filter_3D": f}))
    square = np.exp(2.0 * table["scales"].astype(np.float64))
    grown = square + f[:, None].astype(np.float64) ** 2
    np.testing.assert_allclose(np.exp(2.0 * found["scales"].astype(np.float64)), grown, rtol=1e-5)
    fainter = sigmoid(table["opacities"]) * np.sqrt(square.prod(axis=1) / grown.prod(axis=1))
    np.testing.assert_allclose(sigmoid(found["opacities"]), fainter, rtol=1e-4)
    assert "extra.filter_3D" not in found


def spacetime_columns(count: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    names = [*(f"motion_{i}" for i in range(9)), *(f"omega_{i}" for i in range(4))]
    found = columns(sample(count, 0)) | {name: rng.normal(size=count).astype(np.float32) * 0.2 for name in names}
    for k in range(3):
        found[f"f_dc_{k}"] = rng.uniform(0.1, 0.9, count).astype(np.float32)
    found["trbf_center"] = rng.uniform(0, 1, count).astype(np.float32)
    found["trbf_scale"] = rng.uniform(-2, 0, count).astype(np.float32)
    return found


def test_spacetime_gaussians_move_as_their_formulas_say(tmp_path: Path) -> None:
    table = spacetime_columns()
    model = read_model(save(tmp_path / "a.ply", table))
    assert model.motion.name == "spacetime"
    row, time = 5, 0.8
    d = time - float(table["trbf_center"][row])
    powers = (d, d**2, d**3)
    place = [
        table[axis][row] + sum(table[f"motion_{3 * k + index}"][row] * powers[k] for k in range(3))
        for index, axis in enumerate("xyz")
    ]
    turned = np.array([table[f"rot_{i}"][row] + table[f"omega_{i}"][row] * d for i in range(4)])
    opacity = 1 / (1 + math.exp(-table["opacity"][row])) * math.exp(-((d / math.exp(table["trbf_scale"][row])) ** 2))
    state = model.at(time)
    np.testing.assert_allclose(state.means[row], place, atol=1e-5)
    found = state.quats[row].numpy() / np.linalg.norm(state.quats[row].numpy())
    np.testing.assert_allclose(found, turned / np.linalg.norm(turned), atol=1e-5)
    assert float(state.opacities[row]) == pytest.approx(opacity, rel=1e-4)
    colour = 0.5 + SH_C0 * state.colors[row, 0].numpy()
    np.testing.assert_allclose(colour, [table[f"f_dc_{k}"][row] for k in range(3)], atol=1e-5)


def test_motion_that_is_not_read_is_said(tmp_path: Path) -> None:
    table = spacetime_columns()
    del table["omega_3"]
    with pytest.warns(UserWarning, match="a motion model that is not supported"):
        assert read_model(save(tmp_path / "a.ply", table)).motion.still


def test_loose_sog(tmp_path: Path) -> None:
    table = sample(40, 1)
    model = DynamicGaussians({name: torch.from_numpy(value) for name, value in table.items()}, Static())
    write_model(tmp_path / "a.sog", model)
    bundled = read_model(tmp_path / "a.sog")
    with zipfile.ZipFile(tmp_path / "a.sog") as archive:
        archive.extractall(tmp_path / "loose")
        with zipfile.ZipFile(tmp_path / "deep.zip", "w") as deep:
            for name in archive.namelist():
                deep.writestr(f"scene/{name}", archive.read(name))
            deep.writestr("__MACOSX/scene/._meta.json", b"x")
    for path in (tmp_path / "loose", tmp_path / "loose" / "meta.json", tmp_path / "deep.zip"):
        found = load_model(path)
        for name, value in bundled.params.items():
            assert torch.equal(found.params[name], value), (path, name)
    assert main(["info", str(tmp_path / "loose")]) == 0


def test_loose_sog_reads_nothing_outside_its_folder(tmp_path: Path) -> None:
    table = sample(4, 0)
    model = DynamicGaussians({name: torch.from_numpy(value) for name, value in table.items()}, Static())
    write_model(tmp_path / "a.sog", model)
    with zipfile.ZipFile(tmp_path / "a.sog") as archive:
        archive.extractall(tmp_path / "loose")
    (tmp_path / "loose" / "quats.webp").rename(tmp_path / "quats.webp")
    meta = tmp_path / "loose" / "meta.json"
    meta.write_text(meta.read_text().replace("quats.webp", "../quats.webp"))
    with pytest.raises(UserError, match="outside"):
        load_model(meta)


def frames(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        write_ply(folder / name, {**sample(3, 0, seed=index)})
    return folder


def test_hidden_files_are_no_frames(tmp_path: Path) -> None:
    folder = frames(tmp_path / "clip", "f_0.ply", "f_1.ply", "f_2.ply")
    for k in range(3):
        (folder / f"._f_{k}.ply").write_bytes(b"\0\5\x16\7")
    assert len(load_model(folder).times) == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("names", [("00000_cloud.ply", "00001_cloud.ply"), ("f0001.splat.ply", "f0002.splat.ply")])
def test_numbers_need_not_be_last(tmp_path: Path, names: tuple[str, ...]) -> None:
    folder = frames(tmp_path / "clip", *names)
    assert [path.name for path in find_frames(folder)] == list(names)


def test_gaps_keep_their_place_and_are_said(tmp_path: Path) -> None:
    folder = frames(tmp_path / "clip", *(f"f_{k:04d}.ply" for k in (0, 1, 2, 8)))
    with pytest.warns(UserWarning, match=r"5 of 9 frame numbers are missing \(3 to 7\)"):
        model = load_model(folder)
    assert model.times is not None
    np.testing.assert_allclose(model.times, [0, 0.125, 0.25, 1])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("left_0.ply", "left_1.ply", "right_0.ply", "right_1.ply"), "2 sequences.*left_0.ply to left_1.ply"),
        (("a_1.ply", "a_01.ply", "a_2.ply"), "are the same frame"),
        (("one.ply", "two.ply"), "do not form a clip"),
    ],
)
def test_a_folder_that_is_no_clip_says_what_is_there(
    tmp_path: Path, names: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = frames(tmp_path / "clip", *names)
    with pytest.raises(UserError, match=message):
        load_model(folder)
    assert main(["info", str(folder)]) == 2
    assert "ply" in capsys.readouterr().err


def test_a_folder_with_one_file_and_the_output_folder_of_3dgs(tmp_path: Path) -> None:
    assert len(load_model(frames(tmp_path / "one", "scene.ply"))) == 3
    for iteration, count in ((7000, 2), (30000, 5)):
        folder = tmp_path / "output" / "point_cloud" / f"iteration_{iteration}"
        folder.mkdir(parents=True)
        write_ply(folder / "point_cloud.ply", sample(count, 0))
    with pytest.warns(UserWarning, match="the newest is used"):
        assert len(load_model(tmp_path / "output")) == 5


@pytest.mark.parametrize("ending", [".ply", ".splat", ".spz", ".sog", ".compressed.ply", ".glb", ".usda", ".splatv"])
def test_what_is_no_gaussian_never_reaches_a_file(tmp_path: Path, ending: str) -> None:
    table = sample(12, 0)
    table["scales"][3, 1] = 200.0
    table["quats"][7] = 0.0
    table["means"][9, 0] = np.nan
    model = DynamicGaussians({name: torch.from_numpy(value) for name, value in table.items()}, Static())
    with pytest.warns(UserWarning, match="3 of 12 rows are not valid Gaussians"):
        write_model(tmp_path / f"a{ending}", model)
    found = read_model(tmp_path / f"a{ending}")
    assert len(found) == 9 and not any(torch.isnan(value).any() for value in found.params.values())


def test_a_row_of_nan_in_our_own_file_is_left_out(tmp_path: Path) -> None:
    table = {name: torch.from_numpy(value) for name, value in sample(6, 0).items()}
    table["means"][2, 1] = torch.nan
    write_model(tmp_path / "a.g4d", DynamicGaussians(table, Static()))
    with pytest.warns(UserWarning, match="1 of 6 rows"):
        assert len(read_model(tmp_path / "a.g4d")) == 5


def test_what_was_fitted_antialiased_is_drawn_so_and_stays_so(tmp_path: Path) -> None:
    table = sample(30, 1)
    write_ply(tmp_path / "a.ply", table, render_mode="mip")
    model = read_model(tmp_path / "a.ply")
    assert model.antialiased and not DynamicGaussians(model.params, Static()).antialiased
    chain = ["a.spz", "b.g4d", "b.sog", "b.compressed.ply", "b.spz", "b.ply"]
    for name in chain:
        write_model(tmp_path / name, model)
        model = read_model(tmp_path / name)
        assert model.antialiased, name
    write_model(tmp_path / "old.spz", model, version=2)
    assert read_model(tmp_path / "old.spz").antialiased
    assert load_model(write_ply_sequence(tmp_path / "frames", model, [0.0, 1.0])[0].parent).antialiased
    with pytest.warns(UserWarning, match="fitted antialiased"):
        write_model(tmp_path / "a.splat", model)
    # Gaussians far smaller than a pixel grow to its size; only the compensation keeps how much of it they cover.
    small = {**model.params, "scales": torch.full_like(model.params["scales"], -12.0)}
    place, up = np.array([0.0, 0.0, -8.0]), np.array([0.0, -1.0, 0.0])
    camera = Camera.look_at(place, np.zeros(3), up, width=64, height=64, focal=60.0)
    drawn = [
        render(DynamicGaussians(small, Static(), meta=meta), camera, 0.0, ("alpha",)).alpha
        for meta in ({}, {"antialiased": True})
    ]
    assert drawn[0] is not None and drawn[1] is not None
    assert float(drawn[1].sum()) < 0.01 * float(drawn[0].sum())
