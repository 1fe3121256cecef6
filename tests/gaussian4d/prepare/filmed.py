"""A small textured room with something moving in it, filmed by cameras that start when they like."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from gaussian4d import Camera
from gaussian4d.toys.motions import translation


@dataclasses.dataclass(frozen=True)
class Restless:
    """Moves as people do: short gestures and rests at irregular times. `time` is in seconds."""

    reach: float
    seed: int
    word: str = "fidgets"

    def T(self, time: float) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        starts = np.cumsum(rng.uniform(0.25, 0.9, 24)) - 0.5
        lengths = rng.uniform(0.15, 0.45, 24)
        places = np.concatenate([np.zeros((1, 3)), rng.uniform(-1, 1, (24, 3))]) * self.reach
        x = np.clip((time - starts) / lengths, 0.0, 1.0)
        done = x * x * (3 - 2 * x)
        return translation(places[0] + (done[:, None] * np.diff(places, axis=0)).sum(axis=0))


@dataclasses.dataclass(frozen=True)
class Shot:
    """How one camera filmed: its place, when it started (seconds of the world), at what rate."""

    camera: Camera
    start: float
    fps: float
    count: int


@dataclasses.dataclass(frozen=True)
class Room:
    """A floor and two walls with an unrepetitive texture, boulders on the floor, and two balls that fidget."""

    balls: tuple[tuple[float, tuple[float, float, float], Restless], ...] = (
        (0.4, (0.0, 0.0, 0.3), Restless(0.5, 1)),
        (0.25, (0.8, 0.6, 0.0), Restless(0.4, 2)),
    )
    """(radius, rest position, motion)."""
    textured: bool = True

    def render(self, camera: Camera, times: Sequence[float]) -> list[np.ndarray]:
        """Returns what the camera sees at `times` (seconds), float [H, W, 3] in 0..255."""
        x, y = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
        pixels = np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3)
        rays = pixels @ np.linalg.inv(camera.K).T @ camera.viewmat[:3, :3]
        still, depth = np.full((len(rays), 3), 60.0), np.full(len(rays), np.inf)
        for axis, level in ((2, -0.6), (0, -2.5), (1, -2.5)):
            t = (level - camera.position[axis]) / np.where(np.abs(rays[:, axis]) < 1e-9, 1e-9, rays[:, axis])
            hit = (t > 0) & (t < depth)
            place = camera.position + t[hit, None] * rays[hit]
            flat = np.delete(place, axis, axis=1)
            still[hit] = self._texture(flat, axis)
            depth[hit] = t[hit]
        for k in range(12):
            rng = np.random.default_rng(50 + k)
            centre = np.array([*rng.uniform(-2.2, 1.6, 2), -0.6])
            self._ball(camera, rays, still, depth, float(rng.uniform(0.15, 0.4)), centre, 3 + k)
        frames = []
        for time in times:
            colour, near = still.copy(), depth.copy()
            for number, (radius, rest, motion) in enumerate(self.balls):
                centre = np.array(rest) + motion.T(time)[:3, 3]
                self._ball(camera, rays, colour, near, radius, centre, 20 + number)
            frames.append(colour.reshape(camera.height, camera.width, 3))
        return frames

    def _ball(
        self, camera: Camera, rays: np.ndarray, colour: np.ndarray, depth: np.ndarray, radius: float,
        centre: np.ndarray, seed: int,
    ) -> None:  # fmt: skip
        """Draws a ball over `colour` [n, 3] where it is nearer than `depth` [n]; changes both."""
        off = camera.position - centre
        a, half_b, c = (rays * rays).sum(1), rays @ off, off @ off - radius**2
        root = half_b**2 - a * c
        t = np.where(root > 0, (-half_b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
        hit = (t > 0) & (t < depth)
        place = camera.position + t[hit, None] * rays[hit] - centre
        colour[hit] = self._texture(place[:, :2] + 0.7 * place[:, 2:], seed)
        depth[hit] = t[hit]

    def _texture(self, at: np.ndarray, seed: int) -> np.ndarray:
        """Returns colours [n, 3] at surface coordinates [n, 2]: smooth noise of several sizes, flat grey untextured."""
        if not self.textured:
            return np.full((len(at), 3), 80.0 + 20 * (seed % 5))
        rng = np.random.default_rng(seed)
        total = np.full((len(at), 3), 128.0)
        for cells, strength in ((24, 45.0), (60, 40.0), (150, 30.0)):
            grid = rng.uniform(-1, 1, (cells, cells, 3))
            u = np.clip((at / 8.0 + 0.5) * (cells - 1), 0, cells - 1.001)
            i, f = u.astype(int), u % 1.0
            f = f * f * (3 - 2 * f)
            top = grid[i[:, 0], i[:, 1]] * (1 - f[:, 1:]) + grid[i[:, 0], i[:, 1] + 1] * f[:, 1:]
            low = grid[i[:, 0] + 1, i[:, 1]] * (1 - f[:, 1:]) + grid[i[:, 0] + 1, i[:, 1] + 1] * f[:, 1:]
            total += strength * (top * (1 - f[:, :1]) + low * f[:, :1])
        return np.clip(total, 0, 255)


def around(angles: Sequence[float], size: tuple[int, int] = (64, 48), distance: float = 4.0) -> list[Camera]:
    """Returns cameras at azimuths in degrees, looking at the middle from above."""
    cameras = []
    for k, angle in enumerate(angles):
        a = np.radians(angle)
        eye = np.array([distance * np.cos(a), distance * np.sin(a), 1.5 + 0.2 * (k % 3)])
        up = np.array([0.0, 0.0, 1.0])
        cameras.append(
            Camera.look_at(eye, np.zeros(3), up, width=size[0], height=size[1], focal=1.1 * size[0], id=f"cam{k + 1}")
        )
    return cameras


def film(room: Room, shot: Shot) -> list[np.ndarray]:
    """Returns the frames uint8 [H, W, 3] of a shot, with the noise of a sensor."""
    rng = np.random.default_rng(int(1000 * shot.start) + shot.count)
    pictures = room.render(shot.camera, [shot.start + k / shot.fps for k in range(shot.count)])
    return [np.clip(p + rng.normal(0, 2, p.shape), 0, 255).astype(np.uint8) for p in pictures]


def write_mp4(path: Path, frames: Sequence[np.ndarray], fps: float, sound: np.ndarray | None = None) -> None:
    """Writes H.264, with `sound` (float [n] in -1..1 at 8 kHz) as AAC where given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "20"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        track = container.add_stream("aac", rate=8000, layout="mono") if sound is not None else None
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
        if track is not None and sound is not None:
            for begin in range(0, len(sound), 1024):
                chunk = np.ascontiguousarray(sound[None, begin : begin + 1024].astype(np.float32))
                block = av.AudioFrame.from_ndarray(chunk, format="fltp", layout="mono")
                block.sample_rate, block.pts = 8000, begin
                container.mux(track.encode(block))
            container.mux(track.encode(None))


def write_calibration(path: Path, cameras: Sequence[Camera], distortion: Mapping[str, Sequence[float]] = {}) -> None:
    """Writes an OpenCV FileStorage XML per camera into the folder `path`; pixel centres at whole numbers."""
    path.mkdir(parents=True, exist_ok=True)
    for camera in cameras:
        K = camera.K.copy()
        K[:2, 2] -= 0.5
        values = {"K": K, "R": camera.viewmat[:3, :3], "T": camera.viewmat[:3, 3:]}
        if camera.id in distortion:
            values["D"] = np.array(distortion[camera.id])[None]
        parts = [
            f'<{name} type_id="opencv-matrix"><rows>{m.shape[0]}</rows><cols>{m.shape[1]}</cols><dt>d</dt>'
            f"<data>{' '.join(repr(float(x)) for x in m.reshape(-1))}</data></{name}>"
            for name, m in values.items()
        ]
        text = f'<?xml version="1.0"?>\n<opencv_storage>\n{chr(10).join(parts)}\n</opencv_storage>\n'
        (path / f"{camera.id}.xml").write_text(text, encoding="utf-8")
