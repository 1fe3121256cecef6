"""Damaged files of scenes and of our own models: one clear refusal or a valid read, in bounded memory.

`test_hostile_files.py` does the same for files of Gaussians. Here: `.g4d` with motion, `transforms.json`, COLMAP's
model as text and as binary files, point clouds.
"""

from __future__ import annotations

import json
import resource
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_hostile_files import mutated

from gaussian4d.data.colmap_model import read_model as read_colmap
from gaussian4d.data.colmap_model import read_model_points
from gaussian4d.data.point_files import read_points, write_points
from gaussian4d.data.records import PointCloud
from gaussian4d.errors import UserError
from gaussian4d.io.camera_files import write_colmap, write_transforms
from gaussian4d.io.registry import read_model, write_model
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import make_motion
from gaussian4d.scene import inspect, load_scene
from gaussian4d.toys import write_scene

SPARE = 1 << 30
"""Bytes that reading may take besides what the process has: threads and small files need some."""

POINTS = PointCloud(np.float32([[0.1, -2.5, 3.0], [0, 0, 7], [1, 2, 3]]), np.uint8([[1, 2, 3], [255, 0, 9], [0, 0, 0]]))


def moving(motion: str) -> DynamicGaussians:
    rng = torch.Generator().manual_seed(0)
    model = make_motion(motion)
    params = {
        "means": torch.rand(9, 3, generator=rng),
        "quats": torch.rand(9, 4, generator=rng),
        "scales": torch.full((9, 3), -2.0),
        "opacities": torch.zeros(9),
        "sh0": torch.rand(9, 1, 3, generator=rng),
        "shN": torch.rand(9, 3, 3, generator=rng),
    }
    params |= model.init(9) | model.init_shared(params["means"], rng)
    return DynamicGaussians(params, model, times=np.array([0.0, 0.5, 1.0]), fps=2.0)


def g4d(motion: str) -> tuple[Callable[[Path], Path], Callable[[Path], object]]:
    def write(folder: Path) -> Path:
        write_model(folder / "a.g4d", moving(motion))
        return folder / "a.g4d"

    def read(path: Path) -> object:
        model = read_model(path)
        # A valid read is one that can be drawn.
        state = model.at(0.3)
        assert len(state) <= len(model) and state.means.shape == (len(state), 3)
        return model

    return write, read


def scene_file(write: Callable[[Path], Path]) -> tuple[Callable[[Path], Path], Callable[[Path], object]]:
    def read(path: Path) -> object:
        root = path.parents[2] if "sparse" in path.parts else path.parent
        scene, problems = inspect(root)
        if scene is None or any(problem.severity == "error" for problem in problems):
            raise UserError("; ".join(f"{problem.file}: {problem.message[:200]}" for problem in problems[:3]))
        return scene

    return write, read


def toy(folder: Path) -> Path:
    if not (folder / "toy").exists():
        write_scene(folder / "toy", 0, 2, 1, 2, width=12, height=8, samples=1, threads=1)
    return folder / "toy"


def transforms(folder: Path) -> Path:
    out = folder / "n"
    write_transforms(out / "transforms.json", load_scene(toy(folder)), points=POINTS, pictures=True)
    return out / "transforms.json"


def colmap_text(folder: Path, name: str) -> Path:
    write_colmap(folder / "c", load_scene(toy(folder)), points=POINTS, pictures=True)
    return folder / "c" / "sparse" / "0" / name


def colmap_binary(folder: Path, name: str) -> Path:
    model = folder / "sparse"
    model.mkdir(exist_ok=True)
    cameras = struct.pack("<QIiQQ4d", 1, 1, 1, 12, 8, 10.0, 10.0, 6.0, 4.0)
    images, points = struct.pack("<Q", 3), struct.pack("<Q", 2)
    for k in range(3):
        images += struct.pack("<I7dI", k + 1, 1.0, 0.0, 0.0, 0.0, 0.1 * k, 0.0, 3.0, 1) + f"{k}.png".encode() + b"\0"
        images += struct.pack("<Q", 1) + struct.pack("<2dq", 1.0, 2.0, 1)
    for k in range(2):
        points += struct.pack("<Q3d3BdQ2I", k, 0.0, 1.0, 2.0, 9, 8, 7, 0.5, 1, 1, 0)
    for file, data in (("cameras.bin", cameras), ("images.bin", images), ("points3D.bin", points)):
        (model / file).write_bytes(data)
    return model / name


def read_binary(path: Path) -> object:
    return read_colmap(path.parent), read_model_points(path.parent)


def point_file(folder: Path) -> Path:
    write_points(folder / "p.ply", PointCloud(POINTS.xyz, POINTS.rgb, np.array([0.0, 0.5, np.nan])))
    return folder / "p.ply"


CASES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "g4d-free-time": g4d("free-time"),
    "g4d-dual-domain": g4d("dual-domain"),
    "g4d-rigid-parts": g4d("rigid-parts"),
    "transforms": scene_file(transforms),
    **{
        f"colmap-{name}": scene_file(lambda folder, name=name: colmap_text(folder, name))
        for name in ("cameras.txt", "images.txt")
    },
    **{
        f"colmap-{name}": (lambda folder, name=name: colmap_binary(folder, name), read_binary)
        for name in ("cameras.bin", "images.bin", "points3D.bin")
    },
    "points": (point_file, read_points),
}


def fuzzed(folder: Path, name: str, number: int) -> int:
    """Returns how many of `number` mutated files were refused; with less memory than lying counts claim."""
    write, read = CASES[name]
    path = write(folder)
    data = path.read_bytes()
    read(path)
    rng = np.random.default_rng(sum(name.encode()))
    refused = 0
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE, before[1]))
    try:
        for _ in range(number):
            path.write_bytes(mutated(data, rng))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    read(path)
                except UserError as error:
                    refused += 1
                    assert len(str(error)) < 4000
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    return refused


@pytest.mark.parametrize("name", CASES)
def test_some_mutated_scene_files(tmp_path: Path, name: str) -> None:
    assert fuzzed(tmp_path, name, 15) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_thousand_mutated_scene_files(tmp_path: Path, name: str) -> None:
    assert fuzzed(tmp_path, name, 1000) > 100


@pytest.mark.parametrize("depth", [50, 100_000])
def test_json_nested_without_end_is_refused(tmp_path: Path, depth: int) -> None:
    path = transforms(tmp_path)
    content = json.loads(path.read_text())
    text = json.dumps(content).replace('"PINHOLE"', "[" * depth + "]" * depth)
    path.write_text(text)
    with pytest.raises(UserError):
        CASES["transforms"][1](path)
