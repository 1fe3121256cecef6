"""A view of the browser as a picture of our renderer."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gaussian4d.cameras import Camera
from gaussian4d.conventions import invert_rigid
from gaussian4d.crop import CropBox, crop_model
from gaussian4d.devices import choose_device
from gaussian4d.framing import UPS, framing_of
from gaussian4d.io import pictures as draw
from gaussian4d.model import DynamicGaussians
from gaussian4d.paths import Rig, rig_from_cameras
from gaussian4d.rendering import render
from gaussian4d.truth import Truth

from .render_loop import View

if TYPE_CHECKING:
    import torch

# How far from the scene's centre its cameras stand in the browser. Browsers clip and dolly in fixed units; scenes come
# in millimetres as well as in metres.
_VIEWER_RADIUS = 3.0
FIRST_FOV = math.radians(50.0)
"""Of the first view: room for the scene, and for some of the cameras around it."""

# Radians plus gap over distance within which a view is taken to be through a recorded camera.
_SAME_PLACE = 0.02
_KEPT_CROPS = 4
_IMPATIENCE = 0.2
_SCALE_WIDTH = 160


@dataclasses.dataclass(frozen=True)
class Units:
    """The browser's world: ours, moved to the scene's centre and scaled."""

    center: np.ndarray
    """[3] in world units."""
    scale: float
    """Viewer units per world unit."""

    @classmethod
    def from_rig(cls, rig: Rig) -> Units:
        return cls(rig.center, _VIEWER_RADIUS / max(rig.distance, 1e-9))

    def viewer_from_world(self, point: np.ndarray) -> np.ndarray:
        """Returns a point [3] of the world as the browser counts."""
        return (np.asarray(point, dtype=np.float64) - self.center) * self.scale

    def world_from_viewer(self, point: np.ndarray) -> np.ndarray:
        """Returns a point [3] of the browser's world in world units."""
        return np.asarray(point, dtype=np.float64) / self.scale + self.center


class Painter:
    """Draws views of one model. Shared by all browsers: a lock keeps their pictures from slowing each other down.

    Args:
        model: what to draw; `show` replaces it.
        cameras: recorded ones; may be none.
        rig: how they stand around what they look at, which defines the units of the browser; None finds it from
            `cameras`, or where there are none from the Gaussians.
        background: [3] colour behind the Gaussians; None takes the model's own.
        backend: rasterizer.
        device: where to draw, see `gaussian4d.devices.choose_device`; None draws where the model is.
        truth: the recorded pictures, for split views.
    """

    def __init__(
        self,
        model: DynamicGaussians,
        cameras: Sequence[Camera],
        *,
        rig: Rig | None = None,
        background: Sequence[float] | None = None,
        backend: str = "auto",
        device: str | torch.device | None = None,
        truth: Truth | None = None,
    ) -> None:
        placement = None if device is None else choose_device(device, backend)
        self.device = None if placement is None else placement.device
        self.model = self._placed(model)
        self.cameras = list(cameras)
        self.background = background
        if rig is None:
            rig = rig_from_cameras(cameras) if cameras else framing_of(model).rig
        self.rig = rig
        self.units = Units.from_rig(self.rig)
        self.backend = backend if placement is None else placement.backend
        self.truth = truth
        self.lock = threading.Lock()
        self._cropped: dict[CropBox, DynamicGaussians] = {}
        self._scales: dict[str, draw.Scales] = {}

    def show(self, model: DynamicGaussians) -> None:
        """Draws `model` from now on."""
        model = self._placed(model)
        with self.lock:
            self.model = model
            self._cropped.clear()
            self._scales.clear()

    def _placed(self, model: DynamicGaussians) -> DynamicGaussians:
        return model if self.device is None else model.to(self.device)

    def cropped(self, box: CropBox | None) -> DynamicGaussians:
        """Returns the model, or what of it is in the box; raises `UserError` when nothing is."""
        if box is None:
            return self.model
        found = self._cropped.get(box)
        if found is None:
            found = crop_model(self.model, box)
            # While a box is dragged every place of it comes once; only the last few are worth keeping.
            while len(self._cropped) >= _KEPT_CROPS:
                self._cropped.pop(next(iter(self._cropped)))
            self._cropped[box] = found
        return found

    @property
    def first_position(self) -> np.ndarray:
        """Where the first view stands [3], viewer units; it looks at the middle."""
        return self.begins_at(self.rig)

    def begins_at(self, rig: Rig) -> np.ndarray:
        """Returns where the first view of `rig` stands [3], viewer units."""
        return self.units.viewer_from_world(rig.position(rig.start))

    def turned_rig(self, up: str | None) -> Rig:
        """Returns the rig with another direction up, one of `framing.UPS`; None gives its own."""
        if up is None:
            return self.rig
        if self.cameras:
            return rig_from_cameras(self.cameras, up=UPS[up], center=self.rig.center)
        return dataclasses.replace(framing_of(self.model, up).rig, center=self.rig.center)

    def camera(self, view: View, scale: float) -> Camera:
        """Returns the camera of `view` for a picture of `scale` times the full side."""
        width, height = max(round(view.width * scale), 1), max(round(view.height * scale), 1)
        focal = 0.5 * height / math.tan(0.5 * view.fov)
        T_world_camera = np.eye(4)
        T_world_camera[:3, :3] = rotation_from_wxyz(view.wxyz)
        T_world_camera[:3, 3] = self.units.world_from_viewer(np.array(view.position))
        K = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
        return Camera("viewer", invert_rigid(T_world_camera), K, width, height)

    def recorded(self, camera: Camera) -> Camera | None:
        """Returns the recorded camera that stands where `camera` does, None when none is near enough."""
        if not self.cameras:
            return None
        best = min(self.cameras, key=lambda other: camera_difference(camera, other, self.rig.distance))
        return best if camera_difference(camera, best, self.rig.distance) < _SAME_PLACE else None

    def __call__(self, view: View, scale: float, wanted: Callable[[], bool] = lambda: True) -> np.ndarray | None:
        """Returns the picture uint8 [h, w, 3] of `view`; None when it is no longer `wanted` once its turn has come."""
        camera = self.camera(view, scale)
        truth, seen = None, np.zeros(0, bool)
        if view.split is not None and self.truth is not None:
            stand = self.recorded(camera)
            if stand is not None:
                # Through a browser a pose comes back with fewer digits; the two halves must meet exactly.
                camera = camera.transformed(stand.viewmat)
                truth = self.truth.picture(camera, view.time, self.behind(view))
                seen = self.truth.covered(camera)
        # Those who no longer want a picture leave the queue at once, not when their turn comes.
        while not self.lock.acquire(timeout=_IMPATIENCE):
            if not wanted():
                return None
        try:
            if not wanted():
                return None
            output = render(
                self.cropped(view.crop),
                camera,
                view.time,
                draw.buffers_for([view.output]),
                background=view.background or self.background,
                backend=self.backend,
            )
            scales = self._scales_for(view.output, camera.width)
        finally:
            self.lock.release()
        picture = draw.buffer_picture(output, view.output, scales)
        if truth is None or view.split is None:
            return picture
        return _split(np.where(seen[..., None], truth, picture), picture, view.split)

    def behind(self, view: View) -> tuple[float, float, float]:
        """Returns the colour behind the Gaussians."""
        behind = view.background or self.background
        if behind is None:
            behind = (0.0, 0.0, 0.0) if self.model.background is None else self.model.background.tolist()
        return behind[0], behind[1], behind[2]

    def _scales_for(self, output: str, width: int) -> draw.Scales | None:
        """Returns scales that stay while the clip plays; depth has a scale per picture, as cameras come and go."""
        if output not in ("flow", "velocity"):
            return None
        if output not in self._scales:
            seeing = self.cameras[0] if self.cameras else framing_of(self.model).first
            camera = seeing.resized(_SCALE_WIDTH, max(round(_SCALE_WIDTH * seeing.height / seeing.width), 1))
            samples = (
                render(self.model, camera, time, (output,), backend=self.backend) for time in (0.0, 0.3, 0.6, 0.9)
            )
            self._scales[output] = draw.Scales.measured(samples)
        scales = self._scales[output]
        return dataclasses.replace(scales, flow=scales.flow * width / _SCALE_WIDTH)


def camera_difference(a: Camera, b: Camera, distance: float) -> float:
    """Returns how far two cameras are apart: the angle between them in radians, plus their gap over `distance`."""
    cosine = 0.5 * (np.trace(a.viewmat[:3, :3] @ b.viewmat[:3, :3].T) - 1.0)
    angle = math.acos(min(max(float(cosine), -1.0), 1.0))
    return angle + float(np.linalg.norm(a.position - b.position)) / max(distance, 1e-9)


def _split(left: np.ndarray, right: np.ndarray, share: float) -> np.ndarray:
    """Returns the left part of one picture and the right part of another, with a line between them."""
    at = round(min(max(share, 0.0), 1.0) * left.shape[1])
    joined = np.concatenate([left[:, :at], right[:, at:]], axis=1)
    joined[:, max(at - 1, 0) : at + 1] = 255
    return joined


def rotation_from_wxyz(wxyz: Sequence[float]) -> np.ndarray:
    """Returns the rotation matrix [3, 3] of a quaternion of any length."""
    w, x, y, z = np.asarray(wxyz, dtype=np.float64) / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
