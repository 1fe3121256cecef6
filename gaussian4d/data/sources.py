"""Frames given in Python: where their pixels come from, what may come with them, and what is checked.

Everything that can be indexed by the number of a frame is a source: a numpy array, a list, a data set of torch or h5py,
a class of one's own. A frame is asked for when it is first needed and kept by `frames.FrameStore`, like one of a file.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from ..cameras import Camera
from ..errors import UserError
from .spill import Pixels, own_pages

if TYPE_CHECKING:
    from .frames import FrameStore

COLUMNS = ("alpha", "mask", "depth", "weight")
"""What may come with pictures, a map for each of them."""

# Floats that an enlarged or sharpened picture may be out of 0..1 and still be meant as such.
_OVERSHOOT = 1e-2


@dataclasses.dataclass(frozen=True, eq=False)
class FrameData:
    """The pixels of one frame; arrays of numpy or torch, none of them changed."""

    image: Any
    """[H, W, 3], or [H, W, 4] with straight alpha; uint8, or floats in 0..1."""
    alpha: Any = None
    """[H, W] straight alpha of a picture with three channels; uint8, or floats in 0..1."""
    mask: Any = None
    """[H, W] foreground, where it is not 0."""
    depth: Any = None
    """[H, W] camera z in world units; 0 or NaN where it is not known."""
    weight: Any = None
    """[H, W] in 0..1: how much each pixel counts in a fit."""
    share: float = 1.0
    """How much the frame counts in a fit, 0 or more."""


@runtime_checkable
class FrameSource(Protocol):
    """What gives the pixels of frames by their index. An array [F, H, W, C] and a list of pictures are sources.

    A frame may be asked for from another thread than the one that made the source (never from two at a time), in any
    order, and again when neither `cache_mb` nor the scratch file had room for it: it then has to be the same.
    """

    def __len__(self) -> int:
        """Returns the number of frames."""
        ...

    def __getitem__(self, index: int, /) -> FrameData | np.ndarray:
        """Returns the frame, or its picture alone."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class GivenPicture:
    """Frame `index` of those given in Python."""

    frames: GivenFrames
    index: int

    @property
    def source(self) -> str:
        return f"{self.frames.name}#{self.index}"

    def read(self) -> Pixels:
        """Returns the frame's pixels, checked."""
        return self.frames.read(self.index)


class GivenFrames:
    """Pictures, what comes with them and the cameras that took them, in the order in which they were given."""

    def __init__(
        self,
        name: str,
        images: Any,
        cameras: Sequence[Camera],
        columns: Mapping[str, Any],
        share: Sequence[float] | None,
    ) -> None:
        """Args: see `Scene.from_frames`; `columns` has some of `COLUMNS`."""
        self.name, self.cameras = name, cameras
        count = len(cameras)
        self._images, self._once = _asked(images, count)
        self._columns = {key: _column(key, value, count) for key, value in columns.items() if value is not None}
        self._shares = _shares(share, count)
        self._lock = threading.Lock()
        self.alpha: bool | None = None
        """Whether pictures have alpha: all of them, or none; as the first says."""

    def begin(self, store: FrameStore) -> bool:
        """Returns whether there is alpha, as the first frame says.

        Frames that come only once are all put into the store, whose jobs say which key is whose.
        """
        keys = {job.picture.index: key for key, job in enumerate(store.jobs) if isinstance(job.picture, GivenPicture)}
        if self._once is None:
            store.get(keys[0])
        else:
            self._fill(store, keys, self._once)
        assert self.alpha is not None
        return self.alpha

    def _fill(self, store: FrameStore, keys: Mapping[int, int], items: Iterable[Any]) -> None:
        received = 0
        for item in items:
            if received == len(keys):
                raise UserError(f"{self.name}: expected {len(keys)} frames, one for each time, got more")
            store.put(keys[received], self._checked(item, received))
            received += 1
        if received != len(keys):
            raise UserError(f"{self.name}: expected {len(keys)} frames, one for each time, got {received}")

    def read(self, index: int) -> Pixels:
        """Returns the pixels of a frame; raises `UserError` when they are not what they should be."""
        assert self._images is not None, "what is given once is in the store"
        with self._lock:
            return self._checked(self._images(index), index)

    def _checked(self, item: Any, index: int) -> Pixels:
        data = item if isinstance(item, FrameData) else FrameData(item)
        where = f"{self.name}: frame {index}"
        given = {key: column[index] for key, column in self._columns.items()}
        twice = [key for key, value in given.items() if value is not None and getattr(data, key) is not None]
        if twice:
            raise UserError(f"{where} has its own {twice[0]}, and {twice[0]}= gives another; omit one of them")
        data = dataclasses.replace(data, **{key: value for key, value in given.items() if value is not None})
        camera = self.cameras[index]
        size = (camera.height, camera.width)
        image = _picture(data, where, size)
        has_alpha = image.shape[-1] == 4
        if self.alpha is None:
            self.alpha = has_alpha
        elif self.alpha != has_alpha:
            this, others = ("has alpha", "have none") if has_alpha else ("has no alpha", "have some")
            raise UserError(f"{where} {this}, frames before it {others}; give every frame alpha, or none")
        share = float(data.share) * (1.0 if self._shares is None else self._shares[index])
        if not (math.isfinite(share) and share >= 0):
            raise UserError(f"{where}: share must be 0 or more, got {share:g}")
        return Pixels(
            image,
            mask=None if data.mask is None else _mask(data.mask, where, size),
            depth=None if data.depth is None else _depth(data.depth, where, size),
            weight=None if data.weight is None else _weight(data.weight, where, size),
            share=share,
        )


def _asked(images: Any, count: int) -> tuple[Callable[[int], Any] | None, Iterable[Any] | None]:
    """Returns how a frame is asked for; or, second, what gives the frames one after the other."""
    if isinstance(images, str | Path):
        raise UserError(f"images must be image data, got the path {str(images)!r}; load_scene reads folders")
    if isinstance(images, np.ndarray) and images.ndim != 4:
        raise UserError(f"images must have shape [F, H, W, 3 or 4], got {list(images.shape)}; use images[None] for one")
    if isinstance(images, FrameSource) and not isinstance(images, Mapping):
        if len(images) != count:
            raise UserError(f"expected an image for each of the {count} times, got {len(images)}")
        return images.__getitem__, None
    if callable(images):
        return images, None
    if isinstance(images, Iterable) and not isinstance(images, Mapping):
        return None, images
    raise UserError(
        "images must be an array, a sequence, an iterable, a function of the frame's index or a FrameSource, got"
        f" {type(images).__name__}"
    )


def _column(name: str, value: Any, count: int) -> Any:
    if not isinstance(value, FrameSource) or isinstance(value, Mapping | str):
        raise UserError(f"{name} must have an array, or None, per frame, got {type(value).__name__}")
    if len(value) != count:
        raise UserError(f"expected {name} for each of the {count} frames, got {len(value)}")
    return value


def _shares(share: Sequence[float] | None, count: int) -> list[float] | None:
    if share is None:
        return None
    values = array_of(share, "share")
    if values.shape != (count,) or values.dtype.kind not in "fiu":
        raise UserError(f"share must be a number for each of the {count} frames, got shape {values.shape}")
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if len(bad):
        raise UserError(f"share must be 0 or more, got {values[bad[0]]:g} for frame {bad[0]}")
    return [float(value) for value in values]


def _picture(data: FrameData, where: str, size: tuple[int, int]) -> np.ndarray:
    """Returns uint8 [H, W, 3 | 4] that shares no memory with what was given."""
    image = array_of(data.image, where)
    if image.ndim != 3 or image.shape[-1] not in (3, 4):
        hint = "; use x.transpose(1, 2, 0)" if image.ndim == 3 and image.shape[0] in (3, 4) else ""
        raise UserError(f"{where}: an image must have shape [H, W, 3 or 4], got {list(image.shape)}{hint}")
    _check_size(image, where, "picture", size)
    image = bytes_of(image, where)
    alpha = None
    if data.alpha is not None:
        if image.shape[-1] == 4:
            raise UserError(f"{where}: the image has four channels and alpha is given too; omit one of them")
        alpha = array_of(data.alpha, where)
        alpha = bytes_of(alpha[..., 0] if alpha.ndim == 3 and alpha.shape[-1] == 1 else alpha, f"{where}: alpha")
        _check_map(alpha, where, "alpha", size)
    held = own_pages((*size, image.shape[-1] if alpha is None else 4))
    held[..., : image.shape[-1]] = image
    if alpha is not None:
        held[..., 3] = alpha
    return held


def _mask(value: Any, where: str, size: tuple[int, int]) -> np.ndarray:
    """Returns uint8 [H, W], 255 where the mask is not 0, as those of files are read."""
    mask = array_of(value, where)
    _check_map(mask, where, "mask", size)
    if mask.dtype.kind == "f" and not np.isfinite(mask).all():
        raise UserError(f"{where}: the mask holds NaN or Inf")
    return np.where(mask != 0, np.uint8(255), np.uint8(0))


def _depth(value: Any, where: str, size: tuple[int, int]) -> np.ndarray:
    """Returns float32 [H, W], 0 where depth is not known."""
    stated = array_of(value, where)
    _check_map(stated, where, "depth", size)
    if stated.dtype.kind not in "fiu":
        raise UserError(f"{where}: depth must be numbers, got {stated.dtype}")
    depth = own_pages(size, np.float32)
    depth[...] = stated
    depth[np.isnan(depth)] = 0.0
    if not (np.isfinite(depth).all() and depth.min() >= 0):
        raise UserError(f"{where}: depth must be finite and not negative, 0 or NaN where it is not known")
    return depth


def _weight(value: Any, where: str, size: tuple[int, int]) -> np.ndarray:
    """Returns float32 [H, W] in 0..1."""
    stated = array_of(value, where)
    _check_map(stated, where, "weight", size)
    if stated.dtype.kind not in "fb":
        raise UserError(f"{where}: weight must be floats in 0..1 or booleans, got {stated.dtype}")
    weight = own_pages(size, np.float32)
    weight[...] = stated
    if not (weight.min() >= 0 and weight.max() <= 1):
        raise UserError(f"{where}: weight must lie in 0..1, got {weight.min():g} to {weight.max():g}")
    return weight


def array_of(value: Any, where: str) -> np.ndarray:
    """Returns an array of numpy, of a tensor on any device too."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: expected an array of numbers, got {type(value).__name__} ({error})") from None
    if array.dtype.kind not in "fiub":
        raise UserError(f"{where}: expected an array of numbers, got {type(value).__name__}")
    return array


def bytes_of(values: np.ndarray, where: str) -> np.ndarray:
    """Returns uint8 of values that are uint8, or floats in 0..1."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind != "f":
        raise UserError(f"{where}: expected uint8 or floats in 0..1, got {values.dtype}")
    if values.size == 0:
        return values.astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UserError(f"{where}: holds NaN or Inf")
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        hint = "divide by 255, or give uint8" if high > 1.5 else "clip them"
        raise UserError(f"{where}: floats must lie in 0..1, got {low:g} to {high:g}; {hint}")
    return (np.clip(values, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _check_map(array: np.ndarray, where: str, what: str, size: tuple[int, int]) -> None:
    if array.ndim != 2:
        raise UserError(f"{where}: {what} must have shape [H, W], got {list(array.shape)}")
    _check_size(array, where, what, size)


def _check_size(array: np.ndarray, where: str, what: str, size: tuple[int, int]) -> None:
    if array.shape[:2] != size:
        raise UserError(
            f"{where}: the {what} is {array.shape[1]}x{array.shape[0]}, its camera says {size[1]}x{size[0]}; use"
            " camera.resized, or resize it"
        )
