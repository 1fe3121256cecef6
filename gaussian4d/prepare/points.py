"""Sparse points of several instants, with their time, from matches between cameras whose poses are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial import KDTree

from ..conventions import frame_times, invert_rigid
from ..data.lens import undistorted_lens
from ..data.records import PointCloud
from ..offsets import offset_for
from .calibrate import PlacedCamera
from .geometry import sampson_distance, triangulate
from .matching import Matches
from .undistort import undistort_pixels

# Largest distances, as shares of a picture's larger side: 2 pixels of a 1000 pixel picture.
_MOST_EPIPOLAR = 0.002
_MOST_REPROJECTION = 0.002
_LEAST_DEGREES = 2.0

# A point is still when the pictures at its place are, on average over its cameras, this near (of 255) to their median
# over all instants. Sensor noise and compression stay well below.
_STILL_LEVELS = 14.0
# Still points of several instants nearer than this share of their distance to the cameras are one.
_SAME = 0.003


# A fit starts from a scene's own points alone where it has any; from fewer than these it starts worse than from what it
# finds itself.
LEAST_POINTS = 1000
_LEAST_PER_CAMERA = 50


@dataclasses.dataclass(frozen=True)
class Triangulated:
    """Points and how well each camera sees them where they are."""

    points: PointCloud | None
    """None when there are too few to be of use."""
    rms: dict[str, float]
    """Root mean square reprojection error in pixels, cameras that see points only."""
    counts: dict[str, int]
    """Points seen per camera."""


def triangulate_instants(
    cameras: Mapping[str, PlacedCamera],
    matches: Matches,
    colours: Mapping[tuple[str, int], np.ndarray],
    changes: Mapping[tuple[str, int], np.ndarray],
    count: int,
) -> Triangulated:
    """Returns the points of all instants of `matches`.

    Args:
        cameras: Known poses and lenses.
        matches: Not verified; those that contradict the poses are left out.
        colours: (camera, position) -> uint8 [n, 3] of every keypoint.
        changes: (camera, position) -> [n] how far, in levels of 255, every keypoint's place is from its usual colour.
        count: Instants of the clip, for the clip time of points.

    Points that stand still (where pictures do not change over the instants) appear once, with time NaN.
    """
    K, T, pixels = {}, {}, {}
    sizes = {name: max(camera.lens.width, camera.lens.height) for name, camera in cameras.items()}
    for name, camera in cameras.items():
        K[name], T[name] = undistorted_lens(camera.lens).K, camera.viewmat
        left, top = (camera.video.left, camera.video.top) if camera.video is not None else (0, 0)
        for (owner, position), found in matches.keypoints.items():
            if owner == name:
                pixels[name, position] = undistort_pixels(camera.lens, found - [left, top])
    times = frame_times(count)[matches.instants]
    errors: dict[str, list[float]] = {name: [] for name in cameras}
    xyz, rgb, at, change = [], [], [], []
    for position in range(len(matches.instants)):
        for track in _tracks(position, matches, pixels, K, T, sizes):
            point = _point(track, position, pixels, K, T, sizes)
            if point is None:
                continue
            place, misses = point
            xyz.append(place)
            rgb.append(np.mean([colours[name, position][index] for name, index in track.items()], axis=0))
            at.append(times[position])
            change.append(np.mean([changes[name, position][index] for name, index in track.items()]))
            for name, miss in misses.items():
                errors[name].append(miss)
    rms = {name: float(np.sqrt(np.mean(np.square(misses)))) for name, misses in errors.items() if misses}
    counts = {name: len(misses) for name, misses in errors.items()}
    if min(counts.values()) < _LEAST_PER_CAMERA:
        return Triangulated(None, rms, counts)
    centres = np.stack([invert_rigid(pose)[:3, 3] for pose in T.values()])
    cloud = _merged(np.array(xyz), np.array(rgb), np.array(at), np.array(change), centres)
    return Triangulated(cloud if len(cloud) >= LEAST_POINTS else None, rms, counts)


def _tracks(
    position: int,
    matches: Matches,
    pixels: Mapping[tuple[str, int], np.ndarray],
    K: Mapping[str, np.ndarray],
    T: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
) -> list[dict[str, int]]:
    """Returns {camera: keypoint} of the keypoints of one instant that matches join; one keypoint per camera."""
    parent: dict[tuple[str, int], tuple[str, int]] = {}

    def root(node: tuple[str, int]) -> tuple[str, int]:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for (a, b, at), found in matches.matches.items():
        if at != position:
            continue
        x, y = pixels[a, position][found[:, 0]], pixels[b, position][found[:, 1]]
        T_b_a = T[b] @ invert_rigid(T[a])
        near = sampson_distance(K[a], K[b], T_b_a, x, y) <= _MOST_EPIPOLAR * max(sizes[a], sizes[b])
        for i, j in found[near]:
            first, second = root((a, int(i))), root((b, int(j)))
            if first != second:
                parent[first] = second
    groups: dict[tuple[str, int], dict[str, int]] = {}
    spoilt = set()
    for node in list(parent):
        group = groups.setdefault(root(node), {})
        # Two keypoints of one camera in a group: something is matched wrongly, and nothing tells what.
        if group.setdefault(node[0], node[1]) != node[1]:
            spoilt.add(root(node))
    return [group for key, group in groups.items() if key not in spoilt and len(group) >= 2]


def _point(
    track: Mapping[str, int],
    position: int,
    pixels: Mapping[tuple[str, int], np.ndarray],
    K: Mapping[str, np.ndarray],
    T: Mapping[str, np.ndarray],
    sizes: Mapping[str, int],
) -> tuple[np.ndarray, dict[str, float]] | None:
    """Returns the point [3] of a track and its reprojection errors in pixels, None when it is not to be relied on."""
    names = list(track)
    seen = np.stack([pixels[name, position][track[name]] for name in names])
    if not np.isfinite(seen).all():
        return None
    X = triangulate(np.stack([K[name] @ T[name][:3] for name in names]), seen)
    if not np.isfinite(X).all():
        return None
    misses = {}
    rays = []
    for name, pixel in zip(names, seen):
        camera = T[name][:3, :3] @ X + T[name][:3, 3]
        if camera[2] <= 0:
            return None
        miss = float(np.linalg.norm((K[name] @ camera)[:2] / camera[2] - pixel))
        if miss > _MOST_REPROJECTION * sizes[name]:
            return None
        misses[name] = miss
        ray = X - invert_rigid(T[name])[:3, 3]
        rays.append(ray / np.linalg.norm(ray))
    cosine = (np.stack(rays) @ np.stack(rays).T).min()
    if cosine > np.cos(np.radians(_LEAST_DEGREES)):
        return None
    return X, misses


def _merged(xyz: np.ndarray, rgb: np.ndarray, at: np.ndarray, change: np.ndarray, centres: np.ndarray) -> PointCloud:
    """Returns the points with those that stand still put together, once each and without a time."""
    still = change <= _STILL_LEVELS if len(np.unique(at)) >= 3 else np.zeros(len(xyz), dtype=bool)
    keep = ~still
    rows = np.flatnonzero(still)
    if len(rows):
        reach = _SAME * np.median(np.linalg.norm(xyz[rows, None] - centres[None], axis=2), axis=1)
        near = KDTree(xyz[rows]).query_ball_point(xyz[rows], reach)
        taken = np.zeros(len(rows), dtype=bool)
        for k, row in enumerate(rows):
            if not taken[k]:
                keep[row] = True
                taken[near[k]] = True
    when = np.where(still, np.nan, at)
    colours = np.clip(np.round(rgb), 0, 255).astype(np.uint8)
    # On a map 32-bit floats would be half metres apart.
    held = xyz[keep] if np.any(offset_for(centres)) else xyz[keep].astype(np.float32)
    return PointCloud(held, colours[keep], when[keep])


def usual_picture(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the median uint8 [H, W, 3] of the pictures of one camera."""
    return np.median(np.stack(pictures), axis=0).astype(np.uint8)


def keypoint_colours(picture: np.ndarray, keypoints: np.ndarray) -> np.ndarray:
    """Returns the colours [n, 3] of a picture uint8 [H, W, 3] at pixels [n, 2], centres at +0.5."""
    column = np.clip(keypoints[:, 0].astype(int), 0, picture.shape[1] - 1)
    row = np.clip(keypoints[:, 1].astype(int), 0, picture.shape[0] - 1)
    return picture[row, column]
