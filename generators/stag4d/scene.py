"""The pictures behind an asset as a scene that every command reads: the input's frames and the anchors.

The layout is nerfstudio's, with a time per frame. Commands then know where the cameras stand, so that `render` circles
the object and `view` shows it from the input's side.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from gaussian4d.cameras import Camera
from gaussian4d.conventions import opengl_from_opencv
from gaussian4d.files import write_json
from gaussian4d.folders import atomic_folder

from .anchors import Anchors, write_rgba

_NAMES = r"transforms\.json|images"


def write_scene(
    folder: Path,
    frames: Float[Tensor, "T 4 H W"],
    times: Sequence[float],
    camera: Camera,
    anchors: Anchors | None,
    fps: float | None = None,
) -> Path:
    """Writes the scene, whole or not at all; returns its folder.

    Anchors are enlarged to the size of the input's pictures, since tools take the common size for that of the scene.
    """
    height, width = frames.shape[-2:]
    entries = []
    with atomic_folder(folder, _NAMES) as temporary:
        (temporary / "images").mkdir()

        def add(name: str, picture: Tensor, view: Camera, time: float) -> None:
            file = f"images/{name}_{len(entries):05d}.png"
            write_rgba(temporary / file, picture)
            entries.append(
                {
                    "file_path": file,
                    "camera_id": name,
                    "time": time,
                    "transform_matrix": opengl_from_opencv(view.T_world_camera).tolist(),
                    "fl_x": float(view.K[0, 0]),
                    "fl_y": float(view.K[1, 1]),
                    "cx": float(view.K[0, 2]),
                    "cy": float(view.K[1, 2]),
                    "w": view.width,
                    "h": view.height,
                }
            )

        for picture, time in zip(frames, times):
            add("input", picture, camera, float(time))
        if anchors is not None:
            side = max(height, width)
            for v, view in enumerate(anchors.cameras):
                large = torch.nn.functional.interpolate(
                    anchors.views[:, v], (side, side), mode="bilinear", align_corners=False
                )
                for picture, time in zip(large, times):
                    add(f"anchor{v}", picture, view.resized(side, side), float(time))
        content = {"camera_model": "PINHOLE", "frames": entries}
        if fps and len(times) > 1:
            content["duration_seconds"] = (len(times) - 1) / fps
        write_json(temporary / "transforms.json", content)
    return folder
