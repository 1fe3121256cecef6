"""A pinhole camera: where it stands, what it sees. Plain numpy, so that describing a scene needs no torch."""

from __future__ import annotations

import dataclasses

import numpy as np

from .conventions import invert_rigid
from .errors import UserError


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Camera:
    """A camera with OpenCV axes (see `conventions`).

    Raises `UserError` when the matrices cannot be a camera: wrong shape, not finite, a rotation that is not one,
    a focal length that is not positive.
    """

    id: str
    """Name, unique in its scene."""
    viewmat: np.ndarray
    """[4, 4] world-to-camera, float64."""
    K: np.ndarray
    """[3, 3] intrinsics in pixels, float64."""
    width: int
    height: int
    model: str = "pinhole"
    """`pinhole`, `ortho` or `fisheye`, as the rasterizer names them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "viewmat", np.array(self.viewmat, dtype=np.float64))
        object.__setattr__(self, "K", np.array(self.K, dtype=np.float64))
        problem = _problem(self)
        if problem:
            raise UserError(f"camera {self.id}: {problem}")

    def __repr__(self) -> str:
        # Adding 0 makes -0 the 0 that it equals.
        x, y, z = self.position.round(9) + 0.0
        return (
            f"Camera({self.id!r}, {self.width}x{self.height}, {self.model}, focal {self.K[0, 0]:.5g} px,"
            f" at [{x:.3g}, {y:.3g}, {z:.3g}])"
        )

    @property
    def T_world_camera(self) -> np.ndarray:
        """[4, 4] camera-to-world."""
        return invert_rigid(self.viewmat)

    @property
    def position(self) -> np.ndarray:
        """[3] camera centre in the world."""
        return self.T_world_camera[:3, 3]

    @property
    def forward(self) -> np.ndarray:
        """[3] unit viewing direction in the world."""
        return self.viewmat[2, :3].copy()

    @property
    def up(self) -> np.ndarray:
        """[3] unit direction in the world that is up in the picture."""
        return -self.viewmat[1, :3]

    def resized(self, width: int, height: int) -> Camera:
        """Returns the same camera with a picture of another size; intrinsics scale with the pixel grid."""
        scale = np.array([width / self.width, height / self.height, 1.0])
        return dataclasses.replace(self, K=self.K * scale[:, None], width=width, height=height)

    def transformed(self, viewmat: np.ndarray, id: str | None = None) -> Camera:
        """Returns the same lens at another place."""
        return dataclasses.replace(self, viewmat=viewmat, id=self.id if id is None else id)

    @classmethod
    def look_at(
        cls,
        position: np.ndarray,
        target: np.ndarray,
        up: np.ndarray,
        *,
        width: int,
        height: int,
        focal: float,
        id: str = "camera",
    ) -> Camera:
        """Returns a pinhole camera at `position` [3] looking at `target` [3]; `focal` in pixels."""
        position = np.asarray(position, dtype=np.float64)
        forward = np.asarray(target, dtype=np.float64) - position
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, np.asarray(up, dtype=np.float64))
        if np.linalg.norm(right) < 1e-9:
            # Looking along `up`: any right-hand direction serves, take the axis least aligned with the view.
            right = np.cross(forward, np.eye(3)[np.argmin(np.abs(forward))])
        right = right / np.linalg.norm(right)
        R = np.stack([right, np.cross(forward, right), forward])
        viewmat = np.eye(4)
        viewmat[:3, :3] = R
        viewmat[:3, 3] = -R @ position
        K = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
        return cls(id=id, viewmat=viewmat, K=K, width=width, height=height)


def _problem(camera: Camera) -> str | None:
    """Returns what is wrong with the camera, or None."""
    if camera.viewmat.shape != (4, 4) or camera.K.shape != (3, 3):
        return f"expected a 4x4 pose and 3x3 intrinsics, got {camera.viewmat.shape} and {camera.K.shape}"
    if not (np.isfinite(camera.viewmat).all() and np.isfinite(camera.K).all()):
        return "the pose or the intrinsics hold NaN or Inf"
    R = camera.viewmat[:3, :3]
    skew = np.abs(R @ R.T - np.eye(3)).max()
    if skew > 1e-2 or np.linalg.det(R) < 0:
        return (
            f"the 3x3 part of the pose is not a rotation (R R^T differs from 1 by {skew:.3g},"
            f" determinant {np.linalg.det(R):.3g}); check scale and axis conventions"
        )
    if camera.K[0, 0] <= 0 or camera.K[1, 1] <= 0:
        return f"focal lengths must be positive, got {camera.K[0, 0]:.6g} and {camera.K[1, 1]:.6g}"
    if camera.width <= 0 or camera.height <= 0:
        return f"the picture size must be positive, got {camera.width}x{camera.height}"
    return None
