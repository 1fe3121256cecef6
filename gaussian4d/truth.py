"""The recorded picture that belongs to a view, to lay beside a rendering."""

from __future__ import annotations

import threading

import numpy as np
from PIL import Image

from .cameras import Camera
from .scene import Frame, Scene

# Poses that came through a browser or a file are equal only to its digits.
_SAME = 1e-4


class Truth:
    """Recorded pictures by pose and time. Safe to share between threads."""

    def __init__(self, scene: Scene) -> None:
        self._poses: list[tuple[np.ndarray, list[Frame]]] = []
        by_pose: dict[bytes, list[Frame]] = {}
        for frame in scene.frames("all"):
            by_pose.setdefault(frame.camera.viewmat.tobytes(), []).append(frame)
        self._poses = [(rows[0].camera.viewmat, rows) for rows in by_pose.values()]
        self._spread = float(np.ptp([frames[0].camera.position for _, frames in self._poses], axis=0).max()) or 1.0
        self._lock = threading.Lock()

    def frame(self, camera: Camera, time: float) -> Frame | None:
        """Returns the frame from the pose of `camera` nearest in time to `time`, None where no camera stood there."""
        for viewmat, frames in self._poses:
            turned = np.abs(viewmat[:3, :3] - camera.viewmat[:3, :3]).max()
            if turned < _SAME and np.linalg.norm(frames[0].camera.position - camera.position) < _SAME * self._spread:
                return min(frames, key=lambda frame: abs(frame.time - time))
        return None

    def picture(
        self, camera: Camera, time: float, background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    ) -> np.ndarray | None:
        """Returns the recorded picture uint8 [H, W, 3] as `camera` would show it, None where no camera stood there.

        The lens may differ: what was not recorded is black. Transparent pixels show the background.
        """
        frame = self.frame(camera, time)
        if frame is None:
            return None
        with self._lock:
            image = frame.image
        return through(composed(image, background), frame.camera, camera)

    def covered(self, camera: Camera) -> np.ndarray:
        """Returns which pixels [H, W] of `camera` the recorded picture of its pose holds; none where there is none."""
        frame = self.frame(camera, 0.0)
        if frame is None:
            return np.zeros((camera.height, camera.width), bool)
        recorded = frame.camera
        edges = []
        for axis, (size, count) in enumerate(((recorded.height, camera.height), (recorded.width, camera.width))):
            k = 1 - axis
            pixels = np.arange(count) + 0.5
            there = (pixels - camera.K[k, 2]) * recorded.K[k, k] / camera.K[k, k] + recorded.K[k, 2]
            edges.append((there > 0) & (there < size))
        return edges[0][:, None] & edges[1]


def composed(image: np.ndarray, background: tuple[float, float, float]) -> np.ndarray:
    """Returns the picture uint8 [H, W, 3 or 4] without its straight alpha, over a colour in 0..1."""
    if image.shape[2] == 3:
        return image
    alpha = image[..., 3:].astype(np.float32) / 255.0
    return (image[..., :3] * alpha + 255.0 * np.array(background, np.float32) * (1.0 - alpha) + 0.5).astype(np.uint8)


def through(image: np.ndarray, recorded: Camera, camera: Camera) -> np.ndarray:
    """Returns the picture that `recorded` took as a camera at the same place with another lens or size shows it."""
    size = (camera.width, camera.height)
    gain = (recorded.K[0, 0] / camera.K[0, 0], recorded.K[1, 1] / camera.K[1, 1])
    left, top = (recorded.K[k, 2] - gain[k] * camera.K[k, 2] for k in range(2))
    right, bottom = left + gain[0] * camera.width, top + gain[1] * camera.height
    edge = 1e-6 * max(recorded.width, recorded.height)
    picture = Image.fromarray(image)
    if min(left, top) >= -edge and right <= recorded.width + edge and bottom <= recorded.height + edge:
        box = (max(left, 0.0), max(top, 0.0), min(right, recorded.width), min(bottom, recorded.height))
        if size == picture.size and box == (0.0, 0.0, *size):
            return image
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, box))
    matrix = (gain[0], 0.0, left, 0.0, gain[1], top)
    return np.asarray(picture.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))
