"""glTF of Gaussians that move: a node per rigid part, with the animation of its translation and rotation.

glTF moves nodes, not Gaussians. `write_moving` finds the parts of a model that move as solid bodies (`rigid`), gives
each a node, and leaves everything else where it is at one instant: what stands still, and what moves in other ways.
Where more moves in other ways than with parts, parts alone would tear the scene, and all of it stands still.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..clip_length import recorded_span
from ..model import DynamicGaussians, splat_arrays
from ..motion import RigidParts, Static
from ..motion.rigid_parts import COLUMN, OFFSETS, PIVOTS, TURNS, RigidPartsConfig
from ..offsets import meta_of
from ..view_block import ViewBlock
from .cubic import duration_of, instants_of
from .glb import Builder, Document
from .gltf import glb_node, glb_turn, joined, placed_nodes, save_glb, write_glb
from .gltf_animation import Animation
from .rigid import LOOSE, STILL, RigidSplit, find_rigid_parts, own_parts
from .sequence import ply_columns
from .splats import Splats

LEAST_SHARE = 0.5
"""Of what moves at the instant: less than this in rigid parts, and none of it is moved."""


@torch.no_grad()
def write_moving(
    path: str | os.PathLike[str],
    model: DynamicGaussians,
    *,
    time: float = 0.0,
    vertical_axis: str | None = None,
    offset: np.ndarray | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> int:
    """Writes a moving model as a `.glb`, atomically, and returns how many Gaussians it holds.

    Args:
        path: The file.
        model: Any model.
        time: Clip time of the places without the animation, at which what moves in no part stands still.
        vertical_axis: As in `write_glb`.
        offset: As in `write_glb`.
        say: Called with a line on what was found.
    """
    if not model.motion.connected:
        split, why = None, "nothing connects the Gaussians of separate instants"
    elif isinstance(model.motion, RigidParts):
        split, why = own_parts(model, time), "nothing in this model moves"
    else:
        span = recorded_span(model)
        times = np.unique(np.concatenate([[span[0]], np.clip(instants_of(model), *span), [span[1]]]))
        split = find_rigid_parts(model, times, time)
        why = f"{split.share:.0%} of what moves there moves in rigid parts"
    if split is None or len(split.rotations) == 0 or split.share < LEAST_SHARE:
        say(f"glTF moves rigid parts only, and {why}: this is the instant at {time:g} of the clip")
        columns = ply_columns(model.at(time))
        write_glb(path, columns, vertical_axis=vertical_axis, offset=offset)
        return len(columns["means"])
    shown = [int((split.visible & (split.part == index)).sum()) for index in range(-2, len(split.rotations))]
    loose, still, *parts = shown
    say(
        f"{sum(count > 0 for count in parts)} rigid parts move ({sum(parts):,} Gaussians), {still:,} Gaussians stand "
        f"still, {loose:,} move in other ways and stand as at the instant {time:g} of the clip"
    )
    _write_parts(path, split, time, duration_of(model), vertical_axis, offset)
    return sum(shown)


def _write_parts(
    path: str | os.PathLike[str],
    split: RigidSplit,
    time: float,
    seconds: float,
    vertical_axis: str | None,
    offset: np.ndarray | None,
) -> None:
    builder, turn = Builder(), glb_turn(vertical_axis)
    clock: int | None = None
    nodes: list[dict[str, Any]] = []
    meshes: list[dict[str, Any]] = []
    channels: list[dict[str, Any]] = []
    samplers: list[dict[str, Any]] = []
    resting = np.isin(split.part, (STILL, LOOSE)) & split.visible
    if resting.any():
        _add(builder, nodes, meshes, _columns(split, resting), vertical_axis)
        nodes[-1]["name"] = "still"
    for index in range(len(split.rotations)):
        chosen = (split.part == index) & split.visible
        if not chosen.any():
            continue
        columns = _columns(split, chosen)
        means = columns["means"].astype(np.float64)
        if split.pivots is not None:
            pivot = split.pivots[index]
        else:
            pivot = _pivot(split.rotations[index], split.offsets[index], means)
        columns["means"] = (means - pivot).astype(np.float32)
        size = float(np.abs(columns["means"]).max())
        _add(builder, nodes, meshes, columns, vertical_axis)
        nodes[-1] |= {"name": f"part {index}", "translation": (turn @ pivot).tolist()}
        places = (split.rotations[index] @ pivot + split.offsets[index]) @ turn.T
        turns = turn @ split.rotations[index] @ turn.T
        if clock is None:
            clock = builder.add((split.times - split.times[0]) * seconds, bounds=True, target=None)
        for name, values, least in (("translation", places, 1e-5 * size), ("rotation", quaternions(turns), 1e-5)):
            if np.ptp(values, axis=0).max() > least:
                output = builder.add(values, target=None)
                samplers.append({"input": clock, "output": output, "interpolation": "LINEAR"})
                channels.append({"sampler": len(samplers) - 1, "target": {"node": len(nodes) - 1, "path": name}})
    animation = [{"name": "motion", "channels": channels, "samplers": samplers}]
    save_glb(path, builder, nodes, {"meshes": meshes} | ({"animations": animation} if channels else {}), offset)


def _pivot(rotations: np.ndarray, offsets: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Returns the point [3] about which the node of a part with places `means` [n, 3] turns.

    Between keys translations are straight, so a door has to turn about its hinge: a point that rests, where there is
    one and it is not far from the part. Else it is the part's middle.
    """
    middle = means.mean(axis=0)
    # Least squares of (R - 1) c + offset = 0, the middle where that decides nothing.
    system, goal = (rotations - np.eye(3)).reshape(-1, 3), -offsets.reshape(-1)
    normal = system.T @ system
    ridge = 1e-6 * max(float(np.trace(normal)), 1e-12) * np.eye(3)
    resting = middle + np.linalg.solve(normal + ridge, system.T @ (goal - system @ middle))
    paths = [rotations @ point + offsets - point for point in (middle, resting)]
    moved = [float(np.abs(path).max()) for path in paths]
    reach = 4.0 * float(np.linalg.norm(means - middle, axis=1).max())
    return resting if moved[1] < 0.1 * moved[0] and np.linalg.norm(resting - middle) < reach else middle


def _add(
    builder: Builder,
    nodes: list[dict[str, Any]],
    meshes: list[dict[str, Any]],
    columns: Splats,
    vertical_axis: str | None,
) -> None:
    primitive, node = glb_node(builder, columns, vertical_axis)
    nodes.append({"mesh": len(meshes), **node})
    meshes.append({"primitives": [primitive]})


def _columns(split: RigidSplit, rows: np.ndarray) -> Splats:
    return splat_arrays(split.state.select(torch.from_numpy(np.flatnonzero(rows))))


def quaternions(rotations: np.ndarray) -> np.ndarray:
    """Returns quaternions xyzw [T, 4] of rotation matrices [T, 3, 3] whose signs do not jump from one to the next."""
    from scipy.spatial.transform import Rotation

    found = Rotation.from_matrix(rotations).as_quat()
    flips = np.cumprod(np.where((found[1:] * found[:-1]).sum(axis=1) < 0.0, -1.0, 1.0))
    found[1:] *= flips[:, None]
    return found


def read_moving(path: str | os.PathLike[str]) -> DynamicGaussians:
    """Returns the model of a `.glb` or `.gltf`: motion `rigid-parts` where an animation moves its nodes, else `static`.

    The first animation is read. Raises `UserError` as `read_gltf` does, and when an animation makes nodes larger or
    smaller or has more keys than can be kept.
    """
    document = Document(Path(path))
    animation = Animation(document)
    placed = placed_nodes(document, animation)
    splats = joined(placed)
    params = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in splats.items()}
    moving = [part for part in placed if len(part.rotations) > 1]
    if not moving or animation.seconds <= 0.0:
        model = DynamicGaussians(params, Static(), meta=meta_of(document.offset))
        return ViewBlock(up=placed[0].up).written_to(model)
    times = animation.times / animation.seconds
    numbers = iter(range(len(moving)))
    index = [next(numbers) if len(part.rotations) > 1 else -1 for part in placed]
    pivots = np.stack([part.places[0] for part in moving])
    turns = [quaternions(part.rotations @ part.rotations[0].T)[:, [3, 0, 1, 2]] for part in moving]
    own = {
        COLUMN: np.repeat(index, [len(part.splats["means"]) for part in placed]),
        PIVOTS: pivots,
        OFFSETS: np.stack([part.places for part in moving]) - pivots[:, None],
        TURNS: np.stack(turns),
    }
    params |= {name: torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)) for name, value in own.items()}
    motion = RigidParts(RigidPartsConfig(times=tuple(times.tolist()), parts=len(moving)))
    fps = 1.0 / float(np.median(np.diff(animation.times)))
    model = DynamicGaussians(params, motion, fps=fps, times=times, meta=meta_of(document.offset))
    return ViewBlock(up=placed[0].up, seconds=animation.seconds).written_to(model)
