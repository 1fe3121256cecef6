"""Many views of a world at once, fast: for training, where a million pictures matter more than the last digit.

What `ToyWorld.render` does view by view in float64 happens here for all views together in float32: one call of embree
per part, arrays long enough for numpy. The pictures agree with `render` to about one step of 8 bits.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from ..cameras import Camera
from ..errors import UserError
from .drawing import hammersley, varied
from .raycast import Hits
from .world import Part, ToyWorld


@dataclasses.dataclass
class ToyViews:
    """What V cameras see, each at its time; float32."""

    rgba: Float[np.ndarray, "V H W 4"]
    """Colour multiplied by coverage (premultiplied), and coverage, in 0..1."""
    depth: Float[np.ndarray, "V H W"]
    """Planar z of the ray through the pixel's centre; 0 is background."""
    owner: Int[np.ndarray, "V H W"]
    """Which of the world's parts the pixel's centre shows; -1 is background."""


def render_views(world: ToyWorld, cameras: Sequence[Camera], times: Sequence[float], samples: int = 4) -> ToyViews:
    """Returns the views of `cameras` (pinhole, of one picture size) at clip times `times` [V].

    Args:
        samples: Rays per pixel where colour or coverage vary.
    """
    if len(cameras) != len(times) or not cameras:
        raise UserError(f"expected as many times as cameras, at least one; got {len(cameras)} and {len(times)}")
    sizes = {(camera.width, camera.height, camera.model) for camera in cameras}
    if len(sizes) != 1 or cameras[0].model != "pinhole":
        raise UserError("expected pinhole cameras of one picture size")
    V, H, W = len(cameras), cameras[0].height, cameras[0].width
    rays = _Rays(world.parts, cameras, times)
    column, row = np.meshgrid(np.arange(W, dtype=np.float32) + 0.5, np.arange(H, dtype=np.float32) + 0.5)
    centres = np.stack([column.ravel(), row.ravel()], axis=1)
    pixels = np.tile(centres, (V, 1))
    views = np.repeat(np.arange(V), H * W)
    owner, depth, rgb = rays.shade(world, views, pixels)
    alpha = (owner >= 0).astype(np.float32)
    if samples > 1:
        uneven = [varied(owner[views == v].reshape(H, W), rgb[views == v], rim=False) for v in range(V)]
        refine = np.flatnonzero(np.concatenate(uneven))
        offsets = (hammersley(samples) - 0.5).astype(np.float32)
        fine = (pixels[refine, None] + offsets).reshape(-1, 2)
        hit, _, colors = rays.shade(world, np.repeat(views[refine], samples), fine)
        count = (hit >= 0).reshape(-1, samples).sum(axis=1)
        alpha[refine] = count / np.float32(samples)
        # Rays that miss have colour 0: the mean over all samples is the premultiplied colour.
        rgb[refine] = colors.reshape(-1, samples, 3).mean(axis=1)
    rgba = np.concatenate([rgb, alpha[:, None]], axis=1).reshape(V, H, W, 4)
    return ToyViews(rgba, depth.reshape(V, H, W), owner.reshape(V, H, W))


class _Rays:
    """The poses of all parts and cameras in the frames rays are cast in."""

    def __init__(self, parts: Sequence[Part], cameras: Sequence[Camera], times: Sequence[float]) -> None:
        self.K = np.stack([camera.K for camera in cameras])
        self.viewmats = np.stack([camera.viewmat for camera in cameras])
        eyes = np.stack([camera.position for camera in cameras])
        # [P, V]: a part at a time, and the camera seen from it.
        self.T = np.stack([np.stack([part.T_world_part(time) for time in times]) for part in parts])
        self.present = np.array([[part.is_present(time) for time in times] for part in parts])
        R = self.T[..., :3, :3]
        self.origins = np.einsum("pvij,pvi->pvj", R, eyes[None] - self.T[..., :3, 3]).astype(np.float32)
        R_part_camera = np.einsum("pvki,vjk->pvij", R, self.viewmats[:, :3, :3])
        self.R_part_pixel = (R_part_camera @ np.linalg.inv(self.K)).astype(np.float32)
        self.R_world_part = R.astype(np.float32)

    def shade(
        self, world: ToyWorld, views: Int[np.ndarray, " N"], pixels: Float[np.ndarray, "N 2"]
    ) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, " N"], Float[np.ndarray, "N 3"]]:
        """Returns which part each ray hits (-1: none), at what planar z, and its lit colour in 0..1 (0: none)."""
        n = len(pixels)
        nearest = np.full(n, np.inf, np.float32)
        owner = np.full(n, -1, np.int64)
        found: list[tuple[Hits, np.ndarray, np.ndarray]] = []
        for index, part in enumerate(world.parts):
            chosen = self._candidates(index, part, views, pixels)
            v = views[chosen]
            local = self._turned(self.R_part_pixel[index], v, pixels[chosen])
            origins = self.origins[index, v]
            hits = part.caster.cast(origins, local)
            origins, local = origins[hits.rays], local[hits.rays]
            hits.rays = chosen[hits.rays]
            closer = hits.t < nearest[hits.rays]
            nearest[hits.rays[closer]] = hits.t[closer]
            owner[hits.rays[closer]] = index
            found.append((hits, local, origins))
        rgb = np.zeros((n, 3), np.float32)
        for index, (hits, local, origins) in enumerate(found):
            won = np.flatnonzero(owner[hits.rays] == index)
            if not len(won):
                continue
            hits, points = hits.only(won), origins[won] + hits.t[won, None] * local[won]
            part = world.parts[index]
            normals = self._turned(self.R_world_part[index], views[hits.rays], part.caster.normals(hits))
            lit = part.texture.color(points) * world.light.shade(normals)[:, None]
            rgb[hits.rays] = np.minimum(lit, 1.0)
        return owner, np.where(owner >= 0, nearest, np.float32(0.0)), rgb

    @staticmethod
    def _turned(matrices: np.ndarray, views: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """Returns matrices[views[n]] vectors[n] (a last 1 is understood when it is short) for sorted `views`."""
        out = np.empty((len(vectors), 3), np.float32)
        edges = np.searchsorted(views, np.arange(len(matrices) + 1))
        k = vectors.shape[1]
        for matrix, start, stop in zip(matrices, edges[:-1], edges[1:]):
            if stop > start:
                out[start:stop] = vectors[start:stop] @ matrix[:, :k].T
                if k == 2:
                    out[start:stop] += matrix[:, 2]
        return out

    def _candidates(
        self, index: int, part: Part, views: Int[np.ndarray, " N"], pixels: Float[np.ndarray, "N 2"]
    ) -> Int[np.ndarray, " M"]:
        """Returns which rays pass the rectangle around the part's projected bounding box in their view."""
        signs = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        T = self.T[index]
        corners = np.einsum("vij,cj->vci", T[:, :3, :3], signs * part.shape.half_size) + T[:, None, :3, 3]
        seen = np.einsum("vij,vcj->vci", self.viewmats[:, :3, :3], corners) + self.viewmats[:, None, :3, 3]
        behind = (seen[..., 2] < 1e-3).any(axis=1)
        projected = np.einsum("vij,vcj->vci", self.K, seen)
        with np.errstate(divide="ignore", invalid="ignore"):
            xy = projected[..., :2] / projected[..., 2:]
        low = np.where(behind[:, None], -np.inf, xy.min(axis=1) - 0.01)
        high = np.where(behind[:, None], np.inf, xy.max(axis=1) + 0.01)
        x, y = pixels[:, 0], pixels[:, 1]
        edges = np.searchsorted(views, np.arange(len(low) + 1))
        chosen = []
        for v, (start, stop) in enumerate(itertools.pairwise(edges)):
            if stop > start and self.present[index, v]:
                near = slice(start, stop)
                inside = (
                    (x[near] >= low[v, 0]) & (x[near] <= high[v, 0]) & (y[near] >= low[v, 1]) & (y[near] <= high[v, 1])
                )
                chosen.append(start + np.flatnonzero(inside))
        return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
