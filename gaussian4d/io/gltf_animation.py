"""Animations of glTF nodes: where each node is at every key (glTF 2.0 specification, section 3.11 and appendix C)."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np

from ..errors import UserError
from .glb import Document, node_transform, transform_matrices
from .packed import broken

_WIDTHS = {"translation": 3, "rotation": 4, "scale": 3}
_MOST_KEYS = 1 << 19
# A cubic is followed in so many straight pieces between two keys.
_PIECES = 8
# How long before a key of a stepping sampler its old value ends, as a share of the animation.
_STEP = 1e-4


@dataclasses.dataclass
class _Channel:
    times: np.ndarray
    """[K] seconds, ascending."""
    values: np.ndarray
    """[K, W], of cubics [K, 3, W]: slope before, value, slope after."""
    interpolation: str


class Animation:
    """The first animation of a document: its instants, and the transforms of the nodes at them."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._channels: dict[int, dict[str, _Channel]] = {}
        animations = document.items("animations")
        if len(animations) > 1:
            warnings.warn(f"{document.path} has {len(animations)} animations, the first is read", stacklevel=4)
        if animations:
            self._read(document.item("animations", 0))
        self.times = self._instants()
        """[T] seconds, from 0 on; [0.] without an animation of places."""

    @property
    def seconds(self) -> float:
        """How long the animation lasts."""
        return float(self.times[-1])

    def moves(self, index: int) -> bool:
        """Returns whether node `index` itself is moved."""
        return index in self._channels

    def matrices(self, index: int, node: dict[str, Any]) -> np.ndarray:
        """Returns T_parent_node [T, 4, 4] of a node that `moves`, at all instants."""
        translation, rotation, scale = (
            np.broadcast_to(value, (len(self.times), len(value))) for value in node_transform(self._document, node)
        )
        channels = self._channels[index]
        if "translation" in channels:
            translation = _sampled(channels["translation"], self.times, turning=False)
        if "rotation" in channels:
            rotation = _sampled(channels["rotation"], self.times, turning=True)
        return transform_matrices(translation, rotation, scale)

    def _read(self, animation: dict[str, Any]) -> None:
        channels, samplers = animation.get("channels", []), animation.get("samplers", [])
        if not isinstance(channels, list) or not isinstance(samplers, list):
            raise self._broken("the channels or samplers of an animation are no list")
        keys = 0
        for channel in channels:
            target = channel.get("target") if isinstance(channel, dict) else None
            if not isinstance(target, dict) or "node" not in target or target.get("path") == "weights":
                continue
            index, path = target["node"], str(target.get("path"))
            if "matrix" in self._document.item("nodes", index) or path not in _WIDTHS:
                raise self._broken(f"an animation moves the {path[:40]!r} of node {index}, which it cannot")
            number = channel.get("sampler")
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(samplers):
                raise self._broken(f"an animation has no sampler {number!r}")
            found = self._channel(samplers[number], _WIDTHS[path])
            keys += len(found.times)
            if keys > _MOST_KEYS:
                raise self._broken(f"its animation has more than {_MOST_KEYS:,} keys")
            if path == "scale":
                if np.ptp(found.values, axis=0).max() > 1e-6 * np.abs(found.values).max():
                    raise UserError(
                        f"{self._document.path}: an animation makes node {index} larger or smaller, which is not read"
                    )
                continue
            self._channels.setdefault(index, {})[path] = found

    def _channel(self, sampler: Any, width: int) -> _Channel:
        if not isinstance(sampler, dict):
            raise self._broken("a sampler of an animation is no object")
        times = self._document.accessor(sampler.get("input"), 1)[:, 0].astype(np.float64)
        values = self._document.accessor(sampler.get("output"), width).astype(np.float64)
        interpolation = sampler.get("interpolation", "LINEAR")
        if interpolation not in ("LINEAR", "STEP", "CUBICSPLINE"):
            raise self._broken(f"an animation interpolates by {str(interpolation)[:40]!r}")
        each = 3 if interpolation == "CUBICSPLINE" else 1
        if len(times) == 0 or len(values) != each * len(times):
            raise self._broken(f"an animation has {len(values)} values for {len(times)} keys")
        if not (np.isfinite(times).all() and np.isfinite(values).all()) or times[0] < 0 or (np.diff(times) <= 0).any():
            raise self._broken("the keys of an animation do not ascend from 0 on, or hold NaN")
        return _Channel(times, values if each == 1 else values.reshape(len(times), each, width), interpolation)

    def _instants(self) -> np.ndarray:
        """Returns the keys of all channels, 0, and those that straight lines between them need besides."""
        found = [channel for channels in self._channels.values() for channel in channels.values()]
        end = max((channel.times[-1] for channel in found), default=0.0)
        keys = [np.zeros(1), *(channel.times for channel in found)]
        for channel in found:
            if channel.interpolation == "STEP":
                keys.append(channel.times[1:] - _STEP * end)
            if channel.interpolation == "CUBICSPLINE":
                shares = np.arange(1, _PIECES) / _PIECES
                keys.append((channel.times[:-1, None] + np.diff(channel.times)[:, None] * shares).reshape(-1))
        times = np.unique(np.concatenate(keys))
        times = times[times >= 0.0]
        # Float32 keys of one instant can differ in their last digit.
        return times[np.concatenate([[True], np.diff(times) > 1e-6 * end])] if end > 0 else times[:1]

    def _broken(self, problem: str) -> UserError:
        return broken(self._document.path, "glTF", problem)


def _sampled(channel: _Channel, times: np.ndarray, turning: bool) -> np.ndarray:
    """Returns the values [T, W] of a channel at `times`, held before its first and after its last key."""
    keys, values = channel.times, channel.values
    inside = np.clip(times, keys[0], keys[-1])
    after = np.clip(np.searchsorted(keys, inside, side="right"), 1, max(len(keys) - 1, 1))
    before = after - 1
    if len(keys) == 1:
        return np.broadcast_to(values[0, 1] if values.ndim == 3 else values[0], (len(times), values.shape[-1]))
    span = keys[after] - keys[before]
    share = ((inside - keys[before]) / span)[:, None]
    if channel.interpolation == "STEP":
        return np.where(share >= 1.0, values[after], values[before])
    if channel.interpolation == "CUBICSPLINE":
        square, cube = share**2, share**3
        return (
            (2 * cube - 3 * square + 1) * values[before, 1]
            + (cube - 2 * square + share) * span[:, None] * values[before, 2]
            + (3 * square - 2 * cube) * values[after, 1]
            + (cube - square) * span[:, None] * values[after, 0]
        )
    if not turning:
        return (1.0 - share) * values[before] + share * values[after]
    return _slerp(values[before], values[after], share)


def _slerp(a: np.ndarray, b: np.ndarray, share: np.ndarray) -> np.ndarray:
    a, b = (quats / np.maximum(np.linalg.norm(quats, axis=1, keepdims=True), 1e-12) for quats in (a, b))
    cosine = (a * b).sum(axis=1, keepdims=True)
    b, angle = np.where(cosine < 0.0, -b, b), np.arccos(np.minimum(np.abs(cosine), 1.0))
    near = angle < 1e-6
    sine = np.where(near, 1.0, np.sin(angle))
    first = np.where(near, 1.0 - share, np.sin((1.0 - share) * angle) / sine)
    return first * a + np.where(near, share, np.sin(share * angle) / sine) * b
