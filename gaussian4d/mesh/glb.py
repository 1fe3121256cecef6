"""Meshes as binary glTF: one instant, or a clip as morph targets, one per instant, with the animation that plays them.

Colours are those seen, with the light in them, so the material is unlit; glTF's vertex colours are linear light. The
world is turned as for Gaussians (`io.gltf`): y up.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import atomic_write
from ..io.glb import Builder
from ..io.gltf import asset
from ..io.orient import PLY_TO_GLTF, upright
from .follow import FollowedMesh
from .surface import Mesh

_UNLIT = "KHR_materials_unlit"


def write_mesh(
    path: str | os.PathLike[str], mesh: Mesh, *, vertical_axis: str | None = None, offset: np.ndarray | None = None
) -> None:
    """Writes a `.glb` of one mesh, atomically; `vertical_axis` and `offset` as in `write_glb`."""
    builder = Builder()
    primitive = _primitive(builder, mesh, _turn(vertical_axis))
    _save(path, builder, {"meshes": [{"primitives": [primitive]}]}, offset)


def write_followed_mesh(
    path: str | os.PathLike[str],
    followed: FollowedMesh,
    seconds: float,
    *,
    vertical_axis: str | None = None,
    offset: np.ndarray | None = None,
) -> None:
    """Writes a `.glb` with a morph target per instant and an animation that shows them one after the other.

    Args:
        path: The file.
        followed: The mesh; with at least two instants.
        seconds: How long clip time 0 to 1 lasts.
        vertical_axis: As in `write_glb`.
        offset: As in `write_glb`.
    """
    count = len(followed.times)
    if count < 2:
        raise UserError(f"morph targets need at least two instants, got {count}; write a single mesh")
    builder, turn = Builder(), _turn(vertical_axis)
    primitive = _primitive(builder, followed.mesh, turn)
    steps = (followed.positions - followed.mesh.vertices) @ turn.T
    primitive["targets"] = [{"POSITION": builder.add(step, bounds=True)} for step in steps]
    order = np.argsort(followed.times, kind="stable")
    clock = builder.add((followed.times - followed.times.min())[order] * seconds, bounds=True, target=None)
    # One target at a time, in between two of them in proportion: positions go straight from instant to instant.
    weights = builder.add(np.eye(count)[order].reshape(-1), target=None)
    channel = {"sampler": 0, "target": {"node": 0, "path": "weights"}}
    animation = {
        "name": "motion",
        "channels": [channel],
        "samplers": [{"input": clock, "output": weights, "interpolation": "LINEAR"}],
    }
    first = np.eye(count)[order[0]].tolist()
    _save(path, builder, {"meshes": [{"primitives": [primitive], "weights": first}], "animations": [animation]}, offset)


def _primitive(builder: Builder, mesh: Mesh, turn: np.ndarray) -> dict[str, Any]:
    if len(mesh.faces) == 0:
        raise UserError("the mesh has no faces, so there is nothing to write")
    linear = np.where(mesh.colors <= 0.04045, mesh.colors / 12.92, ((mesh.colors + 0.055) / 1.055) ** 2.4)
    attributes = {
        "POSITION": builder.add(mesh.vertices @ turn.T, bounds=True),
        "COLOR_0": builder.add(linear),
    }
    return {"attributes": attributes, "indices": builder.add_indices(mesh.faces.reshape(-1)), "material": 0}


def _save(path: str | os.PathLike[str], builder: Builder, content: dict[str, Any], offset: np.ndarray | None) -> None:
    material = {
        "doubleSided": True,
        "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
        "extensions": {_UNLIT: {}},
    }
    document = {
        "asset": asset(offset),
        "extensionsUsed": [_UNLIT],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [material],
        **content,
    }
    with atomic_write(path) as temporary:
        temporary.write_bytes(builder.glb(document))


def _turn(vertical_axis: str | None) -> np.ndarray:
    turn = upright(vertical_axis)
    return np.diag(PLY_TO_GLTF) if turn is None else turn
