"""What `gaussian4d.interop.pytorch3d` and PyTorch3D itself make of each other; prints what was seen.

See check_interop.sh. Its classes of cameras and point clouds are Python. What is compiled (rasterizers, nearest
neighbours) is not built and not used: in its place stands an empty module.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import Any

import numpy as np
import torch

from gaussian4d.cameras import Camera
from gaussian4d.gaussians import Gaussians
from gaussian4d.interop import pytorch3d as ours


class Empty(types.ModuleType):
    """Has everything, which does nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


def load(source: str) -> Any:
    """Returns PyTorch3D from its source, without its compiled part and what reads its files."""
    sys.path.append(source)
    sys.modules["pytorch3d._C"] = Empty("pytorch3d._C")
    for name in ("iopath", "iopath.common", "iopath.common.file_io"):
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = Empty(name)
    return importlib.import_module("pytorch3d")


def main(source: str) -> None:
    """Prints a line per check; fails where a number is not what it must be."""
    library = load(source)
    renderer, structures = (importlib.import_module(f"pytorch3d.{name}") for name in ("renderer", "structures"))
    print("pytorch3d", library.__version__)
    generator = torch.Generator().manual_seed(0)
    cameras = [
        Camera.look_at(
            np.array([4.0 * np.cos(a), 4.0 * np.sin(a), 0.7 * a]),
            np.zeros(3),
            np.array([0.0, 0.0, 1.0]),
            width=161,
            height=120,
            focal=150,
            id=f"cam{k}",
        )
        for k, a in enumerate((0.1, 1.3, 2.9))
    ]
    for k, camera in enumerate(cameras):
        camera.K[:2, 2] += 7.5 + k, -3.25
        camera.K[1, 1] *= 1.1
    points = 0.5 * torch.randn(200, 3, generator=generator)
    for in_ndc in (True, False):
        batch = ours.to_pytorch3d(cameras, in_ndc=in_ndc)
        assert isinstance(batch, renderer.PerspectiveCameras) and batch.in_ndc() == in_ndc
        seen = batch.transform_points_screen(points[None].expand(3, -1, -1), image_size=batch.image_size)
        places = batch.get_camera_center().numpy()
        worst = 0.0
        for k, camera in enumerate(cameras):
            pixels = (points.double().numpy() @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]) @ camera.K.T
            worst = max(worst, float(np.abs(seen[k, :, :2].numpy() - pixels[:, :2] / pixels[:, 2:]).max()))
            assert np.allclose(places[k], camera.position, atol=1e-5)
        back = ours.from_pytorch3d(batch, ids=[camera.id for camera in cameras])
        for one, other in zip(cameras, back):
            assert one.id == other.id and (one.width, one.height) == (other.width, other.height)
            assert np.allclose(one.K, other.K, atol=1e-4) and np.allclose(one.viewmat, other.viewmat, atol=1e-5)
        assert worst < 1e-3
        print(f"cameras, in_ndc={in_ndc}: points fall on our pixels to {worst:.1g}, and back")
    states = [
        Gaussians(
            means=torch.randn(count, 3, generator=generator),
            quats=torch.randn(count, 4, generator=generator),
            scales=torch.ones(count, 3),
            opacities=torch.linspace(0.0, 1.0, count),
            colors=torch.randn(count, 4, 3, generator=generator),
        )
        for count in (10, 25)
    ]
    clouds = ours.to_pointclouds(states)
    assert isinstance(clouds, structures.Pointclouds) and clouds.num_points_per_cloud().tolist() == [9, 22]
    assert torch.equal(clouds.points_list()[1], states[1].means[3:])
    assert clouds.features_packed().shape == (31, 3) and float(clouds.features_packed().min()) >= 0.0
    print(f"clouds: {clouds.num_points_per_cloud().tolist()} points")


if __name__ == "__main__":
    main(sys.argv[1])
