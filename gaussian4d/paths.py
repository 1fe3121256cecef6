"""Camera paths: where a rendered video looks from, and at which clip time. A path is a list of (camera, time).

`orbit` and `spiral` are derived from the cameras of the scene, because a fit is only as good as its views: an orbit
goes all the way round only where cameras stand all the way round, and otherwise swings inside the arc they cover.
Times never leave [0, 1].
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence

import numpy as np

from .cameras import Camera
from .errors import UserError
from .keyframes import KeyframePath

CameraPath = list[tuple[Camera, float]]

# The largest angle between neighbouring cameras, in degrees, that an orbit still crosses. In the middle of a wider one
# hardly anything has been seen by two cameras, and a picture from there is invention: with 44 and 49 degrees between
# two of four cameras of real rooms it was all floaters.
_MAX_GAP = 42.0
# A camera that stands alone still swings this many degrees to both sides, or the video would be a still.
_MIN_SWING = 6.0


@dataclasses.dataclass(frozen=True)
class Rig:
    """How the cameras of a scene stand around what they look at. World units, degrees."""

    center: np.ndarray
    """[3] the point closest to all viewing axes."""
    up: np.ndarray
    """[3] unit."""
    axes: np.ndarray
    """[2, 3] unit, perpendicular to `up`: azimuth 0 and azimuth 90 degrees."""
    azimuths: np.ndarray
    """[C] of each camera."""
    start: float
    """Azimuth in the middle of the covered arc."""
    arc: float
    """Covered arc, 360 when cameras stand all the way round."""
    radius_curve: np.ndarray
    """Polynomial, highest power first, of the horizontal distance from the centre; see `place`."""
    height_curve: np.ndarray
    """The same of the height above the centre."""

    def place(self, azimuth: float) -> tuple[float, float]:
        """Returns (radius, height) of the orbit at `azimuth` degrees.

        All the way round they are the median camera's; along an arc they follow a smooth curve through its cameras,
        whose variable runs from -1 to 1 over the arc.
        """
        along = 0.0 if self.arc >= 360.0 or self.arc == 0.0 else (azimuth - self.start) / (self.arc / 2)
        along = min(max(along, -1.0), 1.0)
        return float(np.polyval(self.radius_curve, along)), float(np.polyval(self.height_curve, along))

    @property
    def distance(self) -> float:
        """How far from the centre the orbit starts."""
        return math.hypot(*self.place(self.start))

    def position(self, azimuth: float) -> np.ndarray:
        """Returns the point [3] of the orbit at `azimuth` degrees."""
        angle = math.radians(azimuth)
        radius, height = self.place(azimuth)
        around = math.cos(angle) * self.axes[0] + math.sin(angle) * self.axes[1]
        return self.center + radius * around + height * self.up


def clip_times(count: int, span: tuple[float, float] = (0.0, 1.0)) -> np.ndarray:
    """Returns times [count] that sweep the clip once, from the first to the last of `span`."""
    return np.linspace(*span, count) if count > 1 else np.full(count, span[0])


def within(path: CameraPath, span: tuple[float, float]) -> CameraPath:
    """Returns a path that plays no time that was not recorded; `span` is the first and the last that was.

    A path that leaves it is taken as one that sweeps 0 to 1: what it plays there is put between first and last.
    """
    first, last = span
    if all(first - 1e-9 <= time <= last + 1e-9 for _, time in path):
        return path
    return [(camera, first + (last - first) * time) for camera, time in path]


def rig_from_cameras(
    cameras: Iterable[Camera], *, up: np.ndarray | None = None, center: np.ndarray | None = None
) -> Rig:
    """Returns how `cameras` stand around the scene; raises `UserError` when there is none.

    `up` and `center` are found from the cameras where they are not given.
    """
    rigged = list(cameras)
    if not rigged:
        raise UserError("a camera path needs at least one camera of the scene, got none")
    positions = np.stack([camera.position for camera in rigged])
    forwards = np.stack([camera.forward for camera in rigged])
    center = _closest_point_to_axes(positions, forwards) if center is None else np.asarray(center, dtype=np.float64)
    up = _up(rigged) if up is None else np.asarray(up, dtype=np.float64)
    offsets = positions - center
    heights = offsets @ up
    flat = offsets - heights[:, None] * up
    radii = np.linalg.norm(flat, axis=1)
    first = flat[np.argmax(radii)]
    if np.linalg.norm(first) < 1e-9:
        first = np.eye(3)[np.argmin(np.abs(up))]
        first = first - (first @ up) * up
    first = first / np.linalg.norm(first)
    axes = np.stack([first, np.cross(up, first)])
    azimuths = np.degrees(np.arctan2(flat @ axes[1], flat @ axes[0]))
    covered, start, arc = _covered_arc(azimuths)
    # Cameras straight above have no azimuth to circle on; a narrow circle round the vertical serves them.
    radii = np.maximum(radii, 0.1 * float(np.median(np.linalg.norm(offsets, axis=1))))
    if arc >= 360.0 or arc == 0.0:
        curves = [np.array([np.median(values[covered])]) for values in (radii, heights)]
    else:
        along = ((azimuths[covered] - start + 180.0) % 360.0 - 180.0) / (arc / 2)
        degree = min(2, len(np.unique(along.round(6))) - 1)
        curves = [np.polyfit(along, values[covered], degree) for values in (radii, heights)]
    return Rig(center, up, axes, azimuths, start, arc, *curves)


def cameras_around(points: np.ndarray, *, width: int = 640, height: int = 480, count: int = 12) -> list[Camera]:
    """Returns `count` cameras in a level ring that sees `points` [N, 3], +Z up; strays are not made room for."""
    if len(points) == 0:
        points = np.zeros((1, 3))
    center = np.median(points, axis=0)
    reach = float(np.percentile(np.linalg.norm(points - center, axis=1), 90)) or 1.0
    return ring_around(center, 2.16 * reach, np.array([0.0, 0.0, 1.0]), width=width, height=height, count=count)


def ring_around(
    center: np.ndarray, distance: float, up: np.ndarray, *, width: int = 640, height: int = 480, count: int = 12
) -> list[Camera]:
    """Returns `count` cameras that look at `center` [3] from `distance`, in a ring perpendicular to `up` [3].

    The lens sees 58 degrees from top to bottom.
    """
    up = np.asarray(up, dtype=np.float64)
    # The axis after the vertical one, so that with +z up the ring begins on +x.
    side = np.eye(3)[(int(np.argmax(np.abs(up))) + 1) % 3]
    side = side - (side @ up) * up
    side = side / np.linalg.norm(side)
    other = np.cross(up, side)
    ring = []
    for index in range(count):
        angle = 2 * math.pi * index / count
        level = math.cos(angle) * side + math.sin(angle) * other
        place = np.asarray(center, dtype=np.float64) + distance * (0.96 * level + 0.28 * up)
        ring.append(
            Camera.look_at(place, center, up, width=width, height=height, focal=0.9 * height, id=f"around_{index}")
        )
    return ring


def orbit_path(
    cameras: Iterable[Camera],
    count: int,
    *,
    width: int | None = None,
    height: int | None = None,
    up: np.ndarray | None = None,
    center: np.ndarray | None = None,
) -> CameraPath:
    """Returns `count` cameras that circle what `cameras` look at, while the time sweeps the clip once.

    Cameras that stand all the way round give one full circle whose end meets its start; cameras that cover only an arc
    give one swing from its middle to both ends and back. The lens is the median one. `up` and `center` as in
    `rig_from_cameras`.
    """
    rigged = list(cameras)
    rig = rig_from_cameras(rigged, up=up, center=center)
    phases = np.arange(count) / max(count, 1)
    if rig.arc >= 360.0:
        azimuths = rig.start + 360.0 * phases
    else:
        azimuths = rig.start + max(rig.arc / 2, _MIN_SWING) * np.sin(2 * np.pi * phases)
    lens = _Lens.median(rigged, width, height)
    return [
        (lens.look(rig.position(float(azimuth)), rig.center, rig.up, f"orbit_{index:04d}"), float(time))
        for index, (azimuth, time) in enumerate(zip(azimuths, clip_times(count)))
    ]


def spiral_path(
    cameras: Iterable[Camera],
    count: int,
    *,
    width: int | None = None,
    height: int | None = None,
    up: np.ndarray | None = None,
    center: np.ndarray | None = None,
) -> CameraPath:
    """Returns `count` cameras that wind twice around the most central camera, while the time sweeps the clip once.

    They keep looking at the centre of the rig and stay within a sixth of the distance to it, so they see little that
    the central camera does not.
    """
    rigged = list(cameras)
    rig = rig_from_cameras(rigged, up=up, center=center)
    positions = np.stack([camera.position for camera in rigged])
    spread = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    middle = rigged[int(spread.sum(axis=1).argmin())]
    distance = float(np.linalg.norm(rig.center - middle.position))
    right, up, forward = middle.viewmat[0, :3], middle.up, middle.forward
    lens = _Lens.median(rigged, width, height)
    path: CameraPath = []
    for index, (phase, time) in enumerate(zip(np.arange(count) / max(count, 1), clip_times(count))):
        angle = 4 * math.pi * phase
        reach = distance / 6
        offset = math.cos(angle) * right + 0.6 * math.sin(angle) * up + 0.5 * math.sin(angle / 2) * forward
        camera = lens.look(middle.position + reach * offset, rig.center, rig.up, f"spiral_{index:04d}")
        path.append((camera, float(time)))
    return path


def load_path(
    file: str | os.PathLike[str],
    count: int | None = None,
    *,
    width: int | None = None,
    height: int | None = None,
    offset: np.ndarray | None = None,
    span: tuple[float, float] = (0.0, 1.0),
) -> CameraPath:
    """Returns the camera path of a JSON file of keyframes (see `keyframes`), interpolated to `count` cameras.

    Args:
        file: The file.
        count: Pictures; None as the file says.
        width: Of the pictures; None as the file says.
        height: Of the pictures; None as the file says.
        offset: [3] of the model or scene that the cameras are for; None is that of the recorded world, zero.
        span: First and last clip time that was recorded: what keyframes without times are spread over.
    """
    path = KeyframePath.load(file).relative_to(np.zeros(3) if offset is None else offset).over(span)
    return path.cameras(count, width=width, height=height)


def retimed(path: CameraPath, start: float, stop: float) -> CameraPath:
    """Returns the path with times that go evenly from `start` to `stop`; equal ones stop the time (bullet time)."""
    for time in (start, stop):
        if not 0.0 <= time <= 1.0:
            raise UserError(f"times of a path are clip times in [0, 1], got {time:g}")
    return [(camera, float(start + (stop - start) * share)) for (camera, _), share in zip(path, clip_times(len(path)))]


@dataclasses.dataclass(frozen=True)
class _Lens:
    """A picture size and a focal length in its pixels."""

    width: int
    height: int
    focal: float

    @classmethod
    def median(cls, cameras: Sequence[Camera], width: int | None, height: int | None) -> _Lens:
        """Returns the median lens for pictures of the asked size; one given side keeps the proportions."""
        first = cameras[0]
        if width is None and height is None:
            width, height = first.width, first.height
        elif width is None:
            assert height is not None
            width = max(round(height * first.width / first.height), 1)
        elif height is None:
            height = max(round(width * first.height / first.width), 1)
        # With other proportions, everything the recorded picture shows stays in view.
        focal = float(np.median([c.K[1, 1] * min(width / c.width, height / c.height) for c in cameras]))
        return cls(width, height, focal)

    def look(self, position: np.ndarray, target: np.ndarray, up: np.ndarray, id: str) -> Camera:
        return Camera.look_at(position, target, up, width=self.width, height=self.height, focal=self.focal, id=id)


def _closest_point_to_axes(positions: np.ndarray, forwards: np.ndarray) -> np.ndarray:
    """Returns the point [3] with the least squared distance to all viewing axes.

    Nearly parallel axes meet far away or behind the cameras; there, and for a single camera, a point one baseline
    ahead of the cameras is taken.
    """
    mean = positions.mean(axis=0)
    ahead = forwards.mean(axis=0)
    projectors = np.eye(3) - forwards[:, :, None] * forwards[:, None, :]
    A = projectors.sum(axis=0)
    if np.linalg.eigvalsh(A)[0] > 1e-3 * len(positions):
        point = np.linalg.solve(A, (projectors @ positions[:, :, None]).sum(axis=0)[:, 0])
        in_front = ((point - positions) * forwards).sum(axis=1) > 0
        if in_front.mean() > 0.5:
            return point
    baseline = float(np.linalg.norm(positions - mean, axis=1).max()) or 1.0
    length = float(np.linalg.norm(ahead))
    direction = ahead / length if length > 1e-6 else forwards[0]
    return mean + max(3.0 * baseline, 1e-3) * direction


def _up(cameras: Sequence[Camera]) -> np.ndarray:
    """Returns the unit direction [3] that is up for the cameras together.

    The mean of the cameras' own up directions leans when they all look down from one side. Cameras that are held level
    have right vectors perpendicular to the true up, so where those vectors span a plane its normal is taken.
    """
    mean = np.mean([camera.up for camera in cameras], axis=0)
    if np.linalg.norm(mean) < 1e-3:
        mean = cameras[0].up
    mean = mean / np.linalg.norm(mean)
    rights = np.stack([camera.viewmat[0, :3] for camera in cameras])
    values, vectors = np.linalg.eigh(rights.T @ rights / len(rights))
    normal = vectors[:, 0] * (1.0 if vectors[:, 0] @ mean > 0 else -1.0)
    is_plane = values[1] > 0.02 and values[0] < 0.1 * values[1]
    return normal if is_plane and normal @ mean > 0.5 else mean


def _covered_arc(azimuths: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Returns (cameras, middle, width) of the arc to orbit in: indices of its cameras, and degrees.

    Gaps wider than `_MAX_GAP` part the cameras into groups; the group with the most cameras is taken, of equal ones the
    narrowest, which is seen best. Without such a gap the arc is the full circle.
    """
    order = np.argsort(azimuths % 360.0)
    ordered = azimuths[order] % 360.0
    gaps = np.diff(np.append(ordered, ordered[0] + 360.0))
    breaks = np.flatnonzero(gaps > _MAX_GAP)
    if len(breaks) == 0:
        return np.arange(len(azimuths)), float(azimuths[0]), 360.0
    groups = []
    for index, end in enumerate(breaks):
        first = (breaks[index - 1] + 1) % len(ordered)
        members = np.arange(first, first + (end - first) % len(ordered) + 1) % len(ordered)
        groups.append((len(members), -float((ordered[end] - ordered[first]) % 360.0), first, members))
    _, negative_width, first, members = max(groups, key=lambda group: group[:2])
    return order[members], float(ordered[first]) - negative_width / 2, -negative_width
