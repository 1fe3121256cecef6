"""From parts and a camera to buffers: rays through pixels, nearest hits, colour, geometry."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from ..cameras import Camera
from ..errors import UserError

if TYPE_CHECKING:
    from .raycast import Hits
    from .world import Light, Part

BUFFERS = ("rgb", "alpha", "depth", "normal", "flow", "xyz")

# A pixel is refined when its colour differs from a neighbour's by more than this in a channel.
_CONTRAST = 0.03


@dataclasses.dataclass
class ToyBuffers:
    """What a camera sees; float32, None where not asked for. Geometry belongs to the ray through the pixel centre."""

    rgb: Float[np.ndarray, "H W 3"] | None = None
    """Straight (not premultiplied) colour in 0..1 of the covered part of the pixel; 0 where alpha is 0."""
    alpha: Float[np.ndarray, "H W 1"] | None = None
    """Covered share of the pixel."""
    depth: Float[np.ndarray, "H W 1"] | None = None
    """Planar z; 0 is background."""
    normal: Float[np.ndarray, "H W 3"] | None = None
    """Unit outward normal in the world frame, smooth over rounded shapes; 0 is background."""
    flow: Float[np.ndarray, "H W 2"] | None = None
    """Displacement in pixels (x right, y down) of the surface point until `flow_to`; 0 is background."""
    xyz: Float[np.ndarray, "H W 3"] | None = None
    """World position; 0 is background."""


@dataclasses.dataclass
class _Surface:
    """Nearest hits of some rays. `part` [N] is -1 where a ray hits nothing; the rest is 0 there."""

    part: Int[np.ndarray, " N"]
    t: Float[np.ndarray, " N"]
    points: Float[np.ndarray, "N 3"]
    """In the frame of the part hit."""
    normals: Float[np.ndarray, "N 3"]
    """World frame."""


def draw(
    parts: Sequence[Part],
    light: Light,
    camera: Camera,
    time: float,
    buffers: tuple[str, ...],
    samples: int,
    flow_to: float,
) -> ToyBuffers:
    """Returns the buffers named in `buffers`; `ToyWorld.render` documents the arguments."""
    unknown = set(buffers) - set(BUFFERS)
    if unknown:
        raise UserError(f"expected buffers among {', '.join(BUFFERS)}; got {', '.join(sorted(unknown))}")
    if camera.model != "pinhole":
        raise UserError(f"toy worlds are rendered by pinhole cameras; camera {camera.id} is {camera.model}")
    if samples < 1:
        raise UserError(f"expected at least 1 sample per pixel, got {samples}")
    H, W = camera.height, camera.width
    poses = [part.T_world_part(time) for part in parts]
    column, row = np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)
    centres = np.stack([column.ravel(), row.ravel()], axis=1)
    surface = _nearest(parts, poses, camera, centres)

    out = ToyBuffers()
    if "rgb" in buffers or "alpha" in buffers:
        rgb, alpha = _antialiased(parts, poses, light, camera, centres, surface, samples)
        if "rgb" in buffers:
            out.rgb = rgb.reshape(H, W, 3).astype(np.float32)
        if "alpha" in buffers:
            out.alpha = alpha.reshape(H, W, 1).astype(np.float32)
    if "depth" in buffers:
        out.depth = surface.t.reshape(H, W, 1).astype(np.float32)
    if "normal" in buffers:
        out.normal = surface.normals.reshape(H, W, 3).astype(np.float32)
    if "xyz" in buffers:
        out.xyz = _carry(surface, poses).reshape(H, W, 3).astype(np.float32)
    if "flow" in buffers:
        moved = _carry(surface, [part.T_world_part(flow_to) for part in parts])
        hit = surface.part >= 0
        flow = np.zeros((H * W, 2))
        flow[hit] = _project(camera, moved[hit]) - centres[hit]
        out.flow = flow.reshape(H, W, 2).astype(np.float32)
    return out


def _directions(camera: Camera, pixels: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
    """Returns world ray directions through pixel coordinates, of length 1 / cos: the ray parameter is planar z."""
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(camera.K).T
    return rays @ camera.viewmat[:3, :3]


def _project(camera: Camera, world: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 2"]:
    """Returns pixel coordinates of world points."""
    p = (world @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]) @ camera.K.T
    return p[:, :2] / p[:, 2:]


def _nearest(
    parts: Sequence[Part],
    poses: Sequence[np.ndarray],
    camera: Camera,
    pixels: Float[np.ndarray, "N 2"],
    exact: bool = True,
) -> _Surface:
    """Returns what the rays through `pixels` hit first: to float64, or to embree's float32 unless `exact`."""
    n = len(pixels)
    number = np.float64 if exact else np.float32
    directions = _directions(camera, pixels).astype(number)
    eye = camera.position
    nearest = np.full(n, np.inf, dtype=np.float32)
    owner = np.full(n, -1)
    found: list[tuple[Hits, np.ndarray, np.ndarray]] = []
    for index, (part, T) in enumerate(zip(parts, poses)):
        rays = _candidates(part, T, camera, pixels)
        R = T[:3, :3].astype(number)
        to_centre = (T[:3, 3] - eye).astype(number)
        local = directions[rays] @ R
        origin = -to_centre @ R
        hits = part.caster.cast(np.broadcast_to(origin, local.shape), local)
        local = local[hits.rays]
        hits.rays = rays[hits.rays]
        closer = hits.t < nearest[hits.rays]
        nearest[hits.rays[closer]] = hits.t[closer]
        owner[hits.rays[closer]] = index
        found.append((hits, local, origin))

    out = _Surface(owner, np.zeros(n, number), np.zeros((n, 3), number), np.zeros((n, 3), number))
    for index, (hits, local, origin) in enumerate(found):
        won = owner[hits.rays] == index
        hits, local = hits.only(won), local[won]
        caster = parts[index].caster
        t = caster.exact_t(hits, origin[None], local) if exact else hits.t
        out.t[hits.rays] = t
        out.points[hits.rays] = origin + t[:, None] * local
        out.normals[hits.rays] = caster.normals(hits) @ poses[index][:3, :3].T.astype(number)
    return out


def _candidates(
    part: Part, T_world_part: np.ndarray, camera: Camera, pixels: Float[np.ndarray, "N 2"]
) -> Int[np.ndarray, " M"]:
    """Returns which pixels lie in the rectangle around the part's projected bounding box; only they need rays."""
    signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
    corners = (signs * part.shape.half_size) @ T_world_part[:3, :3].T + T_world_part[:3, 3]
    if ((corners @ camera.viewmat[2, :3] + camera.viewmat[2, 3]) < 1e-3).any():
        # Partly behind the camera, where projection says nothing.
        return np.arange(len(pixels))
    projected = _project(camera, corners)
    (left, top), (right, bottom) = projected.min(axis=0) - 0.01, projected.max(axis=0) + 0.01
    x, y = pixels[:, 0], pixels[:, 1]
    return np.flatnonzero((x >= left) & (x <= right) & (y >= top) & (y <= bottom))


def _carry(surface: _Surface, poses: Sequence[np.ndarray]) -> Float[np.ndarray, "N 3"]:
    """Returns where the surface points are in the world when the parts stand at `poses`; 0 for background."""
    world = np.zeros_like(surface.points)
    for index, T in enumerate(poses):
        mine = surface.part == index
        world[mine] = surface.points[mine] @ T[:3, :3].T + T[:3, 3]
    return world


def _colors(parts: Sequence[Part], light: Light, surface: _Surface) -> Float[np.ndarray, "N 3"]:
    """Returns the lit colour in 0..1 of each ray; 0 for background."""
    rgb = np.zeros_like(surface.points)
    for index, part in enumerate(parts):
        mine = np.flatnonzero(surface.part == index)
        if len(mine):
            shade = light.shade(surface.normals[mine])
            rgb[mine] = np.minimum(part.texture.color(surface.points[mine]) * shade[:, None], 1.0)
    return rgb


def _antialiased(
    parts: Sequence[Part],
    poses: Sequence[np.ndarray],
    light: Light,
    camera: Camera,
    centres: Float[np.ndarray, "P 2"],
    surface: _Surface,
    samples: int,
) -> tuple[Float[np.ndarray, "P 3"], Float[np.ndarray, " P"]]:
    """Returns straight colour and coverage per pixel.

    The centre ray stands for a pixel whose neighbours see the same part in about the same colour; the other pixels
    are averaged over `samples` rays at Hammersley positions. A detail that all centre rays miss stays unseen.
    """
    rgb = _colors(parts, light, surface)
    alpha = (surface.part >= 0).astype(np.float64)
    if samples == 1:
        return rgb, alpha
    refine = np.flatnonzero(varied(surface.part.reshape(camera.height, camera.width), rgb))
    offsets = hammersley(samples) - 0.5
    pixels = (centres[refine, None] + offsets).reshape(-1, 2)
    fine = _nearest(parts, poses, camera, pixels, exact=False)
    colors = _colors(parts, light, fine).reshape(-1, samples, 3).sum(axis=1)
    count = (fine.part >= 0).reshape(-1, samples).sum(axis=1)
    rgb[refine] = colors / np.maximum(count, 1)[:, None]
    alpha[refine] = count / samples
    return rgb, alpha


def varied(part: Int[np.ndarray, "H W"], rgb: Float[np.ndarray, "P 3"], rim: bool = True) -> Bool[np.ndarray, " P"]:
    """Returns which pixels differ from one of their 8 neighbours in part or colour; `rim`: the picture's rim, too."""
    H, W = part.shape
    image = np.ascontiguousarray(rgb.T, dtype=np.float32).reshape(3, H, W)
    uneven = np.zeros((H, W), dtype=bool)
    if rim:
        uneven[[0, -1]] = True
        uneven[:, [0, -1]] = True
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, H - dy), slice(max(-dx, 0), W - max(dx, 0)))
        there = (slice(dy, H), slice(max(dx, 0), W - max(-dx, 0)))
        differs = part[here] != part[there]
        for channel in image:
            differs |= np.abs(channel[here] - channel[there]) > _CONTRAST
        uneven[here] |= differs
        uneven[there] |= differs
    return uneven.ravel()


def hammersley(n: int) -> Float[np.ndarray, "n 2"]:
    """Returns n well-spread points in the unit square: evenly spaced in x, the base-2 radical inverse in y."""
    k = np.arange(n)
    inverse = np.zeros(n)
    base, rest = 0.5, k.copy()
    while rest.any():
        inverse += base * (rest % 2)
        rest //= 2
        base /= 2
    return np.stack([(k + 0.5) / n, inverse + 0.5 / n], axis=1)
