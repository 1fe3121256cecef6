"""Training pictures as tensors on the fit's device, at the size the schedule asks for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..cameras import Camera
from ..devices import uploaded
from ..scene import Frame, Scene
from .normalise import Normalisation
from .uploads import Uploads


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
    """Clip time."""
    camera_index: int
    camera: Camera
    """The camera of `viewmat` and `K`."""
    index: int
    """Of the frame among the training frames."""
    weight: Tensor | None = None
    """[H, W, 1] float in 0..1, how much each pixel counts; None where all do."""
    share: float = 1.0
    """How much the whole picture counts."""
    mask: Tensor | None = None
    """[H, W, 1] float in 0..1, the subject; None where the data does not say."""
    depth: Tensor | None = None
    """[H, W, 1] camera z in units of the fit, 0 where unknown; None where the data does not say."""


class Targets:
    """The training frames of a scene, read when asked for."""

    def __init__(
        self,
        scene: Scene,
        frames: Sequence[Frame],
        normalisation: Normalisation,
        device: torch.device | str = "cpu",
    ) -> None:
        self.scene = scene
        self.frames = frames
        self.device = torch.device(device)
        self.camera_ids = list(dict.fromkeys(frame.camera_id for frame in frames))
        self._index_of = {camera_id: index for index, camera_id in enumerate(self.camera_ids)}
        self._normalisation = normalisation
        self._cameras: dict[tuple[int, float], tuple[Camera, Tensor, Tensor]] = {}
        self._uploads = Uploads(frames, self.device)

    def __len__(self) -> int:
        return len(self.frames)

    def nearest_camera(self) -> float:
        """Returns the smallest distance of a camera to the centre, in the fit's frame."""
        n = self._normalisation
        return min(float(np.linalg.norm(n.points(frame.camera.position))) for frame in self.frames)

    def read_ahead(self, indices: list[int]) -> None:
        """Starts reading the frames at `indices`."""
        wanted = self._uploads.missing(indices)
        self.scene.prefetch([self.frames[index] for index in wanted])

    def get(self, index: int, downscale: float) -> Target:
        """Returns training frame `index`, `downscale` times smaller."""
        frame = self.frames[index]
        camera, viewmat, K = self._camera(index, frame.camera, downscale)
        width, height = camera.width, camera.height
        image = self._uploads.image(index)
        if (height, width) != tuple(image.shape[:2]):
            pixels = _resized(image.float() / 255.0, width, height)
            rgb, alpha = pixels[..., :3], pixels[..., 3:]
        else:
            rgb, alpha = image[..., :3].contiguous(), image[..., 3:].float() / 255.0
        return Target(
            rgb=rgb,
            alpha=alpha if alpha.shape[-1] else None,
            viewmat=viewmat,
            K=K,
            width=width,
            height=height,
            time=float(frame.time),
            camera_index=self._index_of[frame.camera_id],
            camera=camera,
            index=index,
            share=float(frame.share),
            **self._maps(frame, width, height),
        )

    def _maps(self, frame: Frame, width: int, height: int) -> dict[str, Tensor]:
        """Returns the weight, mask and depth of a frame, those that it has, as [H, W, 1] on the device."""
        found: dict[str, Tensor] = {}
        if (weight := frame.weight) is not None:
            found["weight"] = self._map(weight.astype(np.float32), width, height, "area")
        if (depth := frame.depth) is not None:
            # Depths on both sides of an edge have no mean.
            known = np.nan_to_num(depth.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
            found["depth"] = self._map(known, width, height, "nearest-exact") * float(self._normalisation.scale)
        return found

    def _map(self, values: np.ndarray, width: int, height: int, mode: str) -> Tensor:
        tensor = uploaded(np.ascontiguousarray(values), self.device)
        if (height, width) != tuple(tensor.shape[:2]):
            tensor = interpolate(tensor[None, None], size=(height, width), mode=mode)[0, 0]
        return tensor[..., None]

    def _camera(self, index: int, camera: Camera, downscale: float) -> tuple[Camera, Tensor, Tensor]:
        key = (index, downscale)
        if key not in self._cameras:
            width = max(round(camera.width / downscale), 1)
            height = max(round(camera.height / downscale), 1)
            small = self._normalisation.camera(camera.resized(width, height))
            viewmat, K = uploaded(small.viewmat, self.device), uploaded(small.K, self.device)
            self._cameras[key] = (small, viewmat, K)
        return self._cameras[key]


def compose(target: Target, background: Tensor) -> Tensor:
    """Returns the picture to match: itself, or put over `background` [3] where it has alpha."""
    if target.alpha is None:
        return target.rgb
    rgb = target.rgb.float() / 255.0 if target.rgb.dtype == torch.uint8 else target.rgb
    return torch.lerp(background.expand_as(rgb), rgb, target.alpha)


def _resized(pixels: Tensor, width: int, height: int) -> Tensor:
    """Returns [height, width, C] by averaging areas; colour is weighted by alpha so that hidden pixels do not bleed."""
    if pixels.shape[-1] == 4:
        pixels = torch.cat([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], dim=-1)
    small = interpolate(pixels.permute(2, 0, 1)[None], size=(height, width), mode="area")[0].permute(1, 2, 0)
    if small.shape[-1] == 4:
        small = torch.cat([small[..., :3] / small[..., 3:].clamp_min(1e-6), small[..., 3:]], dim=-1)
    return small.contiguous()
