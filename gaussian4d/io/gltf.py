"""glTF with the extension KHR_gaussian_splatting: `.glb` read and written, `.gltf` read.

Points with attributes `POSITION`, `KHR_gaussian_splatting:ROTATION` (xyzw), `:SCALE` (linear), `:OPACITY` (0..1) and
`:SH_DEGREE_l_COEF_n`. Khronos' draft of the extension; glTF's world has y up, so the Gaussians are turned on the way.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import atomic_write
from ..motion.rigid_parts import MOST_POSES
from ..offsets import checked, offset_for
from .glb import Builder, Document, node_matrix
from .gltf_animation import Animation
from .orient import PLY_TO_GLTF, half_turned, rotated, upright
from .packed import broken, to_unorm
from .splats import (
    REST_COUNTS,
    Splats,
    check_splats,
    color_from_sh0,
    degree_of,
    limit_degree,
    log_scales,
    logit,
    only_gaussians,
    sigmoid,
    unit,
)

EXTENSION = "KHR_gaussian_splatting"
_KNOWN_EXTENSIONS = (EXTENSION, "KHR_mesh_quantization")
_APPEARANCE = ("KHR_materials_", "KHR_texture_", "KHR_lights_", "EXT_texture_", "EXT_lights_")
"""Beginnings of extensions that say nothing of Gaussians."""
_WORLD = "gaussian4d_world"
_OFFSET = "gaussian4d_offset"
_MOST_NESTING = 64


def write_glb(
    path: str | os.PathLike[str],
    gaussians: Splats,
    *,
    vertical_axis: str | None = None,
    offset: np.ndarray | None = None,
) -> None:
    """Writes a still `.glb`, atomically; exact but for the turn of the axes. Harmonics beyond degree 3 are left out.

    Args:
        path: the file.
        gaussians: Splats.
        vertical_axis: `x`, `y` or `z` when that axis points up; None takes the axes of a 3DGS `.ply`, y down.
        offset: [3] of the recorded world, in its axes, that places are relative to; kept as an extra of the asset. A
            node so far away would be drawn in 32-bit floats, which tremble there.
    """
    builder = Builder()
    primitive, node = glb_node(builder, gaussians, vertical_axis)
    save_glb(path, builder, [{"mesh": 0, **node}], {"meshes": [{"primitives": [primitive]}]}, offset)


def glb_turn(vertical_axis: str | None) -> np.ndarray:
    """Returns the rotation [3, 3] from the axes we keep to those of a file of ours; see `write_glb`."""
    turn = upright(vertical_axis)
    return np.diag(PLY_TO_GLTF) if turn is None else turn


def glb_node(builder: Builder, gaussians: Splats, vertical_axis: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the primitive of `gaussians`, turned as `write_glb` says, and what its node has besides the mesh."""
    splats = limit_degree(check_splats(gaussians), 3)
    if len(splats["means"]) == 0:
        raise UserError("a .glb holds at least one Gaussian, got none; choose an instant at which something is there")
    turn = upright(vertical_axis)
    splats = half_turned(splats, PLY_TO_GLTF) if turn is None else rotated(splats, turn)
    color = np.clip(color_from_sh0(splats["sh0"][:, 0]), 0.0, 1.0)
    opacity = sigmoid(splats["opacities"])
    attributes = {
        "POSITION": builder.add(splats["means"], bounds=True),
        # What a viewer without the extension draws.
        "COLOR_0": builder.add(to_unorm(np.column_stack([color, opacity]), 8), normalized=True),
        f"{EXTENSION}:ROTATION": builder.add(unit(splats["quats"])[:, [1, 2, 3, 0]]),
        f"{EXTENSION}:SCALE": builder.add(np.exp(splats["scales"])),
        f"{EXTENSION}:OPACITY": builder.add(opacity),
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": builder.add(splats["sh0"][:, 0]),
    }
    for degree in range(1, degree_of(splats) + 1):
        for order in range(2 * degree + 1):
            name = f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{order}"
            attributes[name] = builder.add(splats["shN"][:, REST_COUNTS[degree - 1] + order])
    settings = {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "sortingMethod": "cameraDistance",
        "projection": "perspective",
    }
    primitive = {"attributes": attributes, "mode": 0, "extensions": {EXTENSION: settings}}
    # With this a reader gets back the world of the recorded cameras; others keep y up.
    return primitive, {} if turn is None else {"extras": {_WORLD: turn.T.reshape(-1).tolist()}}


def asset(offset: np.ndarray | None) -> dict[str, Any]:
    """Returns what a `.glb` of ours says about itself: the offset [3], if any, as an extra."""
    stated = {} if offset is None or not np.any(offset) else {"extras": {_OFFSET: [float(x) for x in offset]}}
    return {"version": "2.0", "generator": "gaussian4d", **stated}


def save_glb(
    path: str | os.PathLike[str],
    builder: Builder,
    nodes: list[dict[str, Any]],
    content: dict[str, Any],
    offset: np.ndarray | None = None,
) -> None:
    """Writes a `.glb` of `nodes` side by side, atomically; `content` is the rest of the document."""
    document = {
        "asset": asset(offset),
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": list(range(len(nodes)))}],
        "nodes": nodes,
        **content,
    }
    with atomic_write(path) as temporary:
        temporary.write_bytes(builder.glb(document))


@dataclasses.dataclass
class Placed:
    """The Gaussians of one node in the axes we keep, and where the node is."""

    splats: Splats
    """At the first instant."""
    rotations: np.ndarray
    """[T, 3, 3]; T is 1 for a node that does not move."""
    places: np.ndarray
    """[T, 3]"""
    up: np.ndarray
    """[3] glTF's y, which is up, in the axes we keep."""


def read_gltf(path: str | os.PathLike[str]) -> Splats:
    """Returns all Gaussians of the scene of a `.glb` or `.gltf`, in the axes of a 3DGS `.ply` or of the world it names.

    Animations are left out, see `gltf_motion`. Raises `UserError` when the file is missing, damaged, holds no
    Gaussians, or uses what is not read: another kernel, nested compression, nodes that shear or stretch.
    """
    document = Document(Path(path))
    splats = joined(placed_nodes(document, None))
    if np.any(document.offset):
        splats["means"] = splats["means"].astype(np.float64) + document.offset
    return splats


def joined(parts: list[Placed]) -> Splats:
    """Returns the Gaussians of all nodes, at the first instant."""
    return {name: np.concatenate([part.splats[name] for part in parts]) for name in parts[0].splats}


def placed_nodes(document: Document, animation: Animation | None) -> list[Placed]:
    """Returns the nodes with Gaussians, at least one, moved by `animation`."""
    _check_extensions(document)
    parts: list[Placed] = []
    meshes: dict[int, list[Splats]] = {}
    total = 0
    nodes = [(node, matrices) for node, matrices in _nodes(document, animation) if "mesh" in node]
    # Nodes that a program has placed on a map: their Gaussians are added to the rest in 32-bit floats.
    far = offset_for(np.array([matrices[0, :3, 3] for _, matrices in nodes]))
    extras = document.json["asset"].get("extras")
    document.offset = checked(extras.get(_OFFSET) if isinstance(extras, dict) else None, f"{document.path}: {_OFFSET}")
    for index, (node, matrices) in enumerate(nodes):
        if np.any(far):
            matrices = matrices.copy()
            matrices[:, :3, 3] -= far
            if index == 0:
                document.offset = document.offset + _turned_back(document, node) @ far
        mesh = document.item("meshes", node["mesh"])
        if node["mesh"] not in meshes:
            meshes[node["mesh"]] = _mesh(document, mesh)
        for splats in meshes[node["mesh"]]:
            total += len(splats["means"])
            if total > document.size:
                # Nodes can repeat a mesh. A Gaussian takes 20 bytes at least, so this allows for 20 of each.
                raise broken(
                    document.path, "glTF", f"its nodes repeat more Gaussians than {document.size} bytes can mean"
                )
            parts.append(_placed(document, splats, matrices, node))
    if not parts:
        raise UserError(f"{document.path} holds no points with {EXTENSION}; expected a glTF of Gaussians")
    widest = max(part.splats["shN"].shape[1] for part in parts)
    for part in parts:
        part.splats["shN"] = np.pad(part.splats["shN"], ((0, 0), (0, widest - part.splats["shN"].shape[1]), (0, 0)))
        part.splats = only_gaussians(document.path, part.splats)
    return parts


def _check_extensions(document: Document) -> None:
    """Raises `UserError` for a file that says that it cannot be understood without an extension we do not know."""
    required = [str(name)[:80] for name in document.items("extensionsRequired")]
    unknown = [name for name in required if name not in _KNOWN_EXTENSIONS and not name.startswith(_APPEARANCE)]
    if unknown:
        raise UserError(
            f"{document.path} needs {', '.join(unknown[:4])}, which is not read; export it without compression, or as a"
            " .ply or .spz"
        )


def _nodes(document: Document, animation: Animation | None) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Returns the nodes of the scene with their T_world_node [T, 4, 4]; T is 1 where nothing moves them."""
    scenes = document.items("scenes")
    roots = (
        document.item("scenes", document.json.get("scene", 0)).get("nodes", [])
        if scenes
        else range(len(document.items("nodes")))
    )
    if not isinstance(roots, list | range):
        raise broken(document.path, "glTF", "the nodes of its scene are no list")
    found: list[tuple[dict[str, Any], np.ndarray]] = []
    waiting = [(index, np.eye(4)[None], 0) for index in roots]
    seen: set[int] = set()
    poses = 0
    while waiting:
        index, parent, depth = waiting.pop()
        node = document.item("nodes", index)
        if index in seen or depth > _MOST_NESTING:
            raise broken(document.path, "glTF", f"node {index} has two parents or is nested too deeply")
        seen.add(index)
        moves = animation is not None and animation.moves(index)
        poses += len(animation.times) if animation is not None and (moves or len(parent) > 1) else 0
        if poses > MOST_POSES:
            raise broken(document.path, "glTF", f"its animation has more than {MOST_POSES:,} places of nodes")
        own = animation.matrices(index, node) if animation is not None and moves else node_matrix(document, node)[None]
        with np.errstate(invalid="ignore", over="ignore"):
            matrices = parent @ own
        found.append((node, matrices))
        children = node.get("children", [])
        if not isinstance(children, list):
            raise broken(document.path, "glTF", f"node {index} has children that are no list")
        waiting += [(child, matrices, depth + 1) for child in children]
    return found


def _mesh(document: Document, mesh: dict[str, Any]) -> list[Splats]:
    """Returns the Gaussians of each primitive of a mesh that has any."""
    primitives = mesh.get("primitives", [])
    if not isinstance(primitives, list):
        raise broken(document.path, "glTF", "the primitives of a mesh are no list")
    found = []
    for primitive in primitives:
        extensions = primitive.get("extensions") if isinstance(primitive, dict) else None
        extension = extensions.get(EXTENSION) if isinstance(extensions, dict) else None
        if isinstance(extension, dict):
            found.append(_primitive(document, primitive, extension))
    return found


def _primitive(document: Document, primitive: dict[str, Any], extension: dict[str, Any]) -> Splats:
    """Returns the Gaussians of one primitive in its node's axes."""
    source = document.path
    if inner := extension.get("extensions"):
        listed = ", ".join(str(name)[:80] for name in inner) if isinstance(inner, dict) else str(inner)[:80]
        raise UserError(f"{source}: its Gaussians need {listed}, which is not read; export them without compression")
    if extension.get("kernel", "ellipse") != "ellipse":
        raise UserError(f"{source}: the kernel {str(extension.get('kernel'))[:80]!r} is not read; convert it")
    if extension.get("projection", "perspective") != "perspective":
        warnings.warn(
            f"{source}: its Gaussians are meant for the projection {str(extension['projection'])[:80]!r}; they are"
            " drawn in perspective",
            stacklevel=4,
        )
    if extension.get("colorSpace", "srgb_rec709_display") != "srgb_rec709_display":
        warnings.warn(
            f"{source}: its colours are in {extension.get('colorSpace')}, they are taken as they are", stacklevel=4
        )
    attributes = primitive.get("attributes")
    if not isinstance(attributes, dict):
        raise broken(source, "glTF", "a primitive has no attributes")

    def column(name: str, width: int) -> np.ndarray:
        if name not in attributes:
            raise broken(source, "glTF", f"a primitive lacks the attribute {name}")
        return document.accessor(attributes[name], width)

    means = column("POSITION", 3)
    bands = [column(f"{EXTENSION}:SH_DEGREE_0_COEF_0", 3)]
    for degree in range(1, 5):
        names = [f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{order}" for order in range(2 * degree + 1)]
        if names[0] not in attributes:
            break
        bands += [column(name, 3) for name in names]
    table = {
        "means": means,
        "quats": column(f"{EXTENSION}:ROTATION", 4)[:, [3, 0, 1, 2]],
        "scales": column(f"{EXTENSION}:SCALE", 3),
        "opacities": column(f"{EXTENSION}:OPACITY", 1)[:, 0],
        "sh": np.stack(bands, axis=1) if len({len(band) for band in bands}) == 1 else np.zeros((0, 1, 3)),
    }
    if any(len(value) != len(means) for value in table.values()):
        raise broken(source, "glTF", "the attributes of a primitive have different numbers of elements")
    return {
        "means": means,
        "quats": unit(table["quats"]),
        "scales": log_scales(np.abs(table["scales"])),
        "opacities": logit(table["opacities"]),
        "sh0": table["sh"][:, :1],
        "shN": table["sh"][:, 1:],
    }


def _placed(document: Document, splats: Splats, matrices: np.ndarray, node: dict[str, Any]) -> Placed:
    """Returns Gaussians of a node in the axes we keep: the world its extras name, else those of a 3DGS `.ply`."""
    linear = matrices[:, :3, :3]
    scale = float(np.cbrt(np.linalg.det(linear[0]))) if np.isfinite(matrices).all() else 0.0
    square = linear @ linear.transpose(0, 2, 1)
    if scale <= 0.0 or not np.allclose(square, np.eye(3) * scale**2, atol=1e-4 * scale**2):
        raise UserError(
            f"{document.path}: a node mirrors, shears or stretches its Gaussians; apply its transform first"
        )
    turns = linear / scale
    if not np.allclose(turns[0], np.eye(3), atol=1e-7):
        splats = rotated(splats, turns[0])
    splats = {
        **splats,
        "means": (splats["means"] * np.float32(scale) + matrices[0, :3, 3].astype(np.float32)).astype(np.float32),
        "scales": splats["scales"] + np.float32(np.log(scale)),
    }
    back = _turned_back(document, node)
    splats = half_turned(splats, PLY_TO_GLTF) if _world_of(node) is None else rotated(splats, back)
    return Placed(splats, back @ turns, matrices[:, :3, 3] @ back.T, back @ np.array([0.0, 1.0, 0.0]))


def _world_of(node: dict[str, Any]) -> Any:
    extras = node.get("extras")
    return extras.get(_WORLD) if isinstance(extras, dict) else None


def _turned_back(document: Document, node: dict[str, Any]) -> np.ndarray:
    """Returns the rotation [3, 3] from the axes of the file to those we keep; see `_placed`."""
    world = _world_of(node)
    if world is None:
        return np.diag(PLY_TO_GLTF)
    try:
        back = np.asarray(world, np.float64).reshape(3, 3)
    except (ValueError, TypeError):
        raise broken(document.path, "glTF", f"its {_WORLD} is not nine numbers") from None
    if not np.allclose(back @ back.T, np.eye(3), atol=1e-6):
        raise broken(document.path, "glTF", f"its {_WORLD} is no rotation")
    return back
