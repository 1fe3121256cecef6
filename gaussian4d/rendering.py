"""A model through a camera at a time: colour, and the geometry and motion behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diff_rasterizer import rasterization

from .cameras import Camera
from .devices import choose_device, uploaded
from .errors import UserError
from .gaussians import Gaussians
from .model import DynamicGaussians, check_connected

BUFFERS = ("rgb", "depth", "normal", "flow", "alpha", "uncertainty", "xyz", "velocity", "lifetime")

# Buffers that are drawn as features of the Gaussians, in one pass beside that for colour.
_FEATURES = ("normal", "flow", "uncertainty", "xyz", "velocity", "lifetime")

# Depth spread along a ray, relative to the depth, at which a pixel counts as fully uncertain.
_WIDE_SPREAD = 0.1


@dataclasses.dataclass
class RenderOutput:
    """Rendered buffers, [H, W, C] float32; None where a buffer was not asked for.

    Geometry is averaged with the blending weights and divided by alpha; where nothing is drawn it is 0.
    """

    rgb: Float[Tensor, "H W 3"] | None = None
    """Colour over the background, not clamped."""
    depth: Float[Tensor, "H W 1"] | None = None
    """Expected distance along the optical axis, world units."""
    normal: Float[Tensor, "H W 3"] | None = None
    """Unit normal in the world frame towards the camera: the shortest axes of the Gaussians."""
    flow: Float[Tensor, "H W 2"] | None = None
    """Displacement in pixels, x right and y down, of what is seen, until `flow_to`, for a camera that stands still."""
    alpha: Float[Tensor, "H W 1"] | None = None
    """Opacity of the Gaussians together, 0..1."""
    uncertainty: Float[Tensor, "H W 1"] | None = None
    """0 where one surface is opaque, 1 where nothing is seen or depths along the ray spread by a tenth and more."""
    xyz: Float[Tensor, "H W 3"] | None = None
    """Expected position in the world."""
    velocity: Float[Tensor, "H W 3"] | None = None
    """Velocity of what is seen, world units per clip, world frame."""
    lifetime: Float[Tensor, "H W 1"] | None = None
    """How much of the clip what is seen is there, 0..1."""


def render(
    model: DynamicGaussians,
    camera: Camera,
    time: float = 0.0,
    buffers: Sequence[str] = ("rgb",),
    *,
    background: Tensor | Sequence[float] | None = None,
    flow_to: float | None = None,
    backend: str = "auto",
    device: str | torch.device | None = None,
) -> RenderOutput:
    """Returns the asked buffers of `model` seen by `camera` at clip time `time`, on the device they were drawn on.

    Args:
        model: A model in the coordinates of `camera`.
        camera: Where from, and at what picture size.
        time: Clip time, 0..1.
        buffers: Any of `BUFFERS`.
        background: [3] colour behind the Gaussians; None takes the model's own, black without one.
        flow_to: Clip time `flow` leads to; None is one frame later.
        backend: Rasterizer backend.
        device: Where to draw (see `devices.choose_device`); None draws where the model is. A model that is elsewhere is
            moved for this one picture: of many pictures, move it once with `model.to`.

    Raises:
        UserError: for an unknown buffer, `flow` or `velocity` of a per-frame model, or a device that cannot be used.
    """
    if device is not None:
        placement = choose_device(device, backend)
        model, backend = model.to(placement.device), placement.backend
    with torch.no_grad():
        return differentiable_buffers(
            model, camera, time, buffers, background=background, flow_to=flow_to, backend=backend
        )


def differentiable_buffers(
    model: DynamicGaussians,
    camera: Camera,
    time: float,
    buffers: Sequence[str],
    *,
    background: Tensor | Sequence[float] | None = None,
    flow_to: float | None = None,
    backend: str = "auto",
    state: Gaussians | None = None,
) -> RenderOutput:
    """Returns what `render` does, with gradients to the parameters; `state` is `model.at(time)` where that is known."""
    unknown = sorted(set(buffers) - set(BUFFERS))
    if unknown:
        raise UserError(f"unknown buffer {', '.join(unknown)}; expected any of {', '.join(BUFFERS)}")
    here = model.params["means"].device
    state = model.at(time) if state is None else state
    output = RenderOutput()
    view = _View(camera, here, model.near, backend, model.antialiased)

    if {"rgb", "depth", "alpha"} & set(buffers):
        if background is None:
            background = model.background if model.background is not None else (0.0, 0.0, 0.0)
        behind = uploaded(background, here)
        mode = "RGB+ED" if "depth" in buffers else "RGB"
        image, alpha = view.draw(state, state.colors, state.sh_degree, behind, mode)
        output.rgb = image[..., :3] if "rgb" in buffers else None
        output.depth = image[..., 3:] if "depth" in buffers else None
        output.alpha = alpha if "alpha" in buffers else None

    wanted = [name for name in _FEATURES if name in buffers]
    if wanted:
        later = time + model.frame_interval if flow_to is None else flow_to
        features = {name: _features(name, view, state, model, time, later) for name in wanted}
        blended, alpha = view.draw(state, torch.cat(list(features.values()), dim=1), None, None, "RGB")
        mean = torch.where(alpha > 1e-4, blended / alpha.clamp_min(1e-4), 0.0)
        for name, part in zip(wanted, mean.split([f.shape[1] for f in features.values()], dim=-1)):
            setattr(output, name, _finished(name, part, alpha))
    return output


class _View:
    """A camera on a device, ready to draw."""

    def __init__(self, camera: Camera, device: torch.device, near: float, backend: str, antialiased: bool) -> None:
        self.camera, self.near, self.backend = camera, near, backend
        self.mode: Literal["classic", "antialiased"] = "antialiased" if antialiased else "classic"
        self.viewmat, self.K = uploaded(camera.viewmat, device), uploaded(camera.K, device)

    def draw(
        self, state: Gaussians, colors: Tensor, sh_degree: int | None, background: Tensor | None, mode: str
    ) -> tuple[Tensor, Tensor]:
        """Returns the picture [H, W, C] and alpha [H, W, 1] with `colors` per Gaussian."""
        renders, alphas, _ = rasterization(
            state.means,
            state.quats,
            state.scales,
            state.opacities,
            colors,
            self.viewmat[None],
            self.K[None],
            self.camera.width,
            self.camera.height,
            near_plane=self.near,
            sh_degree=sh_degree,
            packed=False,
            backgrounds=None if background is None else background[None],
            render_mode=mode,  # type: ignore[arg-type]
            rasterize_mode=self.mode,
            camera_model=self.camera.model,  # type: ignore[arg-type]
            backend=self.backend,
        )
        return renders[0], alphas[0]

    def local(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
        """Returns world points in the camera's frame."""
        return xyz @ self.viewmat[:3, :3].T + self.viewmat[:3, 3]

    def pixels(self, xyz: Float[Tensor, "N 3"]) -> Float[Tensor, "N 2"]:
        """Returns the pixel positions of world points; points behind the camera are kept finite."""
        local = self.local(xyz)
        z = local[:, 2].clamp_min(self.near)
        if self.camera.model == "ortho":
            flat = local[:, :2]
        elif self.camera.model == "fisheye":
            radius = local[:, :2].norm(dim=1).clamp_min(1e-12)
            flat = local[:, :2] * (torch.atan2(radius, local[:, 2]) / radius)[:, None]
        else:
            flat = local[:, :2] / z[:, None]
        return flat * torch.stack([self.K[0, 0], self.K[1, 1]]) + self.K[:2, 2]


def _features(name: str, view: _View, state: Gaussians, model: DynamicGaussians, time: float, later: float) -> Tensor:
    """Returns what each Gaussian contributes to the buffer `name`, [N, C]."""
    if name == "xyz":
        return state.means
    if name == "normal":
        return facing_normals(state, uploaded(view.camera.position, state.means.device))
    if name == "flow":
        check_connected(model, "flow")
        return view.pixels(model.follow(time, later)) - view.pixels(state.means)
    if name == "velocity":
        return model.velocity(time)
    if name == "lifetime":
        return model.motion.lifetimes(model.params, float(time))[:, None].to(state.means)
    depth = view.local(state.means)[:, 2:]
    return torch.cat([depth, depth.square()], dim=1)


def _finished(name: str, mean: Tensor, alpha: Tensor) -> Tensor:
    """Returns the buffer from the blended mean of its features."""
    if name == "normal":
        return torch.nn.functional.normalize(mean, dim=-1)
    if name == "uncertainty":
        depth, squared = mean[..., :1], mean[..., 1:]
        variance = squared - depth.square()
        # The root has no finite gradient at 0.
        spread = torch.where(variance > 0, torch.where(variance > 0, variance, 1.0).sqrt(), 0.0) / depth.clamp_min(1e-9)
        return 1.0 - alpha * (1.0 - (spread / _WIDE_SPREAD).clamp(max=1.0))
    return mean


def facing_normals(state: Gaussians, position: Float[Tensor, "3"]) -> Float[Tensor, "N 3"]:
    """Returns each Gaussian's shortest axis in the world, turned towards a camera at `position`."""
    shortest = torch.nn.functional.one_hot(state.scales.argmin(dim=1), 3).to(state.means)
    q = torch.nn.functional.normalize(state.quats, dim=-1)
    w, axis = q[:, :1], q[:, 1:]
    twice = 2.0 * torch.linalg.cross(axis, shortest)
    normals = shortest + w * twice + torch.linalg.cross(axis, twice)
    away = ((state.means - position) * normals).sum(dim=1, keepdim=True) > 0
    return torch.where(away, -normals, normals)
