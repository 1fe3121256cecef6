"""Conventions of other libraries against numbers worked out by hand; with the library itself where it is installed."""

from __future__ import annotations

import sys
import types
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError
from gaussian4d.gaussians import Gaussians
from gaussian4d.interop import gsplat, open3d, pytorch3d
from gaussian4d.interop import trimesh as ours
from gaussian4d.interop.points import colored_points

# Right is the world's +y, down its -x; a principal point off the middle and unequal focal lengths.
VIEWMAT = np.array([[0.0, 1, 0, 1], [-1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
CAMERA = Camera("a", VIEWMAT, np.array([[150.0, 0, 110], [0, 120, 40], [0, 0, 1]]), 200, 100)
# In the camera (2, 1, 10), on the pixel (150 * 0.2 + 110, 120 * 0.1 + 40).
POINT, PIXEL = torch.tensor([[1.0, 1, 7]], dtype=torch.float64), (140.0, 52.0)


def gaussians() -> Gaussians:
    """Three Gaussians, one of them faint; the first long along its x axis, turned by 90 degrees about z."""
    half = 0.5**0.5
    return Gaussians(
        means=torch.tensor([[1.0, 2, 3], [0, 0, 0], [-1, 0, 5]]),
        quats=torch.tensor([[2 * half, 0, 0, 2 * half], [1, 0, 0, 0], [1, 0, 0, 0]]),
        scales=torch.tensor([[0.5, 0.1, 0.2], [1, 1, 1], [0.3, 0.3, 0.1]]),
        opacities=torch.tensor([0.75, 0.05, 0.5]),
        colors=torch.tensor([[[0.5, -0.5, 9.0]], [[0, 0, 0]], [[0, 0, 0]]]) / 0.28209479177387814,
    )


class FakePerspectiveCameras:
    """Keeps its arguments, as PyTorch3D's own class does."""

    def __init__(self, *, in_ndc: bool, device: Any, **values: Any) -> None:
        self.__dict__ |= values
        self._in_ndc = in_ndc

    def in_ndc(self) -> bool:
        return self._in_ndc


def seen_by_pytorch3d(values: dict[str, torch.Tensor], point: torch.Tensor, in_ndc: bool) -> tuple[float, float]:
    """Returns the pixel of a point, step by step as PyTorch3D's notes on cameras say."""
    x, y, z = (point @ values["R"][0] + values["T"][0])[0].tolist()
    (fx, fy), (px, py) = values["focal_length"][0].tolist(), values["principal_point"][0].tolist()
    height, width = values["image_size"][0].tolist()
    s = min(height, width)
    if not in_ndc:
        fx, fy, px, py = fx * 2 / s, fy * 2 / s, -(px - width / 2) * 2 / s, -(py - height / 2) * 2 / s
    u, v = fx * x / z + px, fy * y / z + py
    return width / 2 - s / 2 * u, height / 2 - s / 2 * v


@pytest.mark.parametrize("in_ndc", [True, False])
def test_pytorch3d_cameras(monkeypatch: pytest.MonkeyPatch, in_ndc: bool) -> None:
    values = pytorch3d.pytorch3d_values([CAMERA], in_ndc=in_ndc)
    assert values["R"].tolist() == [[[0, 1, 0], [-1, 0, 0], [0, 0, 1]]] and values["T"].tolist() == [[-1, -2, 3]]
    assert values["image_size"].tolist() == [[100, 200]]
    expected = ([[3.0, 2.4]], [[-0.2, 0.2]]) if in_ndc else ([[150.0, 120.0]], [[110.0, 40.0]])
    assert (values["focal_length"].tolist(), values["principal_point"].tolist()) == expected
    assert seen_by_pytorch3d(values, POINT, in_ndc) == pytest.approx(PIXEL)
    renderer = types.SimpleNamespace(PerspectiveCameras=FakePerspectiveCameras)
    monkeypatch.setitem(sys.modules, "pytorch3d", types.ModuleType("pytorch3d"))
    monkeypatch.setitem(sys.modules, "pytorch3d.renderer", renderer)
    batch = pytorch3d.to_pytorch3d([CAMERA, CAMERA], in_ndc=in_ndc)
    assert batch.R.dtype == torch.float32
    first, second = pytorch3d.from_pytorch3d(batch, ids=["a", "b"])
    assert second.id == "b" and (first.width, first.height) == (200, 100)
    assert np.allclose(first.viewmat, CAMERA.viewmat) and np.allclose(first.K, CAMERA.K, atol=1e-5)
    # One focal length for all, no size: both occur in PyTorch3D's own batches.
    batch.focal_length, batch.image_size = torch.tensor([3.0 if in_ndc else 150.0]), None
    with pytest.raises(UserError, match="image_size"):
        pytorch3d.from_pytorch3d(batch)
    assert pytorch3d.from_pytorch3d(batch, image_size=(100, 200))[1].K[1, 1] == pytest.approx(150.0)


def test_pytorch3d_refuses_what_it_cannot_hold() -> None:
    fisheye = Camera("f", VIEWMAT, CAMERA.K, 200, 100, model="fisheye")
    with pytest.raises(UserError, match="fisheye"):
        pytorch3d.pytorch3d_values([fisheye])
    with pytest.raises(UserError, match="at least one"):
        pytorch3d.pytorch3d_values([])


@pytest.mark.parametrize("call", [lambda: pytorch3d.to_pytorch3d([CAMERA]), lambda: open3d.to_open3d(gaussians())])
def test_a_missing_library_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, call: Any) -> None:
    for name in ("pytorch3d", "pytorch3d.renderer", "open3d"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="is not installed; run: pip install"):
        call()


def test_colored_points_leave_out_the_faint() -> None:
    xyz, rgb = colored_points(gaussians())
    assert xyz.tolist() == [[1, 2, 3], [-1, 0, 5]]
    assert torch.allclose(rgb, torch.tensor([[1.0, 0, 1], [0.5, 0.5, 0.5]]))


def test_gsplat_columns_go_both_ways() -> None:
    table = gsplat.to_gsplat(gaussians(), sh_degree=1)
    assert {name: tuple(value.shape[1:]) for name, value in table.items()} == {
        "means": (3,), "scales": (3,), "quats": (4,), "opacities": (), "sh0": (1, 3), "shN": (3, 3)
    }  # fmt: skip
    assert table["scales"][0].tolist() == pytest.approx(np.log([0.5, 0.1, 0.2]).tolist())
    assert table["opacities"][0].item() == pytest.approx(np.log(3.0))
    assert table["quats"].norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    again = gsplat.from_gsplat(torch.nn.ParameterDict(table)).at(0.3)
    for name in ("means", "scales", "opacities"):
        assert torch.allclose(getattr(again, name), getattr(gaussians(), name))
    assert torch.equal(again.colors[:, :1], gaussians().colors) and not again.colors[:, 1:].any()
    with pytest.raises(UserError, match=r"opacities must have shape \(3,\), got \(3, 1\); use x"):
        gsplat.from_gsplat({**table, "opacities": table["opacities"][:, None]})
    with pytest.raises(UserError, match="lack shN"):
        gsplat.from_gsplat({name: value for name, value in table.items() if name != "shN"})
    with pytest.raises(UserError, match=r"shN must have shape"):
        gsplat.from_gsplat({**table, "shN": table["shN"][:, :2]})


def test_trimesh_ellipsoids_stand_where_the_gaussians_do() -> None:
    mesh = ours.to_ellipsoids(gaussians(), deviations=2.0, subdivisions=2)
    vertices = np.asarray(mesh.vertices).reshape(2, -1, 3)
    # The long first axis points along the world's y.
    assert np.allclose(np.ptp(vertices[0], axis=0), [4 * 0.1, 4 * 0.5, 4 * 0.2], rtol=0.03)
    assert np.allclose(vertices[0].mean(axis=0), [1, 2, 3], atol=1e-6)
    assert mesh.is_watertight and mesh.volume > 0
    assert np.asarray(mesh.visual.vertex_colors)[0].tolist() == [255, 0, 255, 255]
    cloud = ours.to_trimesh(gaussians())
    assert np.asarray(cloud.vertices).tolist() == [[1, 2, 3], [-1, 0, 5]]
    back = ours.from_trimesh(cloud)
    assert back.xyz.tolist() == [[1, 2, 3], [-1, 0, 5]] and back.rgb[0].tolist() == [255, 0, 255]


def test_points_of_a_trimesh_mesh_lie_on_it_in_its_colours() -> None:
    box = trimesh.creation.box((2, 2, 2))
    box.visual.vertex_colors = np.where(box.vertices[:, :1] > 0, [[200, 0, 0, 255]], [[0, 100, 0, 255]])
    points = ours.from_trimesh(box, count=500)
    assert np.allclose(np.abs(points.xyz).max(axis=1), 1.0, atol=1e-5)
    # Colours go over from green to red along x.
    assert np.allclose(points.rgb[:, 0], 100 * (points.xyz[:, 0] + 1), atol=1.0)
    with pytest.raises(UserError, match="without faces"):
        ours.from_trimesh(trimesh.Scene())


def test_open3d_objects() -> None:
    library = pytest.importorskip("open3d", exc_type=ImportError)
    cloud = open3d.to_open3d(gaussians(), camera=CAMERA)
    assert np.asarray(cloud.points).tolist() == [[1, 2, 3], [-1, 0, 5]]
    # Shortest axes: the first one's y, which points along the world's x; the camera is at (2, -1, -3).
    assert np.allclose(np.asarray(cloud.normals), [[1, 0, 0], [0, 0, -1]], atol=1e-6)
    back = open3d.from_open3d(cloud)
    assert back.rgb.tolist() == [[255, 0, 255], [128, 128, 128]] and back.xyz.tolist() == [[1, 2, 3], [-1, 0, 5]]
    parameters = open3d.to_open3d_camera(CAMERA)
    again = open3d.from_open3d_camera(parameters)
    assert np.allclose(again.K, CAMERA.K) and np.allclose(again.viewmat, VIEWMAT) and again.width == 200
    # Open3D's own unprojection of one pixel of known depth: the middle of our pixel (139, 51).
    depth = np.zeros((100, 200), np.float32)
    depth[51, 139] = 10.0
    found = library.geometry.PointCloud.create_from_depth_image(
        library.geometry.Image(depth), parameters.intrinsic, parameters.extrinsic, depth_scale=1.0, depth_trunc=100.0
    )
    local = np.array([(139.5 - 110) / 150, (51.5 - 40) / 120, 1.0]) * 10.0
    world = np.linalg.inv(VIEWMAT) @ [*local, 1.0]
    assert np.allclose(np.asarray(found.points), world[None, :3], atol=1e-5)
    assert np.allclose(open3d.intrinsics_of(CAMERA)[:2, 2], [109.5, 39.5])
