"""What a ray of one camera meets in the picture of another: the input picture along every ray of the frames to be made.

The colour that a new view shows is somewhere on the epipolar line of its ray in the input picture, or hidden there; and
where the input shows nothing along the line, there is nothing (the visual hull). Handing these samples to the network
leaves it to find the depth; otherwise it would first have to discover projection. See Yu et al., "pixelNeRF", 2021,
and Huang et al., "EpiDiff", 2024.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

DEPTHS = 12
_RADIUS = 1.0


@torch.no_grad()
def epipolar_samples(
    picture: Float[Tensor, "B 4 H W"],
    projection: Float[Tensor, "B 3 4"],
    rays: Float[Tensor, "C F 6 H W"],
    pool: int = 2,
) -> Float[Tensor, "B F depths 4 h w"]:
    """Returns the input picture at points along the frames' rays, nearest first; 0 where they lie outside of it.

    Args:
        picture: Of the input camera.
        projection: World to pixels of the input camera, K [R | t].
        rays: Pluecker coordinates of the frames' rays, C = B or 1.
        pool: Edge in pixels of the blocks that share a ray; h = H / pool.
    """
    B, size = picture.shape[0], picture.shape[-1]
    C, F = rays.shape[:2]
    coarse = avg_pool2d(rays.flatten(0, 1), pool).unflatten(0, (C, F))
    moments, directions = coarse[:, :, :3], coarse[:, :, 3:]
    length = directions.norm(dim=2, keepdim=True)
    directions, moments = directions / length, moments / length
    # The ray's point closest to the origin; the object lies within the unit sphere.
    closest = torch.linalg.cross(directions, moments, dim=2)
    half = (_RADIUS**2 - closest.square().sum(dim=2, keepdim=True)).clamp_min(0.01).sqrt()
    steps = (torch.arange(DEPTHS, device=rays.device) + 0.5) / DEPTHS * 2 - 1
    # [C, F, depths, 3, h, w]
    points = closest[:, :, None] + (steps.view(1, 1, -1, 1, 1, 1) * half[:, :, None]) * directions[:, :, None]
    points = points.expand(B, *points.shape[1:])
    pixels = (
        torch.einsum("bij,bfkjhw->bfkihw", projection[:, :, :3], points) + projection[:, None, None, :, 3, None, None]
    )
    places = pixels[:, :, :, :2] / pixels[:, :, :, 2:].clamp_min(1e-3)
    grid = (places / size * 2 - 1).permute(0, 1, 2, 4, 5, 3)
    h, w = grid.shape[3:5]
    sampled = grid_sample(picture, grid.reshape(B, F * DEPTHS * h, w, 2), align_corners=False)
    return sampled.view(B, 4, F, DEPTHS, h, w).permute(0, 2, 3, 1, 4, 5)


def hull(samples: Float[Tensor, "B F depths 4 h w"]) -> Float[Tensor, "B F 5 h w"]:
    """Returns the largest alpha along every ray, and the mean of what is there (premultiplied RGBA)."""
    return torch.cat([samples[:, :, :, 3].amax(dim=2)[:, :, None], samples.mean(dim=2)], dim=2)
