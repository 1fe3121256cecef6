"""A view of the browser as a picture of our renderer."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Sequence

import numpy as np

from gaussian4d.cameras import Camera
from gaussian4d.conventions import invert_rigid
from gaussian4d.io.pictures import buffer_picture, buffers_for
from gaussian4d.model import DynamicGaussians
from gaussian4d.paths import Rig, rig_from_cameras
from gaussian4d.rendering import render

from .render_loop import View

# How far from the scene's centre its cameras stand in the browser. Browsers clip and dolly in fixed units; scenes come
# in millimetres as well as in metres.
_VIEWER_RADIUS = 3.0


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
        model: what to draw.
        cameras: of the scene; they define the units of the browser.
        background: [3] colour behind the Gaussians; None takes the model's own.
        backend: rasterizer.
    """

    def __init__(
        self,
        model: DynamicGaussians,
        cameras: Sequence[Camera],
        *,
        background: Sequence[float] | None = None,
        backend: str = "auto",
    ) -> None:
        self.model = model
        self._background = background
        self.rig = rig_from_cameras(cameras)
        self.units = Units.from_rig(self.rig)
        self._backend = backend
        self._lock = threading.Lock()

    def camera(self, view: View, scale: float) -> Camera:
        """Returns the camera of `view` for a picture of `scale` times the full side."""
        width, height = max(round(view.width * scale), 1), max(round(view.height * scale), 1)
        focal = 0.5 * height / math.tan(0.5 * view.fov)
        T_world_camera = np.eye(4)
        T_world_camera[:3, :3] = rotation_from_wxyz(view.wxyz)
        T_world_camera[:3, 3] = self.units.world_from_viewer(np.array(view.position))
        K = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
        return Camera("viewer", invert_rigid(T_world_camera), K, width, height)

    def __call__(self, view: View, scale: float) -> np.ndarray:
        """Returns the picture uint8 [h, w, 3] of `view`."""
        with self._lock:
            output = render(
                self.model,
                self.camera(view, scale),
                view.time,
                buffers_for([view.output]),
                background=self._background,
                backend=self._backend,
            )
        return buffer_picture(output, view.output)


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
