"""A tiny moving scene on disk: a coloured ball that moves along x, ray-cast, in the D-NeRF layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gaussian4d.cameras import Camera
from gaussian4d.conventions import opengl_from_opencv

INSTANTS = 4
SIZE = 24
RADIUS = 0.5


def ball_centre(time: float) -> np.ndarray:
    return np.array([0.5 * time - 0.25, 0.0, 0.1])


def ball_picture(camera: Camera, time: float) -> np.ndarray:
    """Returns uint8 RGBA [H, W, 4]: the ball's colour is its normal."""
    columns, rows = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    local = np.stack(
        [(columns - camera.K[0, 2]) / camera.K[0, 0], (rows - camera.K[1, 2]) / camera.K[1, 1], np.ones_like(rows)], -1
    )
    rays = local @ camera.viewmat[:3, :3]
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    offset = camera.position - ball_centre(time)
    b = (rays * offset).sum(-1)
    discriminant = b**2 - (offset @ offset - RADIUS**2)
    hit = discriminant > 0
    distance = -b - np.sqrt(np.maximum(discriminant, 0))
    normals = (offset + rays * distance[..., None]) / RADIUS
    rgb = np.where(hit[..., None], 0.5 + 0.4 * normals, 0.0)
    return (np.concatenate([rgb, hit[..., None]], axis=-1) * 255 + 0.5).astype(np.uint8)


def ring_cameras(count: int, size: int = SIZE, focal: float = 1.6) -> list[Camera]:
    """Returns cameras around the origin, by turns above and below; `focal` in picture widths."""
    angles = 2 * np.pi * np.arange(count) / count
    return [
        Camera.look_at(
            np.array([3 * np.cos(a), 3 * np.sin(a), 1.0 - 2.0 * (k % 2)]),
            np.zeros(3),
            np.array([0.0, 0.0, 1.0]),
            width=size,
            height=size,
            focal=focal * size,
            id=str(k),
        )
        for k, a in enumerate(angles)
    ]


def write_ball_scene(
    path: Path, cameras: int = 6, instants: int = INSTANTS, test: tuple[int, ...] = (2,), appears: float = 0.0
) -> Path:
    """Writes the scene; before the clip time `appears` its pictures are empty."""
    files: dict[str, list[dict]] = {"train": [], "test": []}
    rig = ring_cameras(cameras)
    for k, camera in enumerate(rig):
        split = "test" if k in test else "train"
        (path / split).mkdir(parents=True, exist_ok=True)
        for index in range(instants):
            time = index / max(instants - 1, 1)
            name = f"{split}/cam{k:02d}_{index:03d}"
            picture = ball_picture(camera, time) * np.uint8(time >= appears)
            Image.fromarray(picture).save(path / f"{name}.png")
            files[split].append(
                {
                    "file_path": f"./{name}",
                    "time": time,
                    "time_index": index,
                    "camera_id": k,
                    "transform_matrix": opengl_from_opencv(camera.T_world_camera).tolist(),
                }
            )
    shared = {"w": SIZE, "h": SIZE, "fl_x": rig[0].K[0, 0], "fl_y": rig[0].K[1, 1], "cx": SIZE / 2, "cy": SIZE / 2}
    for split, frames in files.items():
        if not frames:
            continue
        document = {"camera_angle_x": 2 * np.arctan(0.5 * SIZE / rig[0].K[0, 0]), **shared, "frames": frames}
        (path / f"transforms_{split}.json").write_text(json.dumps(document))
    return path


@pytest.fixture
def write_ball() -> Callable[..., Path]:
    return write_ball_scene


@pytest.fixture
def ring() -> Callable[..., list[Camera]]:
    return ring_cameras


@pytest.fixture
def ball_scene(tmp_path: Path) -> Path:
    return write_ball_scene(tmp_path / "ball")
