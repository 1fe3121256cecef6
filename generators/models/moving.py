"""From a picture and words to how its pieces move: the motion network sampled, its trajectories made rigid."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gaussian4d.cameras import Camera

from ..cameras import pluecker_rays
from .motion import STEPS, MotionNet, anchor_pixels, facing_rays, from_network, lifted, relative_depth
from .noise import TRAIN_STEPS, fresh_step, scheduler
from .pieces import Moves, apply, at_times, pieces_of
from .surface import SurfaceNet

_SOLID = 0.5
_AT_REST = 0.06
"""A piece that travels less on average, in units of the object's radius, is at rest: so much is about the
network's own error, and few pieces of toys that move at all travel less."""


@torch.no_grad()
def sample_moves(
    motion: MotionNet,
    surface: SurfaceNet,
    picture: Float[Tensor, "4 H W"],
    camera: Camera,
    words: Int[Tensor, "1 L"],
    times: Float[Tensor, " T"],
    *,
    steps: int,
    guidance: float,
    seed: int,
) -> Moves:
    """Returns how what `picture` shows moves, as the words say, from the clip's start to each of `times`.

    Args:
        picture: In 0..1, of the network's size, taken by `camera` at the start of the clip.
        guidance: How far the words count; 1 is as trained.
        seed: Of the noise: another seed, another motion.
    """
    viewmats = torch.from_numpy(camera.viewmat).float()[None]
    rays = pluecker_rays([camera])
    depth = surface(picture[None], rays, viewmats)
    solid = picture[None, 3] > _SOLID
    seen = torch.cat([picture[None] * 2 - 1, relative_depth(depth, picture[None, 3], viewmats)], dim=1)
    displacements = from_network(
        _trajectories(motion, seen, facing_rays(rays, viewmats), words, steps, guidance, seed), viewmats
    )[0]
    pixels, there = anchor_pixels(solid)
    everywhere = lifted(depth, viewmats, torch.from_numpy(camera.K).float()[None])[0]
    points = everywhere[pixels[0]][there[0]]
    surface_points = torch.where(solid[0, ..., None], everywhere.view(*solid.shape[1:], 3), torch.nan)
    if len(points) < 3:
        still = torch.eye(4)[:3].expand(len(times), 1, 3, 4)
        return Moves(torch.zeros(solid.shape[1:], dtype=torch.long), still, surface_points)
    moved = points + displacements[there[0]].transpose(0, 1)
    owner, transforms = pieces_of(points, moved)
    transforms = _at_rest(points, owner, transforms)
    # The clip's start, where everything is as the picture shows it.
    still = torch.eye(4)[:3].expand(len(transforms), 1, 3, 4)
    middles = torch.stack([points[owner == p].mean(0) for p in range(len(transforms))])
    at = at_times(torch.cat([still, transforms], dim=1), middles, times)
    nearest = torch.cdist(everywhere, points).argmin(dim=1)
    return Moves(owner[nearest].view(solid.shape[1:]), at, surface_points)


def _at_rest(
    points: Float[Tensor, "M 3"], owner: Int[Tensor, " M"], transforms: Float[Tensor, "P S 3 4"]
) -> Float[Tensor, "P S 3 4"]:
    """Returns the transforms with those of pieces that hardly move replaced by none at all."""
    travelled = (apply(transforms, points) - points).norm(dim=-1).mean(dim=1)
    result = transforms.clone()
    for piece in range(len(transforms)):
        if travelled[piece, owner == piece].mean() < _AT_REST:
            result[piece] = torch.eye(4)[:3]
    return result


def _trajectories(
    motion: MotionNet, picture: Tensor, rays: Tensor, words: Tensor, steps: int, guidance: float, seed: int
) -> Float[Tensor, "1 M S 3"]:
    ddim = scheduler(clip=False)
    ddim.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((1, 256, STEPS, 3), generator=generator)
    for t in ddim.timesteps:
        level = torch.full((1,), (float(t) + 1) / TRAIN_STEPS)
        x0 = motion(x, level, picture, rays, words)
        if guidance != 1.0:
            bare = motion(x, level, picture, rays, torch.zeros_like(words))
            x0 = bare + guidance * (x0 - bare)
        x = fresh_step(ddim, x0, int(t), x, generator)
    return x
