"""Pictures and cameras as the initialisation sees them: small, in the fit's frame, sampled at projected points."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from PIL import Image

from ..cameras import Camera
from ..scene import Frame
from .normalise import Normalisation

_MAX_SIDE = 360
_NEAR = 0.02


@dataclasses.dataclass
class View:
    """A picture and its camera in the fit's frame."""

    camera: Camera
    rgb: Float[np.ndarray, "H W 3"]
    """0..1"""
    mask: Float[np.ndarray, "H W"] | None
    """0..1, the part of the picture that belongs to the subject; None where nothing says so."""
    time: float
    camera_id: str


def view_of(frame: Frame, normalisation: Normalisation) -> View:
    """Returns the frame no larger than a few hundred pixels, with its alpha or foreground mask."""
    image, mask = frame.image, frame.mask
    height, width = image.shape[:2]
    shrink = min(1.0, _MAX_SIDE / max(height, width))
    size = (max(round(width * shrink), 1), max(round(height * shrink), 1))
    if image.shape[2] == 4 and mask is None:
        mask = image[..., 3]
    rgb = np.asarray(Image.fromarray(np.ascontiguousarray(image[..., :3])).resize(size, Image.Resampling.BOX))
    if mask is not None:
        small = np.asarray(Image.fromarray(np.ascontiguousarray(mask)).resize(size, Image.Resampling.BOX))
        # Masks come as 0/1 or as 0..255.
        mask = small.astype(np.float32) / (255.0 if mask.max() > 1 else 1.0)
    camera = normalisation.camera(frame.camera.resized(*size))
    return View(camera, rgb.astype(np.float32) / 255.0, mask, float(frame.time), frame.camera_id)


def project(
    camera: Camera, xyz: Float[np.ndarray, "N 3"]
) -> tuple[Float[np.ndarray, "N 2"], Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Returns pixel positions, depths and which points fall inside the picture, in front of the camera."""
    local = xyz @ camera.viewmat[:3, :3].T.astype(xyz.dtype) + camera.viewmat[:3, 3].astype(xyz.dtype)
    depth = local[:, 2]
    front = depth > _NEAR
    z = np.where(front, depth, 1.0)
    uv = np.stack(
        [
            camera.K[0, 0] * local[:, 0] / z + camera.K[0, 1] * local[:, 1] / z + camera.K[0, 2],
            camera.K[1, 1] * local[:, 1] / z + camera.K[1, 2],
        ],
        axis=1,
    )
    inside = front & (uv[:, 0] >= 0) & (uv[:, 0] < camera.width) & (uv[:, 1] >= 0) & (uv[:, 1] < camera.height)
    return uv, depth, inside


def sample(image: np.ndarray, uv: Float[np.ndarray, "N 2"]) -> np.ndarray:
    """Returns the pixels [N, ...] of `image` [H, W, ...] that hold `uv`; positions outside take the nearest pixel."""
    column = np.clip(uv[:, 0].astype(np.int64), 0, image.shape[1] - 1)
    row = np.clip(uv[:, 1].astype(np.int64), 0, image.shape[0] - 1)
    return image[row, column]


def seen_by(views: Sequence[View], xyz: Float[np.ndarray, "N 3"]) -> np.ndarray:
    """Returns [N] how many views each point falls into."""
    return np.sum([project(view.camera, xyz)[2] for view in views], axis=0)


def visible_colors(
    views: Sequence[View], xyz: Float[np.ndarray, "N 3"], thickness: float
) -> tuple[Float[np.ndarray, "N 3"], np.ndarray]:
    """Returns the mean colour each point has where no other point hides it, and in how many views that is.

    A point hides another that is more than `thickness` behind it in the same few pixels. Points hidden everywhere take
    the mean over all views.
    """
    total, count = np.zeros((len(xyz), 3)), np.zeros(len(xyz))
    total_any, count_any = np.zeros((len(xyz), 3)), np.zeros(len(xyz))
    for view in views:
        uv, depth, inside = project(view.camera, xyz)
        # A pixel of the depth buffer is as wide as `thickness`, so that the front has no holes.
        cell = (
            max(1.0, thickness * view.camera.K[0, 0] / max(float(np.median(depth[inside])), _NEAR))
            if inside.any()
            else 1.0
        )
        columns = int(view.camera.width / cell) + 1
        index = (uv[:, 1].clip(0) / cell).astype(np.int64) * columns + (uv[:, 0].clip(0) / cell).astype(np.int64)
        index = np.where(inside, index, 0)
        nearest = np.full(int(index.max()) + 1 if len(index) else 1, np.inf)
        np.minimum.at(nearest, index[inside], depth[inside])
        front = inside & (depth <= nearest[index] + thickness)
        colors = sample(view.rgb, uv)
        total += np.where(front[:, None], colors, 0.0)
        count += front
        total_any += np.where(inside[:, None], colors, 0.0)
        count_any += inside
    use, n = np.where(count[:, None] > 0, total, total_any), np.where(count > 0, count, count_any)
    return use / np.maximum(n, 1)[:, None], count
