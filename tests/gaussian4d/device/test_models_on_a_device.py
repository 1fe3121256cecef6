"""Motion models, rendering, evaluation and reading on the pretend accelerator: the numbers of the CPU, to the bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moving_models import CAMERA, KINDS, model_of
from PIL import Image
from pretend_device import count_syncs
from pretend_kernels import PAIRS
from torch import Tensor

from gaussian4d import UserError, evaluate, load_model, render
from gaussian4d.conventions import opengl_from_opencv
from gaussian4d.crop import CropBox, crop_model
from gaussian4d.files import write_json
from gaussian4d.metrics import masked_ssim, psnr, ssim
from gaussian4d.model import DynamicGaussians
from gaussian4d.rendering import BUFFERS
from gaussian4d.scene import load_scene
from gaussian4d.tracks import track_points

TIMES = (0.0, 0.5, 0.81)
# Reading which rows are there at a time: one wait for each window, and for each instant.
READS = {"per-frame": 1, "windows": 2, "windows of hexplanes": 2}


def bitwise(here: Tensor, there: Tensor, device: torch.device, name: str) -> None:
    assert there.device == device, name
    assert torch.equal(here, there.cpu()), name


def moved(model: DynamicGaussians, time: float) -> dict[str, Tensor]:
    """Returns the Gaussians at a time, and the gradient of every parameter."""
    params = {name: value.clone().requires_grad_() for name, value in model.params.items()}
    state = model.motion.at(params, time, 1)
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    torch.stack([value.sin().sum() for value in fields.values()]).sum().backward()
    grads = {f"d {name}": value.grad for name, value in params.items() if value.grad is not None}
    return {name: value.detach() for name, value in fields.items()} | grads


@pytest.mark.parametrize("kind", KINDS)
def test_motion_is_that_of_the_cpu_to_the_bit(pretend: torch.device, kind: str) -> None:
    model = model_of(kind)
    for time in TIMES:
        here, there = moved(model, time), moved(model.to(pretend), time)
        assert here.keys() == there.keys() and len(here) > 9
        for name, value in here.items():
            bitwise(value, there[name], pretend, f"{name} at {time}")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rigid-parts"])
def test_motion_does_not_wait_for_the_device(pretend: torch.device, kind: str) -> None:
    model = model_of(kind).to(pretend)
    moved(model, 0.5)  # what is kept for the next time
    with count_syncs() as syncs:
        moved(model, 0.5)
    assert len(syncs) == READS.get(kind, 0), syncs


@pytest.mark.parametrize("kind", KINDS)
def test_what_else_a_motion_model_says(pretend: torch.device, kind: str) -> None:
    answers = []
    for model in (model_of(kind), model_of(kind).to(pretend)):
        motion, params = model.motion, model.params
        found = {
            "peak_opacities": motion.peak_opacities(params),
            "rows_at": motion.rows_at(params, 0.5),
            "lifetimes": motion.lifetimes(params, 0.5),
            "outlasting": motion.outlasting(params, 0.2),
        }
        if kind != "per-frame":
            found |= {f"of_rows {k}": getattr(motion.of_rows(params, 0.9), k) for k in ("means", "opacities")}
            found["follow"] = motion.follow(params, 0.5, 0.7)
        if motion.can_freeze:
            found |= {f"frozen {name}": value for name, value in motion.frozen(params).items()}
        instants = torch.tensor([0.2, torch.nan, 0.7]).to(params["means"].device)
        found |= {f"init_at {name}": value for name, value in motion.init_at(instants, 0.1).items()}
        shared = motion.init_shared(params["means"].detach(), torch.Generator().manual_seed(1))
        answers.append(found | {f"init {name}": value for name, value in shared.items()})
    for name, value in answers[0].items():
        bitwise(value, answers[1][name], pretend, name)


def test_windows_are_joined_where_their_tables_are(pretend: torch.device) -> None:
    model = model_of("windows")
    tables = [model.motion.rows(model.params, k) for k in range(2)]  # type: ignore[attr-defined]
    joined = model.motion.joined([{k: v.to(pretend) for k, v in table.items()} for table in tables])  # type: ignore[attr-defined]
    for name, value in model.params.items():
        bitwise(value, joined[name], pretend, name)


@pytest.mark.parametrize("camera_model", ["pinhole", "ortho", "fisheye"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_buffer_is_that_of_the_cpu_to_the_bit(pretend: torch.device, kind: str, camera_model: str) -> None:
    camera = dataclasses.replace(CAMERA, model=camera_model)
    buffers = [name for name in BUFFERS if kind != "per-frame" or name not in ("flow", "velocity")]
    here = render(model_of(kind), camera, 0.5, buffers)
    there = render(model_of(kind).to(pretend), camera, 0.5, buffers)
    for name in buffers:
        bitwise(getattr(here, name), getattr(there, name), pretend, name)


def test_a_picture_waits_for_the_number_of_instances_only(pretend: torch.device) -> None:
    model = model_of("free-time").to(pretend)
    with count_syncs() as syncs:
        render(model, CAMERA, 0.5, background=(0.1, 0.2, 0.3))
    assert syncs.names == [PAIRS]
    with count_syncs() as syncs:
        render(model, CAMERA, 0.5, BUFFERS)
    assert syncs.names == [PAIRS, PAIRS]


def test_render_moves_the_model_where_it_is_told(pretend: torch.device) -> None:
    model = model_of("free-time")
    there = render(model, CAMERA, 0.5, device=pretend)
    bitwise(render(model, CAMERA, 0.5).rgb, there.rgb, pretend, "rgb")  # type: ignore[arg-type]
    back = render(model.to(pretend), CAMERA, 0.5, device="cpu")
    bitwise(render(model, CAMERA, 0.5).rgb, back.rgb, torch.device("cpu"), "rgb")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the backend cpu and the device pretend:0 do not go together"):
        render(model, CAMERA, 0.5, device=pretend, backend="cpu")


def test_a_model_that_is_there_costs_nothing(pretend: torch.device) -> None:
    model = model_of("windows")
    assert model.to("cpu") is model
    there = model.to(pretend)
    assert there is not model and there.to(pretend) is there and there.to("pretend") is there
    assert there.to("pretend:1").params["means"].device == torch.device("pretend", 1)
    with count_syncs() as syncs:
        there.to("pretend")
    assert not syncs.names


def test_load_model_puts_it_on_the_device(pretend: torch.device, tmp_path: Path) -> None:
    file = model_of("free-time").save(tmp_path / "model.g4d")
    model = load_model(file, device=pretend)
    assert {value.device for value in [*model.params.values(), model.background]} == {pretend}  # type: ignore[union-attr]
    assert load_model(file).params["means"].device.type == "cpu"
    with pytest.raises(UserError, match="pretend:7 is not there"):
        load_model(tmp_path / "there is no such file", device="pretend:7")


def test_a_model_on_a_device_is_written_and_cropped_like_any(pretend: torch.device, tmp_path: Path) -> None:
    model = model_of("free-time")
    there = model.to(pretend)
    for ending in ("g4d", "ply"):
        here, elsewhere = model.save(tmp_path / f"a.{ending}"), there.save(tmp_path / f"b.{ending}")
        assert here.read_bytes() == elsewhere.read_bytes(), ending
    box = CropBox((0.0, 0.0, 0.0), (0.6, 0.6, 2.0))
    cropped = crop_model(there, box)
    assert 0 < len(cropped) < len(model)
    bitwise(crop_model(model, box).params["means"], cropped.params["means"], pretend, "means")


@pytest.mark.parametrize("kind", ["free-time", "hexplane", "windows"])
def test_tracks_are_those_of_the_cpu(pretend: torch.device, kind: str) -> None:
    model = model_of(kind)
    points = model.params["means"][:6].numpy()
    assert torch.equal(track_points(model, points), track_points(model.to(pretend), points))


def test_figures_of_pictures_on_a_device(pretend: torch.device) -> None:
    g = torch.Generator().manual_seed(0)
    image, truth = torch.rand(20, 24, 3, generator=g), torch.rand(20, 24, 3, generator=g)
    mask = torch.rand(20, 24, generator=g) > 0.4
    there = [x.to(pretend) for x in (image, truth, mask)]
    assert psnr(image, truth) == psnr(*there[:2]) and psnr(image, truth, mask) == psnr(*there)
    assert ssim(image, truth) == ssim(*there[:2]) and masked_ssim(image, truth, mask) == masked_ssim(*there)


@pytest.fixture
def scene(tmp_path: Path) -> Any:
    """Pictures of the free-time model, a little off, in the D-NeRF layout."""
    model = model_of("free-time")
    for split in ("train", "test"):
        rows = []
        for k in range(4):
            time = k / 3
            rgb = render(model, CAMERA, min(time + 0.1, 1.0)).rgb
            assert rgb is not None
            name = f"{split}/{k}"
            (tmp_path / split).mkdir(exist_ok=True)
            Image.fromarray((rgb.clamp(0, 1).numpy() * 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
            pose = opengl_from_opencv(CAMERA.T_world_camera).tolist()
            rows.append({"file_path": f"./{name}", "time": time, "transform_matrix": pose})
        angle = 2.0 * np.arctan(0.5 * CAMERA.width / CAMERA.K[0, 0])
        write_json(tmp_path / f"transforms_{split}.json", {"camera_angle_x": angle, "frames": rows})
    return load_scene(tmp_path)


def test_evaluate_gives_the_figures_of_the_cpu(pretend: torch.device, scene: Any, tmp_path: Path) -> None:
    model = model_of("free-time")
    here = evaluate(model, scene)
    for there in (evaluate(model, scene, device=pretend, out=tmp_path / "out"), evaluate(model.to(pretend), scene)):
        assert 5.0 < there["psnr"] < 60.0
        for changing in ("render_fps",):
            there.pop(changing)
        assert there == {name: value for name, value in here.items() if name != "render_fps"}
    assert (tmp_path / "out" / "metrics.json").exists()
    with pytest.raises(UserError, match="do not go together"):
        evaluate(model, scene, device="cpu", backend="pretend", out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
