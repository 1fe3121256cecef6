"""Scenes far from the origin: where they stand is kept as an offset in double precision, all else relative to it.

Places of a map (UTM, ECEF) have millions of metres, of which a 32-bit float holds every half. A scene that stands far
from the origin compared with its size is therefore moved to the origin as it is read:

    place in the recorded world = place in the scene, the model and its files + offset

`Scene.offset` has it, and `meta["offset"]` of a model; without one it is zero. Cameras and points of a scene, Gaussians
of a model, paths made in the viewer and crop boxes drawn there are relative; files that hold doubles get the recorded
places.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from .cameras import Camera
from .errors import UserError

if TYPE_CHECKING:
    from .model import DynamicGaussians

KEY = "offset"
"""Of a model's `meta`, of files of keyframes and of crop boxes."""

# With these a 32-bit float still holds a place to a hundredth of a pixel.
_FAR_IN_SIZES = 100.0
_FAR = 1000.0
_LARGEST = 1e12


def offset_for(places: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "3"]:
    """Returns the offset of a scene whose cameras (or Gaussians) stand at `places`: zero, unless they are far away.

    Far is more than 1,000 units and more than 100 times the size of what stands there. The offset is the middle rounded
    to whole units, tens, hundreds, ... below the size: the same places give the same offset, to the bit.
    """
    places = np.asarray(places, dtype=np.float64).reshape(-1, 3)
    if len(places) == 0 or not np.isfinite(places).all():
        return np.zeros(3)
    center = np.median(places, axis=0)
    size = float(np.percentile(np.linalg.norm(places - center, axis=1), 90))
    if not max(_FAR, _FAR_IN_SIZES * size) < float(np.abs(center).max()) < _LARGEST:
        return np.zeros(3)
    unit = 10.0 ** max(math.floor(math.log10(size)), 0) if size > 0 else 1.0
    return np.round(center / unit) * unit + 0.0


def offset_of(model: DynamicGaussians) -> Float[np.ndarray, "3"]:
    """Returns the offset of a model, zero where its `meta` has none."""
    return checked(model.meta.get(KEY), "the model's offset")


def checked(value: Any, where: str) -> Float[np.ndarray, "3"]:
    """Returns an offset that a file states, zero for None; raises `UserError` unless it is three finite numbers."""
    if value is None:
        return np.zeros(3)
    try:
        offset = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        offset = np.zeros(0)
    if offset.shape != (3,) or not (np.abs(offset) < _LARGEST).all():
        raise UserError(f"{where} must be three finite numbers, x, y and z, got {str(value)[:60]}")
    return offset


def meta_of(offset: np.ndarray) -> dict[str, list[float]]:
    """Returns what `meta` says of an offset: nothing where it is zero."""
    return {KEY: [float(x) for x in offset]} if np.any(offset) else {}


def text_of(offset: np.ndarray) -> str:
    """Returns an offset as people and comments write it, to the last digit."""
    return " ".join(f"{float(x):.0f}" if float(x).is_integer() else repr(float(x)) for x in offset)


def moved_viewmat(viewmat: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Returns the world-to-camera matrix [4, 4] of a camera that was moved by `by` [3]."""
    if not np.any(by):
        return viewmat
    moved = np.array(viewmat, dtype=np.float64)
    moved[:3, 3] -= moved[:3, :3] @ by
    return moved


def moved_camera(camera: Camera, by: np.ndarray) -> Camera:
    """Returns the camera moved by `by` [3]; `moved_camera(camera, scene.offset)` stands in the recorded world."""
    return camera.transformed(moved_viewmat(camera.viewmat, by)) if np.any(by) else camera


def between(stated: np.ndarray | None, model: np.ndarray, places: np.ndarray, where: str) -> np.ndarray:
    """Returns what to add [3] to places of a file so that they are relative to the offset of a model.

    Args:
        stated: The offset that the file states; None where it states none: its places are of the recorded world.
        model: That of the model.
        places: [N, 3] of the file.
        where: For messages.

    Raises:
        UserError: when the places of a file without an offset can only be meant relative to that of the model.
    """
    if stated is not None:
        return stated - model
    if np.any(model):
        middle = np.median(np.asarray(places, dtype=np.float64).reshape(-1, 3), axis=0)
        if np.linalg.norm(middle) < 0.1 * np.linalg.norm(model):
            raise UserError(
                f"{where} is at {text_of(middle.round(3))}, the scene at {text_of(model)} of the recorded world; give"
                f' recorded coordinates, or add "{KEY}": [{", ".join(text_of(model).split())}] if they are relative'
            )
    return -model


def recentred(model: DynamicGaussians) -> DynamicGaussians:
    """Returns a model of a file moved to the origin where its Gaussians stand far from it, with the offset in `meta`.

    Itself where they do not, or where an offset is stated already.
    """
    if KEY in model.meta or len(model) == 0:
        return model
    offset = offset_for(model.params["means"].detach().cpu().double().numpy())
    if not np.any(offset):
        return model
    return _shifted(model, -offset, offset)


def aligned(model: DynamicGaussians, offset: np.ndarray) -> DynamicGaussians:
    """Returns the model relative to `offset` [3], that of the scene it is drawn with.

    A model that states no offset is relative to that of the scene already: what stands far from the origin states one.
    """
    by = offset_of(model) - offset
    return model if KEY not in model.meta or not np.any(by) else _shifted(model, by, offset)


def _shifted(model: DynamicGaussians, by: np.ndarray, offset: np.ndarray) -> DynamicGaussians:
    """Returns the model with `by` [3] added to all positions, and the offset that it has then."""
    import torch

    from .view_block import ViewBlock

    params = dict(model.params)
    for name in ("means", *model.motion.position_columns):
        if name in params:
            moved = params[name].double() + torch.as_tensor(by, dtype=torch.float64, device=params[name].device)
            params[name] = moved.to(params[name].dtype)
    meta = {key: value for key, value in model.meta.items() if key != KEY}
    moved = dataclasses.replace(model, params=params, meta={**meta, **meta_of(offset)})
    view = ViewBlock.of(model)
    if view is None:
        return moved
    return dataclasses.replace(
        view,
        center=None if view.center is None else view.center + by,
        first=None if view.first is None else moved_camera(view.first, by),
        cameras=tuple(moved_camera(camera, by) for camera in view.cameras),
    ).written_to(moved)


def relative(splats: dict[str, np.ndarray], source: object) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Returns Gaussians of a file (`io.splats`) in float32, moved to the origin where they stand far from it, and the
    offset [3].

    Positions of 64-bit floats lose nothing; those of 32-bit floats that are coarser than the Gaussians are warned of.
    """
    means = splats["means"]
    offset = offset_for(means)
    if not np.any(offset):
        return {**splats, "means": means.astype(np.float32)}, offset
    step = float(np.spacing(np.float32(np.abs(means).max(initial=0.0))))
    if means.dtype == np.float32 and step > (size := float(np.exp(np.median(splats["scales"])))):
        warnings.warn(
            f"{source}: stands at {text_of(offset)}, where 32-bit floats have steps of {step:g}, more than the"
            f" Gaussians' own size of {size:.2g}: positions were rounded when the file was written; write it again with"
            " positions relative to the scene, or as doubles",
            stacklevel=3,
        )
    return {**splats, "means": (means.astype(np.float64) - offset).astype(np.float32)}, offset


def rebased(splats: dict[str, np.ndarray], by: np.ndarray) -> dict[str, np.ndarray]:
    """Returns Gaussians with `by` [3] added to their positions."""
    if not np.any(by):
        return splats
    return {**splats, "means": (splats["means"].astype(np.float64) + by).astype(np.float32)}


def looks_single(positions: Sequence[np.ndarray], size: float) -> float:
    """Returns the step of 32-bit floats at the camera positions [3] where all lie on it and it matters, else 0.

    It matters where it is more than a thousandth of the `size` of the scene. Whole numbers lie on such steps too, so
    one camera says nothing.
    """
    places = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    distinct = np.unique(places, axis=0)
    far = np.abs(distinct).max(axis=0, initial=0.0) > _FAR
    if len(distinct) < 4 or not far.any():
        return 0.0
    column = distinct[:, far]
    steps = np.spacing(np.abs(column).astype(np.float32)).astype(np.float64)
    off = np.abs(column / steps - np.round(column / steps)) * steps
    coarse = float(steps.max())
    return coarse if coarse > 1e-3 * size and (off < 1e-4 * steps).all() else 0.0


def stated_in(values: Mapping[str, Any], where: str) -> np.ndarray | None:
    """Returns the offset that the content of a JSON file states, None where it states none."""
    return checked(values[KEY], f'{where}: "{KEY}"') if values.get(KEY) is not None else None
