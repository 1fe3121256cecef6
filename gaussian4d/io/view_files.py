"""How to look at a scene in files of other programs: cameras of a `.splatv`, the camera of a `.4dgs`, a block as text.

Only what was recorded is written as a recorded camera. What comes back is a stranger's: what cannot be true is said
and left out, the Gaussians are read all the same.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cameras import Camera
from ..errors import UserError
from ..framing import Framing, framing_of
from ..paths import rig_from_cameras
from ..view_block import MAX_CAMERAS, ViewBlock

if TYPE_CHECKING:
    from ..model import DynamicGaussians

FIRST = "first view"
"""Name of a camera that was not recorded but shows the scene, for formats that need one."""
_MOST_TEXT = 1 << 20


def splatv_cameras(model: DynamicGaussians) -> list[dict[str, Any]]:
    """Returns the recorded cameras as viewers of `.splatv` know them, else the one from which all is seen."""
    framing = framing_of(model)
    pinholes = [camera for camera in framing.view.cameras if camera.model == "pinhole"]
    shown = pinholes or [dataclasses.replace(framing.first, id=FIRST)]
    return [
        {
            "id": index,
            "img_name": camera.id,
            "width": camera.width,
            "height": camera.height,
            "position": camera.position.tolist(),
            "rotation": camera.T_world_camera[:3, :3].tolist(),
            "fx": float(camera.K[0, 0]),
            "fy": float(camera.K[1, 1]),
        }
        for index, camera in enumerate(shown)
    ]


def of_splatv(path: Path, cameras: Any, text: Any) -> dict[str, Any] | None:
    """Returns the view block, as JSON values, of the cameras in a `.splatv` and of what we wrote beside them."""
    block = ViewBlock()
    if isinstance(text, dict):
        block = _checked(path, text) or block
    found, first = [], block.first
    for index, values in enumerate(cameras[:MAX_CAMERAS] if isinstance(cameras, list) else []):
        try:
            camera = _splatv_camera(values, index)
        except (UserError, KeyError, TypeError, ValueError, OverflowError):
            warnings.warn(f"{path.name}: its camera {index} is invalid and is ignored", stacklevel=4)
            continue
        if camera.id == FIRST:
            first = first or camera
        elif len(cameras) > 1 or not np.array_equal(camera.viewmat[:3, :3], np.eye(3)):
            # One alone that looks along z is no recorded camera but what converters put there.
            found.append(camera)
    block = dataclasses.replace(block, first=first, cameras=tuple(found))
    values = block.to_dict()
    return values if len(values) > 1 else None


def as_text(model: DynamicGaussians, cameras: bool = True) -> str | None:
    """Returns the model's view block as JSON text, None where it has none."""
    block = ViewBlock.of(model)
    if block is None:
        return None
    return json.dumps((block if cameras else dataclasses.replace(block, cameras=())).to_dict(), allow_nan=False)


def of_text(path: Path, text: Any) -> dict[str, Any] | None:
    """Returns the view block, as JSON values, of a text that `as_text` gave; None for one that cannot be true."""
    if not isinstance(text, str) or len(text) > _MOST_TEXT:
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    return None if (block := _checked(path, values)) is None else block.to_dict()


def flight(framing: Framing) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns places and targets of a way from recorded camera to recorded camera, around what they look at."""
    cameras = framing.view.cameras
    if len(cameras) < 2:
        return [], []
    rig = rig_from_cameras(cameras, up=framing.up, center=framing.center)
    order = np.argsort((rig.azimuths - rig.start + 180.0) % 360.0, kind="stable")
    chosen = [cameras[index] for index in order]
    return [camera.position for camera in chosen], [_target(camera, framing.center) for camera in chosen]


def fov_y(camera: Camera) -> float:
    """Returns the vertical field of view in degrees."""
    return math.degrees(2.0 * math.atan(0.5 * camera.height / camera.K[1, 1]))


def looking(position: Any, target: Any, fov: float, up: np.ndarray) -> Camera | None:
    """Returns the camera of a `.4dgs`, None where it is none."""
    try:
        place, aim = (np.array([float(x) for x in values], dtype=np.float64) for values in (position, target))
        if place.shape != (3,) or aim.shape != (3,) or not 1.0 <= fov <= 175.0 or np.linalg.norm(aim - place) < 1e-9:
            return None
        focal = 360.0 / math.tan(math.radians(fov) / 2)
        camera = Camera.look_at(place, aim, up, width=1280, height=720, focal=focal, id="first")
        return ViewBlock.from_dict(ViewBlock(first=camera).to_dict()) and camera
    except (UserError, TypeError, ValueError, OverflowError):
        return None


def _target(camera: Camera, center: np.ndarray) -> np.ndarray:
    """Returns the point on the camera's axis nearest to the centre, at least a little ahead."""
    gap = center - camera.position
    ahead = max(float(gap @ camera.forward), 0.1 * float(np.linalg.norm(gap)), 1e-3)
    return camera.position + ahead * camera.forward


def _splatv_camera(values: dict[str, Any], index: int) -> Camera:
    rotation = np.array(values["rotation"], dtype=np.float64)
    position = np.array(values["position"], dtype=np.float64)
    width, height = int(values["width"]), int(values["height"])
    if rotation.shape != (3, 3) or position.shape != (3,):
        raise ValueError("shape")
    viewmat = np.eye(4)
    viewmat[:3, :3] = rotation.T
    viewmat[:3, 3] = -rotation.T @ position
    K = np.array([[float(values["fx"]), 0.0, width / 2], [0.0, float(values["fy"]), height / 2], [0.0, 0.0, 1.0]])
    name = values.get("img_name")
    name = name if isinstance(name, str) and name else str(index)
    # The block checks sizes and lengths.
    checked = ViewBlock.from_dict(ViewBlock(cameras=(Camera(name, viewmat, K, width, height),)).to_dict())
    assert checked is not None
    return checked.cameras[0]


def _checked(path: Path, values: Any) -> ViewBlock | None:
    try:
        return ViewBlock.from_dict(values)
    except UserError as error:
        warnings.warn(f"{path.name}: {error}; it is not used", stacklevel=4)
        return None
