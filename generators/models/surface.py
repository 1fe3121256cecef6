"""What the input picture already says about another view: its own pixels, lifted to their depths and drawn from there.

A small transformer reads the depth of every pixel off one picture; the pixels become surfels, Gaussians that lie in
the surface, and our rasterizer draws them by the other cameras. Geometry is computed this way, and only what the input
does not show is left to the view transformer, which takes the drawings as conditions (lifting and drawing points: Wiles
et al., "SynSin", 2020; as a condition of diffusion: Yu et al., "ViewCrafter", 2024).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diff_rasterizer import rasterization

from ..cameras import rays_of
from .pieces import Moves
from .view_transformer import DRAWN_CHANNELS, Frames, ViewTransformer, ViewTransformerConfig, unpatched

SURFACE_CONFIG = ViewTransformerConfig(width=128, layers=5, heads=4)
_REACH = 1.05
_NEAR = 0.1
_OPAQUE = 0.5
# Neighbours further apart in depth belong to different surfaces.
_BREAK = 0.2
# A surfel's share of the step to its neighbours, and its thickness as a share of a pixel's footprint.
_SPREAD = 0.45
_THICKNESS = 0.15
# Steps along the surface longer than this many footprints are cut: seen so obliquely, a pixel tells little.
_LONGEST = 4.0


class SurfaceNet(nn.Module):
    """Returns the planar depth [B, H, W] of pictures [B, 4, H, W] (premultiplied RGBA in 0..1) of posed cameras."""

    def __init__(self, config: ViewTransformerConfig | None = None) -> None:
        super().__init__()
        self.trunk = ViewTransformer(config or SURFACE_CONFIG)
        c = self.trunk.config
        self.out = nn.Linear(c.width, c.head_channels * c.patch**2)
        last = nn.Conv2d(32, 1, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.head = nn.Sequential(nn.Conv2d(c.head_channels + 4, 32, 3, padding=1), nn.SiLU(), last)
        self.trunk.keep_features_only()

    def forward(
        self,
        pictures: Float[Tensor, "B 4 H W"],
        rays: Float[Tensor, "B 6 H W"],
        viewmats: Float[Tensor, "B 4 4"],
    ) -> Float[Tensor, "B H W"]:
        """Returns depths of an object within the unit sphere; they mean nothing where the picture shows nothing."""
        c = self.trunk.config
        B = len(pictures)
        images = (pictures * 2 - 1)[:, None]
        known = torch.ones(B, 1, dtype=torch.bool, device=images.device)
        zeros = torch.zeros(B, 1, device=images.device)
        tokens = self.trunk.features(images, zeros, Frames(rays[:, None], zeros, known))
        coarse = unpatched(self.out(tokens), c.patch, c.size)[:, 0]
        offset = coarse[:, 0] + self.head(torch.cat([coarse, images[:, 0]], dim=1))[:, 0]
        return viewmats[:, :3, 3].norm(dim=-1)[:, None, None] + _REACH * torch.tanh(offset)


@dataclasses.dataclass
class Surfels:
    """The visible surface as flat Gaussians: means, covariances, colours, the way they face, and their pixels.

    Where it moves there are V of each of the first two and of the normals, one for every frame.
    """

    means: Float[Tensor, "*V N 3"]
    covars: Float[Tensor, "*V N 3 3"]
    rgb: Float[Tensor, "N 3"]
    normals: Float[Tensor, "*V N 3"]
    pixels: Int[Tensor, " N"]
    """Row by row."""


@torch.no_grad()
def surfels_of(
    picture: Float[Tensor, "4 H W"], depth: Float[Tensor, "H W"], viewmat: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"]
) -> Surfels:
    """Returns a surfel for every opaque pixel that its neighbours agree with about the depth."""
    H, W = depth.shape
    rows, columns = (torch.arange(n, device=depth.device) + 0.5 for n in (H, W))
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    directions = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.ones_like(u)], dim=-1)
    solid = picture[3] > _OPAQUE
    step_u, broken_u = _steps(depth, solid, 1)
    step_v, broken_v = _steps(depth, solid, 0)
    keep = solid & ~(broken_u | broken_v)
    points = directions * depth[..., None]
    # d(depth * direction): along u the direction changes by 1 / f, too.
    across = torch.zeros_like(points)
    across[..., 0] = depth / K[0, 0]
    down = torch.zeros_like(points)
    down[..., 1] = depth / K[1, 1]
    across = across + directions * step_u[..., None]
    down = down + directions * step_v[..., None]
    points, across, down, straight = points[keep], across[keep], down[keep], depth[keep]
    footprint = straight / K[0, 0]
    normals = torch.nn.functional.normalize(torch.linalg.cross(down, across, dim=-1), dim=-1)
    tangents = torch.stack([across, down], dim=1)
    length = tangents.norm(dim=-1, keepdim=True)
    tangents = tangents * (_LONGEST * footprint[:, None, None] / length).clamp_max(1.0)
    covars = _SPREAD**2 * torch.einsum("nki,nkj->nij", tangents, tangents)
    covars = covars + (_THICKNESS * footprint).square()[:, None, None] * torch.eye(3).to(covars)
    R, t = viewmat[:3, :3], viewmat[:3, 3]
    rgb = (picture[:3] / picture[3:].clamp_min(0.05)).permute(1, 2, 0)[keep]
    return Surfels((points - t) @ R, R.T @ covars @ R, rgb, normals @ R, keep.flatten().nonzero()[:, 0])


def _steps(depth: Tensor, solid: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Returns the depth's step to the neighbours along `dim` (the smaller of both), and where both are breaks."""
    ahead = torch.full_like(depth, torch.inf)
    count = depth.shape[dim]
    difference = depth.narrow(dim, 1, count - 1) - depth.narrow(dim, 0, count - 1)
    both = solid.narrow(dim, 1, count - 1) & solid.narrow(dim, 0, count - 1)
    difference = torch.where(both, difference, torch.inf)
    behind = ahead.clone()
    ahead.narrow(dim, 0, count - 1).copy_(difference)
    behind.narrow(dim, 1, count - 1).copy_(difference)
    step = torch.where(ahead.abs() <= behind.abs(), ahead, behind)
    return torch.where(step.isinf(), 0.0, step), step.abs() > _BREAK


def mirrored(surfels: Surfels, viewmat: Float[Tensor, "4 4"]) -> Surfels:
    """Returns the surfels' mirror image in the upright plane through the origin that faces the camera.

    A guess at the far side: what stands to the left stays there, and symmetric things come out whole.
    """
    forward = viewmat[2, :3] * viewmat.new_tensor([1.0, 1.0, 0.0])
    axis = torch.nn.functional.normalize(forward, dim=0)
    mirror = torch.eye(3).to(axis) - 2.0 * torch.outer(axis, axis)
    return dataclasses.replace(
        surfels, means=surfels.means @ mirror, covars=mirror @ surfels.covars @ mirror, normals=surfels.normals @ mirror
    )


def turned(surfels: Surfels) -> Surfels:
    """Returns the surfels twice, turned by a quarter about the vertical axis to both sides: a guess at these.

    Right for what looks alike all around.
    """
    quarter = surfels.means.new_tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    both = [
        dataclasses.replace(
            surfels, means=surfels.means @ R.T, covars=R @ surfels.covars @ R.T, normals=surfels.normals @ R.T
        )
        for R in (quarter, quarter.T)
    ]
    return Surfels(*(torch.cat([getattr(one, f.name) for one in both]) for f in dataclasses.fields(Surfels)))


def moved(surfels: Surfels, moves: Moves) -> Surfels:
    """Returns the surfels as the pieces that their pixels show carry them, for every frame of `moves`."""
    # What the picture shows but no piece owns goes with the first.
    owner = moves.owner.flatten()[surfels.pixels].clamp_min(0)
    R, t = moves.transforms[:, owner, :, :3], moves.transforms[:, owner, :, 3]
    return dataclasses.replace(
        surfels,
        means=torch.einsum("vnij,nj->vni", R, surfels.means) + t,
        covars=R @ surfels.covars @ R.mT,
        normals=torch.einsum("vnij,nj->vni", R, surfels.normals),
    )


@torch.no_grad()
def surface_conditions(
    surfels: Surfels, viewmats: Float[Tensor, "V 4 4"], Ks: Float[Tensor, "V 3 3"], size: int
) -> Float[Tensor, "V C H W"]:
    """Returns a drawing as the view transformer takes it: rgb, alpha, canonical xyz, and how the surface faces.

    All are premultiplied; xyz is in 0..1 as `views.render_xyz` has it; the last channel is the cosine between normal
    and view, negative where the surface is seen from behind and its colour is not what a camera there would see.
    """
    V, N = len(viewmats), len(surfels.rgb)
    if N == 0:
        return viewmats.new_zeros(V, DRAWN_CHANNELS, size, size)
    moving = surfels.means.dim() == 3
    centres = -torch.einsum("vji,vj->vi", viewmats[:, :3, :3], viewmats[:, :3, 3])
    towards = torch.nn.functional.normalize(centres[:, None] - surfels.means, dim=-1)
    facing = (towards * surfels.normals).sum(dim=-1, keepdim=True)
    shown = torch.cat([surfels.rgb.expand(V, -1, -1), (surfels.means * 0.5 + 0.5).expand(V, -1, -1), facing], dim=-1)
    opacities = surfels.means.new_full(surfels.means.shape[:-1], 0.95)
    # Every frame of what moves is a scene of its own, seen by one camera.
    viewmats, Ks, shown = (x[:, None] if moving else x for x in (viewmats, Ks, shown))
    drawn, alpha, _ = rasterization(
        surfels.means,
        None,
        None,
        opacities,
        shown,
        viewmats,
        Ks,
        size,
        size,
        near_plane=_NEAR,
        covars=surfels.covars,
        packed=False,
    )
    drawn, alpha = (x[:, 0] if moving else x for x in (drawn, alpha))
    return torch.cat([drawn[..., :3], alpha, drawn[..., 3:]], dim=-1).permute(0, 3, 1, 2)


@torch.no_grad()
def drawn_conditions(
    network: SurfaceNet,
    pictures: Float[Tensor, "B 4 H W"],
    viewmats: Float[Tensor, "B V 4 4"],
    Ks: Float[Tensor, "B V 3 3"],
    moves: Sequence[Moves] | None = None,
) -> Float[Tensor, "B V C H W"]:
    """Returns the conditions of V cameras for pictures that the first took: what was seen, and two guesses.

    Args:
        moves: For every picture how what it shows moves, where the cameras look at other times than its own.
    """
    size = pictures.shape[-1]
    depths = network(pictures, rays_of(viewmats[:, 0], Ks[:, 0], size), viewmats[:, 0])
    drawn = []
    for b, (picture, depth, poses, lenses) in enumerate(zip(pictures, depths, viewmats, Ks)):
        seen = surfels_of(picture, depth, poses[0], lenses[0])
        guesses = (seen, mirrored(seen, poses[0]), turned(seen))
        if moves is not None:
            guesses = tuple(moved(guess, moves[b]) for guess in guesses)
        drawn.append(torch.cat([surface_conditions(guess, poses, lenses, size) for guess in guesses], dim=1))
    return torch.stack(drawn)
