"""Training pictures as tensors, at the size the schedule asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..cameras import Camera
from ..scene import Frame, Scene
from .normalise import Normalisation


@dataclasses.dataclass
class Target:
    """One training picture and the camera that took it, in the fit's frame."""

    rgb: Tensor
    """[H, W, 3] uint8, or float in 0..1 when downscaled; straight, not premultiplied."""
    alpha: Tensor | None
    """[H, W, 1] float in 0..1, or None."""
    viewmat: Tensor
    """[4, 4]"""
    K: Tensor
    """[3, 3]"""
    width: int
    height: int
    time: float
    camera_index: int


class Targets:
    """The training frames of a scene, read when asked for."""

    def __init__(self, scene: Scene, frames: Sequence[Frame], normalisation: Normalisation) -> None:
        self.scene = scene
        self.frames = frames
        self.camera_ids = list(dict.fromkeys(frame.camera_id for frame in frames))
        self._index_of = {camera_id: index for index, camera_id in enumerate(self.camera_ids)}
        self._normalisation = normalisation
        self._cameras: dict[tuple[int, float], tuple[Tensor, Tensor, int, int]] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def nearest_camera(self) -> float:
        """Returns the smallest distance of a camera to the centre, in the fit's frame."""
        n = self._normalisation
        return min(float(np.linalg.norm(n.points(frame.camera.position))) for frame in self.frames)

    def read_ahead(self, indices: list[int]) -> None:
        """Starts reading the frames at `indices`."""
        self.scene.prefetch([self.frames[index] for index in indices])

    def get(self, index: int, downscale: float) -> Target:
        """Returns training frame `index`, `downscale` times smaller."""
        frame = self.frames[index]
        viewmat, K, width, height = self._camera(index, frame.camera, downscale)
        image = frame.image
        if (height, width) != image.shape[:2]:
            pixels = _resized(torch.from_numpy(image.astype(np.float32)) / 255.0, width, height)
            rgb, alpha = pixels[..., :3], pixels[..., 3:]
        else:
            rgb = torch.from_numpy(np.ascontiguousarray(image[..., :3]))
            alpha = torch.from_numpy(image[..., 3:].astype(np.float32) / 255.0)
        return Target(
            rgb=rgb,
            alpha=alpha if alpha.shape[-1] else None,
            viewmat=viewmat,
            K=K,
            width=width,
            height=height,
            time=float(frame.time),
            camera_index=self._index_of[frame.camera_id],
        )

    def _camera(self, index: int, camera: Camera, downscale: float) -> tuple[Tensor, Tensor, int, int]:
        key = (index, downscale)
        if key not in self._cameras:
            width = max(round(camera.width / downscale), 1)
            height = max(round(camera.height / downscale), 1)
            small = self._normalisation.camera(camera.resized(width, height))
            viewmat = torch.tensor(small.viewmat, dtype=torch.float32)
            self._cameras[key] = (viewmat, torch.tensor(small.K, dtype=torch.float32), width, height)
        return self._cameras[key]


def _resized(pixels: Tensor, width: int, height: int) -> Tensor:
    """Returns [height, width, C] by averaging areas; colour is weighted by alpha so that hidden pixels do not bleed."""
    if pixels.shape[-1] == 4:
        pixels = torch.cat([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], dim=-1)
    small = interpolate(pixels.permute(2, 0, 1)[None], size=(height, width), mode="area")[0].permute(1, 2, 0)
    if small.shape[-1] == 4:
        small = torch.cat([small[..., :3] / small[..., 3:].clamp_min(1e-6), small[..., 3:]], dim=-1)
    return small.contiguous()
