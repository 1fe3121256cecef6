"""A camera path: an eight, flown around the middle of the cameras."""

from __future__ import annotations

import math

import numpy as np

import gaussian4d as g4


def figure_eight(request: g4.PathRequest) -> list[tuple[g4.Camera, float]]:
    """Returns the camera and the clip time of every frame of the video."""
    # As large as the video is to be; the lens is that of a recorded camera.
    lens = request.sized(request.cameras[0])
    places = np.stack([camera.position for camera in request.cameras])
    middle = request.cameras[int(np.linalg.norm(places - places.mean(axis=0), axis=1).argmin())]
    if request.model is None:
        raise g4.UserError("the path figure-eight looks at the Gaussians, and there are none; choose orbit")
    target = request.model.at(0.5).means.median(dim=0).values.double().cpu().numpy()
    # Small, since nobody has seen what is far from the recorded cameras.
    reach = 0.15 * float(np.linalg.norm(middle.position - target))
    right, up = middle.viewmat[0, :3], middle.up
    path = []
    for index in range(request.count):
        phase = 2.0 * math.pi * index / request.count
        place = middle.position + reach * (math.sin(phase) * right + 0.5 * math.sin(2.0 * phase) * up)
        camera = g4.Camera.look_at(
            place, target, up, width=lens.width, height=lens.height, focal=lens.K[0, 0], id=f"eight_{index:04d}"
        )
        path.append((camera, index / max(request.count - 1, 1)))
    return path
