"""What `gaussian4d.interop.open3d` and Open3D itself make of each other; prints what was seen. See check_interop.sh.

A ball of flat Gaussians, seen by eight cameras.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from gaussian4d.cameras import Camera
from gaussian4d.conventions import SH_C0
from gaussian4d.gaussians import Gaussians
from gaussian4d.interop import open3d as ours
from gaussian4d.io.ply import read_ply
from gaussian4d.io.sequence import write_ply_sequence
from gaussian4d.io.splat import read_splat
from gaussian4d.model import DynamicGaussians
from gaussian4d.motion import make_motion
from gaussian4d.rendering import render

# Behind our own packages: of what both need, ours is taken.
sys.path.append(sys.argv[1])
open3d = importlib.import_module("open3d")


def ball(count: int = 6000) -> DynamicGaussians:
    """Returns discs on the unit sphere, coloured by their place, that drift along x."""
    k = torch.arange(count) + 0.5
    height, angle = 1.0 - 2.0 * k / count, np.pi * (1.0 + 5.0**0.5) * k
    level = (1.0 - height**2).sqrt()
    normals = torch.stack([level * torch.cos(angle), level * torch.sin(angle), height], dim=1)
    # From the z axis, along which the discs are thin, to the normal.
    quats = torch.stack([1.0 + normals[:, 2], -normals[:, 1], normals[:, 0], torch.zeros(count)], dim=1)
    params = {
        "means": normals,
        "quats": torch.nn.functional.normalize(quats, dim=1),
        "scales": torch.tensor([0.03, 0.03, 0.003]).log().repeat(count, 1),
        "opacities": torch.full((count,), 4.0),
        "sh0": (0.3 * normals / SH_C0)[:, None],
        "shN": torch.zeros(count, 0, 3),
        "velocities": torch.tensor([0.5, 0.0, 0.0]).repeat(count, 1),
        "times": torch.zeros(count),
        "durations": torch.full((count,), 9.0),
    }
    return DynamicGaussians(params, make_motion("free-time"), times=np.linspace(0.0, 1.0, 3), fps=2.0)


def main() -> None:
    """Prints a line per check; fails where a number is not what it must be."""
    model, around = ball(), np.linspace(0.0, 2.0 * np.pi, 8, endpoint=False)
    up = np.array([0.0, 0.0, 1.0])
    places = [np.array([4.0 * np.cos(a), 4.0 * np.sin(a), 2.0 * np.sin(3.0 * a)]) for a in around]
    cameras = [
        Camera.look_at(place, np.zeros(3), up, width=161, height=120, focal=150, id=str(k))
        for k, place in enumerate(places)
    ]
    state = model.at(0.0)
    print("open3d", open3d.__version__)
    points(state, cameras[0])
    projection(model, cameras[0])
    surface(model, cameras)
    with tempfile.TemporaryDirectory() as folder:
        files(model, Path(folder))


def points(state: Gaussians, camera: Camera) -> None:
    cloud = ours.to_open3d(state, camera=camera)
    normals, places = np.asarray(cloud.normals), np.asarray(cloud.points)
    assert np.allclose(places, state.means.numpy(), atol=1e-6)
    assert ((normals * (camera.position - places)).sum(axis=1) >= -1e-6).all()
    assert np.abs((normals * places).sum(axis=1)).min() > 0.999
    back = ours.from_open3d(cloud)
    assert np.allclose(back.xyz, places, atol=1e-6)
    assert np.abs(back.rgb / 255.0 - np.asarray(cloud.colors)).max() < 0.003
    print(f"points, colours, normals: {cloud}, there and back")


def projection(model: DynamicGaussians, camera: Camera) -> None:
    found = ours.to_open3d_camera(camera)
    back = ours.from_open3d_camera(found)
    assert np.allclose(back.viewmat, camera.viewmat) and np.allclose(back.K, camera.K)
    depth = depth_of(model, camera)
    cloud = open3d.geometry.PointCloud.create_from_depth_image(
        open3d.geometry.Image(depth), found.intrinsic, found.extrinsic, depth_scale=1.0, depth_trunc=100.0
    )
    rows, columns = np.nonzero(depth)
    rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))]) * depth[rows, columns]
    here = np.linalg.inv(camera.K) @ rays
    placed = (here - camera.viewmat[:3, 3:]).T @ camera.viewmat[:3, :3]
    error = float(np.abs(np.asarray(cloud.points) - placed).max())
    assert error < 1e-6
    print(f"cameras: {len(placed)} pixels of a depth picture unprojected by open3d as by us, to {error:.1g}")


def surface(model: DynamicGaussians, cameras: list[Camera]) -> None:
    core = open3d.core
    grid = open3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight"), (core.float32, core.float32), ((1,), (1,)), 0.02, 16, 8000
    )
    for camera in cameras:
        found = ours.to_open3d_camera(camera)
        K, pose = core.Tensor(np.asarray(found.intrinsic.intrinsic_matrix)), core.Tensor(np.asarray(found.extrinsic))
        image = open3d.t.geometry.Image(depth_of(model, camera))
        blocks = grid.compute_unique_block_coordinates(image, K, pose, 1.0, 100.0)
        grid.integrate(blocks, image, K, pose, 1.0, 100.0)
    mesh = grid.extract_triangle_mesh(1.0).to_legacy()
    vertices = ours.from_open3d(mesh).xyz
    radius = np.linalg.norm(vertices, axis=1)
    assert len(vertices) > 2000 and abs(np.median(radius) - 1.0) < 0.02
    print(f"our depth in open3d's grid: {mesh}, radius of the unit ball {np.median(radius):.3f} (median)")


def files(model: DynamicGaussians, folder: Path) -> None:
    write_ply_sequence(folder / "frames", model, [0.0, 0.5, 1.0])
    for frame in sorted((folder / "frames").iterdir()):
        same(frame, read_ply(frame))
    model.save(folder / "scene.g4d")
    subprocess.run(
        [sys.executable, "-m", "gaussian4d", "convert", folder / "scene.g4d", folder / "a.splat"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    same(folder / "a.splat", read_splat(folder / "a.splat"))


def same(path: Path, splats: dict[str, np.ndarray]) -> None:
    """Compares what open3d reads from a file with what we read."""
    read = open3d.t.io.read_point_cloud(str(path)).point
    expected = {
        "positions": splats["means"],
        "scale": np.exp(splats["scales"]),
        "opacity": splats["opacities"],
        "f_dc": splats["sh0"],
    }
    worst = max(
        float(np.abs(read[name].numpy().reshape(value.shape) - value).max()) for name, value in expected.items()
    )
    turns = np.abs((unit(read["rot"].numpy()) * unit(splats["quats"])).sum(axis=1)).min()
    assert worst < 1e-5 and turns > 0.9999
    print(f"{path.name}: open3d reads {len(read['positions'])} Gaussians with the same numbers, to {worst:.1g}")


def unit(quats: np.ndarray) -> np.ndarray:
    return quats / np.linalg.norm(quats, axis=1, keepdims=True)


def depth_of(model: DynamicGaussians, camera: Camera) -> np.ndarray:
    """Returns the depth [H, W] at the first instant, 0 where hardly anything is."""
    seen = render(model, camera, 0.0, ("depth", "alpha"))
    assert seen.depth is not None and seen.alpha is not None
    return torch.where(seen.alpha > 0.9, seen.depth, 0.0)[..., 0].numpy().astype(np.float32)


if __name__ == "__main__":
    main()
