"""Where priors look from: cameras on spheres around the object, and the rays through their pixels.

The frame of everything generated: the object lies inside the unit sphere at the origin, Z is up, and the picture that a
user gives was taken from azimuth 0, on the side of +X. Azimuths grow counter-clockwise seen from above, elevations
upwards; both in degrees.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera
from gaussian4d.errors import UserError

FRAMED_RADIUS = 1.05
"""The sphere around the origin that fills a picture: the object's own and some room."""


def orbit_camera(
    azimuth: float,
    elevation: float,
    *,
    fov: float = 35.0,
    size: int = 64,
    radius: float = FRAMED_RADIUS,
    id: str | None = None,
) -> Camera:
    """Returns the square pinhole camera at (azimuth, elevation) that frames the object, looking at the origin.

    Args:
        azimuth: Degrees; 0 is the side of the input picture.
        elevation: Degrees above the horizon, -89..89.
        fov: Degrees over the width. The distance follows: the sphere of `radius` around the origin just fits.
        size: Width and height in pixels.
    """
    if not 1.0 <= fov <= 120.0:
        raise UserError(f"expected a field of view of 1 to 120 degrees, got {fov:g}")
    if not -89.0 <= elevation <= 89.0:
        raise UserError(f"expected an elevation of -89 to 89 degrees, got {elevation:g}")
    half = np.radians(fov) / 2
    a, e = np.radians(azimuth), np.radians(elevation)
    eye = radius / np.sin(half) * np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
    name = f"a{azimuth:g}_e{elevation:g}" if id is None else id
    up = np.array([0.0, 0.0, 1.0])
    return Camera.look_at(eye, np.zeros(3), up, width=size, height=size, focal=0.5 * size / np.tan(half), id=name)


def orbit_cameras(
    count: int = 8,
    *,
    elevation: float = 15.0,
    start: float = 0.0,
    fov: float = 35.0,
    size: int = 64,
    radius: float = FRAMED_RADIUS,
) -> list[Camera]:
    """Returns `count` cameras at even azimuths, the first at `start` degrees."""
    return [orbit_camera(start + 360.0 * k / count, elevation, fov=fov, size=size, radius=radius) for k in range(count)]


def pluecker_rays(cameras: Sequence[Camera], size: int | None = None) -> Float[Tensor, "V 6 H W"]:
    """Returns the Pluecker coordinates (origin x direction, direction) of the rays through pixel centres, float32.

    Unit directions, world frame. `size` resizes square cameras first.
    """
    rays = []
    for camera in cameras:
        view = camera if size is None else camera.resized(size, size)
        columns, rows = np.meshgrid(np.arange(view.width) + 0.5, np.arange(view.height) + 0.5)
        pixels = np.stack([columns, rows, np.ones_like(rows)], axis=-1)
        directions = pixels @ np.linalg.inv(view.K).T @ view.viewmat[:3, :3]
        directions /= np.linalg.norm(directions, axis=-1, keepdims=True)
        moments = np.cross(np.broadcast_to(view.position, directions.shape), directions)
        rays.append(np.concatenate([moments, directions], axis=-1))
    return torch.from_numpy(np.stack(rays)).permute(0, 3, 1, 2).float()


def rays_of(viewmats: Tensor, Ks: Tensor, size: int = 64) -> Tensor:
    """Returns `pluecker_rays` of cameras given as tensors [..., 4, 4] and [..., 3, 3]: [..., 6, size, size]."""
    grid = torch.arange(size, dtype=torch.float32, device=Ks.device) + 0.5
    x = (grid - Ks[..., 0, 2, None]) / Ks[..., 0, 0, None]
    y = (grid - Ks[..., 1, 2, None]) / Ks[..., 1, 1, None]
    x, y = x[..., None, :].expand(*x.shape[:-1], size, size), y[..., :, None].expand(*y.shape[:-1], size, size)
    local = torch.stack([x, y, torch.ones_like(x)], dim=-3)
    R, t = viewmats[..., :3, :3], viewmats[..., :3, 3]
    directions = torch.nn.functional.normalize(torch.einsum("...ji,...jhw->...ihw", R, local), dim=-3)
    origins = -torch.einsum("...ji,...j->...i", R, t)[..., None, None].expand_as(directions)
    return torch.cat([torch.linalg.cross(origins, directions, dim=-3), directions], dim=-3)
