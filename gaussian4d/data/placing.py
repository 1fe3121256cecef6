"""What readers found, moved to the origin where it stands far from it (`gaussian4d.offsets`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..offsets import checked, looks_single, moved_viewmat, offset_for, text_of
from .problems import ProblemList
from .records import PointCloud, SceneRecord


def place(
    record: SceneRecord, offset: Sequence[float] | np.ndarray | None, folder: Path, problems: ProblemList
) -> tuple[SceneRecord, np.ndarray]:
    """Returns the record relative to an offset [3], the given one or else what its cameras ask for, and that offset.

    What was rounded before it came to us goes to `problems`. Points become float32, which is enough near the origin.
    """
    # Frames of a camera that stands share one matrix; so do those that are given back.
    viewmats = {id(frame.viewmat): frame.viewmat for frame in record.frames}
    positions = [_position(viewmat) for viewmat in viewmats.values()]
    chosen = offset_for(np.array(positions)) if offset is None else checked(offset, "the offset of a scene")
    _warn_of_single(positions, list(viewmats.values()), folder, problems)
    points = record.points
    if points is not None:
        _warn_of_single_points(points, chosen, folder, problems)
        points = placed_points(points, chosen)
    if not np.any(chosen):
        return dataclasses.replace(record, points=points), chosen
    moved = {key: moved_viewmat(viewmat, -chosen) for key, viewmat in viewmats.items()}
    frames = [dataclasses.replace(frame, viewmat=moved[id(frame.viewmat)]) for frame in record.frames]
    return dataclasses.replace(record, frames=frames, points=points, notes=[*record.notes, note(chosen)]), chosen


def _position(viewmat: np.ndarray) -> np.ndarray:
    """Returns where a camera stands [3]."""
    try:
        # Not by the transpose: of a rotation that is written with seven digits it is half a metre off on a map.
        return np.linalg.solve(viewmat[:3, :3], -viewmat[:3, 3])
    except np.linalg.LinAlgError:
        # No rotation; that is said when it is to be a camera.
        return -viewmat[:3, :3].T @ viewmat[:3, 3]


def placed_points(points: PointCloud, offset: np.ndarray) -> PointCloud:
    """Returns the points relative to an offset, float32."""
    xyz = points.xyz.astype(np.float64) - offset if np.any(offset) else points.xyz
    return dataclasses.replace(points, xyz=np.asarray(xyz, dtype=np.float32))


def note(offset: np.ndarray) -> str:
    """Returns the sentence that says where the scene stands."""
    return (
        f"the scene stands far from the origin: cameras and points are relative to {text_of(offset)} (Scene.offset),"
        " which a run keeps and files that are exported state"
    )


def _warn_of_single(
    positions: list[np.ndarray], viewmats: list[np.ndarray], folder: Path, problems: ProblemList
) -> None:
    size = float(np.linalg.norm(np.ptp(np.array(positions), axis=0)))
    step = looks_single(positions, size) or looks_single([viewmat[:3, 3] for viewmat in viewmats], size)
    if step:
        problems.warning(
            folder,
            f"camera positions are all multiples of {step:g}, as 32-bit floats are so far from the origin, in a scene"
            f" {size:.3g} across: they were rounded when the files were written; export them in double precision, or"
            " subtract an offset before",
        )


def _warn_of_single_points(points: PointCloud, offset: np.ndarray, folder: Path, problems: ProblemList) -> None:
    if not np.any(offset) or len(points) == 0 or points.xyz.dtype != np.float32:
        return
    xyz = points.xyz.astype(np.float64)
    size = float(np.percentile(np.linalg.norm(xyz - np.median(xyz, axis=0), axis=1), 90))
    step = float(np.spacing(np.float32(np.abs(points.xyz).max())))
    if step > 1e-3 * size:
        problems.warning(
            folder,
            f"its points are 32-bit floats, which have steps of {step:g} so far from the origin, in a scene"
            f" {2 * size:.3g} across: a fit starts from rounded points; write them as doubles",
        )
